"""A unix socket between fumehood and the container engine, which a test can cut as an engine's death would."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

PIECE = 1 << 16
REFUSAL = b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"


class Relay:
    """Passes bytes between connections to `path` and the engine at `endpoint`, until `die`.

    `dies_at`: bytes of a request at which the engine dies, before it hears of it. `forbids`: a sentence with
    which every request is refused instead (what an authorization plugin does). `seeks`: words to look for in all
    that goes to the engine; `sought` holds those that went by.
    """

    def __init__(
        self, path: Path, endpoint: str, *, dies_at: bytes = b"", forbids: str = "", seeks: tuple[bytes, ...] = ()
    ) -> None:
        self.path = path
        self.host = f"unix://{path}"
        self._engine = urlsplit(endpoint).path
        self._dies_at = dies_at
        self._forbids = forbids
        self._seeks, self.sought = seeks, set[bytes]()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._accepting: threading.Thread | None = None
        self.dead = threading.Event()

    def __enter__(self) -> Self:
        self._listener = self._listen()
        self._accepting = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
        self._accepting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.die()
        assert self._accepting is not None
        self._accepting.join(10)

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self.path))
        listener.listen(64)
        return listener

    def die(self) -> None:
        """The engine is gone: every connection breaks and no new one is taken."""
        if self.dead.is_set():
            return
        self.dead.set()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)  # noqa: PTH108
        assert self._listener is not None
        _shut(self._listener)
        with self._lock:
            for sock in self._open:
                _shut(sock)

    def _accept(self, listener: socket.socket) -> None:
        with listener:
            while not self.dead.is_set():
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as engine, contextlib.suppress(OSError):
            if self._forbids:
                client.recv(PIECE)
                body = b'{"message": "%s"}' % self._forbids.encode()
                client.sendall(REFUSAL % (len(body), body))
                return
            engine.connect(self._engine)
            with self._lock:
                self._open |= {client, engine}
            if self.dead.is_set():
                return
            try:
                self._both_ways(client, engine)
            finally:
                with self._lock:
                    self._open -= {client, engine}

    def _both_ways(self, client: socket.socket, engine: socket.socket) -> None:
        with selectors.DefaultSelector() as ready:
            ready.register(client, selectors.EVENT_READ, engine)
            ready.register(engine, selectors.EVENT_READ, client)
            tail = b""
            while ready.get_map():
                for key, _ in ready.select():
                    assert isinstance(key.fileobj, socket.socket)
                    data = key.fileobj.recv(PIECE)
                    if key.fileobj is client and self._dies_at and self._dies_at in data:
                        self.die()
                        return
                    if key.fileobj is client and self._seeks:
                        tail = tail[-max(map(len, self._seeks)) :] + data
                        self.sought |= {word for word in self._seeks if word in tail}
                    if data:
                        key.data.sendall(data)
                        continue
                    ready.unregister(key.fileobj)
                    key.data.shutdown(socket.SHUT_WR)


class TcpRelay(Relay):
    """On a port of the loopback: an engine there is taken to see none of this machine's files."""

    def __init__(self, endpoint: str, *, dies_at: bytes = b"") -> None:
        super().__init__(Path("/nowhere"), endpoint, dies_at=dies_at)

    def _listen(self) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        return listener


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
