"""The host's end of the pipe against a box that is played here byte by byte, well-behaved or not."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import PurePosixPath
from typing import Any

import pytest

from sandbox.errors import BoxLostError, BoxStartError, DiskFullError, PathError, ProtocolError
from sandbox.pipe import Pipe
from sandbox.process import StreamProcess, exited_of, rows_of
from sandbox.spec import Command, Exited, Stderr, Stdout
from sandbox.streams import Grant, Stream
from sandbox.wire import INWARD, PAYLOAD, WINDOW, Decoder, encode

HELLO = encode({"t": "hello", "wire": 1, "features": ["exec"]})
CWD = PurePosixPath("/")


class FakeServer:
    """The box's end: raw, so that it can misbehave."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.decoder = Decoder()
        self.waiting: list[tuple[dict[str, Any], bytes]] = []

    async def say(self, data: bytes, stream: int = 1) -> None:
        await asyncio.get_running_loop().sock_sendall(
            self.socket, bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data
        )

    async def send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        await self.say(encode(header, payload))

    async def hear(self) -> tuple[dict[str, Any], bytes]:
        while not self.waiting:
            data = await asyncio.get_running_loop().sock_recv(self.socket, 1 << 20)
            assert data, "the controller hung up"
            self.waiting += self.decoder.feed(data)
        return self.waiting.pop(0)

    async def hung_up(self) -> bool:
        while True:
            try:
                data = await asyncio.get_running_loop().sock_recv(self.socket, 1 << 20)
            except ConnectionResetError:
                return True
            if not data:
                return True


@asynccontextmanager
async def joined(grants: dict[str, Grant] | None = None) -> AsyncIterator[tuple[Pipe, FakeServer]]:
    ours, theirs = socket.socketpair()
    server = FakeServer(theirs)
    await server.say(HELLO)
    async with asyncio.timeout(20):
        pipe = await Pipe.connect(ours, grants=grants)
        greeting, _ = await server.hear()
        assert greeting["t"] == "hello"
        try:
            yield pipe, server
        finally:
            pipe.close()
            theirs.close()


async def test_hands_are_shaken() -> None:
    async with joined({"tcp": Grant(limit=3, accept=lambda *_: None)}) as (pipe, _):
        assert pipe.features == {"exec"}


async def test_the_greeting_says_what_is_granted() -> None:
    ours, theirs = socket.socketpair()
    server = FakeServer(theirs)
    await server.say(HELLO)
    pipe = await Pipe.connect(ours, grants={"tcp": Grant(limit=3, accept=lambda *_: None)})
    assert (await server.hear())[0] == {"t": "hello", "wire": 1, "features": [], "grants": {"tcp": 3}}
    pipe.close()
    theirs.close()


@pytest.mark.parametrize(
    "first",
    [
        encode({"t": "hello", "wire": 2, "features": []}),
        encode({"t": "end", "s": 1}),
        b"Traceback (most recent call last):\n",
        HELLO + HELLO,
    ],
)
async def test_a_wrong_greeting_is_no_start(first: bytes) -> None:
    ours, theirs = socket.socketpair()
    await FakeServer(theirs).say(first)
    error = None
    try:
        pipe = await Pipe.connect(ours)
    except BoxStartError as refused:
        error = refused
    else:
        await asyncio.wait_for(pipe.lost.wait(), 5)
        assert isinstance(pipe.error, ProtocolError)
    theirs.close()
    assert error is not None or first == HELLO + HELLO


async def test_silence_is_no_start() -> None:
    ours, theirs = socket.socketpair()
    with pytest.raises(BoxStartError, match="said nothing"):
        await Pipe.connect(ours, timeout=0.05)
    theirs.close()


async def test_the_servers_last_words_are_told() -> None:
    ours, theirs = socket.socketpair()
    server = FakeServer(theirs)
    await server.say(b"cannot open shared object file", stream=2)
    theirs.close()
    with pytest.raises(BoxStartError, match="cannot open shared object file"):
        await Pipe.connect(ours)


async def test_a_request_has_its_answer() -> None:
    async with joined() as (pipe, server):
        asking = asyncio.create_task(pipe.request("read", {"path": "/x"}, path="/x"))
        header, payload = await server.hear()
        assert (header["t"], header["k"], json.loads(payload)) == ("open", "read", {"path": "/x"})
        await server.send({"t": "data", "s": header["s"]}, b"one ")
        await server.send({"t": "done", "s": header["s"], "r": {"size": 7}}, b"two")
        assert await asking == ({"size": 7}, b"one two")


async def test_answers_may_come_in_any_order() -> None:
    async with joined() as (pipe, server):
        asked = [asyncio.create_task(pipe.request("read", {"n": n}, path="")) for n in range(5)]
        heard = [await server.hear() for _ in asked]
        for header, payload in reversed(heard):
            await server.send({"t": "done", "s": header["s"], "r": json.loads(payload)})
        assert [(await task)[0]["n"] for task in asked] == list(range(5))


async def test_long_arguments_go_in_pieces() -> None:
    async with joined() as (pipe, server):
        long = "x" * (3 * PAYLOAD)
        asking = asyncio.create_task(pipe.request("exec", {"argv": [long]}, path=""))
        header, text = await server.hear()
        number = header["s"]
        while header.get("more"):
            header, piece = await server.hear()
            assert (header["t"], header["s"]) == ("args", number)
            text += piece
        assert json.loads(text) == {"argv": [long]}
        await server.send({"t": "done", "s": number})
        await asking


async def test_refusals_are_path_errors_and_a_full_disk_is_itself() -> None:
    async with joined() as (pipe, server):
        for code, kind in (("denied", PathError), ("no_space", DiskFullError)):
            asking = asyncio.create_task(pipe.request("read", {}, path="/x"))
            header, _ = await server.hear()
            await server.send({"t": "fail", "s": header["s"], "code": code, "detail": "because"})
            with pytest.raises(kind):
                await asking


async def test_a_cancelled_request_is_cancelled_there_too() -> None:
    async with joined() as (pipe, server):
        asking = asyncio.create_task(pipe.request("read", {}, path="/x"))
        header, _ = await server.hear()
        asking.cancel()
        assert (await server.hear())[0] == {"t": "cancel", "s": header["s"]}
        await server.send({"t": "done", "s": header["s"]})
        await pipe_is_alive(pipe, server)


async def pipe_is_alive(pipe: Pipe, server: FakeServer) -> None:
    asking = asyncio.create_task(pipe.request("ping", {}, path=""))
    header, _ = await server.hear()
    await server.send({"t": "done", "s": header["s"]})
    await asking


async def test_losing_the_pipe_wakes_everybody_at_once() -> None:
    async with joined() as (pipe, server):
        asked = [asyncio.create_task(pipe.request("read", {}, path="")) for _ in range(3)]
        await server.hear()
        await server.say(b"Killed", stream=2)
        server.socket.close()
        for task in asked:
            with pytest.raises(BoxLostError, match="Killed"):
                await task
        assert pipe.lost.is_set()
        with pytest.raises(BoxLostError):
            pipe.open("ping", {})


@pytest.mark.parametrize(
    "sent",
    [
        encode({"t": "data", "s": 99}, b"x"),
        encode({"t": "done", "s": 2}),
        encode({"t": "open", "s": 2, "k": "tcp"}),
        encode({"t": "open", "s": 3, "k": "stdio"}),
        encode({"t": "hello", "wire": 1, "features": []}),
        encode({"t": "signal", "s": 1, "sig": 9}),
        b"not a frame\n",
        b"x" * 20_000,
        encode({"t": "data", "s": 1}, b"x" * PAYLOAD) * (WINDOW // PAYLOAD + 1),
    ],
    ids=["unknown stream", "never opened", "not granted", "odd", "hello", "a host's frame", "noise", "long", "credit"],
)
async def test_a_box_that_breaks_the_protocol_is_cut_off(sent: bytes) -> None:
    async with joined() as (pipe, server):
        stream = pipe.open("read", {})
        await server.hear()
        await server.say(sent)
        await asyncio.wait_for(pipe.lost.wait(), 5)
        assert isinstance(pipe.error, ProtocolError)
        assert stream.closed
        with pytest.raises(ProtocolError):
            pipe.open("ping", {})
        assert await server.hung_up()


@pytest.mark.parametrize("head", [b"\x03\0\0\0\0\0\0\x01", b"\x01\0\0\x01\0\0\0\x01", b"\x01\0\0\0\xff\xff\xff\xff"])
async def test_an_engine_stream_that_makes_no_sense_is_cut_off(head: bytes) -> None:
    async with joined() as (pipe, server):
        await asyncio.get_running_loop().sock_sendall(server.socket, head + b"x")
        await asyncio.wait_for(pipe.lost.wait(), 5)
        assert isinstance(pipe.error, ProtocolError)


async def test_the_box_opens_what_was_granted_and_no_more() -> None:
    accepted: list[tuple[Stream, dict[str, Any]]] = []
    async with joined({"tcp": Grant(limit=2, accept=lambda *both: accepted.append(both))}) as (pipe, server):
        for number in (2, 4):
            await server.send({"t": "open", "s": number, "k": "tcp"}, b'{"host":"x","port":%d}' % number)
        await server.send({"t": "data", "s": 2}, b"hello from inside")
        await pipe_is_alive(pipe, server)
        assert [arguments for _, arguments in accepted] == [{"host": "x", "port": 2}, {"host": "x", "port": 4}]
        first = accepted[0][0]
        assert (await first.receive())[1] == b"hello from inside"
        await first.send(b"hello from outside")
        assert await server.hear() == ({"t": "data", "s": 2, "c": 0, "n": 18}, b"hello from outside")
        first.tell("done")
        assert (await server.hear())[0]["t"] == "done"
        await server.send({"t": "open", "s": 6, "k": "tcp"})  # one was closed, so one is free
        await pipe_is_alive(pipe, server)
        await server.send({"t": "open", "s": 8, "k": "tcp"})
        await asyncio.wait_for(pipe.lost.wait(), 5)
        assert isinstance(pipe.error, ProtocolError)


@pytest.mark.parametrize("arguments", [b"[1]", b"{", b"\xff"])
async def test_arguments_of_the_box_are_parsed_with_suspicion(arguments: bytes) -> None:
    async with joined({"tcp": Grant(limit=2, accept=lambda *_: None)}) as (pipe, server):
        await server.send({"t": "open", "s": 2, "k": "tcp"}, arguments)
        await asyncio.wait_for(pipe.lost.wait(), 5)
        assert isinstance(pipe.error, ProtocolError)


async def test_sending_waits_for_credit() -> None:
    async with joined() as (pipe, server):
        stream = pipe.open("write", {})
        await server.hear()
        sending = asyncio.create_task(stream.send(b"x" * (INWARD + 10)))
        size = 0
        while size < INWARD:
            size += len((await server.hear())[1])
        await asyncio.sleep(0.05)
        assert (size, sending.done()) == (INWARD, False)
        await server.send({"t": "credit", "s": stream.id, "add": 10})
        assert len((await server.hear())[1]) == 10
        await sending


async def test_credit_is_given_back_as_data_is_read() -> None:
    async with joined() as (pipe, server):
        stream = pipe.open("exec", {})
        await server.hear()
        for _ in range(WINDOW // PAYLOAD):
            await server.send({"t": "data", "s": stream.id, "c": 1}, b"x" * PAYLOAD)
        for _ in range(WINDOW // PAYLOAD):
            await stream.receive()
        given = 0
        while given < WINDOW:
            header, _ = await server.hear()
            assert header["t"] == "credit"
            given += header["add"]
        assert given == WINDOW


async def test_a_process_ends_once() -> None:
    async with joined() as (pipe, server):
        starting = asyncio.create_task(StreamProcess.start(pipe, Command(argv=("x",), cwd=CWD)))
        header, _ = await server.hear()
        await server.send({"t": "started", "s": header["s"], "pid": 7})
        process = await starting
        assert process.pid == 7
        await server.send({"t": "data", "s": header["s"], "c": 1}, b"out")
        await server.send({"t": "data", "s": header["s"], "c": 2}, b"err")
        await server.send({"t": "done", "s": header["s"], "r": {"code": 3, "killed": "", "seconds": 1, "cwd": "/x"}})
        assert [item async for item in process] == [
            Stdout(data=b"out"),
            Stderr(data=b"err"),
            Exited(code=3, size=6, seconds=1.0, cwd=PurePosixPath("/x")),
        ]


async def test_a_process_is_told_to_stop_when_nobody_listens() -> None:
    async with joined() as (pipe, server):
        starting = asyncio.create_task(StreamProcess.start(pipe, Command(argv=("x",), cwd=CWD)))
        header, _ = await server.hear()
        await server.send({"t": "started", "s": header["s"], "pid": 7})
        process = await starting

        async def listen() -> None:
            async for _ in process:
                pass

        listening = asyncio.create_task(listen())
        await asyncio.sleep(0.01)
        listening.cancel()
        assert (await server.hear())[0] == {"t": "cancel", "s": header["s"]}


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"code": "0"},
        {"code": 256},
        {"code": -65},
        {"code": 0, "killed": "os.system"},
        {"code": 0, "size": -1},
        {"code": 0, "seconds": "1"},
        {"code": 0, "path": 5},
        {"code": 0, "cwd": True},
    ],
)
def test_an_end_that_makes_no_sense_is_refused(result: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        exited_of(result, b"", 0)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"[[]]", b'[["a","b","c"]]', b'[["a","/b","file",""]]', b"[" * 9999]
)
def test_resolutions_that_make_no_sense_are_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        rows_of(body, 1)


async def accepted(pipes: list[Stream]) -> Stream:
    async with asyncio.timeout(5):
        while not pipes:  # noqa: ASYNC110 (what is waited for knows nothing of tests)
            await asyncio.sleep(0)
    return pipes.pop()


async def test_what_the_box_still_says_of_a_stream_that_ended_is_no_harm() -> None:
    streams: list[Stream] = []
    async with joined({"tcp": Grant(limit=2, accept=lambda stream, _: streams.append(stream))}) as (pipe, server):
        await server.send({"t": "open", "s": 2, "k": "tcp"})
        (await accepted(streams)).tell("done", r={})
        for kind in ("end", "cancel"):
            await server.send({"t": kind, "s": 2})
        await server.send({"t": "data", "s": 2}, b"late")
        await server.send({"t": "open", "s": 4, "k": "tcp"})
        assert (await accepted(streams)).id == 4
        assert pipe.error is None


async def test_a_client_that_is_gone_is_told_to_whoever_serves_it() -> None:
    streams: list[Stream] = []
    async with joined({"tcp": Grant(limit=2, accept=lambda stream, _: streams.append(stream))}) as (pipe, server):
        await server.send({"t": "open", "s": 2, "k": "tcp"})
        stream = await accepted(streams)
        told: list[bool] = []
        stream.on_cancel = lambda: told.append(True)
        await server.send({"t": "cancel", "s": 2})
        assert (await stream.receive())[0]["t"] == "cancel"
        assert (told, pipe.error) == ([True], None)


async def test_small_pieces_of_the_box_are_joined_while_they_wait() -> None:
    streams: list[Stream] = []
    async with joined({"tcp": Grant(limit=2, accept=lambda stream, _: streams.append(stream))}) as (pipe, server):
        await server.send({"t": "open", "s": 2, "k": "tcp"})
        stream = await accepted(streams)
        for number in range(10_000):
            await server.send({"t": "data", "s": 2}, b"%d" % (number % 10))
        await server.send({"t": "end", "s": 2})
        parts: list[bytes] = []
        while (frame := await stream.receive())[0]["t"] == "data":
            parts.append(frame[1])
        assert b"".join(parts) == b"0123456789" * 1000
        assert len(parts) < 10_000
        assert pipe.error is None


async def test_frames_without_end_are_the_end() -> None:
    streams: list[Stream] = []
    async with joined({"tcp": Grant(limit=2, accept=lambda stream, _: streams.append(stream))}) as (pipe, server):
        await server.send({"t": "open", "s": 2, "k": "tcp"})
        await accepted(streams)
        await server.say(b"".join(encode({"t": "end", "s": 2}) for _ in range(1000)))
        await asyncio.wait_for(pipe.lost.wait(), 5)
        assert isinstance(pipe.error, ProtocolError)
