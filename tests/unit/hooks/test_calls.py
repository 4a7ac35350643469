"""Hooks around tool calls, in a session over a local box."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.effects import Mode, Source
from runner.events import ApprovalAsked, ApprovalGiven, HookRan, Judged, PromptGiven, ToolFinished, TurnEnded
from runner.hooks.config import Configured, function

from .conftest import Stage, hook, hooks, use


async def test_a_hook_in_the_box_is_told_of_the_call_and_edits_the_file_after_it(stage: Stage) -> None:
    after = stage.script("after", f"cat > {stage.root}/told; tr a-z A-Z < b.txt > c && mv c b.txt")
    configured = hooks("PostToolUse", hook(after), matcher="Edit|Write")
    await stage.play(use("Write", file_path="b.txt", content="two\n"), {"text": "ok"}, configured=configured)
    assert (stage.repo / "b.txt").read_text() == "TWO\n"
    told = json.loads((stage.root / "told").read_text())
    response = told.pop("tool_response")
    assert told.pop("duration_ms") >= 0
    assert response["type"] == "create"
    assert told == {
        "session_id": "s1",
        "transcript_path": "",
        "cwd": str(stage.repo),
        "permission_mode": "bypassPermissions",
        "hook_event_name": "PostToolUse",
        "tool_name": "Write",
        "tool_input": {"file_path": str(stage.repo / "b.txt"), "content": "two\n"},
        "tool_use_id": "toolu_1",
    }
    (ran,) = stage.bodies(HookRan)
    assert (ran.hook, ran.source, ran.where, ran.outcome, ran.exit_code) == (
        after,
        "user:user.yaml:7",
        "box",
        "success",
        0,
    )
    assert len(ran.digest) == 64


async def test_exit_code_2_denies_the_call_with_what_it_said(stage: Stage) -> None:
    configured = hooks("PreToolUse", hook(stage.says("no", code=2, stderr="not here")), matcher="Bash")
    await stage.play(use("Bash", command="touch made"), {"text": "ok"}, configured=configured)
    (done,) = stage.bodies(ToolFinished)
    assert done.is_error
    assert "not here" in done.content
    assert not (stage.repo / "made").exists()
    assert stage.ran() == [("PreToolUse", "box", "blocked", "block")]
    of_the_hook, judged = [b for b in stage.bodies(Judged) if not b.call.startswith("fumehood-")]
    assert of_the_hook.verdict["decision"] == "allow"
    assert (judged.verdict["decision"], judged.verdict["source"]) == ("deny", "hook")


ALLOW = {"hookSpecificOutput": {"decision": {"behavior": "allow"}}}


def judged(stage: Stage) -> list[tuple[str, str, str]]:
    return [
        (b.tool, b.verdict["decision"], b.verdict["source"])
        for b in stage.bodies(Judged)
        if not b.call.startswith("fumehood-")
    ]


def contexts(stage: Stage) -> str:
    """What hooks told the model after calls."""
    return json.dumps([b.context for b in stage.bodies(PromptGiven) if b.source == "hook"])


@pytest.mark.parametrize("rule", ["deny", "ask"])
async def test_a_hooks_allow_beats_no_rule(stage: Stage, rule: str) -> None:
    says = stage.says("yes", hookSpecificOutput={"permissionDecision": "allow"})
    configured = hooks("PreToolUse", hook(says, where="host"))
    rules: dict[str, Any] = {rule: ("Bash(touch *)",)}
    await stage.play(use("Bash", command="touch made"), {"text": "ok"}, configured=configured, **rules)
    assert not (stage.repo / "made").exists()
    assert judged(stage)[-1] == ("Bash", rule, "command_line")


async def test_a_hook_turns_an_allow_into_an_ask_that_no_hook_answers(stage: Stage) -> None:
    asks = stage.says("asks", hookSpecificOutput={"permissionDecision": "ask", "permissionDecisionReason": "hm"})
    says = stage.says("yes", ALLOW)
    value = hooks("PreToolUse", hook(asks)).handlers + hooks("PermissionRequest", hook(says, where="host")).handlers
    await stage.play(use("Bash", command="touch made"), {"text": "ok"}, configured=Configured(handlers=value))
    assert ("Bash", "ask", "hook") in judged(stage)
    assert [(b.allowed, b.by) for b in stage.bodies(ApprovalGiven)] == [(False, "nobody")]
    assert not (stage.repo / "made").exists()
    assert "hm" in stage.bodies(ToolFinished)[0].content


@pytest.mark.parametrize(
    ("layer", "where", "allowed"),
    [
        (Source.MANAGED, "host", True),
        (Source.USER, "host", True),
        (Source.MANAGED, "box", False),
        (Source.USER, "box", False),
        (Source.PROJECT, "box", False),
        (Source.COMMAND_LINE, "box", False),
    ],
)
async def test_who_may_answer_what_the_mode_asks(stage: Stage, layer: Source, where: str, allowed: bool) -> None:
    configured = hooks("PermissionRequest", hook(stage.says("yes", ALLOW), where=where), layer=layer)
    await stage.play(use("Bash", command="touch made"), {"text": "ok"}, configured=configured, mode=Mode.DEFAULT)
    assert (stage.repo / "made").exists() is allowed
    (given,) = stage.bodies(ApprovalGiven)
    assert (given.allowed, given.by) == (allowed, "hook" if allowed else "nobody")


async def test_a_hook_in_the_box_may_say_no(stage: Stage) -> None:
    no = {"hookSpecificOutput": {"decision": {"behavior": "deny", "message": "never", "interrupt": True}}}
    configured = hooks("PermissionRequest", hook(stage.says("no", no)), layer=Source.PROJECT)
    await stage.play(use("Bash", command="touch made"), configured=configured, mode=Mode.DEFAULT)
    (given,) = stage.bodies(ApprovalGiven)
    assert (given.allowed, given.by, given.reason) == (False, "hook", "never")
    assert [(b.reason, b.result) for b in stage.bodies(TurnEnded)] == [("hook", "never")]


@pytest.mark.parametrize(
    ("rules", "ran"), [({"deny": ("Bash(rm *)",)}, False), ({"ask": ("Bash(rm *)",)}, False), ({}, True)]
)
async def test_what_an_answer_puts_in_place_of_the_input_is_judged_again(
    stage: Stage, rules: dict[str, Any], ran: bool
) -> None:
    answer = {"behavior": "allow", "updatedInput": {"command": "rm a.txt"}}
    says = stage.says("yes", hookSpecificOutput={"decision": answer})
    configured = hooks("PermissionRequest", hook(says, where="host"))
    await stage.play(
        use("Bash", command="touch made"), {"text": "ok"}, configured=configured, mode=Mode.DEFAULT, **rules
    )
    assert not (stage.repo / "made").exists()
    assert (stage.repo / "a.txt").exists() is not ran


async def test_a_replaced_input_that_does_not_validate_runs_nothing(stage: Stage) -> None:
    says = stage.says("odd", hookSpecificOutput={"updatedInput": {"cmd": "touch made"}})
    configured = hooks("PreToolUse", hook(says))
    await stage.play(use("Bash", command="touch made"), {"text": "ok"}, configured=configured)
    assert "InputValidationError" in stage.bodies(ToolFinished)[0].content
    assert not (stage.repo / "made").exists()


@pytest.mark.parametrize(
    ("failing", "why"),
    [
        ("exit 1", "exit code 1"),
        ("kill -9 $$", "ended by signal 9"),
        ("sleep 100", "took longer than 1 seconds"),
        ("yes", "printed more than 8 MiB"),
        ("echo '{'", "begins like JSON"),
    ],
)
@pytest.mark.parametrize("where", ["box", "host"])
@pytest.mark.parametrize("strict", [False, True])
async def test_a_failing_hook_follows_on_failure(
    stage: Stage, failing: str, why: str, where: str, strict: bool
) -> None:
    more = {"onFailure": "block"} if strict else {}
    configured = hooks("PreToolUse", hook(failing, timeout=1 if "sleep" in failing else 60, where=where, **more))
    await stage.play(use("Bash", command="touch made"), {"text": "ok"}, configured=configured)
    assert (stage.repo / "made").exists() is not strict
    (ran,) = stage.bodies(HookRan)
    assert ran.outcome == ("blocked" if strict else "error")
    assert why in ran.output["failure"]
    assert len(ran.output.get("stdout", "")) <= 10_000


@pytest.mark.parametrize("where", ["box", "host"])
async def test_nothing_of_a_hook_stays(stage: Stage, where: str) -> None:
    pids = stage.root / "pids"
    stay = f"(setsid sh -c 'echo $$ >> {pids}; exec sleep 300' &) ; sleep 301 & echo $! >> {pids}; sleep 0.3"
    configured = hooks("PreToolUse", hook(stay, where=where))
    await stage.play(use("Bash", command="true"), {"text": "ok"}, configured=configured)
    found = [int(line) for line in pids.read_text().split()]
    assert len(found) == 2
    assert not [pid for pid in found if alive(pid)]


def exists(path: str) -> bool:
    return Path(path).exists()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


async def test_on_the_host_a_hook_sees_an_empty_directory_and_no_key(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    monkeypatch.setenv("FUMEHOOD_HOME", "/x")
    out = stage.root / "out"
    configured = hooks("PreToolUse", hook(f"(pwd; ls -A; env) > {out}; cat > {out}.told", where="host"))
    await stage.play(use("Bash", command="true"), {"text": "ok"}, configured=configured)
    where, *rest = out.read_text().splitlines()
    assert where.startswith("/tmp/fumehood-hook-")
    assert not exists(where)
    names = {line.partition("=")[0] for line in rest if "=" in line}
    assert names <= {
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "LANG",
        "LC_ALL",
        "LC_CTYPE",
        "TZ",
        "PWD",
        "OLDPWD",
        "SHLVL",
        "_",
    } | {
        "CLAUDECODE",
        "CLAUDE_CODE_SESSION_ID",
    }
    assert "sk-secret" not in out.read_text()
    told = json.loads((stage.root / "out.told").read_text())
    assert told["transcript_path"] == str(stage.root / "session" / "journal.jsonl")


async def test_deny_rules_speak_of_hooks_too(stage: Stage) -> None:
    configured = hooks("PreToolUse", hook("touch made", onFailure="block"), matcher="Bash")
    await stage.play(use("Bash", command="true"), {"text": "ok"}, configured=configured, deny=("Bash(touch *)",))
    assert not (stage.repo / "made").exists()
    assert judged(stage) == [("Hook", "deny", "command_line"), ("Bash", "deny", "hook")]


@pytest.mark.parametrize(("layer", "ran"), [(Source.PROJECT, False), (Source.USER, True)])
async def test_nobody_is_asked_for_a_repositorys_hook(stage: Stage, layer: Source, ran: bool) -> None:
    configured = hooks("PreToolUse", hook("touch made"), matcher="Bash", layer=layer)
    await stage.play(use("Bash", command="true"), {"text": "ok"}, configured=configured, ask=("Bash(touch *)",))
    assert (stage.repo / "made").exists() is ran


async def test_a_rule_on_the_tool_does_not_speak_of_hooks(stage: Stage) -> None:
    configured = hooks("PreToolUse", hook("touch made"), matcher="Read")
    await stage.play(use("Read", file_path="a.txt"), {"text": "ok"}, configured=configured, deny=("Bash",))
    assert (stage.repo / "made").exists()


@pytest.mark.parametrize(
    ("condition", "ran"), [("Bash(git push:*)", True), ("Bash(git pull:*)", False), ("Read", False), ("Bash(", True)]
)
async def test_a_condition_is_a_permission_rule_on_the_call(stage: Stage, condition: str, ran: bool) -> None:
    configured = hooks("PreToolUse", {**hook("touch made"), "if": condition})
    await stage.play(use("Bash", command="true && git push x"), {"text": "ok"}, configured=configured)
    assert (stage.repo / "made").exists() is ran


async def test_a_matcher_may_name_what_the_call_does(stage: Stage) -> None:
    configured = hooks("PreToolUse", hook("touch made"), matcher="Bash(git push:*)")
    calls = {
        "tools": [{"name": "Bash", "id": f"t{n}", "input": {"command": c}} for n, c in enumerate(["ls", "git push"])]
    }
    await stage.play(calls, {"text": "ok"}, configured=configured)
    assert len(stage.ran()) == 1


async def test_what_hooks_say_after_a_call_is_told_to_the_model_with_the_next_request(stage: Stage) -> None:
    says = stage.says("says", decision="block", reason="lint fails", systemMessage="to the user")
    context = stage.says("context", hookSpecificOutput={"additionalContext": "tests are slow"})
    configured = hooks("PostToolUse", hook(says), hook(context))
    await stage.play(use("Bash", command="true"), {"text": "ok"}, configured=configured)
    assert "PostToolUse:Bash hook blocking error: lint fails" in contexts(stage)
    assert "tests are slow" in contexts(stage)
    assert [b.output["systemMessage"] for b in stage.bodies(HookRan) if "systemMessage" in b.output] == ["to the user"]
    assert stage.bodies(TurnEnded)[0].result == "ok"


async def test_a_failed_call_is_told_as_a_failure(stage: Stage) -> None:
    told = stage.root / "told"
    configured = hooks("PostToolUseFailure", hook(f"cat > {told}"))
    await stage.play(use("Read", file_path="nothing.txt"), {"text": "ok"}, configured=configured)
    found = json.loads(told.read_text())
    assert (found["tool_name"], "nothing.txt" in found["error"]) == ("Read", True)
    assert found["tool_input"] == {"file_path": str(stage.repo / "nothing.txt")}


async def test_hooks_do_not_run_for_what_does_not_validate(stage: Stage) -> None:
    configured = hooks("PreToolUse", hook("touch made"))
    await stage.play(use("Bash", cmd="x"), {"text": "ok"}, configured=configured)
    assert stage.ran() == []


async def test_a_hook_stops_everything(stage: Stage) -> None:
    says = stage.says("stop", {"continue": False, "stopReason": "enough"})
    configured = hooks("PreToolUse", hook(says))
    calls = {"tools": [{"name": "Bash", "id": f"t{n}", "input": {"command": f"touch made{n}"}} for n in range(2)]}
    await stage.play(calls, {"text": "never"}, configured=configured)
    assert [(b.reason, b.result) for b in stage.bodies(TurnEnded)] == [("hook", "enough")]
    assert not list(stage.repo.glob("made*"))
    assert len(stage.bodies(ToolFinished)) == 2


async def test_the_batch_of_a_replys_calls_is_told_as_the_model_will_read_it(stage: Stage) -> None:
    told = stage.root / "told"
    configured = hooks("PostToolBatch", hook(f"cat > {told}"))
    await stage.play(use("Bash", command="echo hi"), {"text": "ok"}, configured=configured)
    (row,) = json.loads(told.read_text())["tool_calls"]
    assert (row["tool_name"], row["tool_input"], row["tool_response"]) == ("Bash", {"command": "echo hi"}, "hi")


async def test_a_state_is_kept_before_a_hook_changes_something(stage: Stage) -> None:
    configured = hooks("PreToolUse", hook("touch made"), matcher="Read")
    await stage.play(use("Read", file_path="a.txt"), {"text": "ok"}, configured=configured)
    assert stage.saved == ["toolu_1"]


async def test_a_function_of_the_caller_denies_and_its_failure_blocks(stage: Stage) -> None:
    async def deny(told: dict[str, Any]) -> dict[str, Any]:
        if told["tool_input"]["command"] == "boom":
            raise RuntimeError("boom")
        return {"hookSpecificOutput": {"permissionDecision": "deny", "permissionDecisionReason": "no"}}

    configured = Configured(handlers=(function("PreToolUse", deny, matcher="Bash"),))
    calls = [use("Bash", n, command=command) for n, command in enumerate(["touch made", "boom"])]
    await stage.play(*calls, {"text": "ok"}, configured=configured)
    assert not (stage.repo / "made").exists()
    first, second = stage.bodies(ToolFinished)
    assert "denied: no" in first.content
    assert "RuntimeError: boom" in second.content
    assert stage.ran() == [("PreToolUse", "host", "blocked", "block")] * 2


async def test_nothing_is_asked_where_no_hook_is(stage: Stage) -> None:
    await stage.play(use("Bash", command="true"), {"text": "ok"}, configured=Configured())
    assert stage.bodies(ApprovalAsked) == []
    assert judged(stage) == [("Bash", "allow", "mode")]


async def test_what_the_classifier_denies_is_told_and_stays_denied(stage: Stage) -> None:
    allow = {"hookSpecificOutput": {"retry": True, "decision": {"behavior": "allow"}}, "decision": "approve"}
    says = stage.script("denied", f"cat > {stage.root}/told; printf '%s' '{json.dumps(allow)}'")
    blocks = {"text": '{"verdict": "block", "reason": "not asked for"}'}
    configured = hooks("PermissionDenied", hook(says, where="host"), matcher="Bash")
    replies = [use("Bash", command='python3 -c \'open("made", "w")\''), blocks, {"text": "ok"}]
    await stage.play(*replies, configured=configured, mode=Mode.AUTO)
    assert not (stage.repo / "made").exists()
    told = json.loads((stage.root / "told").read_text())
    assert (told["hook_event_name"], told["tool_name"], told["reason"]) == (
        "PermissionDenied",
        "Bash",
        "Blocked by classifier: not asked for",
    )
    assert "PermissionDenied hook: you may try Bash again." in contexts(stage)
    (done,) = stage.bodies(ToolFinished)
    assert done.is_error
