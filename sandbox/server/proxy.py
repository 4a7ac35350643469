"""The way out, in the box: a port on the loopback interface whose connections are streams of the pipe.

Bytes pass here and nothing is read: what is said on a connection (HTTP, CONNECT, SOCKS5h) is taken apart on
the host, once. A connection ends when the host says so; where its client goes away, the host is told.
"""

from __future__ import annotations

import _socket
import os

from sandbox.server.channel import Stream
from sandbox.server.loop import EPOLLIN, EPOLLOUT, Loop
from sandbox.wire import PAYLOAD, PROXY_PORT, WireError, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.server.channel import Channel

KIND = "tcp"
BACKLOG = 128
BLOCKS = 4  # read at one go before others have their turn
CLOEXEC, NONBLOCK = 0o2000000, 0o4000


class Proxy:
    """The port, and what is connected to it: at most as many at a time as the host granted; others wait."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._most = 0
        self._open = 0
        self._last = 0
        self._listener: _socket.socket | None = None

    def begin(self, most: int) -> None:
        """Listen, before any command runs. Where there is no loopback interface, nothing gets out."""
        listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM | CLOEXEC | NONBLOCK)
        try:
            listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", PROXY_PORT))
            listener.listen(BACKLOG)
        except OSError as error:
            os.write(2, f"no proxy: {error.strerror}\n".encode())
            listener.close()
            return
        self._most, self._listener = most, listener
        self._listen()

    def _listen(self) -> None:
        if self._listener is not None:
            if self._open < self._most:
                self._channel.loop.watch(self._listener.fileno(), EPOLLIN, self._on_connection)
            else:
                self._channel.loop.forget(self._listener.fileno())

    def _on_connection(self, _: int) -> None:
        assert self._listener is not None
        try:
            fd, _address = self._listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001  as `socket` does
        except OSError:  # it went away again, or no descriptor is left
            return
        os.set_blocking(fd, False)
        self._open += 1
        self._last += 2
        stream = self._channel.streams[self._last] = Stream(self._channel, self._last, KIND)
        stream.connection = Connection(self, self._channel.loop, stream, fd)
        self._channel.control(encode({"t": "open", "s": stream.id, "k": KIND}), stream.id)
        stream.connection.arm()
        self._listen()

    def forget(self) -> None:
        """One connection less."""
        self._open -= 1
        self._listen()


class Connection:
    """One client, and its stream."""

    def __init__(self, proxy: Proxy, loop: Loop, stream: Stream, fd: int) -> None:
        self._proxy = proxy
        self._loop = loop
        self._stream = stream
        self._socket = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, 0, fd)
        self._socket.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        self._fd = fd
        self._waiting = bytearray()
        self._reads = True  # the client has not ended what it sends
        self._ends = False  # the host has ended what it sends
        self._over = False  # the stream is done
        self._dead = False

    def take(self, kind: str, payload: bytes) -> None:
        """A frame for this connection. Raises WireError for one that makes no sense."""
        if kind == "data":
            if not self._waiting and not self._dead:  # the usual case, without a copy
                payload = payload[self._written(payload) :]
            if not self._dead:
                self._waiting += payload
            self._write()
        elif kind == "end":
            self._ends = True
            self._write()
        elif kind in {"done", "fail"}:
            self._over = self._ends = True
            self._stream.release()
            self._write()
        else:
            raise WireError("a frame that does not fit its stream")
        self.arm()

    @property
    def sink(self) -> int:
        """Where bytes go, if nothing waits for it; else -1."""
        return -1 if self._waiting or self._dead or self._over else self._fd

    def arm(self) -> None:
        """Watch for what can be done."""
        if self._fd < 0:
            return
        wanted = EPOLLIN if self._reads and not self._over and self._stream.credit > 0 else 0
        wanted |= EPOLLOUT if self._waiting and not self._dead else 0
        if wanted:
            self._loop.watch(self._fd, wanted, self._on_ready)
        else:
            self._loop.forget(self._fd)

    def _on_ready(self, events: int) -> None:
        if self._waiting:
            self._write()
        if self._fd >= 0 and events & ~EPOLLOUT and self._reads and not self._over:
            self._read()
        self.arm()

    def _read(self) -> None:
        for _ in range(BLOCKS):
            room = min(PAYLOAD, self._stream.credit)
            if room <= 0:
                return
            try:
                data = os.read(self._fd, room)
            except BlockingIOError:
                return
            except OSError:
                self._lose()
                return
            if not data:
                self._reads = False
                self._stream.tell("end")
                return
            self._stream.data(0, data)

    def _write(self) -> None:
        """Hand on what came, then the end of it."""
        while self._waiting and not self._dead:
            count = self._written(self._waiting[:PAYLOAD])
            if not count:
                break
            del self._waiting[:count]
        if self._waiting:
            return
        if self._over:
            self._close()
        elif self._ends and not self._dead:
            try:
                self._socket.shutdown(_socket.SHUT_WR)
            except OSError:
                self._lose()

    def _written(self, data: bytes | bytearray) -> int:
        """How much of it the client takes now; the host may send as much again."""
        try:
            count = os.write(self._fd, data)
        except BlockingIOError:
            return 0
        except OSError:
            self._lose()
            return 0
        if not self._over:
            self._stream.consumed(count)
        return count

    def _lose(self) -> None:
        """The client is gone: the host is told, and ends the stream."""
        if not self._dead:
            self._dead, self._reads = True, False
            self._waiting.clear()
            if not self._over:
                self._stream.tell("cancel")

    def _close(self) -> None:
        if self._fd >= 0:
            self._loop.close(self._socket.detach())
            self._fd = -1
            self._proxy.forget()
