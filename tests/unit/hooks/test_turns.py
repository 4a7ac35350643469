"""Hooks around turns and sessions, and the handlers that are no commands."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from runner.approval import ClientApprover
from runner.effects import Mode, Source
from runner.errors import SettingsError
from runner.events import ApprovalAsked, Failed, HookRan, Judged, ModelAsked, PromptGiven, TurnEnded
from runner.hooks.config import Configured, function, read_hooks
from runner.loop.operations import Answer, Prompt
from tests.support.policies import joined, loaded

from .conftest import Stage, hook, hooks, use


def told(stage: Stage) -> list[str]:
    """What the model was told, prompt by prompt."""
    return [json.dumps([*b.context, *b.content]) for b in stage.bodies(PromptGiven)]


async def test_what_hooks_say_at_the_start_and_to_a_prompt_is_context(stage: Stage) -> None:
    start = read_hooks(
        joined(
            loaded(
                Source.USER,
                {
                    "hooks": {
                        "SessionStart": [{"matcher": "startup", "hooks": [hook("echo start-context")]}],
                        "UserPromptSubmit": [{"hooks": [hook(f"cat > {stage.root}/told; echo prompt-context")]}],
                    }
                },
            )
        )
    )
    async with stage.open({"text": "one"}, {"text": "two"}, configured=start) as session:
        for text in ("first", "second"):
            async for _ in session.turn(text):
                pass
    first, second = told(stage)
    assert "SessionStart hook additional context: start-context" in first
    assert "UserPromptSubmit hook additional context: prompt-context" in first
    assert "start-context" not in second
    assert "prompt-context" in second
    assert json.loads((stage.root / "told").read_text())["prompt"] == "second"
    assert [event for event, *_ in stage.ran()] == ["SessionStart", "UserPromptSubmit", "UserPromptSubmit"]


async def test_a_blocked_prompt_never_reaches_the_model(stage: Stage) -> None:
    block = "grep -q secret && { echo 'no secrets' >&2; exit 2; }; exit 0"
    configured = hooks("UserPromptSubmit", hook(block))
    async with stage.open({"text": "fine"}, configured=configured) as session:
        for text in ("my secret", "hello"):
            async for _ in session.turn(text):
                pass
    assert "secret" not in "".join(told(stage))
    assert [(b.reason, b.result) for b in stage.bodies(TurnEnded)] == [("hook", "no secrets"), ("completed", "fine")]
    assert len(stage.bodies(ModelAsked)) == 1


async def test_a_managed_hook_that_fails_at_the_start_lets_no_prompt_through(stage: Stage) -> None:
    configured = hooks("SessionStart", hook("exit 7"), layer=Source.MANAGED)
    await stage.play(configured=configured)
    assert stage.bodies(TurnEnded)[0].reason == "hook"
    assert stage.bodies(ModelAsked) == []


async def test_a_stop_hook_puts_the_end_off_and_not_for_ever(stage: Stage) -> None:
    configured = hooks("Stop", hook(f"cat >> {stage.root}/told; echo 'run the tests' >&2; exit 2"))
    await stage.play(*[{"text": f"done {n}"} for n in range(9)], configured=configured)
    assert stage.bodies(TurnEnded)[0].result == "done 8"
    assert len(stage.ran()) == 8
    assert "Stop hook feedback: run the tests" in told(stage)[1]
    found = [json.loads(line) for line in (stage.root / "told").read_text().replace("}{", "}\n{").splitlines()]
    assert [row["stop_hook_active"] for row in found] == [False] + [True] * 7
    assert found[0]["last_assistant_message"] == "done 0"


async def test_how_often_a_stop_hook_may_put_the_end_off_can_be_set(stage: Stage) -> None:
    configured = hooks("Stop", hook("echo more >&2; exit 2"))
    named = {"CLAUDE_CODE_STOP_HOOK_BLOCK_CAP": "2"}
    await stage.play(*[{"text": f"done {n}"} for n in range(4)], configured=configured, environment=named)
    assert stage.bodies(TurnEnded)[0].result == "done 2"


async def test_a_stop_hook_that_is_content_lets_the_turn_end(stage: Stage) -> None:
    await stage.play({"text": "done"}, configured=hooks("Stop", hook("true")))
    assert len(stage.bodies(ModelAsked)) == 1


async def test_the_end_of_the_session_is_told_and_holds_nothing_up(stage: Stage) -> None:
    configured = hooks(
        "SessionEnd", hook(f"cat > {stage.root}/told", where="host"), hook("sleep 100", timeout=2, where="host")
    )
    await stage.play({"text": "ok"}, configured=configured)
    assert json.loads((stage.root / "told").read_text())["reason"] == "other"


@pytest.mark.parametrize(
    ("milliseconds", "command", "done"), [("30", "sleep 100", False), ("30000", "sleep 1.6", True)]
)
async def test_how_long_hooks_may_hold_up_the_end_can_be_set(
    stage: Stage, milliseconds: str, command: str, done: bool
) -> None:
    """Shorter and longer than the 1.5 s that such a hook has by itself."""
    configured = hooks("SessionEnd", hook(f"{command} && touch {stage.root}/told", where="host"))
    named = {"CLAUDE_CODE_SESSIONEND_HOOKS_TIMEOUT_MS": milliseconds}
    await stage.play({"text": "ok"}, configured=configured, environment=named)
    assert (stage.root / "told").exists() is done
    assert len(stage.ran()) == 1


async def test_no_box_is_asked_for_at_the_end(stage: Stage) -> None:
    await stage.play({"text": "ok"}, configured=hooks("SessionEnd", hook("touch made")))
    assert not (stage.repo / "made").exists() or stage.ran() == [("SessionEnd", "box", "success", "")]


async def test_the_user_is_asked_and_a_hook_is_told_of_it(stage: Stage) -> None:
    configured = hooks("Notification", hook(f"cat > {stage.root}/told"), matcher="permission_prompt")
    approver = ClientApprover()
    async with stage.open(
        use("Bash", command="touch made"), {"text": "ok"}, configured=configured, mode=Mode.DEFAULT, approver=approver
    ) as session:
        await session.submit(Prompt.text("go"))
        async for event in session.events():
            if isinstance(event.body, HookRan):
                await session.submit(Answer(call="toolu_1", allowed=True))
            if isinstance(event.body, TurnEnded):
                break
    assert len(stage.bodies(ApprovalAsked)) == 1
    assert json.loads((stage.root / "told").read_text())["notification_type"] == "permission_prompt"


async def test_a_turn_that_fails_is_told(stage: Stage) -> None:
    configured = hooks("StopFailure", hook(f"cat > {stage.root}/told", where="host"))
    await stage.play(configured=configured)
    assert stage.bodies(Failed)[0].error == json.loads((stage.root / "told").read_text())["error"] == "ScriptEndedError"


async def test_a_prompt_hook_asks_the_model_beside_the_conversation(stage: Stage) -> None:
    prompt = {"type": "prompt", "prompt": "May this run? $ARGUMENTS", "continueOnBlock": True}
    configured = hooks("PreToolUse", prompt, matcher="Bash")
    answer = {"text": '{"ok": false, "reason": "not today"}'}
    await stage.play(use("Bash", command="touch made"), answer, {"text": "fine"}, configured=configured)
    assert not (stage.repo / "made").exists()
    assert [event.agent for event in stage.events if isinstance(event.body, ModelAsked)] == ["main", "hook", "main"]
    assert stage.bodies(TurnEnded)[0].result == "fine"
    assert stage.ran() == [("PreToolUse", "host", "blocked", "block")]


async def test_a_prompt_hooks_no_ends_the_turn_unless_it_goes_on(stage: Stage) -> None:
    configured = hooks("PreToolUse", {"type": "prompt", "prompt": "ok?"}, matcher="Bash")
    answer = {"text": '{"ok": false, "reason": "not today"}'}
    await stage.play(use("Bash", command="touch made"), answer, configured=configured)
    assert [(b.reason, b.result) for b in stage.bodies(TurnEnded)] == [("hook", "not today")]


async def test_an_answer_that_is_no_verdict_is_a_failure(stage: Stage) -> None:
    configured = hooks("PreToolUse", {"type": "prompt", "prompt": "ok?", "onFailure": "block"}, matcher="Bash")
    await stage.play(use("Bash", command="touch made"), {"text": "sure"}, {"text": "fine"}, configured=configured)
    assert not (stage.repo / "made").exists()


class Server(HTTPServer):
    """Answers every POST with `reply`, and keeps what came."""

    def __init__(self) -> None:
        self.reply: tuple[int, bytes] = (200, b"")
        self.came: list[tuple[dict[str, str], Any]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.came.append((dict(self.headers), json.loads(body)))
        status, text = self.server.reply
        self.send_response(status)
        self.send_header("location", self.server.url)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the library's word)
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.mark.network
async def test_an_http_hook_denies(stage: Stage, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_TOKEN", "t0ken")
    monkeypatch.setenv("OTHER", "0ther")
    body = {"hookSpecificOutput": {"permissionDecision": "deny", "permissionDecisionReason": "no"}}
    server.reply = (200, json.dumps(body).encode())
    handler = {
        "type": "http",
        "url": server.url,
        "headers": {"authorization": "Bearer ${TEAM_TOKEN} $OTHER"},
        "allowedEnvVars": ["TEAM_TOKEN"],
    }
    await stage.play(use("Bash", command="touch made"), {"text": "ok"}, configured=hooks("PreToolUse", handler))
    assert not (stage.repo / "made").exists()
    ((headers, told),) = server.came
    assert headers["authorization"] == "Bearer t0ken"
    assert (told["hook_event_name"], told["tool_input"]) == ("PreToolUse", {"command": "touch made"})
    (judged, _) = [b for b in stage.bodies(Judged) if not b.call.startswith("fumehood-")]
    assert judged.effects[0]["type"] == "ConnectHost"


@pytest.mark.network
@pytest.mark.parametrize(
    "reply", [(500, b"{}"), (302, b""), (200, b"[]"), (200, b"text"), (200, b" " * (2 << 20))], ids=str
)
async def test_another_http_answer_is_a_failure(stage: Stage, server: Server, reply: tuple[int, bytes]) -> None:
    server.reply = reply
    configured = hooks("PreToolUse", {"type": "http", "url": server.url, "onFailure": "block"})
    await stage.play(use("Bash", command="touch made"), {"text": "ok"}, configured=configured)
    assert not (stage.repo / "made").exists()
    assert len(server.came) == 1


@pytest.mark.network
@pytest.mark.parametrize(("allow", "sent"), [((), False), (("WebFetch(domain:127.0.0.1)",), True)])
async def test_a_repositorys_http_hook_leaves_by_an_allow_rule_only(
    stage: Stage, server: Server, allow: tuple[str, ...], sent: bool
) -> None:
    configured = hooks("PreToolUse", {"type": "http", "url": server.url}, layer=Source.PROJECT)
    await stage.play(use("Bash", command="true"), {"text": "ok"}, configured=configured, allow=allow)
    assert bool(server.came) is sent


@pytest.mark.network
async def test_a_deny_rule_holds_the_users_own_http_hook_back(stage: Stage, server: Server) -> None:
    configured = hooks("PreToolUse", {"type": "http", "url": server.url})
    await stage.play(
        use("Bash", command="true"), {"text": "ok"}, configured=configured, deny=("WebFetch(domain:127.0.0.1)",)
    )
    assert server.came == []


def test_a_function_waits_for_an_event_that_there_is() -> None:
    async def callback(told: dict[str, Any]) -> dict[str, Any]:
        return {}

    with pytest.raises(SettingsError, match="no compaction"):
        function("PreCompact", callback)


async def test_a_function_that_takes_too_long_blocks(stage: Stage) -> None:
    async def callback(told: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(100)
        return {}

    configured = Configured(handlers=(function("UserPromptSubmit", callback, timeout=0.1),))
    await stage.play(configured=configured)
    assert stage.bodies(TurnEnded)[0].reason == "hook"
