"""Process 1 at work: what the controller asks, and who sees to it. Nothing a command does can make it wait."""

from __future__ import annotations

import errno
import gc
import os
import sys
from json import JSONDecoder, JSONEncoder

from sandbox.server import files, job, linux, processes
from sandbox.server.channel import Channel, Stream
from sandbox.server.children import Children
from sandbox.server.commands import Command
from sandbox.server.files import RefusedError
from sandbox.server.proxy import KIND, Proxy
from sandbox.server.watch import RootWatch
from sandbox.server.worker import Workers
from sandbox.wire import ARGUMENTS, STREAMS, WIRE, PathCode, WireError, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sandbox.server.start import Forker, Settings

INLINE_READ = 256 << 10
WRITE_LIMIT = 64 << 20
SUDO = "/usr/local/bin/sudo"
SHELLS = (b"/bin/bash", b"/usr/bin/bash", b"/usr/local/bin/bash")

_parse = JSONDecoder().decode
_format = JSONEncoder(separators=(",", ":"), check_circular=False).encode


class Server:
    """Process 1."""

    def __init__(self, settings: Settings, forker: Forker) -> None:
        self._settings = settings
        self._forker = forker
        self._channel = Channel(self._on_frame)
        self._workers = Workers(self._channel.loop)
        self._greeted = False
        self.loop = self._channel.loop
        self.children = Children(self.loop, settings, forker)
        self.files = files.Files()
        self._root = RootWatch()
        self._proxy = Proxy(self._channel)
        self.environment = {os.fsencode(k): os.fsencode(v) for k, v in os.environ.items()}
        self.reports = b""
        self.null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)

    @property
    def shell(self) -> bytes:
        """bash, else whatever sh there is."""
        return next((path for path in SHELLS if os.access(path, os.X_OK)), b"/bin/sh")

    def run(self) -> None:
        """Serve until the pipe ends; then end everything."""
        try:
            self._begin()
            while True:
                self.loop.turn()
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
        self._workers.begin()
        self.reports = job.make_reports()
        if self._settings.system:
            self._make_sudo()
            self._root.arm()
        self._channel.begin()
        self.children.begin(signals)
        gc.collect()
        gc.freeze()
        features = ["exec", "files", "kill_all"]
        features += ["userns"] if self._forker.namespace else []
        features += ["fsuid"] if mine else []
        features += ["bash"] if self.shell in SHELLS else []
        features += ["seccomp"] if self._filtered() else []
        self._channel.control(encode({"t": "hello", "wire": WIRE, "features": features}))

    @staticmethod
    def _make_sudo() -> None:
        """A shim before whatever the image has: no-new-privileges leaves a real one nothing to do."""
        shim = f"{os.path.dirname(__file__)}/sudo.sh"
        try:
            with open(shim, "rb") as source, open(SUDO, "xb") as target:
                target.write(source.read())
                os.fchmod(target.fileno(), 0o755)
        except OSError:  # there is one, or no such directory
            return

    @staticmethod
    def _filtered() -> bool:
        with open("/proc/self/status", "rb") as status:
            return b"\nSeccomp:\t2\n" in status.read()

    # Frames

    def _on_frame(self, header: dict[str, Any], payload: bytes) -> None:
        kind = header["t"]
        if not self._greeted:
            if kind != "hello" or header["wire"] != WIRE:
                raise WireError("no hello")
            self._greeted = True
            most = header.get("grants", {}).get(KIND, 0)
            if most:
                self._proxy.begin(most)
            return
        streams = self._channel.streams
        if kind == "open":
            number = header["s"]
            if number in streams or number % 2 == 0 or len(streams) >= STREAMS:
                raise WireError("this stream cannot be opened")
            stream = streams[number] = Stream(self._channel, number, header["k"])
            self._on_arguments(stream, header, payload)
            return
        known = streams.get(header.get("s", 0))
        if known is None:
            return  # it ended while the frame was on its way
        try:
            self._on_stream(known, kind, header, payload)
        except RefusedError as error:
            known.fail(error.code, error.detail)

    def _on_stream(self, stream: Stream, kind: str, header: dict[str, Any], payload: bytes) -> None:
        if kind == "credit":
            stream.credit += header["add"]
            if stream.answering:
                stream.continue_body()
            elif stream.command is not None:
                stream.command.on_credit()
            elif stream.connection is not None:
                stream.connection.arm()
        elif stream.connection is not None:
            stream.connection.take(kind, payload)
        else:
            self._on_request(stream, kind, header, payload)

    def _on_request(self, stream: Stream, kind: str, header: dict[str, Any], payload: bytes) -> None:
        if kind == "args":
            self._on_arguments(stream, header, payload)
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
                self.children.kill_all(lambda: stream.done({}))
            case "root":
                self._look_at_root(stream, again=bool(request["again"]))
            case "ping":
                stream.done({})
            case _:
                raise RefusedError(PathCode.REFUSED, "no such request")

    def _read(self, stream: Stream, request: dict[str, Any]) -> None:
        fd, found = self.files.open_for_reading(request)
        if found.st_size <= INLINE_READ:
            stream.done(*self.files.read(fd, found, request))
        else:
            self._workers.do(stream, lambda: self.files.read(fd, found, request))

    def _look_at_root(self, stream: Stream, *, again: bool) -> None:
        """Whether the root file system changed since the watch began; `again`: it begins anew."""
        changed = self._root.changed()
        if not again:
            stream.done({"changed": changed})
            return

        def arm() -> tuple[dict[str, Any], bytes]:
            self._root.arm()
            return {"changed": changed}, b""

        self._workers.do(stream, arm)

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
        self._workers.do(stream, lambda: self.files.write(request, data))
