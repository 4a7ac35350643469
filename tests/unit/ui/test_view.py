from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

from runner.effects import Mode
from runner.events import (
    ApprovalAsked,
    ApprovalGiven,
    BoxEnded,
    BoxStarted,
    Drifted,
    Egress,
    Failed,
    Judged,
    ModeChanged,
    ModelAsked,
    ModelReplied,
    TaskUpdated,
    TextDelta,
    ToolChunk,
    ToolFinished,
    ToolRequested,
)
from runner.spec import RootRef, SessionSpec
from runner.ui.summary import summary
from runner.ui.view import AskView, CallView, TurnView, Usage, ViewState, begin, fold

if TYPE_CHECKING:
    from tests.unit.conftest import Scene

ALLOW = {"decision": "allow", "source": "mode", "rule": "", "reason": ""}
DENY = {"decision": "deny", "source": "command_line", "rule": "Bash(curl:*)", "reason": ""}
START = 1_700_000_000.0


def view(scene: Scene) -> ViewState:
    return reduce(fold, scene.events, ViewState())


def test_a_whole_turn_adds_up(scene: Scene) -> None:
    scene.usual()
    state = view(scene)
    assert state.turn == TurnView(
        number=1,
        since=START + 3,
        reason="completed",
        result="Done.",
        seconds=12.5,
        api_seconds=7.25,
        rounds=2,
    )
    assert state.usage == Usage(read=800, cached=600, written=40, cost=0.02)
    assert (state.calls, state.running, state.text, state.thinking, state.waiting) == (1, (), "", "", False)
    assert (state.session[:8], state.cwd, state.prompt) == ("4f2a91c0", "/work/demo", "fix the test")


def test_a_call_is_followed_from_request_to_end(scene: Scene) -> None:
    scene.say(ToolRequested(call="c", name="Bash", input={"command": "make"}))
    assert view(scene).running == (
        CallView(id="c", name="Bash", input={"command": "make"}, agent="main", since=START + 1),
    )
    scene.say(Judged(call="c", tool="Bash", digest="d", effects=[], verdict=ALLOW))
    scene.say(ToolChunk(call="c", text="one\n"))
    scene.say(ToolChunk(call="c", text="two\n"))
    running = view(scene).call("c")
    assert running is not None
    assert (running.state, running.since, running.output) == ("allowed", START + 2, "one\ntwo\n")
    scene.say(ToolFinished(call="c", name="Bash", content="one\ntwo", result={"stdout": "x"}, seconds=1.5))
    state = view(scene)
    assert state.running == ()
    assert state.last is not None
    assert (state.last.state, state.last.seconds, state.last.ended) == ("done", 1.5, START + 5)


def test_only_the_end_of_an_output_is_kept(scene: Scene) -> None:
    scene.say(ToolRequested(call="c", name="Bash", input={}))
    scene.say(ToolChunk(call="c", text="x" * 100_000 + "end"))
    running = view(scene).call("c")
    assert running is not None
    assert len(running.output) == 4096
    assert running.output.endswith("xend")


def test_a_denied_call_stays_denied_and_says_why(scene: Scene) -> None:
    scene.say(ToolRequested(call="c", name="Bash", input={"command": "curl x"}))
    scene.say(Judged(call="c", tool="Bash", digest="d", effects=[], verdict=DENY))
    scene.say(ToolFinished(call="c", name="Bash", content="permission denied", is_error=True))
    state = view(scene)
    assert state.last is not None
    assert (state.last.state, state.last.message, state.denied) == ("denied", "Bash(curl:*)", 1)


def test_requests_that_were_refused_are_no_denied_calls(scene: Scene) -> None:
    scene.say(ToolRequested(call="c", name="Bash", input={"command": "curl x"}))
    scene.say(ApprovalAsked(call="n", tool="Network", input={"to": "https://x"}, reason="outside"))
    scene.say(ApprovalGiven(call="n", allowed=False, by="client"))
    for call in ("n1", "n2"):
        scene.say(Judged(call=call, tool="Network", digest="d", effects=[], verdict=DENY))
        scene.say(Egress(host="x", port=443, scheme="https", method="CONNECT", path="", verdict=DENY))
    allowed = {"decision": "allow", "source": "mode", "rule": "", "reason": ""}
    scene.say(Egress(host="y", port=443, scheme="https", method="CONNECT", path="", verdict=allowed))
    state = view(scene)
    assert (state.denied, state.refused, state.egress) == (0, 2, 3)
    text = "\n".join(line.plain for line in summary(state))
    assert "2 requests refused" in text
    assert "fumehood net log" in text


def test_a_question_is_open_until_it_is_answered(scene: Scene) -> None:
    scene.say(ToolRequested(call="c", name="Bash", input={"command": "x"}))
    scene.say(ApprovalAsked(call="c", tool="Bash", input={"command": "x"}, reason="outside"))
    assert view(scene).asks == (AskView(call="c", tool="Bash", input={"command": "x"}, reason="outside"),)
    scene.say(ApprovalGiven(call="c", allowed=False, by="client"))
    state = view(scene)
    assert (state.asks, state.denied, state.running[0].message) == ((), 1, "you said no")


def test_a_retry_shows_until_the_model_speaks_again(scene: Scene) -> None:
    scene.ask()
    scene.say(TextDelta(text="half"))
    detail = {"attempt": 2, "attempts": 10, "delay": 4.0, "status": 529}
    scene.say(Failed(error="Retrying", message="overloaded", exit_code=0, retrying=True, detail=detail))
    scene.say(ModelAsked(model="m", digest="", parameters={}, messages=1, attempt=2))
    state = view(scene)
    assert state.retry is not None
    assert (state.retry.attempt, state.retry.attempts, state.retry.until) == (2, 10, START + 3 + 4.0)
    assert (state.text, state.failures) == ("", ())
    scene.say(TextDelta(text="whole"))
    assert (view(scene).retry, view(scene).text) == (None, "whole")


def test_a_failure_that_the_turn_survives_is_no_failure_of_the_turn(scene: Scene) -> None:
    scene.say(Failed(error="BoxLostError", message="lost", exit_code=47, retrying=True))
    assert (view(scene).failures, view(scene).retry) == ((), None)


def test_failures_of_an_earlier_turn_are_forgotten(scene: Scene) -> None:
    scene.start()
    scene.say(Failed(error="OverloadedError", message="overloaded", exit_code=25))
    assert len(view(scene).failures) == 1
    scene.start()
    assert view(scene).failures == ()


def test_an_unknown_price_makes_the_sum_unknown(scene: Scene) -> None:
    scene.reply([])
    scene.say(ModelReplied(message="m", model="x", content=[], stop_reason="end_turn", usage={"output_tokens": 1}))
    scene.reply([])
    assert view(scene).usage == Usage(read=800, cached=600, written=41, cost=None)


def test_a_sub_agent_s_text_is_not_the_reply(scene: Scene) -> None:
    scene.ask()
    scene.say(TextDelta(text="inner"), agent="a1")
    scene.say(ModelAsked(model="small", digest="", parameters={}, messages=1), agent="a1")
    state = view(scene)
    assert (state.text, state.model, state.waiting) == ("", "claude-sonnet-5", True)


def test_the_box_the_mode_the_tasks_and_the_drift_are_known(scene: Scene) -> None:
    scene.say(
        BoxStarted(
            container="c",
            image="base",
            engine="docker 20.10",
            runtime="runc",
            rungs={"/w": "overlay"},
            limits_missing=("seccomp",),
        )
    )
    scene.say(ModeChanged(mode="plan", source="client"))
    scene.say(TaskUpdated(kind="command", task="b1", state="running", detail={"command": "sleep 9"}))
    scene.say(TaskUpdated(kind="command", task="b1", state="completed", detail={}))
    scene.say(TaskUpdated(kind="todos", task="todos", state="", items=[{"content": "x", "status": "pending"}]))
    scene.say(Drifted(paths=[{"path": "a"}], count=1))
    scene.say(BoxEnded(reason="lost", detail="pipe"))
    state = view(scene)
    assert (state.box.state, state.box.missing, state.box.reason) == ("ended", ("seccomp",), "lost")
    assert state.mode == "plan"
    assert [(t.id, t.state, t.command) for t in state.tasks] == [("b1", "completed", "sleep 9")]
    assert state.todos == ({"content": "x", "status": "pending"},)
    assert state.drift == Drifted(paths=[{"path": "a"}], count=1)


def test_a_view_can_begin_from_the_spec() -> None:
    spec = SessionSpec(session="s", cwd="/w", roots=(RootRef(host="/w", at="/w"),), model="scripted:x", mode=Mode.PLAN)
    state = begin(spec)
    assert (state.session, state.cwd, state.model, state.mode) == ("s", "/w", "scripted:x", "plan")
