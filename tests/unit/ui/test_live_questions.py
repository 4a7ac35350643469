"""Questions in the live view: what is shown before a key counts, and what each key answers."""

from __future__ import annotations

import asyncio
import os
import termios
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest

from runner.events import (
    ApprovalAsked,
    ApprovalGiven,
    Event,
    Judged,
    ToolRequested,
)
from runner.ui.live import Live
from tests.support.screen import Opener

if TYPE_CHECKING:
    from tests.unit.conftest import Scene

ASK = {"decision": "ask", "source": "mode", "rule": "", "reason": "leaves the box"}


@pytest.mark.parametrize(("key", "allowed"), [("y", True), ("n", False), ("\x1b", False)])
async def test_a_question_shows_exactly_what_would_run_and_takes_one_key(
    scene: Scene, terminal: Opener, monkeypatch: pytest.MonkeyPatch, key: str, allowed: bool
) -> None:
    monkeypatch.setattr(os, "tcgetpgrp", lambda _fd: os.getpgrp())
    screen = terminal()
    answers: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()

    async def answer(call: str, given: bool, _always: bool) -> None:
        await answers.put((call, given))

    async def events() -> AsyncIterator[Event]:
        scene.start()
        scene.say(ToolRequested(call="c", name="Bash", input={"command": "git push\nrm -rf /"}))
        scene.say(Judged(call="c", tool="Bash", digest="", effects=[], verdict=ASK))
        args = {"command": "git push\nrm -rf / \x1b[8m# hidden"}
        scene.say(ApprovalAsked(call="c", tool="Bash", input=args, reason="leaves the box"))
        for event in scene.events:
            yield event
        screen.press("y")  # typed before the question could be read: counts for nothing
        await asyncio.sleep(0.6)
        screen.press("yyy")  # a paste is no answer
        await asyncio.sleep(0.1)
        assert answers.empty()
        assert screen.read()[-6:] == [
            "",
            "? Bash asks for permission: leaves the box",
            "  │ command",
            "  │   git push",
            "  │   rm -rf / ␛[8m# hidden",
            "Allow this?  y yes  n no",
        ]
        screen.press(key)
        call, given = await answers.get()
        yield scene.say(ApprovalGiven(call=call, allowed=given, by="client"))
        yield scene.end()

    before = termios.tcgetattr(screen.out.fileno())
    with open(os.ttyname(screen.out.fileno())) as keys:  # noqa: PTH123, ASYNC230
        state = await Live(screen.out, keys=keys, answer=answer).follow(events())
    assert state.denied == (not allowed)
    assert termios.tcgetattr(screen.out.fileno()) == before
    assert not any("Allow this?" in line for line in screen.read())


async def test_what_is_too_long_to_show_cannot_be_allowed_unseen(
    scene: Scene, terminal: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "tcgetpgrp", lambda _fd: os.getpgrp())
    screen = terminal()
    answers: asyncio.Queue[bool] = asyncio.Queue()

    async def answer(_call: str, given: bool, _always: bool) -> None:
        await answers.put(given)

    async def events() -> AsyncIterator[Event]:
        scene.start()
        args = {"command": "\n".join(f"echo {n}" for n in range(100))}
        scene.say(ApprovalAsked(call="c", tool="Bash", input=args, reason=""))
        for event in scene.events:
            yield event
        await asyncio.sleep(0.6)
        screen.press("y")
        await asyncio.sleep(0.1)
        assert answers.empty()
        assert screen.read()[-1] == "Allow this?  v show the rest  n no"
        screen.press("v")
        await asyncio.sleep(0.3)
        shown = screen.read()
        assert "  │   echo 99" in shown
        assert shown[-1] == "Allow this?  y yes  n no"
        screen.press("y")
        assert await answers.get()
        yield scene.say(ApprovalGiven(call="c", allowed=True, by="client"))
        yield scene.end()

    with open(os.ttyname(screen.out.fileno())) as keys:  # noqa: PTH123, ASYNC230
        await Live(screen.out, keys=keys, answer=answer).follow(events())


async def test_always_is_offered_with_the_rule_and_the_file_it_goes_to(
    scene: Scene, terminal: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "tcgetpgrp", lambda _fd: os.getpgrp())
    screen = terminal()
    answers: asyncio.Queue[tuple[bool, bool]] = asyncio.Queue()

    async def answer(_call: str, given: bool, always: bool) -> None:
        await answers.put((given, always))

    async def events() -> AsyncIterator[Event]:
        scene.start()
        for call, rule in (("c", "Bash(make test)"), ("d", "")):
            kept = "/state/approvals.json" if rule else ""
            scene.say(ApprovalAsked(call=call, tool="Bash", input={"command": "x"}, reason="", always=rule, kept=kept))
        for event in scene.events:
            yield event
        await asyncio.sleep(0.6)
        assert screen.read()[-3:] == [
            "  always: Bash(make test)  in this workspace",
            "  written to /state/approvals.json; fumehood policy approvals takes it back",
            "Allow this?  y yes  a always  n no",
        ]
        screen.press("a")
        assert await answers.get() == (True, True)
        yield scene.say(ApprovalGiven(call="c", allowed=True, by="client", always=True))
        await asyncio.sleep(0.6)
        shown = screen.read()
        assert (shown[-1], "  you said always" in shown) == ("Allow this?  y yes  n no", True)
        screen.press("a")  # not offered here: no answer
        await asyncio.sleep(0.1)
        assert answers.empty()
        screen.press("y")
        assert await answers.get() == (True, False)
        yield scene.say(ApprovalGiven(call="d", allowed=True, by="client"))
        yield scene.end()

    with open(os.ttyname(screen.out.fileno())) as keys:  # noqa: PTH123, ASYNC230
        await Live(screen.out, keys=keys, answer=answer).follow(events())


async def test_a_host_may_be_allowed_with_each_of_its_requests_looked_into(
    scene: Scene, terminal: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "tcgetpgrp", lambda _fd: os.getpgrp())
    screen = terminal()
    answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def answer(call: str, given: bool, always: bool) -> None:
        await answers.put({call: given, "always": always})

    async def choose(_call: str, sent: dict[str, Any]) -> None:
        await answers.put(sent)

    async def events() -> AsyncIterator[Event]:
        scene.start()
        for call, to in (("c", "https://a.example:8443"), ("d", "http://a.example")):
            scene.say(ApprovalAsked(call=call, tool="Network", input={"to": to, "request": "CONNECT"}, reason=""))
        for event in scene.events:
            yield event
        await asyncio.sleep(0.6)
        assert screen.read()[-1] == "Allow this?  y yes  i yes, and look into each request  n no"
        screen.press("i")
        sent = {"to": "https://a.example:8443", "request": "CONNECT", "rule": "https://a.example:8443/*"}
        assert await answers.get() == sent
        yield scene.say(ApprovalGiven(call="c", allowed=True, by="client"))
        await asyncio.sleep(0.6)
        assert screen.read()[-1] == "Allow this?  y yes  n no"  # plain HTTP is looked into anyway
        screen.press("i")
        await asyncio.sleep(0.1)
        assert answers.empty()
        screen.press("n")
        assert await answers.get() == {"d": False, "always": False}
        yield scene.say(ApprovalGiven(call="d", allowed=False, by="client"))
        yield scene.end()

    with open(os.ttyname(screen.out.fileno())) as keys:  # noqa: PTH123, ASYNC230
        await Live(screen.out, keys=keys, answer=answer, choose=choose).follow(events())


async def test_the_models_questions_are_answered_by_number(
    scene: Scene, terminal: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "tcgetpgrp", lambda _fd: os.getpgrp())
    screen = terminal()
    chosen: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
    options = [{"label": "SQLite", "description": "a file"}, {"label": "Postgres", "description": "a server"}]
    questions = [
        {"question": "Which one?", "header": "db", "options": options, "multiSelect": False},
        {"question": "Which of them?", "header": "db", "options": options, "multiSelect": True},
    ]

    async def answer(_call: str, _given: bool, _always: bool) -> None:
        raise AssertionError

    async def choose(call: str, sent: dict[str, Any]) -> None:
        await chosen.put((call, sent))

    async def events() -> AsyncIterator[Event]:
        scene.start()
        scene.say(ApprovalAsked(call="c", tool="AskUserQuestion", input={"questions": questions}, reason=""))
        for event in scene.events:
            yield event
        await asyncio.sleep(0.6)
        assert screen.read()[-4:] == [
            "? Which one?",
            "  │ 1 SQLite  a file",
            "  │ 2 Postgres  a server",
            "1-2 choose  n no answer",
        ]
        screen.press("2")
        await asyncio.sleep(0.6)
        for key in ("2", "1"):
            screen.press(key)
            await asyncio.sleep(0.2)
        assert screen.read()[-1] == "1-2 choose several, Enter done  n no answer  chosen: 1, 2"
        screen.press("\n")
        call, sent = await chosen.get()
        assert (call, sent["questions"]) == ("c", questions)
        assert sent["answers"] == {"Which one?": "Postgres", "Which of them?": "SQLite, Postgres"}
        yield scene.say(ApprovalGiven(call="c", allowed=True, by="client"))
        yield scene.end()

    with open(os.ttyname(screen.out.fileno())) as keys:  # noqa: PTH123, ASYNC230
        await Live(screen.out, keys=keys, answer=answer, choose=choose).follow(events())
