"""`dataclass` as the standard library has it, several times quicker to define: what it generates, compiles and runs
for each class at its definition (a third of a start's time, for some hundred classes) is made here without code, and
`__init__` when a first object is. For the forms that this code uses: no `order`, no `InitVar`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError, fields
from dataclasses import dataclass as collect
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass  # what checkers are to see
else:

    def dataclass(cls=None, /, *, frozen=False, slots=False, kw_only=False, eq=True):  # noqa: ANN001, ANN201, D103
        def made(cls: type) -> type:
            return _complete(cls, frozen=frozen, slots=slots, kw_only=kw_only, eq=eq)

        return made if cls is None else made(cls)


def _complete(cls: type, *, frozen: bool, slots: bool, kw_only: bool, eq: bool) -> type:
    own = cls.__dict__
    if own.get("__doc__") is None:
        cls.__doc__ = f"{cls.__name__}."  # else the standard library writes the signature there, at a price
    init, shown, compared = "__init__" not in own, "__repr__" not in own, eq and "__eq__" not in own
    hashed = own.get("__hash__") is None
    cls = collect(init=False, repr=False, eq=False, slots=slots, kw_only=kw_only)(cls)
    held = fields(cls)
    if init:
        _add(cls, _first_init(cls, held, frozen=frozen))
    if shown:
        _add(cls, _repr(tuple(each.name for each in held if each.repr)))
    if eq:
        values = _values(tuple(each.name for each in held if each.compare))
        if compared:
            _add(cls, _eq(values))
        if hashed and frozen:
            _add(cls, _hash(_values(tuple(n.name for n in held if (n.compare if n.hash is None else n.hash)))))
        elif hashed:
            cls.__hash__ = None  # type: ignore[assignment]
    if frozen:
        _freeze(cls, tuple(each.name for each in held), slots=slots)
    return cls


def _add(cls: type, method: Any) -> None:
    method.__qualname__ = f"{cls.__qualname__}.{method.__name__}"
    setattr(cls, method.__name__, method)


def _first_init(cls: type, held: tuple[Field[Any], ...], *, frozen: bool) -> Callable[..., None]:
    def __init__(self: Any, *args: Any, **named: Any) -> None:  # noqa: N807
        made = _init(cls, held, frozen=frozen)
        _add(cls, made)
        made(self, *args, **named)

    return __init__


def _init(cls: type, held: tuple[Field[Any], ...], *, frozen: bool) -> Any:
    """The real one. Text of ours only is compiled: names of fields, which are identifiers."""
    scope: dict[str, Any] = {"_set": object.__setattr__, "_missing": MISSING}
    ordered = [each for each in held if each.init and not each.kw_only]
    named = [each for each in held if each.init and each.kw_only]
    lines = []
    for each in held:
        scope[f"_{each.name}"] = each.default if each.default_factory is MISSING else each.default_factory
        value = each.name
        if each.default_factory is not MISSING:
            made = f"_{each.name}()"
            value = f"{made} if {each.name} is _missing else {each.name}" if each.init else made
        elif not each.init:
            if each.default is MISSING or not hasattr(cls, "__slots__"):
                continue
            value = f"_{each.name}"
        lines.append(f" _set(self, {each.name!r}, {value})" if frozen else f" self.{each.name} = {value}")
    if hasattr(cls, "__post_init__"):
        lines.append(" self.__post_init__()")
    parameters = ["self", *map(_parameter, ordered), *(["*"] if named else []), *map(_parameter, named)]
    text = f"def __init__({', '.join(parameters)}):\n" + ("\n".join(lines) or " pass")
    exec(text, scope)  # noqa: S102
    return scope["__init__"]


def _parameter(each: Field[Any]) -> str:
    if each.default_factory is not MISSING:
        return f"{each.name}=_missing"
    return each.name if each.default is MISSING else f"{each.name}=_{each.name}"


def _values(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    if not names:
        return lambda _: ()
    got = attrgetter(*names)
    return got if len(names) > 1 else lambda one: (got(one),)


def _repr(names: tuple[str, ...]) -> Callable[[Any], str]:
    @recursive_repr()
    def __repr__(self: Any) -> str:  # noqa: N807
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__qualname__}({shown})"

    return __repr__


def _eq(values: Callable[[Any], tuple[Any, ...]]) -> Callable[[Any, object], bool]:
    def __eq__(self: Any, other: object) -> bool:  # noqa: N807
        return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

    return __eq__


def _hash(values: Callable[[Any], tuple[Any, ...]]) -> Callable[[Any], int]:
    def __hash__(self: Any) -> int:  # noqa: N807
        return hash(values(self))

    return __hash__


def _freeze(cls: type, names: tuple[str, ...], *, slots: bool) -> None:
    """As the standard library: `object.__setattr__` passes; slots are carried over by copies and pickles."""

    def __setattr__(self: Any, name: str, value: object) -> None:  # noqa: N807
        if type(self) is cls or name in names:
            raise FrozenInstanceError(f"cannot assign to field {name!r}")
        object.__setattr__(self, name, value)

    def __delattr__(self: Any, name: str) -> None:  # noqa: N807
        if type(self) is cls or name in names:
            raise FrozenInstanceError(f"cannot delete field {name!r}")
        object.__delattr__(self, name)

    def __getstate__(self: Any) -> list[Any]:  # noqa: N807
        return [getattr(self, name) for name in names]

    def __setstate__(self: Any, state: list[Any]) -> None:  # noqa: N807
        for name, value in zip(names, state, strict=True):
            object.__setattr__(self, name, value)

    for method in (__setattr__, __delattr__, *((__getstate__, __setstate__) if slots else ())):
        _add(cls, method)
