"""Commands: a job for the forker, its input and output, its end. Nothing here forks."""

from __future__ import annotations

import os
import time

from sandbox.server import files, job, processes
from sandbox.server.channel import SOON, widen
from sandbox.server.files import RefusedError
from sandbox.server.output import BLOCK, Capture, read_some
from sandbox.wire import STDERR, STDOUT, PathCode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sandbox.server.channel import Stream
    from sandbox.server.serve import Server

EPOLLIN, EPOLLOUT = 1, 4
SIGTERM, SIGKILL = 15, 9
LINGER = 0.1  # how long output may follow the end of the command that began it
RECHECK = 0.05
OUTRUN = 2.0
PATIENCE = 5.0
BLOCKS = 4  # read at one go before others have their turn
END_OF_INPUT = b"\x04"


class Command:
    """One running command and the stream that it belongs to."""

    def __init__(self, server: Server, stream: Stream, request: dict[str, Any]) -> None:
        self._server = server
        self._stream = stream
        self._request = request
        self.pid = 0
        self._loop = server.loop
        self.number = server.children.number()
        self._sessions: set[int] = set()
        self._began = time.monotonic()
        self._seconds = 0.0
        self._killed = ""
        self._kill_until = 0.0
        self._exit: int | None = None
        self._outputs: dict[int, int] = {}
        self._input = -1
        self._terminal = -1
        self._typed: list[bytes] = []
        self._input_ends = False
        self._muted = False
        self._lingered = False
        self._closed = False
        self._report = b""
        capture = request.get("capture")
        self._capture = Capture(capture) if capture else None

    def start(self) -> None:
        """Hand the job to the forker. Raises RefusedError or OSError and leaves nothing open."""
        server = self._server
        theirs: list[int] = []
        try:
            data, self._report = job.build(
                self._request, server.environment, shell=server.shell, reports=server.reports, number=self.number
            )
            server.children.submit(data, self._open(theirs), self)
        except BaseException:
            self._close()
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        self._loop.later(self, PATIENCE, self._on_silence)
        timeout = self._request.get("timeout")
        if timeout is not None:
            self._loop.later(self, float(timeout), self._on_timeout)

    def _open(self, theirs: list[int]) -> list[int]:
        """The child's standard input, output and error; our ends are noted here."""
        request = self._request
        if request.get("pty"):
            self._terminal, slave = job.open_terminal(*request["pty"])
            theirs.append(slave)
            self._input = self._terminal
            self._outputs[self._terminal] = STDOUT
            given = [slave, slave, slave]
        else:
            given = [self._server.null]
            if request.get("stdin"):
                given[0], self._input = os.pipe2(os.O_CLOEXEC)
                theirs.append(given[0])
                os.set_blocking(self._input, False)
                widen(self._input)
            for channel in (STDOUT,) if request.get("merge") else (STDOUT, STDERR):
                reading, writing = os.pipe2(os.O_CLOEXEC)
                theirs.append(writing)
                given.append(writing)
                os.set_blocking(reading, False)
                widen(reading)
                self._outputs[reading] = channel
            if len(given) == 2:
                given.append(given[1])
        return given

    @property
    def awaited(self) -> bool:
        """Whether somebody goes on as soon as it runs."""
        return self._input >= 0 or bool(self._request.get("detach"))

    # What the controller says

    def on_data(self, data: bytes) -> None:
        """Bytes for standard input."""
        if self._input < 0:
            self._stream.consumed(len(data))
            return
        self._typed.append(data)
        self._feed()

    @property
    def sink(self) -> int:
        """Standard input, where it is a pipe and nothing waits for it; else -1."""
        return -1 if self._typed or self._input == self._terminal else self._input

    def on_end(self) -> None:
        """Standard input is complete."""
        self._input_ends = True
        self._feed()

    def on_credit(self) -> None:
        """More output may go out."""
        for fd in list(self._outputs):
            self._on_output(fd)

    def on_signal(self, number: int) -> None:
        """The controller wants a signal sent."""
        if self.pid and not self._closed:
            processes.signal_family(self.pid, self._sessions, number)

    def on_resize(self, rows: int, columns: int) -> None:
        """The terminal has another size."""
        if self._terminal >= 0:
            job.set_size(self._terminal, rows, columns)

    def on_cancel(self) -> None:
        """The controller lost interest: a detached command goes on unheard, another one ends."""
        if self._request.get("detach"):
            self._muted = True
            self._stream.fail(PathCode.CANCELLED)
            self.on_credit()
        else:
            self.end("cancelled", SIGKILL)

    # Its beginning

    def on_started(self, pid: int) -> None:
        """It runs. Its output is looked at when it ends, or when it did not end at once."""
        self.pid = pid
        at_once = self.awaited or time.monotonic() - self._began >= SOON
        if at_once:
            self._listen()
        else:
            self._loop.later(self, SOON, self._listen)
        if not self._muted:
            self._stream.started(pid, hold=not at_once)
        if self._killed:
            reason, self._killed = self._killed, ""
            self.end(reason, SIGKILL)

    def _listen(self) -> None:
        for fd in self._outputs:
            self._loop.watch(fd, EPOLLIN, self._reader(fd))

    def on_refused(self, stage: str, number: int) -> None:
        """It could not be started."""
        code = files.code_of(OSError(number, ""))
        if stage == "exec" and code == PathCode.DENIED:
            code = PathCode.NOT_EXECUTABLE
        elif stage == "start" and code != PathCode.TOO_LARGE:
            code = PathCode.CANCELLED if self._killed == "cancelled" else PathCode.NO_PROCESS
        self._fail(code, f"{stage}: {os.strerror(number)}")

    def _on_silence(self) -> None:
        """The forker should have answered long ago: somebody stopped the child it waits for."""
        if not self.pid and not self._closed:
            self._server.children.expel_forker()

    def _fail(self, code: str, detail: str) -> None:
        self._close()
        if not self._muted:
            self._stream.fail(code, detail)

    # Its end

    def end(self, reason: str, number: int = SIGTERM) -> None:
        """Kill it: with SIGTERM first and SIGKILL after the grace, or at once."""
        if self._closed or self._killed:
            return
        self._killed = reason
        if not self.pid:
            self._server.children.listen()
            return  # it is killed as soon as it is known
        processes.signal_family(self.pid, self._sessions, number)
        grace = OUTRUN if number == SIGKILL else float(self._request.get("grace", 2.0))
        self._kill_until = time.monotonic() + grace
        self._loop.later(self, RECHECK, self._on_killing if number == SIGKILL else self._on_dying)

    def _on_timeout(self) -> None:
        self.end("timeout")

    def _on_dying(self) -> None:
        """Between SIGTERM and SIGKILL."""
        if self._survivors() == 0:
            self._settle()
        elif time.monotonic() < self._kill_until:
            self._loop.later(self, RECHECK, self._on_dying)
        else:
            processes.signal_family(self.pid, self._sessions, SIGKILL)
            self._kill_until = time.monotonic() + OUTRUN
            self._loop.later(self, RECHECK, self._on_killing)

    def _on_killing(self) -> None:
        """After SIGKILL: what forks faster than we kill takes everything else in the box with it."""
        if processes.signal_family(self.pid, self._sessions, SIGKILL) == 0:
            self._settle()
        elif time.monotonic() < self._kill_until:
            self._loop.later(self, RECHECK, self._on_killing)
        else:
            self._server.children.kill_all()

    def _survivors(self) -> int:
        rows = [row for row in processes.living() if row.pid != 1]
        return len(processes.family(self.pid, self._sessions, rows))

    def note_family(self, rows: list[processes.Row]) -> None:
        """Remember the sessions of its descendants while they can be told."""
        if self.pid:
            processes.family(self.pid, self._sessions, rows)

    def lost(self) -> None:
        """Everything in the box was killed. What dies slowly, with much memory, is waited for."""
        if not self._killed:
            self._killed = "cancelled"
            self._loop.later(self, RECHECK, self._on_lost)

    def _on_lost(self) -> None:
        self._settle()
        if not self._closed:
            self._loop.later(self, RECHECK, self._on_lost)

    def on_exit(self, status: int) -> None:
        """It was reaped."""
        self._exit = os.waitstatus_to_exitcode(status)
        self._seconds = time.monotonic() - self._began
        if not self._killed and self._exit in {-SIGKILL, 128 + SIGKILL} and self._server.children.out_of_memory():
            self._killed = "memory"
        for fd in list(self._outputs):
            self._on_output(fd)
        if self._outputs:
            self._loop.later(self, LINGER, self._on_lingered)
        self._settle()

    def _on_lingered(self) -> None:
        self._lingered = True
        for fd in list(self._outputs):
            self._on_output(fd)
        self._settle()

    def _settle(self) -> None:
        """Finish when the command ended, its output is complete, and nothing is left to be killed."""
        if self._closed or self._exit is None or self._outputs:
            return
        if self._killed in {"timeout", "cancelled", "output"} and self._survivors():
            return
        result: dict[str, Any] = {"code": self._exit, "killed": self._killed, "seconds": round(self._seconds, 6)}
        tail = b""
        capture = self._capture
        if capture is not None:
            result["size"] = capture.size
            if capture.over:
                tail = capture.tail()
                if capture.path is not None:
                    result["path"] = os.fsdecode(capture.path)
        cwd = self._reported()
        if cwd:
            result["cwd"] = cwd
        self._close()
        if not self._muted:
            self._stream.done(result, tail)

    def _close(self) -> None:
        self._closed = True
        self._loop.never(self)
        for fd in {*self._outputs, self._input, self._terminal} - {-1}:
            self._loop.close(fd)
        self._outputs.clear()
        self._input = self._terminal = -1
        if self._capture is not None:
            self._capture.close()
        self._server.children.ended(self)

    def _reported(self) -> str:
        """Where the shell ended, as it wrote down itself; "" when it did not."""
        if not self._report:
            return ""
        try:
            fd, found = self._server.files.open_for_reading({"path": os.fsdecode(self._report)})
            _, text = self._server.files.read(fd, found, {"offset": 0, "limit": 8192})
            os.unlink(self._report)
        except (OSError, RefusedError):
            return ""
        text = text.removesuffix(b"\n")
        return os.fsdecode(text) if text[:1] == b"/" and len(text) <= 4096 else ""

    # Input and output

    def _reader(self, fd: int) -> Callable[[int], None]:
        return lambda _: self._on_output(fd)

    def _on_output(self, fd: int) -> None:
        """Read as much as may be passed on."""
        for _ in range(BLOCKS):
            channel = self._outputs.get(fd)
            if channel is None:
                return
            room = BLOCK if self._muted or self._hidden() else min(BLOCK, self._stream.credit)
            if room <= 0:
                self._loop.forget(fd)
                return
            data = read_some(fd, room)
            if data:
                self._pass_on(channel, data)
            elif data is None and not self._lingered:
                break
            else:
                self._leave(fd, ended=data is not None)
                return
        if fd in self._outputs:
            self._loop.watch(fd, EPOLLIN, self._reader(fd))

    def _hidden(self) -> bool:
        return self._capture is not None and self._capture.size >= self._capture.inline

    def _pass_on(self, channel: int, data: bytes) -> None:
        capture = self._capture
        if capture is not None:
            data = capture.take(data)
            if capture.exceeded:
                self.end("output", SIGKILL)
        if data and not self._muted:
            self._stream.data(channel, data)

    def _leave(self, fd: int, *, ended: bool) -> None:
        """No more of this output. What processes in the background still write has to be read by somebody."""
        del self._outputs[fd]
        if fd == self._terminal:
            self._loop.forget(fd)
        elif ended:
            self._loop.close(fd)
        else:
            self._loop.drain(fd)
        self._settle()

    def _feed(self) -> None:
        """Write what was typed, as far as it is taken."""
        fd = self._input
        while fd >= 0 and self._typed:
            try:
                count = os.write(fd, self._typed[0])
            except BlockingIOError:
                if fd == self._terminal:
                    self._loop.later(self, RECHECK, self._feed)
                else:
                    self._loop.watch(fd, EPOLLOUT, lambda _: self._feed())
                return
            except OSError:  # nobody reads it
                count = len(self._typed[0])
            self._stream.consumed(count)
            rest = self._typed[0][count:]
            self._typed[:1] = [rest] if rest else []
        if fd < 0:
            self._typed.clear()
        elif fd != self._terminal:
            self._loop.forget(fd)
            if self._input_ends:
                self._loop.close(fd)
                self._input = -1
        elif self._input_ends:
            self._input_ends = False
            self._typed.append(END_OF_INPUT)
            self._feed()
