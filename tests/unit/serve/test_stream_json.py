from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runner.events import (
    ApprovalGiven,
    Compacted,
    Event,
    Failed,
    Judged,
    ModeChanged,
    ModelReplied,
    TaskUpdated,
    ToolFinished,
    ToolRequested,
)
from runner.models.prices import sizes_of
from runner.serve.output import LINE_LIMIT, Output, encode, encode_line
from runner.serve.stream_json import Init, Messages

if TYPE_CHECKING:
    from tests.unit.conftest import Scene

SESSION = "4f2a91c0-1111-4222-8333-444455556666"
INIT = Init(
    session=SESSION,
    cwd="/work/demo",
    model="anthropic:claude-sonnet-5",
    mode="bypassPermissions",
    version="0.1.0",
    tools=("Bash", "Read"),
    api_key_source="ANTHROPIC_API_KEY",
)


async def _replay(events: list[Event]) -> AsyncIterator[Event]:
    for event in events:
        yield event


def translate(scene: Scene, *, partial: bool = False) -> list[dict[str, Any]]:
    messages = Messages(init=INIT, partial=partial, sizes=sizes_of)
    return [message for event in scene.events for message in messages.of(event)]


def test_a_turn_is_init_then_a_message_per_block_then_the_tool_results_then_the_result(scene: Scene) -> None:
    scene.usual()
    told = translate(scene)
    assert [(m["type"], m.get("subtype") or m["message"]["content"][0]["type"]) for m in told] == [
        ("system", "init"),
        ("assistant", "thinking"),
        ("assistant", "text"),
        ("assistant", "tool_use"),
        ("user", "tool_result"),
        ("assistant", "text"),
        ("result", "success"),
    ]
    assert {m["message"]["id"] for m in told[1:4]} == {"msg_1"}
    assert all(m["session_id"] == SESSION for m in told)
    assert len({m["uuid"] for m in told}) == len(told)


def test_init_says_what_scripts_read(scene: Scene) -> None:
    scene.usual()
    init = translate(scene)[0]
    assert init == {
        "type": "system",
        "subtype": "init",
        "cwd": "/work/demo",
        "tools": ["Bash", "Read"],
        "mcp_servers": [],
        "model": "claude-sonnet-5",
        "permissionMode": "bypassPermissions",
        "slash_commands": [],
        "apiKeySource": "ANTHROPIC_API_KEY",
        "claude_code_version": "2.1.321",
        "fumehood_version": "0.1.0",
        "output_style": "default",
        "agents": [],
        "skills": [],
        "plugins": [],
        "session_id": SESSION,
        "uuid": "00000000-0000-0000-0000-000000000003",
    }


def test_the_result_adds_up(scene: Scene) -> None:
    scene.usual()
    result = translate(scene)[-1]
    assert result == {
        "type": "result",
        "subtype": "success",
        "duration_ms": 12500,
        "duration_api_ms": 7250,
        "is_error": False,
        "num_turns": 2,
        "result": "Done.",
        "stop_reason": "end_turn",
        "total_cost_usd": 0.02,
        "usage": {
            "input_tokens": 200,
            "output_tokens": 40,
            "cache_read_input_tokens": 600,
            "cache_creation_input_tokens": 0,
        },
        "modelUsage": {
            "claude-sonnet-5": {
                "inputTokens": 200,
                "outputTokens": 40,
                "cacheReadInputTokens": 600,
                "cacheCreationInputTokens": 0,
                "webSearchRequests": 0,
                "costUSD": 0.02,
                "contextWindow": 1_000_000,
                "maxOutputTokens": 128_000,
            }
        },
        "permission_denials": [],
        "terminal_reason": "completed",
        "session_id": SESSION,
        "uuid": result["uuid"],
    }


def test_a_tool_result_is_a_user_message_with_its_structured_result(scene: Scene) -> None:
    scene.call("toolu_9", "Read", {"file_path": "/x"}, "no such file", result={"a": 1}, error=True)
    (message,) = translate(scene)
    assert message == {
        "type": "user",
        "message": {
            "role": "user",
            "content": [{"tool_use_id": "toolu_9", "type": "tool_result", "content": "no such file", "is_error": True}],
        },
        "parent_tool_use_id": None,
        "tool_use_result": {"a": 1},
        "timestamp": "2023-11-14T22:13:22.000Z",
        "session_id": SESSION,
        "uuid": "00000000-0000-0000-0000-000000000002",
    }


def test_a_denied_call_is_told_at_once_and_listed_in_the_result(scene: Scene) -> None:
    scene.start()
    scene.say(ToolRequested(call="toolu_1", name="Bash", input={"command": "curl x"}))
    verdict = {"decision": "deny", "source": "command_line", "rule": "Bash(curl:*)", "reason": ""}
    scene.say(Judged(call="toolu_1", tool="Bash", digest="d", effects=[], verdict=verdict))
    scene.end()
    denied, result = translate(scene)[1:]
    assert denied["subtype"] == "permission_denied"
    assert (denied["tool_name"], denied["tool_use_id"]) == ("Bash", "toolu_1")
    assert (denied["decision_reason_type"], denied["decision_reason"]) == ("rule", "Bash(curl:*)")
    assert result["permission_denials"] == [
        {"tool_name": "Bash", "tool_use_id": "toolu_1", "tool_input": {"command": "curl x"}}
    ]


def _refused(scene: Scene) -> None:
    """A call that nobody can be asked about, and a command two of whose requests are refused."""
    scene.start()
    scene.say(ToolRequested(call="toolu_1", name="Bash", input={"command": "make"}))
    verdict = {"decision": "ask", "source": "mode", "rule": "", "reason": "mode default: no rule allows `make`"}
    scene.say(Judged(call="toolu_1", tool="Bash", digest="d", effects=[], verdict=verdict))
    scene.say(ApprovalGiven(call="toolu_1", allowed=False, by="nobody", reason="nobody can be asked in this session"))
    scene.say(ToolRequested(call="toolu_2", name="Bash", input={"command": "curl https://a.example/x"}))
    to = {"type": "ConnectHost", "host": "a.example", "port": 443, "scheme": "https", "method": "CONNECT"}
    verdict = {"decision": "deny", "source": "mode", "rule": "", "reason": "no rule allows it"}
    for call in ("n1", "n2"):
        scene.say(Judged(call=call, tool="Network", digest="d", effects=[to], verdict=verdict), cause="toolu_2")
    scene.end()


def test_a_refused_request_counts_for_the_call_that_made_it(scene: Scene) -> None:
    _refused(scene)
    asked, request, _, result = translate(scene)[1:]
    assert (asked["tool_name"], asked["decision_reason_type"]) == ("Bash", "mode")
    assert asked["decision_reason"] == "mode default: no rule allows `make`; nobody can be asked in this session"
    assert (request["tool_name"], request["tool_use_id"]) == ("Network", "toolu_2")
    sent = {"to": "https://a.example", "request": "CONNECT"}
    assert [(d["tool_name"], d["tool_use_id"], d["tool_input"]) for d in result["permission_denials"]] == [
        ("Bash", "toolu_1", {"command": "make"}),
        ("Network", "toolu_2", sent),
        ("Network", "toolu_2", sent),
    ]


@pytest.mark.parametrize("form", ["text", "json", "stream-json"])
async def test_what_was_denied_is_told_once_where_the_output_does_not_show_it(scene: Scene, form: str) -> None:
    _refused(scene)
    told: list[str] = []
    await Output(form, Messages(init=INIT, sizes=sizes_of), out=io.StringIO(), notify=told.append).follow(
        _replay(scene.events)
    )
    wanted = [
        "denied: Bash make: mode default: no rule allows `make`; nobody can be asked in this session",
        "denied: Network https://a.example: no rule allows it",
        "what would allow a call: fumehood policy explain --session 4f2a91c0 --call 1 (2, 3 …)",
        "what would allow a request: fumehood net log 4f2a91c0",
    ]
    assert told == (wanted if form != "stream-json" else [])


def test_stream_events_assemble_to_the_blocks_of_the_reply(scene: Scene) -> None:
    scene.usual()
    replies = [e.body.content for e in scene.events if isinstance(e.body, ModelReplied)]
    raw = [m["event"] for m in translate(scene, partial=True) if m["type"] == "stream_event"]
    assert assemble(raw) == [
        [
            {"type": "thinking", "thinking": "I should look. ", "signature": ""},
            {"type": "text", "text": "Looking. "},
            replies[0][2],
        ],
        replies[1],
    ]


def test_a_retry_is_told(scene: Scene) -> None:
    detail = {"attempt": 2, "attempts": 11, "delay": 1.5, "status": 529}
    scene.say(Failed(error="Retrying", message="busy (529)", exit_code=0, retrying=True, detail=detail))
    (message,) = translate(scene)
    assert {key: message[key] for key in message if key not in ("uuid", "session_id")} == {
        "type": "system",
        "subtype": "api_retry",
        "attempt": 1,
        "max_retries": 10,
        "retry_delay_ms": 1500,
        "error_status": 529,
        "error": "overloaded",
        "message": "busy (529)",
    }


def broken_reply() -> ModelReplied:
    content = [{"type": "text", "text": "Half a"}, {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {}}]
    return ModelReplied(message="m", model="x", content=content, stop_reason=None, usage={}, partial=True)


def test_a_broken_reply_that_is_asked_for_again_is_not_told(scene: Scene) -> None:
    scene.ask()
    scene.say(ToolRequested(call="toolu_1", name="Bash", input={}))
    scene.say(broken_reply())
    scene.say(ToolFinished(call="toolu_1", name="Bash", content="broke off", is_error=True))
    scene.say(Failed(error="Retrying", message="connection reset", exit_code=0, retrying=True))
    scene.ask()
    scene.reply([{"type": "text", "text": "Whole."}])
    retry, whole = translate(scene)
    assert retry["subtype"] == "api_retry"
    assert whole["message"]["content"] == [{"type": "text", "text": "Whole."}]


def test_a_broken_reply_that_is_the_last_is_told_as_broken(scene: Scene) -> None:
    scene.start()
    scene.say(ToolRequested(call="toolu_1", name="Bash", input={}))
    scene.say(broken_reply())
    scene.say(ToolFinished(call="toolu_1", name="Bash", content="broke off", is_error=True))
    scene.end("interrupted")
    told = translate(scene)[1:]
    assert [m["type"] for m in told] == ["assistant", "assistant", "user", "result"]
    assert told[0]["aborted"] is True
    assert told[-1]["terminal_reason"] == "aborted_streaming"


def test_an_interrupt_while_a_tool_runs_says_so(scene: Scene) -> None:
    scene.start()
    scene.ask()
    scene.reply([{"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {}}], stop="tool_use")
    scene.call("toolu_1", "Bash", {}, "interrupted", error=True)
    scene.end("interrupted")
    assert translate(scene)[-1]["terminal_reason"] == "aborted_tools"


@pytest.mark.parametrize(
    ("reason", "subtype", "terminal", "code"),
    [
        ("completed", "success", "completed", 0),
        ("max_turns", "error_max_turns", "max_turns", 1),
        ("max_budget", "error_max_budget_usd", "budget_exhausted", 1),
        ("max_time", "error_during_execution", "blocking_limit", 1),
        ("interrupted", "error_during_execution", "aborted_streaming", 130),
    ],
)
async def test_each_end_has_its_result_and_exit_code(
    scene: Scene, reason: str, subtype: str, terminal: str, code: int
) -> None:
    scene.start()
    scene.end(reason)
    out = io.StringIO()
    assert await Output("json", Messages(init=INIT, sizes=sizes_of), out=out).follow(_replay(scene.events)) == code
    result = json.loads(out.getvalue())
    assert (result["subtype"], result["terminal_reason"]) == (subtype, terminal)
    assert result["is_error"] is (code != 0)
    assert ("result" in result) is (subtype == "success")
    assert ("errors" in result) is (subtype != "success")


async def test_a_refused_key_is_the_result_text_and_the_exit_code(scene: Scene) -> None:
    scene.start()
    scene.say(Failed(error="AuthenticationError", message="invalid x-api-key", exit_code=21, detail={"status": 401}))
    scene.end("failed", "")
    out = io.StringIO()
    assert await Output("text", Messages(init=INIT, sizes=sizes_of), out=out).follow(_replay(scene.events)) == 21
    assert out.getvalue() == "invalid x-api-key\n"
    told = translate(scene)
    assert (told[1]["type"], told[1]["error"]) == ("assistant", "authentication_failed")
    assert (told[2]["is_error"], told[2]["api_error_status"]) == (True, 401)


async def test_text_is_the_answer_and_nothing_else(scene: Scene) -> None:
    scene.usual()
    out = io.StringIO()
    assert await Output("text", Messages(init=INIT, sizes=sizes_of), out=out).follow(_replay(scene.events)) == 0
    assert out.getvalue() == "Done.\n"


@pytest.mark.parametrize("form", ["text", "json", "stream-json"])
async def test_a_wait_for_the_provider_is_told_where_the_output_does_not_show_it(scene: Scene, form: str) -> None:
    scene.start()
    detail = {"attempt": 2, "attempts": 11, "delay": 1.5, "status": 529}
    scene.say(Failed(error="Retrying", message="busy (529)", exit_code=0, retrying=True, detail=detail))
    told: list[str] = []
    await Output(form, Messages(init=INIT, sizes=sizes_of), out=io.StringIO(), notify=told.append).follow(
        _replay(scene.events)
    )
    wanted = ["busy (529); trying again in 1.5 s (attempt 2 of 11)"]
    assert told == (wanted if form != "stream-json" else [])


async def test_stream_json_is_one_object_per_line(scene: Scene) -> None:
    scene.usual()
    out = io.StringIO()
    await Output("stream-json", Messages(init=INIT, sizes=sizes_of), out=out).follow(_replay(scene.events))
    assert [json.loads(line) for line in out.getvalue().splitlines()] == translate(scene)


async def test_verbose_json_is_the_array_of_all_messages(scene: Scene) -> None:
    scene.usual()
    out = io.StringIO()
    await Output("json", Messages(init=INIT, sizes=sizes_of), out=out, verbose=True).follow(_replay(scene.events))
    assert json.loads(out.getvalue()) == translate(scene)


async def test_a_session_that_breaks_off_still_gives_a_result(scene: Scene) -> None:
    scene.start()
    out = io.StringIO()
    assert await Output("stream-json", Messages(init=INIT, sizes=sizes_of), out=out).follow(_replay(scene.events)) == 1
    result = json.loads(out.getvalue().splitlines()[-1])
    assert (result["subtype"], result["is_error"]) == ("error_during_execution", True)
    assert result["errors"] == ["the session ended before the turn did"]


def test_a_background_command_is_a_task_from_start_to_end(scene: Scene) -> None:
    detail = {"command": "sleep 9", "output": "/tmp/out"}
    scene.say(TaskUpdated(kind="command", task="b1", state="running", detail=detail), cause="toolu_1")
    scene.say(TaskUpdated(kind="command", task="b1", state="killed", detail=detail), cause="toolu_1")
    started, updated, ended = translate(scene)
    assert (started["subtype"], started["description"], started["tool_use_id"]) == (
        "task_started",
        "sleep 9",
        "toolu_1",
    )
    assert (updated["subtype"], updated["patch"]) == ("task_updated", {"status": "killed"})
    assert (ended["subtype"], ended["status"], ended["output_file"]) == ("task_notification", "stopped", "/tmp/out")


def test_a_sub_agent_s_messages_name_the_call_that_started_it(scene: Scene) -> None:
    scene.ask()
    content = [{"type": "text", "text": "hi"}]
    body = ModelReplied(message="m", model="x", content=content, stop_reason="end_turn", usage={})
    scene.say(body, agent="toolu_7")
    (message,) = translate(scene)
    assert message["parent_tool_use_id"] == "toolu_7"


def test_a_line_too_long_for_clients_loses_only_the_structured_copy() -> None:
    message = {"type": "user", "message": {"content": "x"}, "tool_use_result": {"stdout": "y" * LINE_LIMIT}}
    assert json.loads(encode_line(message)) == {"type": "user", "message": {"content": "x"}}


def test_every_line_is_ascii_json_that_strict_readers_take() -> None:
    line = encode({"a": "\x1b[2J \x9b \u202e 😀 \udce9 \ud800"})
    assert line.isascii()
    assert "\x1b" not in line
    assert json.loads(line) == {"a": "\x1b[2J \x9b \u202e 😀 ? ?"}
    line.encode()


def assemble(raw: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """What a client makes of stream events."""
    messages: list[list[dict[str, Any]]] = []
    open_blocks: set[int] = set()
    for event in raw:
        match event["type"]:
            case "message_start":
                messages.append([])
            case "content_block_start":
                assert event["index"] == len(messages[-1])
                messages[-1].append(dict(event["content_block"]))
                open_blocks.add(event["index"])
            case "content_block_delta":
                assert event["index"] in open_blocks
                delta = event["delta"]
                block = messages[-1][event["index"]]
                if delta["type"] == "input_json_delta":
                    block["input"] = json.loads(delta["partial_json"])
                else:
                    key = delta["type"].removesuffix("_delta")
                    block[key] += delta[key]
            case "content_block_stop":
                open_blocks.remove(event["index"])
            case "message_stop":
                assert not open_blocks
    return messages


def test_the_messages_are_those_that_the_agent_sdk_was_shown_to_read(scene: Scene) -> None:
    """The golden file was read by claude-agent-sdk 0.2.186, see `sdk_oracle.py`; a change of it wants that again."""
    everything(scene)
    golden = Path(__file__).with_name("messages.golden.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in golden] == translate(scene, partial=True)


def everything(scene: Scene) -> None:
    """One of each kind of message that we send."""
    scene.usual()
    detail = {"attempt": 2, "attempts": 11, "delay": 1.5, "status": 529}
    scene.say(Failed(error="Retrying", message="busy (529)", exit_code=0, retrying=True, detail=detail))
    scene.say(ToolRequested(call="toolu_2", name="Bash", input={"command": "curl x"}))
    verdict = {"decision": "deny", "source": "command_line", "rule": "Bash(curl:*)", "reason": ""}
    scene.say(Judged(call="toolu_2", tool="Bash", digest="d", effects=[], verdict=verdict))
    task = {"command": "sleep 9", "output": "/tmp/out"}
    scene.say(TaskUpdated(kind="command", task="b1", state="running", detail=task), cause="toolu_3")
    scene.say(TaskUpdated(kind="command", task="b1", state="completed", detail=task), cause="toolu_3")
    scene.say(Compacted(trigger="auto", summary="s", tokens_before=9, tokens_after=3))
    scene.say(ModeChanged(mode="plan", source="client"))
    scene.say(Failed(error="AuthenticationError", message="invalid x-api-key", exit_code=21, detail={"status": 401}))
    scene.end("failed", "")
