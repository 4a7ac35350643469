"""A connection's bytes: as they came, in order, with an end, and no more of them than there is room for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from sandbox.lines import WAITING, Line


@asynccontextmanager
async def joined() -> AsyncIterator[tuple[Line, asyncio.StreamReader, asyncio.StreamWriter]]:
    accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    server = await asyncio.start_server(lambda *ends: accepted.put_nowait(ends), "127.0.0.1", 0)
    line = await Line.open("127.0.0.1", server.sockets[0].getsockname()[1])
    reader, writer = await accepted.get()
    async with asyncio.timeout(20):
        try:
            yield line, reader, writer
        finally:
            line.abort()
            writer.transport.abort()
            server.close()


async def test_what_was_put_back_comes_first_and_then_the_end() -> None:
    async with joined() as (line, _, writer):
        writer.write(b"answer")
        first = await line.read()
        line.unread(first)
        writer.write_eof()
        assert (await line.read(), line.at_end) == (b"answer", False)
        assert (await line.read(), line.at_end) == (b"", True)


async def test_one_side_may_end_before_the_other() -> None:
    async with joined() as (line, reader, writer):
        line.write(b"question")
        line.write_end()
        assert await reader.read() == b"question"
        writer.write(b"answer")
        writer.close()
        assert await line.read() == b"answer"


async def test_nobody_reads_and_so_no_more_is_taken() -> None:
    async with joined() as (line, _, writer):
        whole = 64 * WAITING
        writer.write(bytes(whole))
        await asyncio.sleep(0.2)
        waiting = writer.transport.get_write_buffer_size()
        assert waiting > 0
        got = 0
        while got < whole:
            got += len(await line.read())
        assert got == whole


async def test_a_lost_connection_wakes_who_reads_and_who_writes() -> None:
    async with joined() as (line, _, writer):
        line.write(bytes(64 * WAITING))
        draining = asyncio.create_task(line.drain())
        reading = asyncio.create_task(line.read())
        await asyncio.sleep(0.05)
        assert not draining.done()
        line.abort()
        with pytest.raises(OSError, match="lost"):
            await draining
        assert await reading == b""
        with pytest.raises(OSError, match="lost"):
            await line.drain()
        writer.close()
