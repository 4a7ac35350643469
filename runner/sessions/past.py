"""The calls that past sessions made, as their journals hold them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from runner.events import body_to_json
from runner.policy.explain import Past, past_calls
from runner.sessions.specs import ground_of
from runner.sessions.store import Stored


def calls_of(stored: Stored, environ: Mapping[str, str]) -> Iterator[Past]:
    """Every call that was judged in the session, oldest first. Raises JournalError."""
    journal = import_module("runner.journal").Journal.view(stored.directory)
    records = ({"type": event.type} | body_to_json(event.body) for event in journal.read())
    place = ground_of(stored.spec, environ).place
    yield from past_calls(records, session=stored.session, place=place, mode=stored.spec.mode)
