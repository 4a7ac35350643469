"""What goes first into the box's socket, and that all of it arrives in order, however little is taken at once."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sandbox.sending import BUDGET, MOMENT, Sender
from sandbox.wire import FRAME, Decoder, encode, head_of_data

CALL, FETCH = 1, 2


@asynccontextmanager
async def joined() -> AsyncIterator[tuple[Sender, socket.socket, list[OSError]]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    failures: list[OSError] = []
    sender = Sender(ours, failures.append)
    try:
        yield sender, theirs, failures
    finally:
        sender.close()
        theirs.close()


def heard(sock: socket.socket) -> bytes:
    try:
        return sock.recv(1 << 20)
    except BlockingIOError:
        return b""


async def test_what_the_box_fetches_waits_while_a_call_is_on_its_way() -> None:
    async with joined() as (sender, theirs, _):
        sender.calls(CALL)
        sender.bulk(b"fetched ", b"bytes", FETCH)
        sender.control(b"end of it ", FETCH)
        sender.bulk(b"the call's ", b"own", CALL)
        assert heard(theirs) == b"the call's own"
        sender.called(CALL)
        assert heard(theirs) == b"fetched bytesend of it "


async def test_it_waits_for_a_moment_only() -> None:
    async with joined() as (sender, theirs, _):
        sender.calls(CALL)
        sender.bulk(b"fetched", b"", FETCH)
        loop = asyncio.get_running_loop()
        assert await asyncio.wait_for(loop.sock_recv(theirs, 100), 20) == b"fetched"


async def test_calls_without_end_do_not_stop_what_the_box_fetches() -> None:
    async with joined() as (sender, theirs, _):
        for number in range(1, 4 * int(BUDGET / MOMENT), 2):
            sender.calls(number)
            await asyncio.sleep(MOMENT)
        sender.bulk(b"fetched", b"", FETCH)
        assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(theirs, 100), 20) == b"fetched"


async def test_all_of_it_arrives_in_order_where_the_socket_is_full() -> None:
    payloads = [bytes([number]) * (FRAME - number) for number in range(20)]
    async with joined() as (sender, theirs, _):
        for payload in payloads:
            sender.bulk(head_of_data(FETCH, 0, len(payload)), memoryview(payload), FETCH)
        sender.control(encode({"t": "end", "s": FETCH}), FETCH)
        decoder = Decoder()
        frames: list[tuple[dict[str, Any], bytes]] = []
        while not frames or frames[-1][0]["t"] != "end":
            data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(theirs, 50_000), 20)
            frames += decoder.feed(data)
        assert [payload for _, payload in frames] == [*payloads, b""]


async def test_a_socket_that_is_gone_is_told_once() -> None:
    async with joined() as (sender, theirs, failures):
        theirs.close()
        sender.control(b"hello")
        sender.control(b"hello?")
        assert [type(failure) for failure in failures] == [BrokenPipeError]


@pytest.mark.parametrize("size", [1, FRAME])
def test_a_frame_of_data_is_what_any_encoder_makes_of_it(size: int) -> None:
    payload = b"x" * size
    ours = Decoder().feed(head_of_data(5, 1, size) + payload)
    assert ours == Decoder().feed(encode({"t": "data", "s": 5, "c": 1}, payload))
