"""The settings chain of one session: which files there are, read with what each may be trusted with, and joined.

The user's and managed files are read by the user's own right; the repository's beneath its root without following
any link. Nothing of the repository is obeyed that loosens anything, unless exactly this content was trusted.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import field, replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path, PurePosixPath

from runner.dataclass import dataclass
from runner.effects import Source
from runner.errors import SettingsError, UsageError
from runner.journal import canonical
from runner.policy.documents import Document, parse, read_file, read_open
from runner.policy.layers import NEVER, UNTRUSTED, Entry, LeftOut, Loaded, Settings, join
from runner.policy.managed import PLACES, Managed, Places, read_managed
from runner.policy.trust import Grants, content_digest, read_serials
from sandbox.confined import open_file_beneath, open_root
from sandbox.gitdir import find_top

SOURCES = ("user", "project", "local")
_LEAVE_OUT = "mend it, or leave the repository's settings out: --setting-sources user"
_GONE = (errno.ENOENT, errno.ENOTDIR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """How the box sees the session's place; rules of files are read there."""

    home: PurePosixPath
    cwd: PurePosixPath | None = None
    root: PurePosixPath | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """What was read. `workspace`: the directory that trust is about. `content`: the digest of what the repository
    would have interpreted, by file; empty where it has no settings. `watched`: every file of the user's and the
    repository's that counts or would; `stamp`: what they looked like before they were read.
    """

    settings: Settings
    managed: Managed
    workspace: Path
    content: Mapping[str, str] = field(default_factory=dict)
    others: tuple[Loaded, ...] = ()
    watched: tuple[Path, ...] = ()
    stamp: tuple[tuple[int, ...], ...] = ()

    @property
    def trusted(self) -> bool:
        """Whether exactly this content was trusted."""
        return self.settings.trusted

    @property
    def wants_trust(self) -> tuple[LeftOut, ...]:
        """What would count if the repository were trusted."""
        return tuple(left for left in self.settings.left_out if left.why == UNTRUSTED)

    @property
    def notes(self) -> tuple[str, ...]:
        """What does not count, each once, for the user."""
        lines = [
            f"{left.entry.where}: {left.entry.key} {_brief(left.entry)} does not count: it {left.why}"
            if not left.why.startswith(("managed", "the other"))
            else f"{left.entry.where}: {left.entry.key} {_brief(left.entry)} does not count: {left.why}"
            for left in self.settings.left_out
        ]
        for one in self.settings.loaded:
            if one.from_repository:
                lines += [
                    f"{one.file}:{line}: {key} does not count: it {NEVER}" for key, line in one.idle if _helps(key)
                ]
        return tuple(dict.fromkeys(lines))

    def after(self, before: Chain) -> Chain:
        """This chain in a session that began under another: what a repository that is not trusted said before goes on
        to count, for it can only have tightened.
        """
        if self.trusted:
            return self
        known = {one.document.digest for one in self.others}
        kept = (one for one in before.others if one.from_repository and one.document.digest not in known)
        others = (*self.others, *kept)
        return replace(self, settings=join((*self.managed.loaded, *others), trusted=False), others=others)


def _helps(key: str) -> bool:
    """Whether a key of Claude Code's would run something on the host, or send something elsewhere."""
    return key.endswith(("Helper", "Refresh", "CredentialExport")) or key in ("statusLine", "fileSuggestion")


def _brief(entry: Entry) -> str:
    if entry.key == "env":
        return "variables"
    plain = isinstance(entry.value, str) or entry.text != str(entry.value)
    text = repr(entry.text[:60]) if plain else json.dumps(entry.value)[:60]
    return text + ("…" if len(entry.text) > 60 else "")


def read_chain(
    cwd: Path,
    *,
    environ: Mapping[str, str],
    home: Path,
    state: Path,
    places: Places = PLACES,
    sources: tuple[str, ...] = SOURCES,
    given: str = "",
    seen: Seen | None = None,
    now: datetime | None = None,
) -> Chain:
    """The chain of a session that starts in `cwd` (absolute, resolved). `state`: `$FUMEHOOD_HOME`. `given`: what
    `read_given` made of `--settings`. Raises ManagedError, SettingsError.
    """
    managed = read_managed(places, now=now or datetime.now(UTC), seen=read_serials(state))
    found = find_top(cwd)
    top = found.top if found else cwd
    seen = seen or Seen(home=PurePosixPath("/home/box"))
    grants = Grants(state)
    names = {name for name, *_ in _names(top, cwd, sources, seen)}
    watched = (*sorted(top / name for name in names), *_of_user(environ, home), *grants.files)
    mark = stamp_of(watched)
    others: list[Loaded] = []
    if given:
        others.append(_unpacked(given))
    repository = list(_repository(top, cwd, sources, seen))
    others += repository
    if "user" in sources:
        others += _user(environ, home, seen)
    content = {one.file: one.document.digest for one in repository}
    trusted = bool(content) and grants.is_trusted(top, content_digest(content))
    settings = join((*managed.loaded, *others), trusted=trusted)
    return Chain(
        settings=settings,
        managed=managed,
        workspace=top,
        content=content,
        others=tuple(others),
        watched=watched,
        stamp=mark,
    )


def stamp_of(paths: tuple[Path, ...]) -> tuple[tuple[int, ...], ...]:
    """What `stat` says of each of them; cheap enough for every request to the model."""
    return tuple(map(_stamp, paths))


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError as error:
        return (error.errno or 0,)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_mode)


def _of_user(environ: Mapping[str, str], home: Path) -> tuple[Path, Path]:
    """The user's two files."""
    named = environ.get("XDG_CONFIG_HOME", "")
    ours = (Path(named) if named.startswith("/") else home / ".config") / "fumehood" / "settings.yaml"
    claude = Path(environ.get("CLAUDE_CONFIG_DIR") or home / ".claude")
    if not claude.is_absolute():
        raise UsageError(f"CLAUDE_CONFIG_DIR must be an absolute path, not {str(claude)!r}")
    return ours, claude / "settings.json"


def _user(environ: Mapping[str, str], home: Path, seen: Seen) -> Iterator[Loaded]:
    anchor = seen.home / ".claude"
    for path in _of_user(environ, home):
        data = read_file(path)
        if data is not None:
            yield _shaped(parse(data, _tilde(path, home)), Source.USER, anchor=anchor)


def _tilde(path: Path, home: Path) -> str:
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def _names(
    top: Path, cwd: Path, sources: tuple[str, ...], seen: Seen
) -> Iterator[tuple[str, Source, PurePosixPath, PurePosixPath | None]]:
    """The repository's files, from its top, each with its level, the directory that it is for, and the anchor."""
    if "local" in sources:
        yield ".claude/settings.local.json", Source.LOCAL, PurePosixPath(), seen.cwd
    for where in dict.fromkeys((PurePosixPath(cwd.relative_to(top)), PurePosixPath())) if "project" in sources else ():
        anchor = seen.root / where if seen.root is not None else None
        for name in (".claude/settings.json", "fumehood.yaml"):
            yield str(where / name), Source.PROJECT, where, anchor


def _repository(top: Path, cwd: Path, sources: tuple[str, ...], seen: Seen) -> Iterator[Loaded]:
    below = PurePosixPath(cwd.relative_to(top))
    wanted = tuple(_names(top, cwd, sources, seen))
    if not wanted:
        return
    try:
        root = open_root(top)
    except OSError:
        return
    try:
        for path, layer, where, anchor in wanted:
            data = _read_beneath(root, path)
            if data is not None:
                above = layer is Source.PROJECT and where != below
                yield _shaped(parse(data, path), layer, anchor=anchor, repository=True, above=above)
    except SettingsError as error:
        raise SettingsError(
            error.problem, file=error.file, line=error.line, column=error.column, hint=_LEAVE_OUT
        ) from error
    finally:
        os.close(root)


def _read_beneath(root: int, path: str) -> bytes | None:
    """None only where there is nothing: what cannot be read may have denied something."""
    try:
        fd = open_file_beneath(root, path)
    except OSError as error:
        if error.errno in _GONE:
            return None
        why = {errno.ELOOP: "is behind a symbolic link", errno.EINVAL: "is no regular file"}.get(error.errno or 0)
        raise SettingsError(why or f"cannot be read: {error.strerror}", file=path, hint=_LEAVE_OUT) from error
    try:
        return read_open(fd, path)
    finally:
        os.close(fd)


def _shaped(
    document: Document,
    layer: Source,
    *,
    anchor: PurePosixPath | None = None,
    repository: bool = False,
    above: bool = False,
) -> Loaded:
    """A document in our shape: ours as it is, Claude Code's (`*.json`) translated."""
    idle: tuple[tuple[str, int], ...] = ()
    if document.name.endswith(".json"):
        translated = import_module("runner.policy.claude").translate(document)
        document = translated.document
        idle = tuple((".".join(map(str, where)), document.mark(where)[0]) for where in translated.idle)
    else:
        import_module("runner.policy.settings").check_shape(document)
    return Loaded(layer=layer, document=document, anchor=anchor, from_repository=repository, above=above, idle=idle)


def read_given(text: str, cwd: Path) -> str:
    """`--settings FILE|JSON` as a session's spec carries it: the values without variables, each with its line.
    Raises SettingsError, UsageError.
    """
    if text.lstrip().startswith("{"):
        document = parse(text.encode(), "--settings")
    else:
        path = cwd / text
        data = read_file(path, name=text)
        if data is None:
            raise UsageError(f"--settings: there is no {text}")
        document = parse(data, str(path))
    ours = import_module("runner.policy.settings").PolicyFile.model_fields
    known = {info.alias or name for name, info in ours.items()}
    if document.name.endswith((".yaml", ".yml")) or document.value.keys() <= known:
        import_module("runner.policy.settings").check_shape(document)
    else:
        document = import_module("runner.policy.claude").translate(document).document
    values = {key: value for key, value in document.value.items() if key != "env"}
    marks = [[list(where), *mark] for where, mark in document.marks.items()]
    return canonical({"name": document.name, "value": values, "marks": marks, "digest": document.digest}).decode()


def _unpacked(given: str) -> Loaded:
    """Raises SettingsError for what `read_given` did not make: specs travel."""
    packed = parse(given.encode(), "spec.json").value
    try:
        marks = {tuple(where): (int(line), int(column)) for where, line, column in packed["marks"]}
        document = Document(
            name=str(packed["name"]), value=dict(packed["value"]), marks=marks, digest=str(packed["digest"])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SettingsError("the settings of this spec are damaged", file="spec") from error
    import_module("runner.policy.settings").check_shape(document)
    return Loaded(layer=Source.COMMAND_LINE, document=document)
