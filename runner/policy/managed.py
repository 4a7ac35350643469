"""Managed settings: the two places they lie in, and all that must hold of them before anything starts.

The places are constants: no flag, variable or setting moves them. Whatever is wrong with one file is wrong with the
whole: a session starts with all of the managed settings, or not at all.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import field
from datetime import UTC, date, datetime
from importlib import import_module
from pathlib import Path

from runner.dataclass import dataclass
from runner.effects import Source
from runner.errors import ManagedError, SettingsError
from runner.policy.documents import Document, check_owner, parse, read_file
from runner.policy.layers import Loaded

KEYS_FILE = "managed-keys.pub"
SIGNATURE = ".minisig"


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where managed settings lie, and the uid that they must belong to."""

    fumehood: Path = Path("/etc/fumehood")
    claude: Path = Path("/etc/claude-code")
    owner: int = 0


PLACES = Places()


@dataclass(frozen=True, slots=True, kw_only=True)
class Managed:
    """What was read. `serials`: of each file that has one. `stamp`: changes when anything there does."""

    loaded: tuple[Loaded, ...] = ()
    serials: dict[str, int] = field(default_factory=dict)
    stamp: tuple[tuple[str, ...], ...] = ()


def stamp(places: Places) -> tuple[tuple[str, ...], ...]:
    """What `stat` says of all that lies in the managed places; cheap enough for every turn."""
    return tuple(sorted(_stamps(places)))


def _stamps(places: Places) -> Iterator[tuple[str, ...]]:
    for place in (str(places.fumehood), str(places.claude)):
        for path in (place, f"{place}/managed-settings.d"):
            try:
                names = sorted(os.listdir(path))  # noqa: PTH208 (twice in each round of calls: Path takes five times as long)
            except OSError as error:
                yield path, str(error.errno)
                continue
            for name in (".", *names):
                full = f"{path}/{name}"
                try:
                    found = os.lstat(full)
                except OSError as error:
                    yield full, str(error.errno)
                else:
                    seen = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_mode)
                    yield full, *map(str, seen)


def read_managed(places: Places, *, now: datetime, seen: Mapping[str, int]) -> Managed:
    """Everything in both places. `seen`: the highest serial number of each file so far. Raises ManagedError."""
    try:
        return _read(places, now, seen)
    except SettingsError as error:
        raise ManagedError(
            error.problem, file=error.file, line=error.line, column=error.column, hint=error.hint
        ) from error


def _read(places: Places, now: datetime, seen: Mapping[str, int]) -> Managed:
    mark = stamp(places)
    keys = _pinned(places)
    loaded: list[Loaded] = []
    for number, (place, suffix) in enumerate(((places.fumehood, ".yaml"), (places.claude, ".json"))):
        for path in _files(place, suffix, places.owner):
            data = read_file(path, owner=places.owner, links=False)
            if data is None:
                raise SettingsError("vanished while it was read", file=str(path))
            if keys:
                _check_signature(path, data, keys, places.owner)
            loaded.append(_load(parse(data, str(path)), number))
    serials = {one.file: one.document.value["serial"] for one in loaded if "serial" in one.document.value}
    for one in loaded:
        _check_age(one.document, now, seen.get(one.file, -1))
    return Managed(loaded=tuple(loaded), serials=serials, stamp=mark)


def _files(place: Path, suffix: str, owner: int) -> Iterator[Path]:
    """The settings files of a place, in the order in which they are joined. Of ours, one under a name that is not
    read is not passed over.
    """
    if not _directory(place, owner):
        return
    main = place / f"managed-settings{suffix}"
    for other in (".yml", ".json") if suffix == ".yaml" else ():
        if os.path.lexists(main.with_suffix(other)):
            raise SettingsError(f"is not read here: name it {main.name}", file=str(main.with_suffix(other)))
    if os.path.lexists(main):
        yield main
    parts = place / "managed-settings.d"
    if _directory(parts, owner):
        for name in sorted(entry.name for entry in parts.iterdir()):
            if name.endswith(suffix) and not name.startswith("."):
                yield parts / name
            elif suffix == ".yaml" and not name.startswith(".") and not name.endswith(SIGNATURE):
                raise SettingsError(f"is not read here: name it *{suffix}, or take it away", file=str(parts / name))


def _directory(path: Path, owner: int) -> bool:
    """Whether it is there; then it must be a directory of the owner's, with nothing in it that is not."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise SettingsError(f"cannot be looked at: {error.strerror}", file=str(path)) from error
    if not stat.S_ISDIR(found.st_mode):
        raise SettingsError("is no directory", file=str(path))
    check_owner(found, owner, str(path))
    if not os.access(path, os.R_OK | os.X_OK):
        raise SettingsError("may not be read by you", file=str(path))
    return True


def _load(document: Document, place: int) -> Loaded:
    if place == 0:
        import_module("runner.policy.settings").check_shape(document)
        return Loaded(layer=Source.MANAGED, document=document, place=place)
    claude = import_module("runner.policy.claude")
    translated = claude.translate(document)
    if translated.unheld:
        where = translated.unheld[0]
        name, near = ".".join(map(str, where)), claude.meant(where)
        said = f"; did you mean {near!r}?" if near else ""
        raise document.error(f"{name} forbids something that this program does not know how to forbid{said}", where)
    idle = tuple((".".join(map(str, where)), document.mark(where)[0]) for where in translated.idle)
    return Loaded(layer=Source.MANAGED, document=translated.document, place=place, idle=idle)


def _pinned(places: Places) -> tuple[object, ...]:
    path = places.fumehood / KEYS_FILE
    if not _directory(places.fumehood, places.owner):
        return ()
    data = read_file(path, owner=places.owner, links=False)
    if data is None:
        return ()
    signing = import_module("runner.policy.signing")
    try:
        keys: tuple[object, ...] = signing.public_keys(data.decode())
    except ValueError as error:
        raise SettingsError(str(error), file=str(path)) from error
    return keys


def _check_signature(path: Path, data: bytes, keys: tuple[object, ...], owner: int) -> None:
    beside = path.with_name(path.name + SIGNATURE)
    signature = read_file(beside, owner=owner, links=False)
    if signature is None:
        raise SettingsError(f"is not signed: there is no {beside.name}, and a key is pinned", file=str(path))
    try:
        import_module("runner.policy.signing").verify(data, signature.decode(), keys)
    except ValueError as error:
        raise SettingsError(str(error), file=str(beside)) from error


def _check_age(document: Document, now: datetime, seen: int) -> None:
    serial, expires = document.value.get("serial"), document.value.get("expires")
    if expires is not None and now >= expiry(document):
        raise document.error(f"expired at {expires}", ("expires",))
    if seen >= 0 and (serial is None or serial < seen):
        named = "has no serial, and is older" if serial is None else f"is older (serial {serial})"
        raise document.error(f"{named} than one that was in force here (serial {seen})", ("serial",))


def expiry(document: Document) -> datetime:
    """When the file expires: an ISO time, of a date its beginning, UTC where no zone is named. Raises
    SettingsError.
    """
    text = document.value["expires"]
    try:
        try:
            found = datetime.fromisoformat(text)
        except ValueError:
            found = datetime.combine(date.fromisoformat(text), datetime.min.time())
    except ValueError as error:
        raise document.error(f"expires: {text!r} is no ISO date or time", ("expires",)) from error
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
