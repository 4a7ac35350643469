"""Feed: any number of readers of one session's events, none of which can hold the session up.

A reader gets every record, in order, from the journal or live, and the live deltas while it keeps
up. One that falls behind loses deltas only: it goes on from the journal.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from runner.events import RECORD_VERSION, Event, Live
from runner.journal import Journal

BACKLOG = 1000
PAGE = 200


def is_live(event: Event) -> bool:
    """Whether the event is shown only, not journalled: its `seq` counts within its parent."""
    return not event.hash


class _Reader:
    __slots__ = ("closed", "queue", "wake")

    def __init__(self) -> None:
        self.queue: deque[Event] = deque()
        self.wake = asyncio.Event()
        self.closed = False


class Feed:
    """Subscribes to the journal; `show` is for live events, which belong to the `turn` of the moment."""

    def __init__(self, journal: Journal, turn: Callable[[], int]) -> None:
        self._journal = journal
        self._turn = turn
        self._readers: set[_Reader] = set()
        self._closed = False
        journal.on_append.append(self.publish)

    def publish(self, event: Event) -> None:
        """Hand an event to every reader; never waits."""
        for reader in self._readers:
            if len(reader.queue) >= BACKLOG:
                reader.queue.clear()  # the records among them come from the journal
            reader.queue.append(event)
            reader.wake.set()

    def show(self, body: Live, parent: str, number: int) -> None:
        """Publish a live event, the `number`th within the record `parent` that it grows into."""
        hide = self._journal.secrets.hide
        hidden = {name: hide(getattr(body, name)) for name in body.__slots__}
        self.publish(
            Event(
                v=RECORD_VERSION,
                seq=number,
                id=f"{parent}.{number}",
                at=self._journal.clock(),
                session=self._journal.session,
                agent="main",
                turn=self._turn(),
                parent=parent,
                cause=hidden.get("call", ""),
                body=type(body)(**hidden),
            )
        )

    async def events(self, after: int = -1) -> AsyncIterator[Event]:
        """Records with seq > `after`, those of the past first, and live events; ends when closed."""
        reader = _Reader()
        reader.closed = self._closed
        self._readers.add(reader)
        upcoming = max(after, -1) + 1
        try:
            while True:
                if reader.queue and (is_live(reader.queue[0]) or reader.queue[0].seq <= upcoming):
                    event = reader.queue.popleft()
                    if is_live(event):
                        yield event
                    elif event.seq == upcoming:
                        upcoming += 1
                        yield event
                elif upcoming <= self._journal.last_seq:
                    for event in list(self._journal.read(after=upcoming - 1, limit=PAGE)):
                        upcoming = event.seq + 1
                        yield event
                    await asyncio.sleep(0)
                elif reader.closed:
                    return
                else:
                    reader.wake.clear()
                    await reader.wake.wait()
        finally:
            self._readers.discard(reader)

    def close(self) -> None:
        """Readers end once they have read what is there."""
        self._closed = True
        for reader in self._readers:
            reader.closed = True
            reader.wake.set()
