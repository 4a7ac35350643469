"""The owner's socket and its client: the same answers, events and errors as in the owner itself."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath
from typing import Any, Self

import pytest

from runner.errors import SessionBusyError
from runner.events import Event, PromptGiven, TextDelta
from runner.journal import MemoryJournal
from runner.loop.operations import Interrupt, Operation, Prompt
from runner.sessions.access import Selection
from runner.sessions.channel import short_path, socket_path
from runner.sessions.client import REMADE, Client, event_from_json
from runner.sessions.lock import Lock
from runner.sessions.owner import Owner, event_to_json
from sandbox.errors import DiskFullError, SandboxError
from sandbox.local import LocalBox
from sandbox.selection import ApplyConflictError, Remark
from sandbox.spec import Command, Exited, Process, Pty, Stderr, Stdout

LONG = b"\xff line\n" * 300_000


class Changes:
    """An Access whose answers are known."""

    def __init__(self) -> None:
        self.selected: list[Selection] = []
        self.box: LocalBox | None = None

    async def changes(self, paths: tuple[str, ...] = (), points: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        return [{"path": path} for path in paths] + [{"path": f"since {point}"} for point in points]

    async def diff(self, paths: tuple[str, ...] = (), points: tuple[str, ...] = ()) -> AsyncIterator[bytes]:
        yield f"diff of {paths}{points or ''}\n".encode()
        yield LONG
        yield b"end\n"

    async def stat(self, paths: tuple[str, ...] = (), points: tuple[str, ...] = ()) -> AsyncIterator[bytes]:
        raise DiskFullError("no room", hint="make some")
        yield b""

    async def apply(self, selection: Selection) -> dict[str, Any]:
        self.selected.append(selection)
        if not selection.force:
            raise ApplyConflictError([Remark(root="root0", path="a.txt", why="changed on the host")])
        return {"written": ["a.txt"]}

    async def undo_apply(self) -> dict[str, Any]:
        return {"undone": True}

    async def branch(self, name: str, message: str) -> dict[str, Any]:
        return {"branch": name, "message": message}

    async def hunks(self, paths: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        return [{"hunks_of": path} for path in paths]

    async def patch(self, selection: Selection) -> AsyncIterator[bytes]:
        yield f"patch of {selection.paths}\n".encode()

    async def checkpoints(self) -> dict[str, Any]:
        return {"present": "", "checkpoints": [], "turns": []}

    async def travel(self, journey: dict[str, Any]) -> dict[str, Any]:
        return journey | {"done": True}

    async def fork(self, request: dict[str, Any]) -> dict[str, Any]:
        return request | {"forks": ["1"]}

    async def show(self, checkpoint: str, path: str) -> AsyncIterator[bytes]:
        yield f"{checkpoint}:{path}".encode()

    async def shell(self, argv: tuple[str, ...], pty: Pty | None) -> Process:
        assert self.box is not None
        return await self.box.exec(Command(argv=argv, cwd=PurePosixPath("/"), stdin=True, pty=pty))


class Talk:
    """A conversation that is a journal and what was submitted."""

    def __init__(self) -> None:
        self.journal = MemoryJournal()
        self.submitted: list[Operation] = []

    async def submit(self, operation: Operation) -> None:
        self.submitted.append(operation)

    async def events(self, after: int = -1) -> AsyncIterator[Event]:
        for event in self.journal.read(after):
            yield event
        await asyncio.Event().wait()


class Rig:
    def __init__(self, home: Path, *, environ: dict[str, str] | None = None) -> None:
        self.home = home
        self.environ = environ or {}
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.lock = Lock(home / "lock")
        self.access, self.talk = Changes(), Talk()

    async def __aenter__(self) -> Self:
        self.owner = Owner(
            session="0" * 36,
            lock=self.lock.take(),
            home=self.home,
            environ=self.environ,
            access=self.access,
            talk=self.talk,
        )
        await self.owner.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.owner.__aexit__(None, None, None)
        self.lock.release()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Rig(tmp_path / "home") as made:
        yield made


async def test_a_client_gets_the_owners_answers(rig: Rig) -> None:
    async with Client(rig.lock) as client:
        assert await client.changes(("a", "b\udcff")) == [{"path": "a"}, {"path": "b\udcff"}]
        assert b"".join([piece async for piece in client.diff(("x",))]) == b"diff of ('x',)\n" + LONG + b"end\n"
        between = b"".join([piece async for piece in client.diff((), ("abcd", "ef01"))])
        assert between == b"diff of ()('abcd', 'ef01')\n" + LONG + b"end\n"
        assert await client.changes((), ("abcd",)) == [{"path": "since abcd"}]
        assert await client.undo_apply() == {"undone": True}
        assert await client.branch("n", "m") == {"branch": "n", "message": "m"}
        assert await client.hunks(("a",)) == [{"hunks_of": "a"}]
        assert b"".join([piece async for piece in client.patch(Selection(paths=("b",)))]) == b"patch of ('b',)\n"
        wanted = Selection(
            paths=("a.txt",),
            include=("/r/.envrc",),
            held=True,
            force=True,
            merge=True,
            hunks=(("/r/a", (0, 2)),),
            dry=True,
        )
        assert await client.apply(wanted) == {"written": ["a.txt"]}
    assert rig.access.selected == [wanted]


@pytest.mark.parametrize("kind", REMADE, ids=lambda kind: kind.__name__)
async def test_what_stands_against_an_apply_keeps_its_exit_code(
    rig: Rig, kind: type[SandboxError], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails() -> dict[str, Any]:
        error = kind.__new__(kind)
        SandboxError.__init__(error, "it stands against it", hint="see")
        raise error

    monkeypatch.setattr(rig.access, "undo_apply", fails)
    async with Client(rig.lock) as client:
        with pytest.raises(kind, match="stands against") as caught:
            await client.undo_apply()
    assert (type(caught.value), caught.value.exit_code) == (kind, kind.exit_code)


async def test_the_owners_errors_keep_class_words_and_hint(rig: Rig) -> None:
    async with Client(rig.lock) as client:
        with pytest.raises(ApplyConflictError, match=r"a\.txt: changed"):
            await client.apply(Selection())
        with pytest.raises(DiskFullError, match="no room") as caught:
            _ = [piece async for piece in client.stat()]
        assert caught.value.hint == "make some"


async def test_operations_go_in_and_events_come_out_in_order(rig: Rig) -> None:
    first = rig.talk.journal.append(PromptGiven(content=[{"type": "text", "text": "one"}]))
    second = rig.talk.journal.append(PromptGiven(content=[{"type": "text", "text": "x" * 10_000}]), cause="c")
    async with Client(rig.lock) as client:
        await client.submit(Prompt.text("go on"))
        await client.submit(Interrupt())
        events = client.events(after=-1)
        assert [await anext(events), await anext(events)] == [first, second]
        await events.aclose()
        late = client.events(after=0)
        assert await anext(late) == second
        await late.aclose()
    assert rig.talk.submitted == [Prompt.text("go on"), Interrupt()]


async def collect(process: Process) -> tuple[bytes, bytes, Exited]:
    out, err = b"", b""
    async for item in process:
        match item:
            case Stdout(data=data):
                out += data
            case Stderr(data=data):
                err += data
            case Exited():
                return out, err, item
    raise AssertionError("no Exited")


async def test_a_command_of_a_client_has_input_output_and_an_exit_code(rig: Rig, tmp_path: Path) -> None:
    async with LocalBox(tmp_path) as box, Client(rig.lock) as client:
        rig.access.box = box
        process = await client.shell(("/bin/sh", "-c", "wc -c; echo oops >&2; exit 3"), None)
        for _ in range(5):
            await process.write_stdin(b"x" * 60_000)
        await process.write_stdin(None)
        out, err, exited = await collect(process)
        assert (out.strip(), err, exited.code) == (b"300000", b"oops\n", 3)


async def test_a_clients_terminal_follows_its_size_and_its_keys(rig: Rig, tmp_path: Path) -> None:
    async with LocalBox(tmp_path) as box, Client(rig.lock) as client:
        rig.access.box = box
        process = await client.shell(("/bin/sh", "-c", "read line; stty size; sleep 60"), Pty(rows=20, columns=70))
        await process.resize(Pty(rows=33, columns=99))
        await process.write_stdin(b"go\n")
        seen = b""
        async for item in process:
            match item:
                case Stdout(data=data):
                    seen += data
                    if b"33 99" in seen:
                        await process.write_stdin(b"\x03")
                case Exited(code=code):
                    assert code in (-2, 130)


async def test_a_client_that_goes_away_takes_its_command_along(rig: Rig, tmp_path: Path) -> None:
    async with LocalBox(tmp_path) as box:
        rig.access.box = box
        async with Client(rig.lock) as client:
            process = await client.shell(("/bin/sh", "-c", f"echo $$ > {tmp_path}/pid; echo up; sleep 60"), None)
            async for item in process:
                if isinstance(item, Stdout):
                    break
        pid = int((tmp_path / "pid").read_text())
        async with asyncio.timeout(20):
            while Path(f"/proc/{pid}").exists():  # noqa: ASYNC110, ASYNC240  # another process's
                await asyncio.sleep(0.02)


async def test_many_clients_are_served_side_by_side(rig: Rig) -> None:
    async with Client(rig.lock) as one, Client(rig.lock) as two:
        watching = asyncio.create_task(anext(one.events()))
        assert await two.changes(("p",)) == [{"path": "p"}]
        assert await one.changes(("q",)) == [{"path": "q"}]
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_nobody_answers_once_the_owner_is_gone(tmp_path: Path) -> None:
    async with Rig(tmp_path / "home") as rig, Client(rig.lock) as client:
        await rig.owner.__aexit__(None, None, None)
        with pytest.raises((SessionBusyError, ConnectionError)):
            await client.changes()
        with pytest.raises(SessionBusyError, match="does not answer"):
            await Client(rig.lock).__aenter__()


async def test_the_socket_is_private_and_its_directory_too(rig: Rig) -> None:
    path = Path(rig.lock.owner()["socket"])
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600  # noqa: PTH116
    assert stat.S_IMODE(os.stat(path.parent).st_mode) == 0o700  # noqa: PTH116
    assert path.parent == rig.home / "run"


async def test_a_private_runtime_directory_is_preferred_and_an_open_one_is_not(tmp_path: Path) -> None:
    runtime, home = tmp_path / "runtime", tmp_path / "home"
    runtime.mkdir(mode=0o700)
    home.mkdir()
    where = {"environ": {"XDG_RUNTIME_DIR": str(runtime)}, "home": home}
    assert socket_path("s", **where).parent == runtime / "fumehood"  # type: ignore[arg-type]
    runtime.chmod(0o755)
    assert socket_path("s", **where).parent == home / "run"  # type: ignore[arg-type]


async def test_a_home_with_a_long_path_still_works(tmp_path: Path) -> None:
    async with Rig(tmp_path / ("d" * 100) / ("e" * 100)) as rig, Client(rig.lock) as client:
        assert await client.changes(("a",)) == [{"path": "a"}]


async def test_nonsense_from_a_client_ends_its_connection_only(rig: Rig) -> None:
    with short_path(Path(rig.lock.owner()["socket"])) as address:
        for nonsense in (b"\x00\xff\n", b'{"id":"x","kind":"call"}\n', b'{"id":1,"size":99999999}\n', b"[]\n"):
            reader, writer = await asyncio.open_unix_connection(address)
            await reader.readline()
            writer.write(nonsense)
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
    async with Client(rig.lock) as client:
        assert await client.changes(("still",)) == [{"path": "still"}]


async def test_an_unknown_call_is_an_error_that_tells_nothing(rig: Rig) -> None:
    async with Client(rig.lock) as client:
        with pytest.raises(Exception, match="the owner failed: ValueError"):
            await client._ask("eval", {})


def test_live_events_cross_the_socket_too() -> None:
    event = Event(
        v=1, seq=3, id="i", at=1.5, session="s", agent="main", turn=1, parent="p", cause="", body=TextDelta(text="x")
    )
    assert event_from_json(event_to_json(event)) == event
