"""Checkpoints that are taken while the model thinks: in order, one at a time, and told as what they were for."""

from __future__ import annotations

import asyncio
from pathlib import PurePosixPath

import pytest

from runner.effects import ReadPath, RunCommand, effect_to_json
from runner.events import Body, CheckpointTaken, Judged, TurnEnded
from runner.sessions.ahead import Ahead
from runner.sessions.timeline import CALL, END, START, Timeline
from tests.unit.conftest import Scene


class Camera:
    """Takes what it is told, as slowly as wanted."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, str]] = []
        self.going = asyncio.Event()
        self.going.set()
        self.begun = asyncio.Event()
        self.at_once = self.most = 0
        self.fault: Exception | None = None

    async def __call__(self, label: str, *, before: str = "") -> None:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        self.begun.set()
        try:
            await self.going.wait()
            if self.fault is not None:
                raise self.fault
            self.taken.append((label, before))
        finally:
            self.at_once -= 1


class Pause:
    """Over when the test says so."""

    def __init__(self) -> None:
        self.over = asyncio.Event()

    async def __call__(self, _seconds: float) -> None:
        await self.over.wait()


async def test_a_model_that_answers_at_once_is_not_in_the_way() -> None:
    camera = Camera()
    ahead = Ahead(camera, sleep=Pause())
    await ahead.before_write("one")
    ahead.between()
    await ahead.before_write("two")
    ahead.between()
    await ahead.after_turn()
    assert camera.taken == [(START, "one"), (CALL, "two"), (END, "")]


async def test_while_the_model_thinks_the_next_is_taken_and_never_two_at_once() -> None:
    camera, pause = Camera(), Pause()
    pause.over.set()
    ahead = Ahead(camera, sleep=pause)
    await ahead.before_write("one")
    camera.going.clear()
    camera.begun.clear()
    ahead.between()
    ahead.between()
    await camera.begun.wait()
    writing = asyncio.create_task(ahead.before_write("two"))
    await asyncio.sleep(0)
    assert not writing.done()
    camera.going.set()
    await writing
    assert camera.taken == [(START, "one"), (CALL, ""), (CALL, "two")]
    assert camera.most == 1


async def test_nothing_is_taken_ahead_in_a_turn_that_only_reads() -> None:
    camera, pause = Camera(), Pause()
    pause.over.set()
    ahead = Ahead(camera, sleep=pause)
    ahead.between()
    await asyncio.sleep(0)
    await ahead.after_turn()
    assert camera.taken == []


async def test_what_goes_wrong_ahead_is_the_next_calls_error_and_no_later_ones() -> None:
    camera, pause = Camera(), Pause()
    pause.over.set()
    ahead = Ahead(camera, sleep=pause)
    await ahead.before_write("one")
    camera.fault = OSError("full")
    camera.begun.clear()
    ahead.between()
    await camera.begun.wait()
    with pytest.raises(OSError, match="full"):
        await ahead.before_write("two")
    camera.fault = None
    await ahead.before_write("three")
    assert camera.taken == [(START, "one"), (CALL, "three")]


async def test_an_interrupt_leaves_one_that_runs_to_the_end_of_the_turn() -> None:
    camera, pause = Camera(), Pause()
    pause.over.set()
    ahead = Ahead(camera, sleep=pause)
    await ahead.before_write("one")
    camera.going.clear()
    camera.begun.clear()
    ahead.between()
    await camera.begun.wait()
    writing = asyncio.create_task(ahead.before_write("two"))
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    ending = asyncio.create_task(ahead.after_turn())
    await asyncio.sleep(0)
    assert not ending.done()
    camera.going.set()
    await ending
    assert camera.taken == [(START, "one"), (CALL, ""), (END, "")]
    assert camera.most == 1


def _taken(name: str, label: str, before: str = "") -> Body:
    return CheckpointTaken(checkpoint=name, label=label, files=1, size=1, seconds=0.1, before=before)


def _judged(call: str, tool: str, effect: RunCommand | ReadPath, scene: Scene) -> None:
    scene.say(
        Judged(call=call, tool=tool, digest="d", effects=[effect_to_json(effect)], verdict={"decision": "allow"}),
        cause=call,
    )


def test_a_checkpoint_taken_ahead_is_told_as_of_the_call_that_came_or_of_the_turns_end(scene: Scene) -> None:
    run = RunCommand(command="true", cwd=PurePosixPath("/w"), background=False)
    scene.start()
    _judged("1", "Bash", run, scene)
    scene.say(_taken("a", START, "1"))
    scene.say(_taken("b", CALL))
    _judged("2", "Read", ReadPath(path=PurePosixPath("/w/f")), scene)
    _judged("3", "Write", run, scene)
    scene.say(_taken("c", CALL))
    scene.say(
        TurnEnded(number=1, reason="completed", result="", rounds=1, seconds=1.0, api_seconds=1.0, usage={}, cost=None)
    )
    ids = {event.id for event in scene.events}
    rows = Timeline.read(scene.events, path=ids, head=scene.events[-1].id).checkpoints
    assert [(row["checkpoint"], row["label"], row["tool"]) for row in rows] == [
        ("a", START, "Bash"), ("b", CALL, "Write"), ("c", END, ""),
    ]  # fmt: skip
