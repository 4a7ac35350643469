"""What our `dataclass` makes is used as what the standard library's makes, in all that this code does with it."""

import copy
import dataclasses
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict, field, replace
from typing import Any

import pytest

from runner.dataclass import dataclass

FORMS: list[dict[str, bool]] = [
    {"frozen": frozen, "slots": slots, "kw_only": kw_only, "eq": eq}
    for frozen in (True, False)
    for slots in (True, False)
    for kw_only in (True, False)
    for eq in (True, False)
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """At the top of a module, as pickle wants it."""

    x: int
    names: tuple[str, ...] = ()


def defined(make: Callable[..., Any], form: dict[str, bool]) -> Any:
    @make(**form)
    class Thing:
        """One of each kind of field."""

        must: int
        may: str = "as it is"
        each: list[int] = field(default_factory=list, hash=False)
        hidden: bytes = field(default=b"", repr=False)
        beside: int = field(default=0, compare=False)
        unhashed: dict[str, int] = field(default_factory=dict, hash=False)
        own: int = field(default=7, init=False)
        made: list[int] = field(default_factory=lambda: [1], init=False, compare=False)

    return Thing


def outcome(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except (TypeError, AttributeError, FrozenInstanceError) as error:
        return type(error)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: ",".join(k for k, v in form.items() if v) or "plain")
def test_what_is_made_behaves_as_the_standard_librarys(form: dict[str, bool]) -> None:
    ours, theirs = defined(dataclass, form), defined(dataclasses.dataclass, form)

    def told(kind: Any) -> list[Any]:
        def changed(name: str) -> Any:
            one = kind(must=1)
            setattr(one, name, 2)
            return getattr(one, name)

        def without(name: str) -> Any:
            one = kind(must=1)
            delattr(one, name)
            return getattr(one, name)

        return [
            repr(kind(must=1, may="x", hidden=b"y", beside=3)),
            asdict(kind(must=1, each=[1, 2])),
            asdict(replace(kind(must=1), must=2)),
            asdict(copy.deepcopy(kind(must=1, each=[3]))),
            kind(must=1).each is kind(must=1).each,
            kind(must=1) == kind(must=1, beside=9),
            kind(must=1) == kind(must=2),
            kind(must=1) == asdict(kind(must=1)),
            kind(must=1).__eq__(1),
            outcome(lambda: asdict(kind(1, "b"))),
            outcome(kind),
            outcome(lambda: kind(must=1, none=2)),
            outcome(lambda: kind(must=1, own=2)),
            outcome(lambda: changed("must")),
            isinstance(outcome(lambda: changed("none")), type),  # theirs is at times a TypeError of super()
            outcome(lambda: without("must")),
            outcome(lambda: hash(kind(must=1)) == hash(kind(must=1))),
            kind.__match_args__,
            getattr(kind, "__slots__", None),
            [each.name for each in dataclasses.fields(kind)],
        ]

    assert told(ours) == told(theirs)


def test_equal_ones_are_one_key() -> None:
    assert {Point(x=1): "one"}[Point(x=1)] == "one"
    assert len({Point(x=1), Point(x=1, names=("a",))}) == 2


def test_a_pickled_one_comes_back() -> None:
    assert pickle.loads(pickle.dumps(Point(x=1, names=("a",)))) == Point(x=1, names=("a",))


def test_own_methods_stay() -> None:
    @dataclass(frozen=True, slots=True)
    class Named:
        """With its own."""

        name: str

        def __post_init__(self) -> None:
            if not self.name:
                raise ValueError("no name")

        def __repr__(self) -> str:
            return f"<{self.name}>"

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Named) and other.name.lower() == self.name.lower()

        def __hash__(self) -> int:
            return hash(self.name.lower())

    assert (repr(Named("a")), Named("a") == Named("A"), len({Named("a"), Named("A")})) == ("<a>", True, 1)
    with pytest.raises(ValueError, match="no name"):
        Named("")


def test_one_that_adds_to_another_takes_both_fields() -> None:
    @dataclass(slots=True)
    class Below(Held):
        """More than the one above."""

        more: int = 2

    assert Below(1).more == 2
    assert repr(Below(1, 3)) == f"{Below.__qualname__}(one=1, more=3)"
    assert Below(1) != Held(1)


@dataclass(slots=True)
class Held:
    """What is added to."""

    one: int
