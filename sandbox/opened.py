"""The client of a connection whose TLS ends here, so that its requests can be looked into."""

from __future__ import annotations

import ssl
from contextlib import suppress

from sandbox.client import Client
from sandbox.refusals import GoneError
from sandbox.wire import PAYLOAD


class OpenedClient(Client):
    """A Client over another one, which speaks TLS. `handshake` comes first, `finish` last."""

    def __init__(self, inner: Client, context: ssl.SSLContext) -> None:
        super().__init__(inner.stream)
        self._inner = inner
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    async def handshake(self) -> None:
        """Raises ssl.SSLError where the client does not take the certificate, GoneError."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._more()
            else:
                await self._flush()
                return

    async def read(self) -> bytes:
        """See Client."""
        while not self._back and not self._ended:
            try:
                data = self._tls.read(PAYLOAD)
            except ssl.SSLWantReadError:
                await self._flush()
                await self._more()
            except ssl.SSLZeroReturnError:
                self._ended = True
            except ssl.SSLError as error:
                raise GoneError from error
            else:
                if data:
                    self._up(len(data))
                    return data
                self._ended = True
        if self._back:
            data = self._back.popleft()
            self._up(len(data))
            return data
        return b""

    async def write(self, data: bytes) -> None:
        """See Client."""
        self._down(len(data))
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view) :]
        await self._flush()

    def end(self) -> None:
        """See Client; TLS says its goodbye in `finish`."""

    async def finish(self) -> None:
        """Nothing more is sent."""
        with suppress(ssl.SSLError):
            self._tls.unwrap()
        await self._flush()
        self._inner.end()

    async def _flush(self) -> None:
        if data := self._outgoing.read():
            await self._inner.write(data)

    async def _more(self) -> None:
        """More from the client. Raises GoneError where it ends without a goodbye."""
        data = await self._inner.read()
        if not data:
            raise GoneError
        self._incoming.write(data)
