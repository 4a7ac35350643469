"""Sources of settings joined into one: every value with the level, file and line that it came from, and what was
left out with the reason. Pure; reading files is `runner.sessions.chain`'s and `runner.policy.managed`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import field
from functools import cached_property, lru_cache
from pathlib import PurePosixPath
from typing import Any

from runner.dataclass import dataclass
from runner.effects import Mode, RuleSource, Source
from runner.journal import digest
from runner.policy.documents import Document
from runner.policy.keys import BY_NAME, KEYS, STRICTNESS, How, Key, Scope

ORDER = (Source.MANAGED, Source.COMMAND_LINE, Source.LOCAL, Source.PROJECT, Source.USER)
NOT_MANAGED = "counts in managed settings only"
NEVER = "never counts from a repository"
UNTRUSTED = "counts once the repository is trusted (fumehood trust)"
RULES_LOCKED = "managed settings allow managed rules only"
HOSTS_LOCKED = "managed settings allow managed hosts only"
ABOVE = "counts for sessions that start where it stands"
OUTSIDE = ("WebFetch", "WebSearch", "Network")  # the tools whose rules let something leave
OTHER_PLACE = "the other place of managed settings does not allow it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """One file that counts as a source, in the shape of our own files. `place`: which of the managed places, 0 for
    the first. `from_repository`: the repository brought it; `above`: it stands above the directory that the session
    starts in. `anchor`: what `/path` starts at in its rules. `idle`: keys of Claude Code's without a meaning here,
    as `key` and line.
    """

    layer: Source
    document: Document
    place: int = 0
    from_repository: bool = False
    above: bool = False
    anchor: PurePosixPath | None = None
    idle: tuple[tuple[str, int], ...] = ()

    @property
    def file(self) -> str:
        """The file's name as the user knows it."""
        return self.document.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One value of a key (of a list: one element of it), and where it stands."""

    key: str
    value: Any
    source: RuleSource
    place: int = 0
    anchor: PurePosixPath | None = None
    from_repository: bool = False
    column: int = 1

    @property
    def where(self) -> str:
        """`file:line`, or the level where there is no file."""
        return f"{self.source.file}:{self.source.line}" if self.source.file else self.source.layer.value

    @property
    def text(self) -> str:
        """A list's element as text: a rule with examples is its rule, a background command its name and itself."""
        value = self.value
        if isinstance(value, dict) and "rule" in value:
            return str(value["rule"])
        return f"{value['name']}: {value['command']}" if self.key == "background" else str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A value that does not count, and why."""

    entry: Entry
    why: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Settings:
    """What all sources together say. `entries`: for each key what counts, highest source first."""

    loaded: tuple[Loaded, ...] = ()
    entries: dict[str, tuple[Entry, ...]] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()
    trusted: bool = False

    def all(self, key: str) -> tuple[Entry, ...]:
        """What counts of a key, highest source first."""
        return self.entries.get(key, ())

    def value(self, key: str) -> Any:
        """The effective value: of lists the elements as texts, None where nobody says anything."""
        entries = self.all(key)
        match BY_NAME[key].how:
            case How.UNION:
                return list(dict.fromkeys(entry.text for entry in entries))
            case How.COMMON:
                return list(dict.fromkeys(entry.text for entry in entries)) if entries or key in self._named else None
            case How.LOCK:
                return bool(entries)
            case _:
                return entries[0].value if entries else None

    @cached_property
    def _named(self) -> frozenset[str]:
        """Keys of lists that some managed source names, be what they have in common empty."""
        return frozenset(
            key.name
            for key in KEYS
            if key.how is How.COMMON
            and any(_get(one.document, key) is not None for one in self.loaded if _may(one, key))
        )

    def managed(self, key: str) -> tuple[Entry, ...]:
        """What managed settings say of a key."""
        return tuple(entry for entry in self.all(key) if entry.source.layer is Source.MANAGED)

    def locked(self, key: str) -> bool:
        """Whether a lock is on."""
        return bool(self.all(key))

    @cached_property
    def modes(self) -> frozenset[Mode]:
        """The modes that locks leave."""
        forced = self.value("forcedMode")
        if forced is not None:
            return frozenset({mode_of(forced)})
        gone = {Mode.BYPASS} if self.locked("permissions.disableBypassPermissionsMode") else set()
        gone |= {Mode.AUTO} if self.locked("permissions.disableAutoMode") else set()
        return frozenset(Mode) - gone

    @property
    def start_mode(self) -> Mode:
        """The mode that settings alone begin in: the highest source's outside the repository, else
        bypassPermissions; a repository's where it is stricter; and one that locks leave.
        """
        entries = self.all("permissions.defaultMode")
        own = [mode_of(entry.value) for entry in entries if not entry.from_repository]
        theirs = [mode_of(entry.value) for entry in entries if entry.from_repository and entry.value != "auto"]
        mode = min([own[0] if own else Mode.BYPASS, *theirs], key=strictness)
        if mode in self.modes:
            return mode
        return Mode.DEFAULT if Mode.DEFAULT in self.modes else min(self.modes, key=strictness)

    @cached_property
    def locks(self) -> tuple[str, ...]:
        """What managed settings lock, by key and value, for the policy's digest and for who asks."""
        found: list[str] = []
        for key in KEYS:
            entries = self.managed(key.name)
            if not entries or key.name in ("permissions.allow", "permissions.ask", "permissions.deny"):
                continue
            if key.how is How.LOCK:
                found.append(key.name)
            elif key.scope is Scope.MANAGED or key.how is How.COMMON or "limits." in key.name:
                found.append(f"{key.name}={','.join(sorted(entry.text for entry in entries))}")
        named = [f"{name}=" for name in sorted(self._named) if not self.all(name) and self._by_managed(name)]
        return (*found, *named)

    def _by_managed(self, name: str) -> bool:
        managed = (one for one in self.loaded if one.layer is Source.MANAGED)
        return any(_get(one.document, BY_NAME[name]) is not None for one in managed)

    @cached_property
    def env(self) -> dict[str, Entry]:
        """Variables of settings outside the repository; the highest source's value of each."""
        found: dict[str, Entry] = {}
        for one in self.loaded:
            if not one.from_repository:
                for name, value in one.document.value.get("env", {}).items():
                    found.setdefault(name, _entry(one, "env", value, ("env", name)))
        return found

    @property
    def cases(self) -> tuple[Entry, ...]:
        """The examples of every file that may be believed, each with its place. A repository's own say nothing."""
        return tuple(
            _entry(one, "cases", case, ("cases", number))
            for one in self.loaded
            if not one.from_repository
            for number, case in enumerate(one.document.value.get("cases", ()))
        )

    @property
    def digest(self) -> str:
        """Of every file that counts, whatever their order."""
        return digest(sorted([one.layer.value, one.file, one.document.digest] for one in self.loaded))


def mode_of(name: str) -> Mode:
    """The mode of a settings value; `manual` is another name of the default."""
    return Mode.DEFAULT if name == "manual" else Mode(name)


def strictness(mode: Mode) -> int:
    """Lower is stricter."""
    return STRICTNESS.index(mode.value)


def version_of(text: str) -> tuple[int, ...]:
    """A version to compare with another: 1.2 equals 1.2.0."""
    parts = [int(part) for part in text.split(".") if part.isdigit()]
    return tuple(parts + [0] * (4 - len(parts)))


@lru_cache(maxsize=16)
def join(loaded: tuple[Loaded, ...], *, trusted: bool) -> Settings:
    """All sources as one. Their order in `loaded` does not count, but that files of one managed place come in the
    order in which their names do (the last decides).
    """
    order = {id(one): number for number, one in enumerate(loaded)}
    ranked = sorted(loaded, key=lambda one: (ORDER.index(one.layer), one.place, -order[id(one)]))
    entries: dict[str, tuple[Entry, ...]] = {}
    left: list[LeftOut] = []
    for key in KEYS:
        found: list[Entry] = []
        for one in ranked:
            for entry in _entries(one, key):
                if why := _refusal(one, key, trusted=trusted):
                    left.append(LeftOut(entry=entry, why=why))
                else:
                    found.append(entry)
        naming = {one.place for one in ranked if one.layer is Source.MANAGED and _get(one.document, key) is not None}
        entries[key.name] = tuple(_joined(key, found, naming, left))
    left += [
        LeftOut(entry=_entry(one, "env", value, ("env", name)), why=NEVER)
        for one in ranked
        if one.from_repository
        for name, value in one.document.value.get("env", {}).items()
    ]
    _lock(entries, left)
    return Settings(loaded=loaded, entries=entries, left_out=tuple(left), trusted=trusted)


def _lock(entries: dict[str, tuple[Entry, ...]], left: list[LeftOut]) -> None:
    """Take out what managed locks forbid other sources to allow."""

    def drop(key: str, why: str, which: Callable[[Entry], bool]) -> None:
        kept: list[Entry] = []
        for entry in entries[key]:
            if entry.source.layer is not Source.MANAGED and which(entry):
                left.append(LeftOut(entry=entry, why=why))
            else:
                kept.append(entry)
        entries[key] = tuple(kept)

    if entries["allowManagedPermissionRulesOnly"]:
        drop("permissions.allow", RULES_LOCKED, lambda _: True)
        drop("network.allowedDomains", RULES_LOCKED, lambda _: True)
        drop("network.allow", RULES_LOCKED, lambda _: True)
        drop("registries", RULES_LOCKED, lambda _: True)
    if entries["network.allowManagedDomainsOnly"]:
        drop("network.allowedDomains", HOSTS_LOCKED, lambda _: True)
        drop("network.allow", HOSTS_LOCKED, lambda _: True)
        drop("registries", HOSTS_LOCKED, lambda _: True)
        drop("permissions.allow", HOSTS_LOCKED, lambda entry: entry.text.strip().startswith(OUTSIDE))


def _may(one: Loaded, key: Key) -> bool:
    return one.layer is Source.MANAGED or (key.scope is not Scope.MANAGED and not one.from_repository)


def _refusal(one: Loaded, key: Key, *, trusted: bool) -> str:
    """Why this source's value of the key does not count, "" where it does."""
    if one.layer is Source.MANAGED:
        return ""
    if key.scope is Scope.MANAGED:
        return NOT_MANAGED
    if one.from_repository and key.scope is Scope.OWN:
        return NEVER
    if one.above and key.scope is Scope.TRUSTED:
        return ABOVE
    if one.from_repository and key.scope is Scope.TRUSTED and not trusted:
        return UNTRUSTED
    return ""


def _get(document: Document, key: Key) -> Any:
    value: Any = document.value
    for part in key.where:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _entries(one: Loaded, key: Key) -> Iterator[Entry]:
    value = _get(one.document, key)
    if value is None or (key.how is How.LOCK and value is False):
        return
    if key.how in (How.UNION, How.COMMON):
        for number, element in enumerate(value):
            yield _entry(one, key.name, element, (*key.where, number))
    else:
        yield _entry(one, key.name, value, key.where)


def _entry(one: Loaded, key: str, value: Any, where: tuple[str | int, ...]) -> Entry:
    line, column = one.document.mark(where)
    return Entry(
        key=key,
        value=value,
        source=RuleSource(layer=one.layer, file=one.file, line=line),
        column=column,
        place=one.place,
        anchor=one.anchor,
        from_repository=one.from_repository,
    )


def _joined(key: Key, found: list[Entry], naming: set[int], left: list[LeftOut]) -> list[Entry]:
    """The entries that count, the effective one first where there is one. `naming`: the managed places that name
    the key, be it an empty list.
    """
    match key.how:
        case How.UNION if key.scope is Scope.TRUSTED:
            return _common(found, naming, left)
        case How.COMMON if naming:
            return [entry for entry in _common(found, naming, left) if entry.source.layer is Source.MANAGED]
        case How.STRICTEST:
            return sorted(found, key=lambda entry: strictness(mode_of(entry.value)))
        case How.LEAST:
            return sorted(found, key=lambda entry: version_of(entry.value))
        case How.MOST:
            return sorted(found, key=lambda entry: version_of(entry.value), reverse=True)
        case _:
            return found


def _common(found: list[Entry], naming: set[int], left: list[LeftOut]) -> list[Entry]:
    """Of lists of allowed things in both managed places, what stands in both; others' entries stay."""
    managed = [entry for entry in found if entry.source.layer is Source.MANAGED]
    texts = [{entry.text for entry in managed if entry.place == place} for place in naming]
    kept: list[Entry] = []
    for entry in found:
        if entry.source.layer is Source.MANAGED and not all(entry.text in each for each in texts):
            left.append(LeftOut(entry=entry, why=OTHER_PLACE))
        else:
            kept.append(entry)
    return kept
