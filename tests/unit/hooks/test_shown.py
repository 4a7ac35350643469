"""What users and programs see of hooks."""

from __future__ import annotations

from runner.events import CheckpointTaken, HookRan, Judged, PromptGiven, TurnEnded
from runner.serve.stream_json import Init, Messages
from runner.sessions.timeline import Timeline
from runner.ui.glyphs import glyphs_for
from runner.ui.story import tell
from runner.ui.view import ViewState, fold
from tests.unit.conftest import SESSION, Scene


def ran(outcome: str = "success", *, where: str = "box", verdict: str = "", **output: str) -> HookRan:
    return HookRan(
        hook="lint",
        event="PostToolUse",
        where=where,
        source="user:f:1",
        outcome=outcome,
        verdict=verdict,
        output=output,
    )


def denied() -> Judged:
    verdict = {"decision": "deny", "source": "user", "rule": "Bash(x)", "reason": "denied by rule Bash(x)"}
    return Judged(call="hook-1", tool="Hook", digest="d", effects=[], verdict=verdict)


def test_programs_are_told_what_a_hook_says_and_that_one_failed(scene: Scene) -> None:
    for body in (ran(), ran(systemMessage="tidied up"), ran("error", failure="exit code 1: oops"), denied()):
        scene.say(body)
    init = Init(session=SESSION, cwd="/", model="m", mode="default", version="0", tools=())
    messages = Messages(init=init)
    told = [message for event in scene.events for message in messages.of(event)]
    assert [(m["subtype"], m["level"], m["content"]) for m in told] == [
        ("informational", "info", "tidied up"),
        ("informational", "warning", "PostToolUse hook error: exit code 1: oops"),
    ]


def test_a_turn_that_a_hook_ended_says_so(scene: Scene) -> None:
    scene.start()
    scene.end("hook", result="no secrets here", rounds=0)
    messages = Messages(init=Init(session=SESSION, cwd="/", model="m", mode="default", version="0", tools=()))
    *_, result = [message for event in scene.events for message in messages.of(event)]
    assert (result["subtype"], result["terminal_reason"], result["is_error"], result["errors"]) == (
        "error_during_execution",
        "hook_stopped",
        True,
        ["no secrets here"],
    )


def test_the_terminal_shows_words_failures_and_refusals_made_harmless(scene: Scene) -> None:
    state, glyphs = ViewState(), glyphs_for("ascii")
    lines = []
    for body in (ran(), ran(systemMessage="\x1b[31mred"), ran("blocked", verdict="block", stderr="no\nmore"), denied()):
        event = scene.say(body)
        state = fold(state, event)
        lines += [line.plain for line in tell(state, event, glyphs)]
    assert state.denied == 0
    assert len(lines) == 2
    assert "\x1b" not in lines[0]
    assert "red" in lines[0]
    assert "PostToolUse hook says no: no" in lines[1]


def test_what_a_hook_did_on_the_host_is_listed_as_not_taken_back(scene: Scene) -> None:
    scene.say(PromptGiven(content=[{"type": "text", "text": "x"}]))
    scene.say(CheckpointTaken(checkpoint="c1", label="start of turn", files=0, size=0, seconds=0.0))
    scene.say(ran())
    scene.say(ran(where="host"))
    end = scene.say(
        TurnEnded(number=1, reason="completed", result="", rounds=1, seconds=1, api_seconds=1, usage={}, cost=None)
    )
    found = Timeline.read(scene.events, path={event.id for event in scene.events}, head=end.id)
    assert [text for _, text in found._outside] == ["a hook ran on the host: lint"]
