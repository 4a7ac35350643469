"""Exit codes and output, held against reference/claude-code-interfaces.md, section 3.4, row by row."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.effects import Decision, RuleSource, Source, Verdict
from runner.hooks.kinds import BOX, COMMAND, EVENTS, HOST, Handler, Ran
from runner.hooks.matchers import Matcher
from runner.hooks.outcome import Answer, Outcome, Result
from runner.hooks.output import LONGEST, Said, read
from runner.loop.verdicts import tightened


def ran(
    code: int | None = 0, stdout: str = "", stderr: str = "", answer: dict[str, Any] | None = None, **more: Any
) -> Ran:
    said = (answer or {}) | more
    return Ran(code=code, stdout=json.dumps(said) if said else stdout, stderr=stderr)


def specific(event: str, **fields: Any) -> dict[str, Any]:
    return {"hookSpecificOutput": {"hookEventName": event, **fields}}


DENY = specific("PreToolUse", permissionDecision="deny", permissionDecisionReason="why")
ALLOW = specific("PreToolUse", permissionDecision="allow")
ROWS: list[tuple[str, Ran, Said]] = [
    ("PreToolUse", ran(), Said()),
    ("PreToolUse", ran(0, "just text"), Said()),
    ("UserPromptSubmit", ran(0, " context \n"), Said(context="context")),
    ("SessionStart", ran(0, "context"), Said(context="context")),
    ("PostToolUse", ran(0, "context"), Said()),
    ("PreToolUse", ran(answer=DENY), Said(decision=Decision.DENY, blocks=True, reason="why")),
    ("PreToolUse", ran(1, answer=DENY), Said(decision=Decision.DENY, blocks=True, reason="why")),
    ("PreToolUse", ran(answer=ALLOW), Said(decision=Decision.ALLOW)),
    ("PreToolUse", ran(2, stderr="no\n", answer=ALLOW), Said(decision=Decision.DENY, blocks=True, reason="no")),
    ("PreToolUse", ran(2, stderr="no"), Said(decision=Decision.DENY, blocks=True, reason="no")),
    ("PreToolUse", ran(2, "{broken", "no"), Said(decision=Decision.DENY, blocks=True, reason="no")),
    ("PreToolUse", ran(decision="block", reason="old"), Said(decision=Decision.DENY, blocks=True, reason="old")),
    ("PreToolUse", ran(decision="approve"), Said(decision=Decision.ALLOW)),
    ("PreToolUse", ran(answer=specific("PreToolUse", permissionDecision="ask")), Said(decision=Decision.ASK)),
    ("PreToolUse", ran(answer=specific("PreToolUse", updatedInput={"a": 1})), Said(input={"a": 1})),
    ("PreToolUse", ran(answer=specific("PreToolUse", updatedInput=[1])), Said(failed="updatedInput is no object")),
    ("PreToolUse", ran(1, stderr="oops\nmore"), Said(failed="exit code 1: oops")),
    ("PreToolUse", ran(-11), Said(failed="ended by signal 11")),
    ("PreToolUse", ran(0, "{broken"), Said(failed="its output begins like JSON and is none")),
    ("PreToolUse", ran(systemMessage=1), Said(failed="systemMessage is no text")),
    ("PreToolUse", ran(answer={"continue": "no"}), Said(failed="continue is neither true nor false")),
    ("PreToolUse", ran(answer=specific("PostToolUse")), Said(failed="hookSpecificOutput is one of 'PostToolUse'")),
    ("PostToolUse", ran(decision="block", reason="bad"), Said(blocks=True, reason="bad")),
    ("PostToolUse", ran(answer=specific("PostToolUse", additionalContext="see")), Said(context="see")),
    ("Stop", ran(2, stderr="go on"), Said(blocks=True, reason="go on")),
    ("Stop", ran(answer={"continue": False, "stopReason": "enough"}), Said(stop="enough")),
    ("Notification", ran(2, stderr="x"), Said(failed="x", message="x")),
    ("PermissionRequest", ran(2, stderr="x"), Said(failed="x", message="x")),
    ("PermissionDenied", ran(answer=specific("PermissionDenied", retry=True)), Said(retry=True)),
    ("PermissionDenied", ran(answer=specific("PermissionDenied", retry="y")), Said(failed="retry is no truth value")),
    ("PermissionDenied", ran(decision="approve"), Said()),
    ("PermissionRequest", ran(answer=specific("PermissionRequest", decision={"behavior": "allow"})), Said(answer=True)),
    (
        "PermissionRequest",
        ran(answer=specific("PermissionRequest", decision={"behavior": "deny", "message": "m", "interrupt": True})),
        Said(answer=False, reason="m", interrupt=True),
    ),
    (
        "PermissionRequest",
        ran(answer=specific("PermissionRequest", decision={"behavior": "maybe"})),
        Said(failed="decision has no behavior that is known"),
    ),
    (
        "PreToolUse",
        Ran(failure="took longer than 1 seconds", stdout=json.dumps(ALLOW)),
        Said(failed="took longer than 1 seconds"),
    ),
    ("UserPromptSubmit", ran(decision="block", reason="r"), Said(blocks=True, reason="r")),
    ("PostToolUse", ran(suppressOutput=True, systemMessage="m"), Said(message="m")),
]


@pytest.mark.parametrize(("event", "came", "said"), ROWS)
def test_what_a_hook_says(event: str, came: Ran, said: Said) -> None:
    assert read(event, came) == said


def test_defer_is_as_strict_as_can_be() -> None:
    assert read("PreToolUse", ran(answer=specific("PreToolUse", permissionDecision="defer"))).decision is Decision.DENY


def test_texts_are_capped() -> None:
    assert len(read("PreToolUse", ran(systemMessage="x" * 50_000)).message) == LONGEST


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["allow", "deny", "block", "ask"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
WORDS = """continue stopReason systemMessage decision reason hookSpecificOutput permissionDecision updatedInput
additionalContext hookEventName behavior message interrupt"""
KEYS = st.sampled_from(WORDS.split())
ANSWERS = st.dictionaries(KEYS, VALUES | st.dictionaries(KEYS, VALUES | st.dictionaries(KEYS, VALUES)), max_size=5)
CODES = st.sampled_from([0, 1, 2, 127, -9, None])


@given(event=st.sampled_from(sorted(EVENTS)), code=CODES, answer=ANSWERS)
def test_reading_never_raises(event: str, code: int | None, answer: dict[str, Any]) -> None:
    read(event, Ran(code=code, stdout=json.dumps(answer)))
    read(event, Ran(code=code, body=answer))


def result(said: Said, *, where: str = BOX, layer: Source = Source.USER, strict: bool = False) -> Result:
    handler = Handler(
        event="PreToolUse",
        type=COMMAND,
        source=RuleSource(layer=layer, file="f", line=1),
        where=where,
        matcher=Matcher(),
        timeout=1.0,
        strict=strict,
        script="true",
    )
    return Result(handler=handler, said=said)


SAID = st.builds(
    Said,
    failed=st.sampled_from(["", "x"]),
    decision=st.sampled_from([None, *Decision]),
    answer=st.sampled_from([None, True, False]),
    blocks=st.booleans(),
)
RESULTS = st.lists(
    st.builds(
        result, SAID, where=st.sampled_from([BOX, HOST]), layer=st.sampled_from(list(Source)), strict=st.booleans()
    ),
    max_size=4,
)


@given(results=RESULTS)
def test_hooks_never_make_a_call_allowed(results: list[Result]) -> None:
    verdict = Outcome(results=tuple(results)).verdict
    assert verdict is None or verdict.decision > Decision.ALLOW


@given(results=RESULTS, more=RESULTS)
def test_another_hook_never_loosens(results: list[Result], more: list[Result]) -> None:
    before, after = Outcome(results=tuple(results)), Outcome(results=(*results, *more))
    strict = Decision.ALLOW if before.verdict is None else before.verdict.decision
    assert (Decision.ALLOW if after.verdict is None else after.verdict.decision) >= strict
    assert not (before.refusal and not after.refusal)
    no = before.answer(by_mode=True)
    if no is not None and not no.allowed:
        found = after.answer(by_mode=True)
        assert found is not None
        assert not found.allowed


@given(results=RESULTS)
def test_nothing_but_a_hook_that_its_owner_put_on_the_host_says_yes(results: list[Result]) -> None:
    outcome = Outcome(results=tuple(results))
    assert not (found := outcome.answer(by_mode=False)) or not found.allowed
    found = outcome.answer(by_mode=True)
    if found is not None and found.allowed:
        assert any(
            one.handler.where == HOST and one.handler.source.layer in (Source.MANAGED, Source.USER) and one.said.answer
            for one in results
        )


@pytest.mark.parametrize("strict", [False, True])
def test_a_failure_blocks_where_it_is_to(strict: bool) -> None:
    outcome = Outcome(results=(result(Said(failed="exit code 1"), strict=strict),))
    assert (outcome.verdict is not None, bool(outcome.refusal)) == (strict, strict)
    answer = outcome.answer(by_mode=True)
    assert answer == (Answer(allowed=False, reason="exit code 1") if strict else None)


VERDICTS = st.builds(
    Verdict,
    decision=st.sampled_from(Decision),
    source=st.sampled_from(Source),
    classify=st.booleans(),
)


@given(verdict=VERDICTS, results=RESULTS)
def test_a_verdict_with_hooks_is_at_least_as_strict_and_no_more_answerable(
    verdict: Verdict, results: list[Result]
) -> None:
    hooked = Outcome(results=tuple(results)).verdict
    if hooked is None:
        return
    found = tightened(verdict, hooked)
    assert found.decision >= max(verdict.decision, hooked.decision)
    if Decision.ASK is found.decision is verdict.decision:
        assert not (found.source is Source.MODE and verdict.source is not Source.MODE)
        assert not (found.classify and not verdict.classify)
    if found.decision is hooked.decision is Decision.ASK:
        assert found.source is not Source.MODE
