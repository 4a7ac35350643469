"""Hooks around tool calls, in a session over a local box."""

from __future__ import annotations

import json

from runner.events import HookRan, Judged, ToolFinished

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
