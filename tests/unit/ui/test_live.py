from __future__ import annotations

import asyncio
import os
import termios
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
from rich.text import Text

from runner.events import (
    BoxStarted,
    Event,
    Failed,
    Judged,
    TextDelta,
    ToolChunk,
    ToolRequested,
)
from runner.ui.live import Live
from runner.ui.plain import Plain
from runner.ui.region import Region
from tests.support.screen import Opener, Terminal

if TYPE_CHECKING:
    from tests.unit.conftest import Scene

ALLOW = {"decision": "allow", "source": "mode", "rule": "", "reason": ""}


async def _replay(events: list[Event], pause: float = 0.0) -> AsyncIterator[Event]:
    for event in events:
        yield event
        await asyncio.sleep(pause)


async def test_a_turn_leaves_its_story_on_the_screen_and_nothing_else(scene: Scene, terminal: Opener) -> None:
    scene.usual()
    screen = terminal()
    await Live(screen.out).follow(_replay(scene.events))
    assert screen.read() == [
        "4f2a91c0 · claude-sonnet-5 · bypassPermissions",
        "",
        "Looking.",
        "",
        "✓ Bash pytest -q  0.2 s",
        "  │ 3 passed",
        "",
        "Done.",
    ]
    assert not screen.screen.cursor.hidden


async def test_what_runs_is_shown_with_its_time_and_the_end_of_its_output(scene: Scene, terminal: Opener) -> None:
    scene.start()
    scene.ask()
    scene.reply([], stop="tool_use")
    scene.say(ToolRequested(call="c", name="Bash", input={"command": "make -j8"}))
    scene.say(Judged(call="c", tool="Bash", digest="", effects=[], verdict=ALLOW))
    scene.say(ToolChunk(call="c", text="".join(f"step {n}\n" for n in range(99)) + "\x1b[2Jhidden?"))
    screen = terminal()
    shown = await _draw_once(Live(screen.out, clock=lambda: scene.at + 3), scene, screen)
    assert shown[-7:] == [
        "⠋ 4.0 s Bash make -j8",
        "  │ step 95",
        "  │ step 96",
        "  │ step 97",
        "  │ step 98",
        "  │ ␛[2Jhidden?",
        "⠋ running Bash · 8.0 s · 1 round · 400 in, 20 out · $0.0100 · Ctrl-C stops",
    ]


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (40, 10), (20, 5), (12, 3), (200, 60)])
async def test_every_size_holds_the_lines_that_move(scene: Scene, terminal: Opener, columns: int, rows: int) -> None:
    scene.usual()
    scene.events.pop()
    scene.say(ToolRequested(call="c", name="Bash", input={"command": "日本語 " * 40}))
    scene.say(Judged(call="c", tool="Bash", digest="", effects=[], verdict=ALLOW))
    scene.say(ToolChunk(call="c", text="output 日本語 " * 30 + "\n" + "more\n" * 10))
    screen = terminal(columns, rows)
    live = Live(screen.out, clock=lambda: scene.at)
    for _ in range(3):  # drawn again and again it stays one picture
        shown = await _draw_once(live, scene, screen)
        scene.events.clear()
    assert sum(line.startswith("⠋") for line in shown) <= 2
    assert shown[-1].startswith("⠋")
    live._region.close()
    assert not any(line.startswith("⠋") for line in screen.read())


async def test_a_terminal_made_narrower_keeps_no_remains(terminal: Opener) -> None:
    screen = terminal(60, 10)
    region = Region(screen.out)
    region.draw([Text("above")], [Text("a" * 50), Text("b" * 50)])
    assert screen.read() == ["above", "a" * 50, "b" * 50]
    # what a terminal that folds lines anew shows after it was made 30 wide
    screen.resize(30, 10)
    screen.screen.reset()
    screen.stream.feed(b"above\r\n" + b"a" * 50 + b"\r\n" + b"b" * 50)
    region.draw([], [Text("c" * 50)])
    assert screen.read() == ["above", "c" * 28 + "…"]


async def test_a_reply_streams_line_by_line_and_the_open_line_below(scene: Scene, terminal: Opener) -> None:
    scene.start()
    scene.ask()
    for piece in ("\n\nFirst li", "ne.\nSecond ", "line is not ov"):
        scene.say(TextDelta(text=piece))
    screen = terminal()
    live = Live(screen.out, clock=lambda: scene.at)
    shown = await _draw_once(live, scene, screen)
    assert shown[2:] == ["First line.", "Second line is not ov", "⠋ writing · 4.0 s · Ctrl-C stops"]


async def test_a_broken_reply_is_marked_and_the_wait_is_shown(scene: Scene, terminal: Opener) -> None:
    scene.start()
    scene.ask()
    scene.say(TextDelta(text="Half a sent"))
    scene.say(
        Failed(
            error="Retrying",
            message="overloaded",
            exit_code=0,
            retrying=True,
            detail={"attempt": 2, "attempts": 10, "delay": 4.0},
        )
    )
    screen = terminal()
    shown = await _draw_once(Live(screen.out, clock=lambda: scene.at + 1), scene, screen)
    assert shown[-1].startswith("⠋ ↻ again in 3.0 s (2/10): overloaded")


async def test_escape_sequences_of_a_reply_never_reach_the_terminal(scene: Scene, terminal: Opener) -> None:
    evil = "\x1b]52;c;aGk=\x07\x1b]0;title\x07\x9b2J\u202e"
    scene.start()
    scene.ask()
    scene.stream(text=evil + "\n" + evil)
    scene.reply([{"type": "text", "text": evil}])
    scene.call(evil, evil, {evil: evil, "command": evil}, evil, result={"stdout": evil}, error=True)
    scene.end()
    screen = terminal()
    await Live(screen.out).follow(_replay(scene.events))
    screen.read()
    for sequence in (b"\x1b]", b"\x07", b"\xc2\x9b", "\u202e".encode()):
        assert sequence not in screen.raw


async def test_a_locale_that_is_not_utf_8_gets_ascii(scene: Scene, terminal: Opener) -> None:
    scene.usual()
    scene.call("c", "Bash", {"command": "echo größe"}, "日")
    screen = terminal(encoding="ascii")
    await Live(screen.out).follow(_replay(scene.events))
    screen.read()
    assert screen.raw.isascii()
    assert "+ Bash pytest -q  0.2 s" in screen.read()


async def _draw_once(live: Live, scene: Scene, screen: Terminal) -> list[str]:
    for event in scene.events:
        live._feed(event)
    live._draw()
    return screen.read()


async def test_cancelling_gives_the_terminal_back(
    scene: Scene, terminal: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "tcgetpgrp", lambda _fd: os.getpgrp())
    screen = terminal()
    before = termios.tcgetattr(screen.out.fileno())
    scene.start()
    scene.ask()

    async def events() -> AsyncIterator[Event]:
        for event in scene.events:
            yield event
        await asyncio.sleep(60)

    with open(os.ttyname(screen.out.fileno())) as keys:  # noqa: PTH123, ASYNC230
        task = asyncio.create_task(Live(screen.out, keys=keys).follow(events()))
        await asyncio.sleep(0.3)
        assert screen.read()[-1].startswith("⠋") or "waiting for the model" in screen.read()[-1]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert "waiting for the model" not in "\n".join(screen.read())
    assert termios.tcgetattr(screen.out.fileno()) == before
    assert not screen.screen.cursor.hidden


async def test_what_is_typed_during_a_run_is_left_for_the_shell(
    scene: Scene, terminal: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "tcgetpgrp", lambda _fd: os.getpgrp())
    screen = terminal()
    scene.start()

    async def events() -> AsyncIterator[Event]:
        for event in scene.events:
            yield event
        await asyncio.sleep(0.1)
        screen.press("fumehood diff\n")
        await asyncio.sleep(0.2)
        yield scene.end()

    async def answer(_call: str, _given: bool, _always: bool) -> None:
        raise AssertionError

    with open(os.ttyname(screen.out.fileno())) as keys:  # noqa: PTH123, ASYNC230
        await Live(screen.out, keys=keys, answer=answer).follow(events())
        os.set_blocking(keys.fileno(), False)
        assert os.read(keys.fileno(), 100) == b"fumehood diff\n"


async def test_without_a_terminal_the_story_is_whole_lines(scene: Scene, terminal: Opener) -> None:
    scene.usual()
    judged = next(n for n, event in enumerate(scene.events) if event.type == "ToolRequested") + 1
    scene.events.insert(judged, scene.say(Judged(call="toolu_1", tool="Bash", digest="", effects=[], verdict=ALLOW)))
    scene.events.pop()
    screen = terminal()
    await Plain(screen.out).follow(_replay(scene.events))
    assert screen.read() == [
        "4f2a91c0 · claude-sonnet-5 · bypassPermissions",
        "Looking.",
        "▸ Bash pytest -q",
        "✓ Bash pytest -q  0.2 s",
        "  │ 3 passed",
        "Done.",
    ]
    assert b"\x1b" not in screen.raw


@pytest.mark.parametrize("interface", [Live, Plain])
async def test_which_session_it_is_comes_first_even_where_the_box_is_quicker_than_the_turn(
    scene: Scene, terminal: Opener, interface: type[Live | Plain]
) -> None:
    scene.usual()
    started = BoxStarted(container="c", image="base", engine="docker", runtime="runc", rungs={"/w": "copy"})
    turn = next(n for n, event in enumerate(scene.events) if event.type == "TurnStarted")
    scene.events.insert(turn, scene.say(started))
    scene.events.pop()
    screen = terminal()
    await interface(screen.out).follow(_replay(scene.events))
    lines = [line for line in screen.read() if line]
    assert "claude-sonnet-5" in lines[0]
    assert "box ready" in lines[1]
    assert sum("claude-sonnet-5" in line for line in lines) == 1


async def test_a_long_line_of_output_is_cut_and_a_long_line_of_text_is_folded(scene: Scene, terminal: Opener) -> None:
    scene.start()
    scene.call("c", "Bash", {"command": "x"}, "-" * 60, result={"stdout": "-" * 60})
    scene.ask()
    scene.reply([{"type": "text", "text": "word " * 12}])
    scene.end()
    screen = terminal(30, 20)
    await Live(screen.out).follow(_replay(scene.events))
    assert screen.read()[-5:] == [
        "✓ Bash x  0.2 s",
        "  │ " + "-" * 25 + "…",
        "",
        "word word word word word word",
        "word word word word word word",
    ]
