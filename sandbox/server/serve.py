"""The server's loop: frames in and out, streams, timers, the dead to be reaped. One thread decides;
two more do file work that may block. Nothing a command does can make it wait.
"""

from __future__ import annotations

import _queue
import _thread
import errno
import fcntl
import gc
import marshal
import os
import select
import sys
import time
from json import JSONDecoder, JSONEncoder

from sandbox.server import files, job, linux, processes
from sandbox.server.commands import Command
from sandbox.server.files import RefusedError
from sandbox.server.output import BLOCK, read_some
from sandbox.wire import ARGUMENTS, CODES, PAYLOAD, STREAMS, WINDOW, WIRE, Decoder, Outbox, PathCode, WireError, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sandbox.server.start import Forker, Settings

EPOLLIN, EPOLLOUT = select.EPOLLIN, select.EPOLLOUT
HOLD = 0.004  # a "started" waits so long for company: most commands end before
SAMPLE = 1.0
RETRY = 0.05
THREADS = 2
INLINE_READ = 256 << 10
WRITE_LIMIT = 64 << 20
DRAINS = 256
PIPE_SIZE = 1031  # fcntl F_SETPIPE_SZ

_parse = JSONDecoder().decode
_format = JSONEncoder(separators=(",", ":"), check_circular=False).encode


class Stream:
    """One request and its answer."""

    def __init__(self, server: Server, number: int, kind: str) -> None:
        self.id = number
        self.kind = kind
        self.credit = WINDOW
        self.arguments: list[bytes] = []
        self.command: Command | None = None
        self.request: dict[str, Any] | None = None
        self.received: list[bytes] = []
        self.size = 0
        self._server = server
        self._eaten = 0
        self._body = memoryview(b"")
        self._result: dict[str, Any] = {}

    def started(self, pid: int) -> None:
        """The command runs."""
        self._server.control(encode({"t": "started", "s": self.id, "pid": pid}), self.id, hold=True)

    def data(self, channel: int, data: bytes | memoryview) -> None:
        """Bytes that there is credit for, at most one frame's worth."""
        self.credit -= len(data)
        self._server.bulk(encode({"t": "data", "s": self.id, "c": channel}, bytes(data)), self.id)

    def done(self, result: dict[str, Any], body: bytes = b"") -> None:
        """The answer, which ends the stream; a long body goes ahead as credit allows."""
        self._result = result
        self._body = memoryview(body)
        self.continue_body()

    def continue_body(self) -> None:
        """Send what credit allows, and the end after the last of it."""
        body = self._body
        while len(body) > PAYLOAD:
            room = min(PAYLOAD, self.credit)
            if room <= 0:
                self._body = body
                return
            self.data(0, body[:room])
            body = body[room:]
        self._body = memoryview(b"")
        self._server.close_stream(self)
        self._server.control(encode({"t": "done", "s": self.id, "r": self._result}, bytes(body)), self.id)

    @property
    def answering(self) -> bool:
        """Whether a long answer is on its way."""
        return bool(self._body)

    def fail(self, code: str, detail: str = "") -> None:
        """A refusal, which ends the stream."""
        assert code in CODES
        self._server.close_stream(self)
        self._server.control(encode({"t": "fail", "s": self.id, "code": code, "detail": detail[:500]}), self.id)

    def consumed(self, count: int) -> None:
        """The other end may send as much again."""
        self._eaten += count
        if self._eaten >= WINDOW // 4:
            self._server.control(encode({"t": "credit", "s": self.id, "add": self._eaten}), self.id)
            self._eaten = 0


class Server:
    """Process 1."""

    def __init__(self, settings: Settings, forker: Forker) -> None:
        self._settings = settings
        self._forker = forker
        self.files = files.Files()
        self.environment = {os.fsencode(k): os.fsencode(v) for k, v in os.environ.items()}
        self.null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self._memory_kills = processes.memory_kills()
        self._number = 0
        self._poll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._masks: dict[int, int] = {}
        self._timers: list[tuple[float, object, Callable[[], None]]] = []
        self._decoder = Decoder()
        self._outbox = Outbox()
        self._writing = b""
        self._held_until = 0.0
        self._streams: dict[int, Stream] = {}
        self._greeted = False
        self._commands: dict[int, Command] = {}
        self._pending: dict[int, Command] = {}
        self._waiting: dict[int, tuple[bytes, list[int]]] = {}
        self._when_revived: list[Callable[[], None]] = []
        self._unclaimed: dict[int, int] = {}
        self._drains: list[int] = []
        self._grants: dict[str, int] = {}
        self._tasks: Any = _queue.SimpleQueue()
        self._results: Any = _queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    @property
    def shell(self) -> bytes:
        """bash, else whatever sh there is."""
        for path in (b"/bin/bash", b"/usr/bin/bash", b"/usr/local/bin/bash"):
            if os.access(path, os.X_OK):
                return path
        return b"/bin/sh"

    def run(self) -> None:
        """Serve until the pipe ends; then end everything."""
        try:
            self._begin()
            while True:
                self._turn()
        except (EOFError, BrokenPipeError):
            return
        except BaseException:  # noqa: BLE001  its words go to the controller as diagnostics
            sys.excepthook(*sys.exc_info())
        finally:
            processes.kill_everything()
            os._exit(0)

    def _begin(self) -> None:
        signals = linux.child_signals()
        mine = linux.set_fs_ids(self._settings.uid, self._settings.gid)
        linux.prctl(linux.PR_SET_DUMPABLE, 1)  # changing ids turned it off, and gave /proc/1 to uid 0
        for _ in range(THREADS):
            _thread.start_new_thread(self._work, ())
        self._make_reports()
        for fd in (0, 1):
            os.set_blocking(fd, False)
            try:
                fcntl.fcntl(fd, PIPE_SIZE, WINDOW)
            except OSError:
                continue
        self.watch(0, EPOLLIN, self._on_input)
        self.watch(signals, EPOLLIN, lambda _: self._on_children(signals))
        self.watch(self._wake, EPOLLIN, lambda _: self._on_results())
        self._watch_forker()
        self.later(self, SAMPLE, self._sample)
        gc.collect()
        gc.freeze()
        features = ["exec", "files", "kill_all"]
        features += ["userns"] if self._forker.namespace else []
        features += ["fsuid"] if mine else []
        features += ["bash"] if self.shell.endswith(b"bash") else []
        features += ["seccomp"] if self._filtered() else []
        self.control(encode({"t": "hello", "wire": WIRE, "features": features}))

    @staticmethod
    def _make_reports() -> None:
        try:
            os.mkdir(job.REPORTS, 0o700)
        except OSError:  # then shells do not tell where they end
            return

    @staticmethod
    def _filtered() -> bool:
        with open("/proc/self/status", "rb") as status:
            return b"\nSeccomp:\t2\n" in status.read()

    def _turn(self) -> None:
        self._flush()
        timeout = -1.0
        if self._timers or self._held_until:
            now = time.monotonic()
            due = min((when for when, _, _ in self._timers), default=now + 3600)
            if self._held_until:
                due = min(due, self._held_until)
            timeout = max(due - now, 0.0)
        for fd, events in self._poll.poll(timeout):
            handler = self._handlers.get(fd)
            if handler is not None:
                handler(events)
        if self._timers:
            now = time.monotonic()
            for timer in [timer for timer in self._timers if timer[0] <= now]:
                if timer in self._timers:
                    self._timers.remove(timer)
                    timer[2]()

    # Descriptors and timers

    def watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        """Call `handler` when the descriptor is ready; with `events` 0 when its other end closes."""
        self._handlers[fd] = handler
        before = self._masks.get(fd)
        if before is None:
            self._poll.register(fd, events)
        elif before != events:
            self._poll.modify(fd, events)
        self._masks[fd] = events

    def forget(self, fd: int) -> None:
        """Watch it no more."""
        if self._masks.pop(fd, None) is not None:
            del self._handlers[fd]
            self._poll.unregister(fd)

    def close(self, fd: int) -> None:
        """Close it; the kernel forgets it by itself."""
        if self._masks.pop(fd, None) is not None:
            del self._handlers[fd]
        os.close(fd)

    def drain(self, fd: int) -> None:
        """Read and drop what processes in the background still write."""
        if len(self._drains) >= DRAINS:
            self.close(self._drains.pop(0))
        self._drains.append(fd)
        self.watch(fd, EPOLLIN, lambda _: self._on_drain(fd))

    def _on_drain(self, fd: int) -> None:
        if read_some(fd, BLOCK) == b"":
            self._drains.remove(fd)
            self.close(fd)

    def later(self, owner: object, delay: float, action: Callable[[], None]) -> None:
        """Call `action` in `delay` seconds."""
        self._timers.append((time.monotonic() + delay, owner, action))

    def never(self, owner: object) -> None:
        """Drop an owner's timers."""
        if self._timers:
            self._timers = [timer for timer in self._timers if timer[1] is not owner]

    # Frames

    def control(self, frame: bytes, stream: int = 0, *, hold: bool = False) -> None:
        """Send a small frame. With `hold` it may wait a moment for another to go with."""
        if hold and not self._outbox and not self._writing:
            self._held_until = time.monotonic() + HOLD
        elif not hold:
            self._held_until = 0.0
        self._outbox.control(frame, stream)

    def bulk(self, frame: bytes, stream: int) -> None:
        """Send a frame of data."""
        self._held_until = 0.0
        self._outbox.data(frame, stream)

    def _flush(self) -> None:
        if self._held_until:
            if time.monotonic() < self._held_until:
                return
            self._held_until = 0.0
        while self._writing or self._outbox:
            data = self._writing or self._outbox.take()
            try:
                count = os.write(1, data)
            except BlockingIOError:
                self._writing = data
                self.watch(1, EPOLLOUT, lambda _: None)
                return
            self._writing = data[count:]
        if 1 in self._masks:
            self.forget(1)

    def _on_input(self, _: int) -> None:
        try:
            data = os.read(0, WINDOW)
        except BlockingIOError:
            return
        if not data:
            raise EOFError
        for header, payload in self._decoder.feed(data):
            self._on_frame(header, payload)

    def _on_frame(self, header: dict[str, Any], payload: bytes) -> None:
        kind = header["t"]
        if not self._greeted:
            if kind != "hello" or header["wire"] != WIRE:
                raise WireError("no hello")
            self._greeted = True
            self._grants = dict(header.get("grants", {}))
            return
        if kind == "open":
            number = header["s"]
            if number in self._streams or number % 2 == 0 or len(self._streams) >= STREAMS:
                raise WireError("this stream cannot be opened")
            stream = self._streams[number] = Stream(self, number, header["k"])
            self._on_arguments(stream, header, payload)
            return
        known = self._streams.get(header.get("s", 0))
        if known is None:
            return  # it ended while the frame was on its way
        try:
            self._on_stream(known, kind, header, payload)
        except RefusedError as error:
            known.fail(error.code, error.detail)

    def _on_stream(self, stream: Stream, kind: str, header: dict[str, Any], payload: bytes) -> None:
        if kind == "args":
            self._on_arguments(stream, header, payload)
        elif kind == "credit":
            stream.credit += header["add"]
            if stream.answering:
                stream.continue_body()
            elif stream.command is not None:
                stream.command.on_credit()
        elif stream.command is not None:
            self._to_command(stream.command, kind, header, payload)
        elif kind == "data":
            self._on_received(stream, payload)
        elif kind == "end" and stream.kind == "write" and stream.request is not None:
            self._write(stream, stream.request)
        elif kind == "cancel":
            stream.fail(PathCode.CANCELLED)
        else:
            raise WireError("a frame that does not fit its stream")

    @staticmethod
    def _to_command(command: Command, kind: str, header: dict[str, Any], payload: bytes) -> None:
        match kind:
            case "data":
                command.on_data(payload)
            case "end":
                command.on_end()
            case "cancel":
                command.on_cancel()
            case "signal":
                command.on_signal(header["sig"])
            case "resize":
                command.on_resize(header["rows"], header["columns"])
            case _:
                raise WireError("a frame that does not fit its stream")

    def _on_arguments(self, stream: Stream, header: dict[str, Any], payload: bytes) -> None:
        if stream.request is not None:
            raise WireError("arguments twice")
        stream.arguments.append(payload)
        stream.size += len(payload)
        if stream.size > ARGUMENTS:
            raise WireError("arguments too large")
        if header.get("more"):
            return
        try:
            request = _parse(b"".join(stream.arguments).decode("ascii") or "{}")
        except (ValueError, RecursionError) as error:
            raise WireError("arguments are no JSON") from error
        stream.arguments.clear()
        stream.size = 0
        stream.request = request
        try:
            self._begin_request(stream, request)
        except RefusedError as error:
            stream.fail(error.code, error.detail)
        except OSError as error:
            stream.fail(files.code_of(error), os.strerror(error.errno or errno.EIO))
        except (KeyError, TypeError, ValueError, IndexError):
            stream.fail(PathCode.INVALID, "the request makes no sense")

    # Requests

    def _begin_request(self, stream: Stream, request: dict[str, Any]) -> None:
        match stream.kind:
            case "exec":
                command = Command(self, stream, request)
                command.start()
                stream.command = command
            case "read":
                self._read(stream, request)
            case "write":
                files.checked(request["path"])
            case "stat":
                stream.done(*self.files.look(request))
            case "resolve":
                result, rows = self.files.resolve(request)
                stream.done(result, _format(rows).encode("ascii"))
            case "kill_all":
                self._when_revived.append(lambda: stream.done({}))
                self.kill_all()
            case "ping":
                stream.done({})
            case _:
                raise RefusedError(PathCode.REFUSED, "no such request")

    def _read(self, stream: Stream, request: dict[str, Any]) -> None:
        fd, found = self.files.open_for_reading(request)
        if found.st_size <= INLINE_READ:
            stream.done(*self.files.read(fd, found, request))
        else:
            self._tasks.put((stream, lambda: self.files.read(fd, found, request)))

    def _on_received(self, stream: Stream, payload: bytes) -> None:
        if stream.kind != "write":
            raise WireError("data for a stream that takes none")
        stream.size += len(payload)
        stream.consumed(len(payload))
        if stream.size > WRITE_LIMIT:
            raise RefusedError(PathCode.TOO_LARGE, f"more than {WRITE_LIMIT} bytes")
        stream.received.append(payload)

    def _write(self, stream: Stream, request: dict[str, Any]) -> None:
        data = b"".join(stream.received)
        stream.received.clear()
        self._tasks.put((stream, lambda: self.files.write(request, data)))

    def _work(self) -> None:
        """A thread for what may block. It owns the owner's fs ids from its start."""
        while True:
            stream, task = self._tasks.get()
            try:
                answer: Any = task()
            except RefusedError as error:
                answer = (error.code, error.detail)
            except OSError as error:
                answer = (files.code_of(error), os.strerror(error.errno or errno.EIO))
            except Exception:  # noqa: BLE001  a thread never dies of a request
                answer = (PathCode.FAILED, "")
            task = None
            self._results.put((stream, answer))
            os.eventfd_write(self._wake, 1)

    def _on_results(self) -> None:
        os.eventfd_read(self._wake)
        while not self._results.empty():
            stream: Stream
            stream, answer = self._results.get()
            if self._streams.get(stream.id) is not stream:
                continue
            if isinstance(answer[0], str):
                stream.fail(*answer)
            else:
                stream.done(*answer)

    def close_stream(self, stream: Stream) -> None:
        """Its last frame is on the way."""
        self._streams.pop(stream.id, None)

    # Processes

    def submit(self, number: int, data: bytes, descriptors: list[int], command: Command) -> None:
        """Give a job to the forker, now or as soon as there is one again. Raises RefusedError."""
        if self._forker.pid:
            self._send_job(data, descriptors)
        else:
            self._waiting[number] = (data, [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0) for fd in descriptors])
        self._pending[number] = command

    def _send_job(self, data: bytes, descriptors: list[int]) -> None:
        try:
            job.send(self._forker.jobs, data, descriptors)
        except OSError as error:
            raise RefusedError(PathCode.NO_PROCESS, os.strerror(error.errno or errno.EIO)) from error

    def _send_waiting(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for number, (data, descriptors) in waiting.items():
            try:
                if number in self._pending:
                    self._send_job(data, descriptors)
            except RefusedError:
                self._pending.pop(number).on_refused("start", errno.EAGAIN)
            finally:
                for fd in descriptors:
                    os.close(fd)

    def _on_answer(self) -> None:
        """The forker started a command, or could not."""
        try:
            data = self._forker.jobs.recv(4096)
        except BlockingIOError:
            return
        if not data:
            self.forget(self._forker.jobs.fileno())
            return
        number, pid, stage, code = marshal.loads(data)  # noqa: S302  the forker's own words
        command = self._pending.pop(number, None)
        if command is None:
            processes.signal_family(pid, set(), processes.SIGKILL)
        elif stage:
            command.on_refused(stage, code)
        else:
            self._commands[pid] = command
            command.on_started(pid)
            status = self._unclaimed.pop(pid, None)
            if status is not None:
                del self._commands[pid]
                command.on_exit(status)
        if not self._pending:
            self._unclaimed.clear()

    def number(self) -> int:
        """A number that no other command has."""
        self._number += 1
        return self._number

    def out_of_memory(self) -> bool:
        """Whether the kernel killed for want of memory since this was asked last."""
        before, self._memory_kills = self._memory_kills, processes.memory_kills()
        return self._memory_kills > before

    def ended(self, command: Command) -> None:
        """It is over."""
        self._pending.pop(command.number, None)
        if self._commands.get(command.pid) is command:
            del self._commands[command.pid]

    def _on_children(self, signals: int) -> None:
        try:
            os.read(signals, 128 * 16)
        except BlockingIOError:
            return
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            command = self._commands.pop(pid, None)
            if command is not None:
                command.on_exit(status)
            elif pid == self._forker.pid:
                self._revive()
            elif self._pending:
                self._unclaimed[pid] = status

    def _sample(self) -> None:
        """Look who descends from whom, for commands that run for a while."""
        self.later(self, SAMPLE, self._sample)
        if self._commands:
            rows = [row for row in processes.living() if row.pid != 1]
            for command in list(self._commands.values()):
                command.note_family(rows)

    def kill_all(self) -> None:
        """End every process of the box but this one, and start afresh."""
        for command in list(self._commands.values()):
            command.lost()
        processes.kill_everything()
        self._revive()

    def _revive(self) -> None:
        """A new forker in a new namespace, for the one that died. What it had been given will not begin."""
        for number in self._pending.keys() - self._waiting.keys():
            self._pending.pop(number).on_refused("start", errno.ECHILD)
        self.forget(self._forker.control.fileno())
        self.forget(self._forker.jobs.fileno())
        self._forker.close()
        settings = self._settings
        linux.set_fs_ids(settings.server_id, settings.server_id)  # its maps are the server's to write
        linux.prctl(linux.PR_SET_DUMPABLE, 1)
        try:
            self._forker.start()
            self._forker.confirm()
        except OSError:  # the dead still count against the limit of processes
            processes.kill(self._forker.pid)
            self._forker.pid = 0
            self.later(self, RETRY, self._revive)
        else:
            self._watch_forker()
            self._send_waiting()
            for action in self._when_revived:
                action()
            self._when_revived.clear()
        finally:
            linux.set_fs_ids(settings.uid, settings.gid)
            linux.prctl(linux.PR_SET_DUMPABLE, 1)

    def expel_forker(self) -> None:
        """It does not answer: a new one comes when it is reaped."""
        processes.kill(self._forker.pid)

    def _watch_forker(self) -> None:
        control = self._forker.control
        self.watch(control.fileno(), EPOLLIN, lambda _: self._on_forker())
        self.watch(self._forker.jobs.fileno(), EPOLLIN, lambda _: self._on_answer())

    def _on_forker(self) -> None:
        try:
            said = self._forker.control.recv(600)
        except BlockingIOError:
            return
        if said:
            os.write(2, said + b"\n")
        else:
            self.forget(self._forker.control.fileno())
