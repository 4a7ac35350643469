from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runner.errors import (
    BrokenStreamError,
    InvalidRequestError,
    ModelError,
    OverloadedError,
    ScriptEndedError,
    ScriptMismatchError,
)
from runner.models.base import BlockDone, Delta, Finished, Request, Started, TextPart, ThinkingPart
from runner.models.script import Script, load_script
from runner.models.scripted import ScriptedModel


def request(*texts: str) -> Request:
    """A conversation whose user messages are tool results of these texts."""
    messages = tuple(
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": one}]}],
        }
        for one in texts
    )
    return Request(model="", system=(), messages=messages, tools=(), max_output_tokens=10)


async def play(model: ScriptedModel, *texts: str) -> list[Delta]:
    return [delta async for delta in model.stream(request(*(texts or ("hello",))))]


def scripted(*replies: dict[str, Any]) -> ScriptedModel:
    return ScriptedModel(Script.model_validate({"replies": list(replies)}))


async def test_a_reply_streams_as_a_real_one_does() -> None:
    text = "I look at the test, and then at the code."
    reply = {
        "thinking": "hm",
        "text": text,
        "tools": [{"name": "Bash", "input": {"command": "ls"}}],
        "usage": {"input_tokens": 3, "output_tokens": 7},
    }
    assert await play(scripted(reply)) == [
        Started(message="msg_script_0001", model="scripted", usage={"input_tokens": 3, "output_tokens": 1}),
        ThinkingPart(text="hm"),
        BlockDone(index=0, block={"type": "thinking", "thinking": "hm", "signature": "scripted-1"}),
        TextPart(text=text[:24]),
        TextPart(text=text[24:]),
        BlockDone(index=1, block={"type": "text", "text": text}),
        BlockDone(
            index=2,
            block={"type": "tool_use", "id": "toolu_script_0001_1", "name": "Bash", "input": {"command": "ls"}},
        ),
        Finished(stop_reason="tool_use", usage={"input_tokens": 3, "output_tokens": 7}),
    ]


async def test_a_script_that_has_ended_says_so() -> None:
    model = scripted({"text": "one", "repeat": 2})
    await play(model)
    await play(model)
    with pytest.raises(ScriptEndedError, match="has 2 replies"):
        await play(model)


async def test_a_world_that_differs_fails_loudly() -> None:
    model = scripted({"expect": ["1 failed"], "text": "x"})
    with pytest.raises(
        ScriptMismatchError, match=r"reply 1 .* expects the last message to hold '1 failed'; .*'2 passed'"
    ):
        await play(model, "1 failed", "2 passed")


async def test_what_was_matched_fills_later_strings() -> None:
    model = scripted(
        {"expect": {"matches": r"pid (?P<pid>\d+)"}, "text": "pid ${pid}, ${unknown}"},
        {"tools": [{"name": "TaskStop", "input": {"task": ["${pid}"]}}]},
        {"expect": {"matches": "^first$", "of": "prompt"}, "text": "x"},
    )
    assert (await play(model, "started, pid 42"))[-2] == BlockDone(
        index=0, block={"type": "text", "text": "pid 42, ${unknown}"}
    )
    called = (await play(model))[-2]
    assert isinstance(called, BlockDone)
    assert called.block["input"] == {"task": ["42"]}
    await play(model, "first", "second")


async def test_broken_json_goes_out_as_it_stands() -> None:
    deltas = await play(scripted({"tools": [{"name": "Bash", "id": "t1", "raw": '{"command": "ls'}]}))
    block = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {}}
    assert deltas[1] == BlockDone(index=0, block=block, invalid='{"command": "ls')


async def test_blocks_of_any_kind_pass_as_they_are() -> None:
    blocks = [
        {"type": "redacted_thinking", "data": "x"},
        {"type": "server_tool_use", "id": "s", "name": "n", "input": {"q": 1}},
    ]
    deltas = await play(scripted({"blocks": blocks, "stop_reason": "pause_turn"}))
    assert [delta.block for delta in deltas if isinstance(delta, BlockDone)] == blocks
    assert isinstance(deltas[-1], Finished)
    assert deltas[-1].stop_reason == "pause_turn"


@pytest.mark.parametrize(
    ("error", "raised", "blocks"),
    [
        ({"type": "overloaded_error", "retry_after": 2}, OverloadedError, 0),
        ({"type": "overloaded_error", "after": 1}, OverloadedError, 1),
        ({"type": "cut", "after": 1}, BrokenStreamError, 1),
        ({"type": "malformed", "after": 0}, BrokenStreamError, 0),
        ({"type": "cut"}, BrokenStreamError, 2),
    ],
)
async def test_an_error_comes_when_the_script_says(
    error: dict[str, Any], raised: type[ModelError], blocks: int
) -> None:
    model = scripted({"thinking": "a", "text": "b", "error": error}, {"text": "then"})
    with pytest.raises(raised) as caught:
        await play(model)
    assert len(caught.value.partial) == blocks
    if isinstance(caught.value, OverloadedError):
        assert (caught.value.status, caught.value.retry_after) == (529, error.get("retry_after"))
    assert isinstance((await play(model))[-1], Finished)


async def test_delays_are_slept() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    script = Script.model_validate({"replies": [{"text": "x", "delay": 3, "pace": 0.5}]})
    _ = [delta async for delta in ScriptedModel(script, sleep=sleep).stream(request("x"))]
    assert slept == [3, *[0.5] * 6]


YAML = """
# a demo
version: 1
model: demo
replies:
  - text: one
    expect: hello
  - tools:
      - {name: Read, input: {file_path: /a}}
"""


@pytest.mark.parametrize(
    ("name", "text", "model", "replies"),
    [
        ("a.yaml", YAML, "demo", 2),
        ("a.yml", "- text: one\n- text: two\n  repeat: 3\n", "scripted", 4),
        ("a.jsonl", '{"text": "one"}\n\n{"text": "two"}\n', "scripted", 2),
        ("a.json", '{"replies": [{"text": "one"}]}', "scripted", 1),
        ("a.yaml", "", "scripted", 0),
    ],
)
def test_a_script_is_read_from_yaml_json_or_lines(
    tmp_path: Path, name: str, text: str, model: str, replies: int
) -> None:
    (tmp_path / name).write_text(text)
    script = load_script(tmp_path / name)
    assert (script.model, len(script.played())) == (model, replies)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.yaml", "- text: one\n\n- txet: two\n", r"reply 2 \(line 3\)\.txet: Extra inputs"),
        ("a.yaml", "replies:\n  - text: one\n    error: {type: nonsense}\n", r"reply 1 \(line 2\)\.error\.type"),
        ("a.jsonl", '{"text": "a"}\n\n{"text": 5}\n', r"reply 2 \(line 3\)\.text"),
        ("a.jsonl", '{"text": "a"}\n{"text"\n', "line 2"),
        ("a.yaml", "a: [", "cannot be read"),
        ("a.yaml", "just words", "the script"),
        ("a.yaml", "version: 2\nreplies: []\n", "version"),
        ("a.yaml", "!!python/object/apply:os.system ['true']", "cannot be read"),
    ],
)
def test_a_script_that_cannot_be_read_names_the_place(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidRequestError, match=says):
        load_script(tmp_path / name)


def test_a_script_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"gone\.yaml cannot be read"):
        load_script(tmp_path / "gone.yaml")
