"""What several sessions came to, side by side: what each changed, which of it is the same, what each said and cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from runner.dataclass import dataclass
from runner.events import Event, Forked, PromptGiven, TurnEnded

UNKNOWN = "?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one session came to, in its turns since it was forked (all of them, where it was not). `cost`: None where
    a model's price is not known.
    """

    session: str
    turns: int
    cost: float | None
    reply: str

    @classmethod
    def read(cls, session: str, path: Iterable[Event]) -> Outcome:
        """From the records that its history is made of."""
        turns, reply, costs = 0, "", list[float | None]()
        for event in path:
            match event.body:
                case Forked(direction="from"):
                    turns, reply, costs = 0, "", []
                case PromptGiven(source="user"):
                    turns += 1
                case TurnEnded() as body:
                    costs.append(body.cost)
                    reply = body.result or reply
                case _:
                    pass
        known = [cost for cost in costs if cost is not None]
        cost = round(sum(known), 6) if len(known) == len(costs) else None
        return cls(session=session, turns=turns, cost=cost, reply=reply)


def compare(outcomes: Sequence[Outcome], changes: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """`changes`: of each session, as `diff --json` has them. In `files` each path says what it is in which session
    (`version`: equal numbers are equal files, 0 the file as it was, None what was too large to be read), and
    whether it is the same in all.
    """
    paths = sorted({(row["root"], row["path"]) for rows in changes.values() for row in rows})
    found = {session: {(row["root"], row["path"]): row for row in rows} for session, rows in changes.items()}
    files = [_file(root, path, outcomes, found) for root, path in paths]
    return {"sessions": [asdict(outcome) for outcome in outcomes], "files": files}


def _file(
    root: str, path: str, outcomes: Sequence[Outcome], found: Mapping[str, Mapping[tuple[str, str], Mapping[str, Any]]]
) -> dict[str, Any]:
    versions: dict[str, int] = {}
    sides: dict[str, Any] = {}
    for outcome in outcomes:
        row = found[outcome.session].get((root, path))
        if row is None:
            sides[outcome.session] = {"kind": "", "added": 0, "removed": 0, "version": 0}
            continue
        digest = str(row["digest"])
        version = None if digest == UNKNOWN else versions.setdefault(digest, len(versions) + 1)
        sides[outcome.session] = {name: row[name] for name in ("kind", "added", "removed")} | {"version": version}
    numbers = [side["version"] for side in sides.values()]
    return {"root": root, "path": path, "same": len(set(numbers)) == 1 and None not in numbers, "sessions": sides}
