"""HTTP/1.1 on a connection of the box (RFC 9110, 9112): each request is read whole, judged by itself, and written
anew to where it goes, so that two readers cannot understand it differently. CONNECT becomes a tunnel.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import h11

from sandbox.client import Client
from sandbox.errors import SandboxError
from sandbox.heads import checked, cleaned, header, length, target_in
from sandbox.hosts import HostError, Target, authority_of
from sandbox.injection import Mask
from sandbox.leaving import Asked, Way
from sandbox.reading import Reading
from sandbox.refusals import GIVEN_UP, GoneError, LimitError, RefusedError, why_not
from sandbox.rulings import Request
from sandbox.tape import Answers, Headers, Take
from sandbox.tunnel import Tunnel
from sandbox.upstream import Upstream

REASON = 200
LINGER = 2.0


async def converse(way: Way, client: Client, *, within: tuple[str, int] | None = None, secure: bool = False) -> None:
    """Requests until the client has enough. `within`: the host and port of the tunnel that they came through, whose
    requests name no host of their own but in their Host header; `secure`: it is one of TLS that ends here. Raises
    GoneError, OSError, TimeoutError.
    """
    talk = Talk(way, client, within, secure=secure)
    try:
        await talk.run()
    finally:
        talk.drop()


class Talk:
    """One connection that speaks HTTP."""

    def __init__(self, way: Way, client: Client, within: tuple[str, int] | None, *, secure: bool) -> None:
        self._secure = secure
        self._way = way
        self._client = client
        self._within = within
        self._server = h11.Connection(h11.SERVER, max_incomplete_event_size=way.bounds.head_size)
        self._bodiless = False
        self._upstream: Upstream | None = None
        self._there: h11.Connection | None = None

    def drop(self) -> None:
        """Let go of the other end."""
        if self._upstream is not None:
            self._upstream.close()
        self._upstream = self._there = None

    async def run(self) -> None:
        """Request after request."""
        while True:
            self._client.mark()
            try:
                async with asyncio.timeout(self._way.bounds.head):
                    event = await self._next()
                if not isinstance(event, h11.Request):
                    return
                if event.method == b"CONNECT":
                    await self._connect(event)
                    return
                await self._exchange(event)
            except RefusedError as refused:
                await self._refuse(refused)
            except h11.ProtocolError as error:
                await self._refuse(RefusedError(f"no HTTP that is clear: {error}", status=error.error_status_hint))
            if self._server.our_state is not h11.DONE or self._server.their_state is not h11.DONE:
                return
            self._server.start_next_cycle()

    async def _next(self) -> h11.Event | type[h11.PAUSED]:
        """The next event from the client."""
        while (event := self._server.next_event()) is h11.NEED_DATA:
            self._server.receive_data(await self._client.read())
        assert not isinstance(event, type) or event is h11.PAUSED
        return event

    async def _send(self, event: h11.Event) -> None:
        if data := self._server.send(event):
            await self._client.write(data)

    async def _refuse(self, refused: RefusedError) -> None:
        """The answer to what does not leave, and the end of the connection: what the client still sends goes unread."""
        if self._server.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return
        self._client.tally = None  # our own words are on no account
        text = f"fumehood: {' '.join(refused.reason.split())}\n".encode("ascii", "backslashreplace")
        reason = text.strip()[:REASON]
        headers = [(b"Content-Type", b"text/plain"), (b"Content-Length", b"%d" % len(text)), (b"Connection", b"close")]
        with suppress(h11.LocalProtocolError):
            await self._send(h11.Response(status_code=refused.status, headers=headers, reason=reason))
            await self._send(h11.Data(data=text))
            await self._send(h11.EndOfMessage())
        with suppress(h11.RemoteProtocolError):
            whole = self._server.their_state is h11.SEND_BODY and isinstance(
                self._server.next_event(), h11.EndOfMessage
            )
            if whole:
                return
        if self._server.their_state is h11.SEND_BODY:
            self._client.end()  # a client that is cut off while it sends would not read the answer
            with suppress(TimeoutError):
                async with asyncio.timeout(LINGER):
                    while await self._client.read():
                        pass

    # Tunnels

    async def _connect(self, event: h11.Request) -> None:
        if self._within is not None:
            raise RefusedError("CONNECT in a tunnel", status=400)
        try:
            host, port = authority_of(event.target.decode("ascii"), None)
        except HostError as error:
            raise RefusedError(f"CONNECT: {error}", status=400) from error
        named = header(event.headers, b"host")
        try:
            agrees = named is None or authority_of(named.decode("latin-1"), port) == (host, port)
        except HostError:
            agrees = False
        if not agrees:
            raise RefusedError(f"CONNECT to {host}:{port} with another host in its Host header", status=400)
        if not isinstance(await self._next(), h11.EndOfMessage):
            raise RefusedError("CONNECT with a body", status=400)
        tunnel = await Tunnel.open(self._way, self._client, converse, host, port)
        await self._send(h11.Response(status_code=200, headers=[], reason=b"Connection established"))
        self._client.unread(self._server.trailing_data[0])
        await tunnel.pass_on()

    # Requests

    async def _exchange(self, event: h11.Request) -> None:
        target = self._target(event)
        headers, socket = checked(event)
        scheme = ("wss" if socket else "https") if self._secure else ("ws" if socket else "http")
        method = event.method.decode("ascii")
        self._bodiless = method == "HEAD"
        request = Request(host=target.host, port=target.port, scheme=scheme, method=method, path=target.path)
        asked = await self._way.ask(self._client, request)
        injection = asked.ruling.injection if self._secure else None
        if injection is not None and (why := injection.objection(headers)):
            asked.close(why)
            raise RefusedError(why)
        if self._way.replay is not None:
            async with asked.in_time():
                await self._play(asked, self._way.replay)
            return
        take, end = self._taken(request, headers, socket=socket), {"failure": GIVEN_UP}
        take = take if asked.ruling.reader is None else Reading(take, asked.ruling.reader)
        try:
            async with asked.in_time():
                if asked.tally is not None:
                    asked.tally.declare(length(event.headers))
                upstream, there = await self._reach(asked)
                take.reached(upstream.address)
                headers = take.asks(headers if injection is None else injection.into(headers))
                headers = [(b"Host", target.authority.encode("ascii")), *headers]
                sent = h11.Request(method=event.method, **_written(upstream, target, headers))
                upstream.line.write(there.send(sent) or b"")
                if socket:
                    await self._next()
                    upstream.line.write(there.send(h11.EndOfMessage()) or b"")
                mask = Mask(() if injection is None else injection.secrets)
                await self._pass(upstream, there, socket=socket, mask=mask, take=take)
            end = {}
        except RefusedError as refused:
            end = why_not(refused)
            raise
        finally:
            asked.close(**end)
            take.close(**end)

    def _taken(self, request: Request, headers: Headers, *, socket: bool) -> Take:
        if not socket:
            return self._way.tape.begin(request, headers)
        self._way.tape.missed(request, "a WebSocket, which has no one answer")
        return Take()

    async def _play(self, asked: Asked, replay: Answers) -> None:
        """The answer from elsewhere. Raises RefusedError where there is none."""
        end = {"failure": GIVEN_UP}
        try:
            body = replay.body()
            async for data in self._body():
                body.feed(data)
            found = replay.answer(asked.request, body)
            asked.refuse(found.address)
            take = Take() if asked.ruling.reader is None else Reading(Take(), asked.ruling.reader)
            take.answered(found.status, found.headers, found.reason)
            await self._send(h11.Response(status_code=found.status, headers=found.headers, reason=found.reason))
            for data in found.pieces():
                take.received(data)
                await self._send(h11.Data(data=data))
            if found.whole:
                take.complete()
                await self._send(h11.EndOfMessage())
            end = {} if found.whole else {"failure": "it breaks off, as it was recorded"}
        except RefusedError as refused:
            end = why_not(refused)
            raise
        except SandboxError as error:
            end = {"failure": str(error)}
            raise GoneError from error
        finally:
            asked.close(**end)

    def _target(self, event: h11.Request) -> Target:
        """What the request is for. Raises RefusedError."""
        try:
            return target_in(event, self._within, secure=self._secure)
        except HostError as error:
            raise RefusedError(str(error), status=400) from error

    async def _reach(self, asked: Asked) -> tuple[Upstream, h11.Connection]:
        """A connection to there: the one before where it can be used again, and its address is no objection now."""
        request, upstream, there = asked.request, self._upstream, self._there
        if upstream is not None and there is not None:
            usable = (upstream.host, upstream.port) == (request.host, request.port)
            usable = usable and there.our_state is h11.DONE and there.their_state is h11.DONE
            usable = usable and not upstream.line.at_end
            if upstream.address is not None:
                usable = usable and not asked.ruling.objection(upstream.address)
            if usable:
                asked.via = str(upstream.proxy or "")
                there.start_next_cycle()
                return upstream, there
            self.drop()
        self._upstream = upstream = await self._way.connect(asked, secure=self._secure)
        self._there = there = h11.Connection(h11.CLIENT, max_incomplete_event_size=self._way.bounds.head_size)
        return upstream, there

    async def _pass(self, upstream: Upstream, there: h11.Connection, *, socket: bool, mask: Mask, take: Take) -> None:
        """The request's body up, and the answer down, side by side: an answer may come before the end of the body."""
        up = asyncio.create_task(self._up(upstream, there, take)) if not socket else None
        try:
            switched = await self._down(upstream, there, mask, take)
        except h11.ProtocolError as error:
            raise RefusedError(f"the answer was no HTTP that is clear: {error}", status=502) from error
        finally:
            if up is not None:
                if self._server.their_state is h11.SEND_BODY:
                    up.cancel()
                (ended,) = await asyncio.gather(up, return_exceptions=True)
                if isinstance(ended, LimitError):
                    raise ended
        if switched:
            await self._client.write(mask.feed(there.trailing_data[0]))
            self._client.unread(self._server.trailing_data[0])
            await self._way.relay(self._client, upstream, mask)
            self.drop()

    async def _up(self, upstream: Upstream, there: h11.Connection, take: Take) -> None:
        whole = False
        try:
            async for data in self._body():
                take.sent(data)
                await self._forward(upstream, there.send(h11.Data(data=data)))
            take.all_sent()
            await self._forward(upstream, there.send(h11.EndOfMessage()))
            whole = True
        finally:
            if not whole:
                upstream.abort()

    async def _forward(self, upstream: Upstream, data: bytes | None) -> None:
        async with asyncio.timeout(self._way.bounds.idle):
            upstream.line.write(data or b"")
            await upstream.line.drain()

    async def _body(self) -> AsyncIterator[bytes]:
        """The request's body. Raises GoneError, TimeoutError."""
        if self._server.they_are_waiting_for_100_continue:
            await self._send(h11.InformationalResponse(status_code=100, headers=[]))
        while True:
            async with asyncio.timeout(self._way.bounds.idle):
                event = await self._next()
            match event:
                case h11.Data():
                    if self._client.tally is not None:
                        self._client.tally.body(len(event.data))
                    yield bytes(event.data)
                case h11.EndOfMessage():
                    return
                case _:
                    raise GoneError

    async def _down(self, upstream: Upstream, there: h11.Connection, mask: Mask, take: Take) -> bool:
        """The answer, without what `mask` takes out; True where it switches to another protocol."""
        while True:
            event = there.next_event()
            if event is h11.NEED_DATA:
                async with asyncio.timeout(self._way.bounds.idle):
                    there.receive_data(await upstream.line.read())
                continue
            match event:
                case h11.InformationalResponse(status_code=101):
                    headers = [(mask.whole(name), mask.whole(value)) for name, value in cleaned(event.headers)]
                    headers += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
                    await self._send(h11.InformationalResponse(status_code=101, headers=headers))
                    return True
                case h11.InformationalResponse():
                    continue
                case h11.Response():
                    if self._client.tally is not None and not self._bodiless:
                        self._client.tally.fits(length(event.headers))
                    headers = [(mask.whole(name), mask.whole(value)) for name, value in cleaned(event.headers)]
                    reason = mask.whole(bytes(event.reason))
                    take.answered(event.status_code, headers, reason)
                    await self._send(h11.Response(status_code=event.status_code, headers=headers, reason=reason))
                case h11.Data():
                    data = mask.feed(bytes(event.data))
                    take.received(data)
                    await self._send(h11.Data(data=data))
                case h11.EndOfMessage():
                    data = mask.rest()
                    take.received(data)
                    take.complete()
                    await self._send(h11.Data(data=data))
                    await self._send(h11.EndOfMessage())
                    return False
                case _:
                    raise RefusedError("the answer ended too soon", status=502)


def _written(upstream: Upstream, target: Target, headers: Headers) -> dict[str, Any]:
    """Target and headers as they go on: whole, and with its login, to a proxy that forwards them."""
    if not upstream.forwards or upstream.proxy is None:
        return {"target": target.path.encode("ascii"), "headers": headers}
    login = upstream.proxy.authorization
    named = f"{target.scheme}://{target.authority}{target.path}".encode("ascii")
    return {"target": named, "headers": [*headers, *([(b"Proxy-Authorization", login)] if login else [])]}
