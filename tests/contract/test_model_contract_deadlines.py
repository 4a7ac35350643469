"""A provider that hangs or trickles, a machine that slept, and a reader that is slow or goes."""

from __future__ import annotations

import asyncio

import pytest

from runner.errors import (
    BrokenStreamError,
)
from runner.models.base import Delta, Finished, Started, TextPart
from runner.models.deadlines import boot_clock
from runner.models.script import ScriptedReply
from tests.support.claude import REPLY, REQUEST, claude, claude_at, drain, failure, play, said, until
from tests.support.model_server import ModelServer, WireReply, wire_reply


async def test_a_provider_that_hangs_before_it_answers_is_given_up() -> None:
    caught = await failure(said(delay=30), API_TIMEOUT_MS="50")
    assert isinstance(caught, BrokenStreamError)
    assert "the provider's answer" in str(caught)


async def test_a_provider_that_hangs_in_mid_stream_is_given_up_with_what_came() -> None:
    at = REPLY.body.index(b"event: content_block_start", 600)
    caught = await failure(said(stop_at=at, then="hang"), CLAUDE_STREAM_IDLE_TIMEOUT_MS="300")
    assert isinstance(caught, BrokenStreamError)
    assert "while waiting for the reply" in str(caught)
    assert [block["type"] for block in caught.partial] == ["thinking"]


async def test_a_reply_that_trickles_on_for_ever_is_given_up_at_the_total() -> None:
    caught = await failure(said(chunk=1, pace=0.01), API_TIMEOUT_MS="100")
    assert isinstance(caught, BrokenStreamError)


async def test_a_machine_that_slept_for_an_hour_gives_the_stream_up_at_its_next_tick() -> None:
    asleep = 0.0
    server = ModelServer([said(stop_at=700, then="hang"), REPLY])
    async with server, claude_at(server, lambda: boot_clock() + asleep, tick=0.02) as model:
        deltas: list[Delta] = []
        task = asyncio.ensure_future(drain(model, deltas))
        await until(lambda: len(deltas) > 1 or task.done())
        assert isinstance(deltas[0], Started)
        asleep = 1800.0
        with pytest.raises(BrokenStreamError, match=r"nothing came for 18\d\d s while waiting for the reply"):
            await task
        asleep = 1801.0
        assert isinstance((await play(model))[-1], Finished)


async def test_a_machine_that_slept_before_the_next_event_was_asked_for_gives_up_too() -> None:
    asleep = 0.0
    server = ModelServer([said(stop_at=700, then="hang")])
    async with server, claude_at(server, lambda: boot_clock() + asleep, tick=0.02) as model:
        stream = model.stream(REQUEST)
        await anext(stream)
        asleep = 7200.0
        with pytest.raises(BrokenStreamError, match="took longer than it may"):
            _ = [delta async for delta in stream]


async def test_a_connection_that_was_kept_over_a_long_sleep_is_not_used_again() -> None:
    asleep = 0.0
    server = ModelServer([REPLY, REPLY])
    async with server, claude_at(server, lambda: boot_clock() + asleep) as model:
        await play(model)
        asleep = 3600.0
        await play(model)
        assert server.connections == 2


async def test_a_slow_reader_is_not_taken_for_a_slow_provider() -> None:
    body = wire_reply(ScriptedReply(text="x" * 200_000)).body
    async with (
        ModelServer([WireReply(body=body)]) as server,
        claude(server, CLAUDE_STREAM_IDLE_TIMEOUT_MS="60") as model,
    ):
        size = 0
        async for delta in model.stream(REQUEST):
            if isinstance(delta, Started):
                await asyncio.sleep(0.15)
            size += len(delta.text) if isinstance(delta, TextPart) else 0
    assert size == 200_000


async def test_a_stream_that_is_left_closes_its_connection() -> None:
    async with ModelServer([said(stop_at=500, then="hang"), REPLY]) as server, claude(server) as model:
        stream = model.stream(REQUEST)
        await anext(stream)
        await stream.aclose()
        await play(model)
        assert server.connections == 2


async def test_a_cancelled_request_closes_its_connection() -> None:
    async with ModelServer([said(delay=30), REPLY]) as server, claude(server) as model:
        task = asyncio.ensure_future(play(model))
        await until(lambda: server.requests)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert isinstance((await play(model))[-1], Finished)
