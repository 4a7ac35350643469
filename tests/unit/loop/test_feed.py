"""Readers: each sees every record in order, and none holds the session up."""

from __future__ import annotations

import asyncio

from runner.events import Event, TextDelta, TurnStarted
from runner.journal import MemoryJournal
from runner.loop.feed import BACKLOG, Feed, is_live


def feed_of(journal: MemoryJournal) -> Feed:
    return Feed(journal, lambda: 4)


async def collect(feed: Feed, after: int = -1) -> list[Event]:
    return [event async for event in feed.events(after)]


async def test_a_reader_gets_the_past_and_then_what_happens() -> None:
    journal = MemoryJournal("s")
    feed = feed_of(journal)
    journal.append(TurnStarted(number=0))
    journal.append(TurnStarted(number=1))
    reader = asyncio.create_task(collect(feed, after=0))
    await asyncio.sleep(0)
    journal.append(TurnStarted(number=2))
    await asyncio.sleep(0)
    journal.append(TurnStarted(number=3))
    feed.close()
    assert [event.seq for event in await reader] == [1, 2, 3]


async def test_live_events_come_between_the_records_they_came_between() -> None:
    journal = MemoryJournal("s")
    feed = feed_of(journal)
    reader = asyncio.create_task(collect(feed))
    await asyncio.sleep(0)
    journal.append(TurnStarted(number=0))
    feed.show(TextDelta(text="a"), "p", 0)
    feed.show(TextDelta(text="b"), "p", 1)
    journal.append(TurnStarted(number=1))
    feed.close()
    events = await reader
    assert [(is_live(e), e.seq) for e in events] == [(False, 0), (True, 0), (True, 1), (False, 1)]
    assert (events[1].id, events[1].parent, events[1].turn) == ("p.0", "p", 4)


async def test_a_slow_reader_loses_live_events_only() -> None:
    journal = MemoryJournal("s")
    feed = feed_of(journal)
    events = feed.events()
    journal.append(TurnStarted(number=0))
    seen = [await anext(events)]
    for number in range(1, 3 * BACKLOG):
        journal.append(TurnStarted(number=number))
        feed.show(TextDelta(text="x"), "p", number)
    feed.close()
    seen += [event async for event in events]
    assert [e.seq for e in seen if not is_live(e)] == list(range(3 * BACKLOG))
    assert len([e for e in seen if is_live(e)]) < BACKLOG


async def test_readers_do_not_disturb_each_other_and_one_that_leaves_is_forgotten() -> None:
    journal = MemoryJournal("s")
    feed = feed_of(journal)
    journal.append(TurnStarted(number=0))
    async for event in feed.events():
        assert event.seq == 0
        break
    both = asyncio.gather(collect(feed), collect(feed))
    await asyncio.sleep(0)
    journal.append(TurnStarted(number=1))
    feed.close()
    first, second = await both
    assert first == second == list(journal.read())


async def test_a_closed_feed_still_tells_what_is_there() -> None:
    journal = MemoryJournal("s")
    feed = feed_of(journal)
    journal.append(TurnStarted(number=0))
    feed.close()
    assert len(await collect(feed)) == 1


async def test_known_secrets_are_not_shown_live() -> None:
    journal = MemoryJournal("s")
    journal.secrets.add("key", "sk-123456")
    feed = feed_of(journal)
    reader = asyncio.create_task(collect(feed))
    await asyncio.sleep(0)
    feed.show(TextDelta(text="it is sk-123456"), "p", 0)
    feed.close()
    assert [e.body for e in await reader] == [TextDelta(text="it is [secret:key]")]
