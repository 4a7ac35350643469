"""What every box must do: a suite that a box's author inherits from and gives two fixtures, `box` (open)
and `place` (a directory in it that the owner may write, empty). Plain asserts, any async test runner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import PurePosixPath
from typing import Any

from sandbox.errors import PathError
from sandbox.spec import Box, Capture, Command, Exited, Process, Pty, Stderr, Stdout
from sandbox.wire import PathCode


async def collect(process: Process) -> tuple[bytes, bytes, Exited]:
    """All of a command: (standard output, standard error, end)."""
    out: list[bytes] = []
    err: list[bytes] = []
    end: Exited | None = None
    async for item in process:
        assert end is None, "an Exited is the last item"
        match item:
            case Stdout(data=data):
                out.append(data)
            case Stderr(data=data):
                err.append(data)
            case Exited():
                end = item
    assert end is not None, "a process ends with an Exited"
    return b"".join(out), b"".join(err), end


async def shell(box: Box, place: PurePosixPath, script: str, **options: Any) -> tuple[bytes, bytes, Exited]:
    """Run a script and collect it."""
    command = Command(argv=(script,), cwd=place, shell=True, **options)  # noqa: S604  in the box
    return await collect(await box.exec(command))


async def refused(request: Awaitable[object]) -> str:
    """The code that a request is refused with."""
    try:
        await request
    except PathError as error:
        return error.code
    raise AssertionError("the request was not refused")


async def gone(box: Box, place: PurePosixPath, pid: str) -> bool:
    """Whether a process ends soon."""
    for _ in range(40):
        _, _, end = await shell(box, place, f"kill -0 {pid} 2>/dev/null")
        if end.code != 0:
            return True
        await asyncio.sleep(0.1)
    return False


class CommandContract:
    """Commands."""

    async def test_output_comes_by_stream_and_the_code_last(self, box: Box, place: PurePosixPath) -> None:
        """Standard output and error are told apart."""
        out, err, end = await shell(box, place, "echo out; echo err >&2; exit 3")
        assert (out, err, end.code, end.killed, end.size) == (b"out\n", b"err\n", 3, "", 8)

    async def test_merged_output_keeps_its_order(self, box: Box, place: PurePosixPath) -> None:
        """One stream, as written."""
        out, err, _ = await shell(box, place, "for i in 1 2 3; do echo o$i; echo e$i >&2; done", merge=True)
        assert (out, err) == (b"o1\ne1\no2\ne2\no3\ne3\n", b"")

    async def test_arguments_arrive_as_they_are(self, box: Box, place: PurePosixPath) -> None:
        """No shell touches them, whatever bytes they hold."""
        arguments = ("a b", "*", "$HOME", "new\nline", "", "\udcff\udcfe", "ünï")
        out, _, _ = await collect(await box.exec(Command(argv=("printf", "%s|", *arguments), cwd=place)))
        assert out == b"".join(a.encode("utf-8", "surrogateescape") + b"|" for a in arguments)

    async def test_large_arguments_and_scripts_arrive(self, box: Box, place: PurePosixPath) -> None:
        """More than one frame of them."""
        word = "x" * 100_000
        out, _, _ = await collect(await box.exec(Command(argv=("printf", "%s", word, word, word), cwd=place)))
        assert len(out) == 300_000

    async def test_shell_reports_the_directory_it_ends_in(self, box: Box, place: PurePosixPath) -> None:
        """Also where the script exits by itself, with the script's own code."""
        _, _, end = await shell(box, place, "mkdir -p 'a b'; cd 'a b'; exit 7")
        assert (end.cwd, end.code) == (place / "a b", 7)
        _, _, end = await shell(box, place, "cd 'a b' && false")
        assert (end.cwd, end.code) == (place / "a b", 1)

    async def test_syntax_errors_are_the_scripts_own(self, box: Box, place: PurePosixPath) -> None:
        """What goes around a script to learn its end must not be heard of."""
        _, err, end = await shell(box, place, "if then")
        assert end.code != 0
        assert b"syntax error" in err
        assert b"line 1" in err
        assert b"trap" not in err

    async def test_environment_is_added(self, box: Box, place: PurePosixPath) -> None:
        """To the box's own."""
        out, _, _ = await shell(box, place, 'echo "$ADDED:${PATH:+path}"', environment={"ADDED": "yes"})
        assert out == b"yes:path\n"

    async def test_standard_input_is_fed_and_closed(self, box: Box, place: PurePosixPath) -> None:
        """More of it than any buffer holds."""
        process = await box.exec(Command(argv=("wc", "-c"), cwd=place, stdin=True))

        async def feed() -> None:
            for _ in range(16):
                await process.write_stdin(b"x" * 65_536)
            await process.write_stdin(None)

        (out, _, end), _ = await asyncio.gather(collect(process), feed())
        assert (out.strip(), end.code) == (b"1048576", 0)

    async def test_standard_input_arrives_as_it_was_however_slowly_it_is_read(
        self, box: Box, place: PurePosixPath
    ) -> None:
        """In pieces of any size, and between other calls."""
        data = bytes(range(251)) * 10_000
        script = "for i in 1 2 3 4 5 6; do head -c 100001; sleep 0.02; done; cat"
        process = await box.exec(Command(argv=("sh", "-c", script), cwd=place, stdin=True))

        async def feed() -> None:
            at, size = 0, 1
            while at < len(data):
                await process.write_stdin(data[at : at + size])
                at, size = at + size, size * 3 % 400_001
            await process.write_stdin(None)

        (out, _, end), _, (other, _, _) = await asyncio.gather(collect(process), feed(), shell(box, place, "echo here"))
        assert (out == data, end.code, other) == (True, 0, b"here\n")

    async def test_without_standard_input_there_is_none(self, box: Box, place: PurePosixPath) -> None:
        """Reading ends at once."""
        out, _, _ = await shell(box, place, "wc -c")
        assert out.strip() == b"0"

    async def test_a_missing_program_or_directory_is_refused(self, box: Box, place: PurePosixPath) -> None:
        """With the code of what is missing."""
        assert await refused(box.exec(Command(argv=("no-such-program",), cwd=place))) == PathCode.NOT_FOUND
        assert await refused(box.exec(Command(argv=("true",), cwd=place / "no"))) == PathCode.NOT_FOUND
        await box.write(place / "data", b"x", mode=0o644)
        assert await refused(box.exec(Command(argv=("./data",), cwd=place))) == PathCode.NOT_EXECUTABLE

    async def test_arguments_beyond_all_bounds_are_refused(self, box: Box, place: PurePosixPath) -> None:
        """Too large for the kernel, which allows 128 KiB for one and a few MiB for all."""
        for argv in (("true", "x" * 200_000), ("true", *["x" * 100_000] * 30)):
            assert await refused(box.exec(Command(argv=argv, cwd=place))) == PathCode.TOO_LARGE

    async def test_a_signal_is_a_negative_code(self, box: Box, place: PurePosixPath) -> None:
        """As in Popen."""
        _, _, end = await shell(box, place, "kill -SEGV $$")
        assert end.code == -11

    async def test_large_output_arrives_whole(self, box: Box, place: PurePosixPath) -> None:
        """Through every window and buffer."""
        out, _, end = await shell(box, place, "head -c 5000000 /dev/zero")
        assert (len(out), end.size) == (5_000_000, 5_000_000)

    async def test_an_unread_command_waits_and_others_go_on(self, box: Box, place: PurePosixPath) -> None:
        """Nobody reads the first: the second is not held up."""
        flood = await box.exec(Command(argv=("sh", "-c", "while :; do echo flood; done"), cwd=place))
        out, _, _ = await shell(box, place, "echo quick")
        assert out == b"quick\n"
        await flood.kill()
        _, _, end = await collect(flood)
        assert end.code == -9

    async def test_side_by_side(self, box: Box, place: PurePosixPath) -> None:
        """Twenty at a time, each with its own answer."""
        done = await asyncio.gather(*(shell(box, place, f"sleep 0.1; echo {n}") for n in range(20)))
        assert [out for out, _, _ in done] == [b"%d\n" % n for n in range(20)]

    async def test_timeout_ends_the_whole_session(self, box: Box, place: PurePosixPath) -> None:
        """Children too, and one with a session of its own."""
        script = "sleep 300 & echo $!; setsid sleep 300 & sleep 0.3; pgrep -P $$ >/dev/null; echo $!; wait"
        out, _, end = await shell(box, place, script, timeout=0.8)
        assert end.killed == "timeout"
        for pid in out.decode().split():
            assert await gone(box, place, pid)

    async def test_what_ignores_sigterm_is_killed_after_the_grace(self, box: Box, place: PurePosixPath) -> None:
        """SIGKILL cannot be ignored."""
        _, _, end = await shell(box, place, "trap '' TERM; while :; do sleep 0.1; done", timeout=0.3, grace=0.3)
        assert (end.killed, end.code) == ("timeout", -9)

    async def test_leaving_the_iteration_ends_the_command(self, box: Box, place: PurePosixPath) -> None:
        """Cancellation is the ordinary way to stop."""
        process = await box.exec(Command(argv=("sh", "-c", "echo $$; sleep 300"), cwd=place))
        pid = ""
        async for item in process:
            assert isinstance(item, Stdout)
            pid = item.data.decode().strip()
            break
        assert await gone(box, place, pid)

    async def test_giving_up_before_the_start_is_told_ends_the_command(self, box: Box, place: PurePosixPath) -> None:
        """At whichever moment of its start; others beside it go on."""
        for number in range(8):
            beside = asyncio.create_task(shell(box, place, "sleep 0.1; echo beside"))
            script = f"echo $$ > given-up-{number}; sleep 300"
            starting = asyncio.create_task(box.exec(Command(argv=("sh", "-c", script), cwd=place)))
            await asyncio.sleep(number * 0.002)
            starting.cancel()
            (process,) = await asyncio.gather(starting, return_exceptions=True)
            if not isinstance(process, BaseException):  # it was told in time
                await process.kill()
            assert (await beside)[0] == b"beside\n"
            pid, _, _ = await shell(box, place, f"cat given-up-{number} 2>/dev/null")
            assert not pid.strip() or await gone(box, place, pid.decode().strip())

    async def test_a_detached_command_outlives_its_reader(self, box: Box, place: PurePosixPath) -> None:
        """And can still be killed."""
        command = Command(argv=("sh", "-c", "echo $$; sleep 300"), cwd=place, detach=True)
        process = await box.exec(command)
        pid = ""
        async for item in process:
            assert isinstance(item, Stdout)
            pid = item.data.decode().strip()
            break
        await asyncio.sleep(0.3)
        _, _, end = await shell(box, place, f"kill -0 {pid}")
        assert end.code == 0
        await process.kill()
        assert await gone(box, place, pid)

    async def test_a_background_process_does_not_hold_the_command(self, box: Box, place: PurePosixPath) -> None:
        """It goes on by itself, its output read by nobody."""
        async with asyncio.timeout(5):
            out, _, end = await shell(box, place, "sh -c 'sleep 0.5; echo late; echo done > flag; sleep 9' & echo $!")
        assert end.code == 0
        for _ in range(50):
            _, _, there = await shell(box, place, "test -s flag")
            if there.code == 0:
                break
            await asyncio.sleep(0.1)
        assert there.code == 0
        await shell(box, place, f"kill {out.decode().strip()}")

    async def test_capture_keeps_the_rest_in_a_file(self, box: Box, place: PurePosixPath) -> None:
        """The first bytes are shown, the last ones told, all of them are in the file."""
        capture = Capture(inline=1000, tail=10, path=place / "out" / "all.txt")
        out, _, end = await shell(box, place, "seq 1 2000", merge=True, capture=capture)
        whole = "".join(f"{n}\n" for n in range(1, 2001)).encode()
        assert (out, end.tail, end.size, end.path) == (whole[:1000], whole[-10:], len(whole), place / "out/all.txt")
        content = await box.read(place / "out" / "all.txt")
        assert (content.data, content.stat.mode) == (whole, 0o600)

    async def test_capture_makes_no_file_for_a_short_output(self, box: Box, place: PurePosixPath) -> None:
        """Exactly at the bound included."""
        capture = Capture(inline=6, tail=10, path=place / "all.txt")
        out, _, end = await shell(box, place, "echo short", merge=True, capture=capture)
        assert (out, end.tail, end.size, end.path) == (b"short\n", b"", 6, None)
        assert await refused(box.stat(place / "all.txt")) == PathCode.NOT_FOUND

    async def test_capture_never_goes_through_a_link(self, box: Box, place: PurePosixPath) -> None:
        """The command may have planted one."""
        capture = Capture(inline=1, tail=1, path=place / "all.txt")
        await shell(box, place, "ln -s victim all.txt")
        _, _, end = await shell(box, place, "echo long enough", capture=capture)
        assert end.path is None
        assert await refused(box.stat(place / "victim")) == PathCode.NOT_FOUND

    async def test_too_much_output_is_the_end(self, box: Box, place: PurePosixPath) -> None:
        """Over the limit the command is killed."""
        _, _, end = await shell(box, place, "yes", capture=Capture(inline=10, tail=10, limit=100_000))
        assert end.killed == "output"

    async def test_a_terminal_is_one(self, box: Box, place: PurePosixPath) -> None:
        """With its size, and told of a new one."""
        command = Command(argv=("sh", "-c", "tty >/dev/null && stty size && read x && stty size"), cwd=place)
        process = await box.exec(Command(argv=command.argv, cwd=place, pty=Pty(rows=10, columns=40)))
        await process.resize(Pty(rows=20, columns=80))
        await process.write_stdin(b"\n")
        out, _, end = await collect(process)
        assert end.code == 0
        assert out.split()[-2:] == [b"20", b"80"]


class FileContract:
    """File requests."""

    async def test_what_is_written_is_read(self, box: Box, place: PurePosixPath) -> None:
        """Parents are made; large and empty files, any bytes."""
        for size in (0, 1, 65_536, 65_537, 3_000_000):
            data = bytes(range(256)) * (size // 256 + 1)
            path = place / "deep" / "er" / f"{size}.bin"
            stat = await box.write(path, data[:size])
            content = await box.read(path)
            assert (content.data, content.stat, content.stat.size) == (data[:size], stat, size)

    async def test_reading_a_part(self, box: Box, place: PurePosixPath) -> None:
        """From an offset, within a limit."""
        await box.write(place / "f", b"0123456789")
        content = await box.read(place / "f", offset=3, limit=4)
        assert (content.data, content.offset, content.stat.size) == (b"3456", 3, 10)
        assert (await box.read(place / "f", offset=100)).data == b""

    async def test_writing_keeps_mode_and_links(self, box: Box, place: PurePosixPath) -> None:
        """It is the same file."""
        await box.write(place / "f", b"long old content", mode=0o751)
        await shell(box, place, "ln f g")
        stat = await box.write(place / "f", b"new", mode=0o600)
        assert (stat.mode, stat.size) == (0o751, 3)
        assert (await box.read(place / "g")).data == b"new"

    async def test_a_file_that_changed_is_not_overwritten(self, box: Box, place: PurePosixPath) -> None:
        """Nor is one that is gone made again."""
        before = await box.write(place / "f", b"one")
        await shell(box, place, "echo three > f")
        assert await refused(box.write(place / "f", b"two", expect=before)) == PathCode.CHANGED
        assert (await box.read(place / "f")).data == b"three\n"
        now = await box.stat(place / "f")
        await box.write(place / "f", b"two", expect=now)
        await shell(box, place, "rm f")
        assert await refused(box.write(place / "f", b"two", expect=now)) == PathCode.CHANGED

    async def test_no_link_is_followed(self, box: Box, place: PurePosixPath) -> None:
        """Neither the last name nor one before it."""
        await shell(box, place, "mkdir d; echo x > d/f; ln -s d/f link; ln -s d dirlink")
        for path in (place / "link", place / "dirlink" / "f"):
            assert await refused(box.read(path)) == PathCode.LINK
            assert await refused(box.write(path, b"y")) == PathCode.LINK
        assert (await box.read(place / "d" / "f")).data == b"x\n"
        stat = await box.stat(place / "link")
        assert (stat.kind, stat.link) == ("link", "d/f")

    async def test_only_regular_files_are_read_and_written(self, box: Box, place: PurePosixPath) -> None:
        """A fifo must not make anybody wait."""
        await shell(box, place, "mkfifo fifo; mkdir d")
        async with asyncio.timeout(5):
            for path in (place / "fifo", place / "d", PurePosixPath("/dev/null")):
                assert await refused(box.read(path)) == PathCode.NOT_FILE
                assert await refused(box.write(path, b"y")) in {PathCode.NOT_FILE, PathCode.DENIED}

    async def test_codes_of_refusal(self, box: Box, place: PurePosixPath) -> None:
        """Each reason has its own."""
        await box.write(place / "f", b"")
        assert await refused(box.read(place / "no")) == PathCode.NOT_FOUND
        assert await refused(box.read(place / "f" / "g")) == PathCode.NOT_DIRECTORY
        assert await refused(box.stat(place / ("x" * 300))) == PathCode.INVALID
        assert await refused(box.read(PurePosixPath("relative"))) == PathCode.INVALID

    async def test_stat_tells_kinds(self, box: Box, place: PurePosixPath) -> None:
        """Lstat, that is."""
        await shell(box, place, "echo abc > f; chmod 640 f; mkdir d; ln -s nowhere l; mkfifo p")
        found = {name: await box.stat(place / name) for name in "fdlp"}
        assert [found[name].kind for name in "fdlp"] == ["file", "directory", "link", "fifo"]
        assert (found["f"].mode, found["f"].size, found["l"].link) == (0o640, 4, "nowhere")

    async def test_names_that_are_no_text(self, box: Box, place: PurePosixPath) -> None:
        """Bytes survive as surrogates."""
        path = place / "caf\udce9\n \t"
        await box.write(path, b"x")
        out, _, _ = await shell(box, place, "printf '%s' caf*")
        assert out == b"caf\xe9\n \t"
        assert (await box.read(path)).data == b"x"

    async def test_resolve_follows_links_step_by_step(self, box: Box, place: PurePosixPath) -> None:
        """`link` keeps the last name, `target` is where all leads."""
        await shell(box, place, "mkdir -p a/b; echo x > a/b/f; ln -s a/b ab; ln -s ../ab/f a/lf; ln -s loop loop")
        paths = tuple(place / p for p in ("a/b/f", "ab/f", "a/lf", "ab/../b", "ab/new/er", "loop"))
        rows = await box.resolve(paths)
        assert [row.path for row in rows] == list(paths)
        assert [(row.link, row.target, row.kind, row.error) for row in rows] == [
            (place / "a/b/f", place / "a/b/f", "file", ""),
            (place / "a/b/f", place / "a/b/f", "file", ""),
            (place / "a/lf", place / "a/b/f", "file", ""),
            (place / "a/b", place / "a/b", "directory", ""),
            (place / "a/b/new/er", place / "a/b/new/er", "", ""),
            (paths[5], paths[5], "", PathCode.LOOP),
        ]


class BoxContract(CommandContract, FileContract):
    """All of it."""
