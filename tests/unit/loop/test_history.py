"""History as a projection: what records become, whole and cut off."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from runner.events import (
    Body,
    Compacted,
    Drifted,
    HeadMoved,
    ModelAsked,
    ModelReplied,
    PromptGiven,
    TaskUpdated,
    ToolFinished,
    TurnEnded,
)
from runner.journal import MemoryJournal, digest
from runner.loop.history import NOT_RUN, History, RequestFrame, request_json
from runner.models.base import Request, ToolSpec

ASKED = ModelAsked(model="m", digest="", parameters={}, messages=0)
END = TurnEnded(number=1, reason="completed", result="", rounds=1, seconds=0, api_seconds=0, usage={}, cost=None)


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def use(call: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": call, "name": "Look", "input": {}}


def said(*blocks: dict[str, Any], partial: bool = False) -> ModelReplied:
    return ModelReplied(message="m", model="m", content=list(blocks), stop_reason=None, usage={}, partial=partial)


def given_prompt(words: str) -> PromptGiven:
    return PromptGiven(content=[text(words)])


def finished(call: str, content: Any = "ok") -> ToolFinished:
    return ToolFinished(call=call, name="Look", content=content)


def folded(*bodies: Body) -> History:
    journal = MemoryJournal("s")
    history = History(journal.append(body) for body in bodies)
    history.flush()
    return history


def test_results_come_in_the_order_of_their_calls_before_everything_else() -> None:
    note = TaskUpdated(kind="command", task="b1", state="completed", detail={"command": "make", "code": 0})
    history = folded(
        given_prompt("go"), ASKED, said(use("1"), use("2")), note, finished("2"), finished("1", [text("ok")])
    )
    kinds = [(block["type"], block.get("tool_use_id")) for block in history.messages[-1]["content"]]
    assert kinds == [("tool_result", "1"), ("tool_result", "2"), ("text", None)]
    assert "Background task b1 (make) is completed (exit code 0)." in history.messages[-1]["content"][2]["text"]


def test_a_note_that_comes_in_mid_reply_waits_for_the_next_request() -> None:
    drift = Drifted(paths=["a"], count=1)
    history = folded(given_prompt("go"), ASKED, drift, said(text("hi")), given_prompt("on"))
    assert [m["role"] for m in history.messages] == ["user", "assistant", "user"]
    assert "1 files changed on the host" in history.messages[2]["content"][0]["text"]


def test_a_call_without_an_end_gets_one() -> None:
    history = folded(given_prompt("go"), ASKED, said(use("1")), given_prompt("on"))
    assert history.messages[2]["content"][0] == {
        "type": "tool_result",
        "tool_use_id": "1",
        "content": NOT_RUN,
        "is_error": True,
    }


def test_an_empty_reply_is_not_sent_back() -> None:
    history = folded(given_prompt("go"), ASKED, said(), END, given_prompt("on"))
    assert [m["role"] for m in history.messages] == ["user", "user"]


def test_of_a_broken_reply_only_what_the_api_takes_is_kept() -> None:
    broken = said(
        {"type": "thinking", "thinking": "a", "signature": "s"},
        text("  "),
        text("hm"),
        {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}},
        use("1"),
        use("never-requested"),
        {"type": "thinking", "thinking": "cut off"},
        partial=True,
    )
    history = folded(given_prompt("go"), ASKED, broken, finished("1"), END, given_prompt("on"))
    assert [block["type"] for block in history.messages[1]["content"]] == ["thinking", "text", "tool_use"]
    assert [block["type"] for block in history.messages[2]["content"]] == ["tool_result", "text"]


def test_a_broken_reply_of_thinking_alone_is_dropped() -> None:
    broken = said({"type": "thinking", "thinking": "a", "signature": "s"}, partial=True)
    history = folded(given_prompt("go"), ASKED, broken, END, given_prompt("on"))
    assert [m["role"] for m in history.messages] == ["user", "user"]


def test_a_summary_takes_the_place_of_what_was_before() -> None:
    history = folded(
        given_prompt("go"),
        ASKED,
        said(text("hi")),
        Compacted(trigger="manual", summary="We said hi.", tokens_before=9),
        given_prompt("on"),
    )
    assert history.messages == [{"role": "user", "content": [text("We said hi."), text("on")]}]


def test_what_was_undone_is_not_in_the_history() -> None:
    journal = MemoryJournal("s")
    first = [journal.append(body) for body in (given_prompt("one"), ASKED, said(text("1")))]
    for body in (given_prompt("two"), ASKED, said(text("2"))):
        journal.append(body)
    journal.append(HeadMoved(to=first[-1].id, reason="undo"))
    journal.append(given_prompt("three"))
    history = History(journal.path())
    history.flush()
    assert [m["content"][0]["text"] for m in history.messages] == ["one", "1", "three"]


BODIES = st.lists(
    st.one_of(
        st.builds(given_prompt, st.text(max_size=5)),
        st.just(ASKED),
        st.builds(said, st.sampled_from([text("x"), use("1"), use("2"), text("ü\udc80")])),
        st.builds(finished, st.sampled_from(["1", "2"])),
        st.just(END),
        st.just(Compacted(trigger="auto", summary="s", tokens_before=1)),
    ),
    max_size=20,
)


@given(BODIES)
def test_the_running_digest_is_that_of_the_whole_request(bodies: list[Body]) -> None:
    journal, history = MemoryJournal("s"), History()
    tools = (ToolSpec(name="T", description="d", schema={"type": "object"}),)
    frame: RequestFrame | None = None
    for body in bodies:
        history.fold(journal.append(body))
        request = Request(
            model="m", system=("a", "b"), messages=tuple(history.messages), tools=tools, max_output_tokens=9
        )
        frame = frame or RequestFrame(request)
        assert history.digest(frame) == digest(request_json(request))


@given(BODIES)
def test_a_message_that_was_sent_never_changes(bodies: list[Body]) -> None:
    journal, history = MemoryJournal("s"), History()
    sent: list[str] = []
    for body in bodies:
        history.fold(journal.append(body))
        if isinstance(body, Compacted):
            sent = []
        if isinstance(body, ModelAsked):
            now = [json.dumps(message) for message in history.messages]
            assert now[: len(sent)] == sent
            sent = now


@given(BODIES)
def test_every_call_in_the_history_is_answered_by_the_next_message(bodies: list[Body]) -> None:
    history = folded(*bodies)
    for message, after in zip(history.messages, [*history.messages, None][1:], strict=True):
        calls = [b["id"] for b in message["content"] if b["type"] == "tool_use" and message["role"] == "assistant"]
        if calls and after is not None and after["role"] == "user":
            assert [b["tool_use_id"] for b in after["content"] if b["type"] == "tool_result"] == calls
