"""Masks in the layers of a session: what a box must not see is not in its layers at all.

On the overlay rung a directory of ours, `mask`, lies between the root and all that was written: an empty file that
nobody may read in the place of a hidden one, an empty opaque directory in the place of a hidden directory, a
cleaned copy of a git configuration. A whole copy has the same in the place of what was copied. Nothing that a
command does (renames, links, other namespaces, a mount that is replaced) brings back what is not there. What must
not be changed is mounted once more, read-only, over its place. `masks.json` keeps what is masked, so that changes,
applies and checkpoints pass it over, whoever asks for them later.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from sandbox.confined import open_root, parent_beneath, read_beneath, stat_beneath
from sandbox.copies import remove_beneath, remove_tree
from sandbox.errors import WorkspaceError
from sandbox.gitdir import is_git_dir
from sandbox.known import Known, read_known, write_known
from sandbox.layers import FILLED, MASK, Layer
from sandbox.marks import is_opaque, is_whiteout, make_opaque
from sandbox.masks import CONFIG_LIMIT, Found, Masks, find, without_logins
from sandbox.spec import Mount, Rung

MOST_KEPT = 1000  # each is a mount, and takes about a millisecond of the start
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Ground(Protocol):
    """Where layers lie: the part of `Places` that is needed here."""

    directory: Path

    def path(self, layer: Layer) -> Path:
        """A layer's own directory."""
        ...

    def top(self, layer: Layer) -> Path:
        """What was written in it."""
        ...

    def trees(self, layer: Layer) -> tuple[Path, ...]:
        """The frozen directories that it stands on."""
        ...

    def dress(self, source: Path, target: Path) -> None:
        """Give a directory of ours another's attributes."""
        ...


class Covers:
    """Of one session. `masks`: those in force, which the last `cover` took up. `remove`: takes away what this process
    may not. Everything blocks.
    """

    def __init__(self, ground: Ground, remove: Callable[[Path], None]) -> None:
        """Raises StoreError for a damaged or newer file."""
        self._ground = ground
        self._remove = remove
        self._file = ground.directory / "masks.json"
        self.masks, self._known = read_known(self._file)
        self.notes: tuple[str, ...] = ()

    def names(self, layer: Layer, path: str) -> bool:
        """Whether a path of a layer is masked: it is no change, is never applied and in no checkpoint."""
        if layer.host is None or not (self.masks or self._known):
            return False
        known = self._known.get(layer.name)
        if known is not None and (
            path in known.replaced or _within(path, known.hidden) or path in known.planted or _in(path, known.planted)
        ):
            return True
        return self.masks.hides(layer.at / path)

    def holds(self, layer: Layer, directory: str) -> bool:
        """Whether something masked lies beneath a directory of the host."""
        known = self._known.get(layer.name)
        return known is not None and any(
            _in(path, (directory,)) for path in (*known.hidden, *known.replaced, *known.planted)
        )

    def skipping(self, layer: Layer) -> Callable[[str], bool] | None:
        """`names` for one layer; None where nothing of it can be masked."""
        if layer.host is None or not (self.masks or self._known):
            return None
        return lambda path: self.names(layer, path)

    def appeared(self, layer: Layer, path: str) -> bool:
        """Whether the host has something at a path that is to be masked and is not yet."""
        known = self._known.get(layer.name)
        if known is None or layer.rung is not Rung.OVERLAY:
            return False
        full = layer.at / path
        if self.masks.hides(full):
            return not _within(path, known.hidden)
        return self.masks.keeps(full) and not _within(path, dict.fromkeys(known.kept, True))

    def stale(self, layers: Iterable[Layer]) -> list[str]:
        """The git configurations that have other contents by now than the ones that are shown instead of them."""
        found = []
        for layer in layers:
            if not self.masks.logins or layer.host is None or layer.rung is not Rung.OVERLAY:
                continue
            known = self._known.get(layer.name, Known())
            for path in {".git/config", *known.replaced}:
                clean, shown = _config(layer.host, path), _config(self._ground.path(layer) / MASK, path)
                if clean is not None and clean[0] != (shown[1] if shown else clean[1]):
                    found.append(f"{layer.host}/{path}")
        return found

    def cover(self, layers: Iterable[Layer], masks: Masks | None, skip: Callable[[Path], tuple[bytes, ...]]) -> None:
        """Mask all layers anew, while nothing stands on them. `masks` None: those of the last time. What a rule that is
        new here names is taken out of what the box wrote, too. Raises WorkspaceError.
        """
        masks = self.masks if masks is None else masks
        if not masks and not self._known and not self.masks:
            return
        changed = masks != self.masks or not self._file.exists()
        self.masks, notes = masks, list[str]()
        for layer in layers:
            if layer.host is None:
                continue
            try:
                self._cover(layer, layer.host, skip(layer.host), changed=changed, notes=notes)
            except OSError as error:
                raise WorkspaceError(f"what policy hides in {layer.host} cannot be masked: {error}") from error
        self.notes = tuple(notes)
        write_known(self._file, self.masks, self._known)

    def shade(self, layer: Layer, upper: Path, trees: Iterable[Path]) -> None:
        """Put placeholders into an upper directory that is not mounted, over what frozen directories hold of what is
        hidden by now. Raises OSError.
        """
        if layer.host is None or not self.masks:
            return
        known = self._known.setdefault(layer.name, Known())
        for tree in trees:
            found = find(tree, layer.at, self.masks, git=is_git_dir(layer.host))
            for path, data in found.replaced.items():
                if self._plant(upper, path, is_directory=False, data=data, above=tree):
                    known.planted.append(path)
            for path, is_directory in found.hidden.items():
                if is_whiteout(tree / path):
                    continue
                if self._plant(upper, path, is_directory=is_directory, above=tree):
                    known.planted.append(path)
        write_known(self._file, self.masks, self._known)

    def mounts(self, layer: Layer) -> tuple[Mount, ...]:
        """What is mounted once more, read-only. Of what the session changed itself, and of directories with something
        hidden in them, nothing is but what lies beside that.
        """
        known = self._known.get(layer.name)
        if known is None or not known.kept or layer.remote or layer.host is None:
            return ()
        found: list[Mount] = []
        top = layer.host if layer.rung is Rung.OVERLAY else self._ground.top(layer)
        for path in (each for kept in known.kept for each in self._whole(layer, top, kept, known)):
            if len(found) >= MOST_KEPT:
                self.notes += (f"{layer.host}: more than {MOST_KEPT} places to keep: the others are advisory",)
                break
            source, at = top / path, layer.at / path
            if all(
                char >= " " and char not in '\x7f:,"' and not "\ud800" <= char <= "\udfff" for char in f"{source}{at}"
            ):
                found.append(Mount(volume=str(source), at=at, read_only=True))
        return tuple(found)

    def _cover(self, layer: Layer, host: Path, skip: tuple[bytes, ...], *, changed: bool, notes: list[str]) -> None:
        before = self._known.get(layer.name, Known())
        changed = changed or before.rung != layer.rung.value
        git = is_git_dir(host)
        if layer.remote:
            found = self._cover_remote(layer, host, skip, before, changed=changed and bool(before.rung))
        elif layer.rung is Rung.OVERLAY:
            found = find(host, layer.at, self.masks, skip=skip, git=git) if self.masks else Found()
            self._build(layer, host, found)
            if changed:
                before.planted += self._purge(layer, git=git)
        else:
            found = find(self._ground.top(layer), layer.at, self.masks, git=git) if self.masks else Found()
            if changed:
                before.planted += self._fill(self._ground.top(layer), found)
        notes += [f"{host}/{path} cannot be read by you: it is hidden as a whole" for path in found.unread]
        self._known[layer.name] = Known(
            rung=layer.rung.value,
            hidden=dict(found.hidden),
            replaced=list(found.replaced),
            kept=list(found.kept),
            planted=list(dict.fromkeys(before.planted)),
        )
        if changed and layer.rung is Rung.OVERLAY and not layer.remote:
            self.shade(layer, self._ground.top(layer), self._ground.trees(layer))

    def _cover_remote(
        self, layer: Layer, host: Path, skip: tuple[bytes, ...], before: Known, *, changed: bool
    ) -> Found:
        if (self._ground.path(layer) / FILLED).exists():
            if changed and self.masks:
                raise WorkspaceError(
                    f"policy hides something else in {host} by now, and its copy is on another machine",
                    hint="begin a new session, or put the settings back",
                )
            return Found(hidden=before.hidden, replaced=dict.fromkeys(before.replaced, b""))
        found = find(host, layer.at, self.masks, skip=skip, git=is_git_dir(host))
        before.planted += [*found.hidden, *found.replaced]
        return found

    def contents(self, layer: Layer) -> Mapping[str, bytes | None]:
        """What a copy that is sent elsewhere has in the place of what is masked: a file's bytes, None for a hidden
        one or a hidden directory.
        """
        known = self._known.get(layer.name, Known())
        made: dict[str, bytes | None] = dict.fromkeys(known.hidden)
        for path in known.replaced:
            config = _config(layer.host, path) if layer.host is not None else None
            made[path] = config[0] if config else None
        return made

    def _build(self, layer: Layer, host: Path, found: Found) -> None:
        """The directory between root and upper directory, made anew."""
        mask = self._ground.path(layer) / MASK
        for left in remove_tree(mask):
            self._remove(left)
        remove_tree(mask)
        if not (found.hidden or found.replaced):
            return
        new = mask.with_name(f"{MASK}.new")
        remove_tree(new)
        new.mkdir(mode=0o700)
        parents: dict[str, None] = {"": None}
        for path in sorted((*found.hidden, *found.replaced)):
            for parent in _parents(path):
                if parent not in parents:
                    parents[parent] = None
                    (new / parent).mkdir(mode=0o700)
        for path, is_directory in found.hidden.items():
            if is_directory:
                (new / path).mkdir(mode=0o700)
                make_opaque(new / path)
            else:
                os.close(os.open(new / path, _NEW, 0))
        for path, data in found.replaced.items():
            (new / path).write_bytes(data)
            self._ground.dress(host / path, new / path)
        for parent in sorted(parents, reverse=True):
            self._ground.dress(host / parent, new / parent)
        new.rename(mask)

    def _purge(self, layer: Layer, *, git: bool) -> list[str]:
        """Take out of an upper directory what is hidden by now; configurations are cleaned. What was cleaned."""
        top, cleaned = self._ground.top(layer), list[str]()
        found = find(top, layer.at, self.masks, git=git) if self.masks else Found()
        root = open_root(top)
        try:
            for path in found.hidden:
                if not is_whiteout(top / path):
                    with parent_beneath(root, path) as (parent, name):
                        remove_beneath(parent, name)
        finally:
            os.close(root)
        cleaned += self._fill(top, Found(replaced=found.replaced))
        return cleaned

    def _fill(self, top: Path, found: Found) -> list[str]:
        """Put placeholders into a copy, in the place of what is hidden; what was put."""
        done = [path for path, kind in found.hidden.items() if self._plant(top, path, is_directory=kind)]
        for path, data in found.replaced.items():
            if self._plant(top, path, is_directory=False, data=data):
                done.append(path)
        return done

    def _plant(
        self, top: Path, path: str, *, is_directory: bool, data: bytes | None = None, above: Path | None = None
    ) -> bool:
        """A placeholder in a directory that a box wrote: no link is followed. `above`: where directories that are
        missing above it are as they should be. False where its directory is none here (any more).
        """
        root = open_root(top)
        try:
            for parent in _parents(path) if above is not None else ():
                if not _exists(root, parent):
                    assert above is not None
                    with parent_beneath(root, parent) as (directory, name):
                        os.mkdir(name, 0o700, dir_fd=directory)
                    self._ground.dress(above / parent, top / parent)
            with parent_beneath(root, path) as (directory, name):
                seen = os.stat(name, dir_fd=directory, follow_symlinks=False) if _exists(root, path) else None
                if not remove_beneath(directory, name):
                    self._remove(top / path)
                if is_directory:
                    os.mkdir(name, 0o700, dir_fd=directory)
                    make_opaque(Path(f"/proc/self/fd/{directory}/{os.fsdecode(name)}"))
                    return True
                opened = os.open(name, _NEW, 0 if data is None else 0o600, dir_fd=directory)
                try:
                    if data is not None and seen is not None:
                        os.write(opened, data)
                        os.fchmod(opened, stat.S_IMODE(seen.st_mode) & 0o777)
                        with suppress(PermissionError):
                            os.fchown(opened, seen.st_uid, seen.st_gid)
                finally:
                    os.close(opened)
                return True
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
                return False
            raise
        finally:
            os.close(root)

    def _whole(self, layer: Layer, top: Path, path: str, known: Known) -> Iterator[str]:
        """A place beneath `top` as a whole, or, of a directory in which something is masked or changed, what lies
        beside that.
        """
        if _within(path, known.hidden) or path in known.replaced:
            return
        own = self._written(layer, path)
        try:
            mode = (top / path).lstat().st_mode
        except OSError:
            return
        if own is None or not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            return
        masked = any(_in(each, (path,)) for each in (*known.hidden, *known.replaced))
        if not masked and not own:
            yield path
        elif stat.S_ISDIR(mode):
            for name in sorted(os.listdir(top / path)):  # noqa: PTH208 (names only)
                yield from self._whole(layer, top, f"{path}/{name}", known)

    def _written(self, layer: Layer, path: str) -> bool | None:
        """Whether the session wrote in a place (a file of its own cannot be mounted: None), or has nothing there."""
        if layer.rung is not Rung.OVERLAY:
            root = open_root(self._ground.top(layer))
            try:
                seen = stat_beneath(root, path)
            except OSError:
                return None
            finally:
                os.close(root)
            return False if stat.S_ISREG(seen.st_mode) or stat.S_ISDIR(seen.st_mode) else None
        written = False
        for tree in (self._ground.top(layer), *self._ground.trees(layer)):
            for place in (*_parents(path), path):
                try:
                    seen = (tree / place).lstat()
                except OSError:
                    break
                if not stat.S_ISDIR(seen.st_mode) or is_opaque(tree / place):
                    return None
                written = written or place == path
        return written


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def _within(path: str, places: Mapping[str, object]) -> bool:
    """Whether a path is one of the places or lies beneath one."""
    return path in places or any(parent in places for parent in _parents(path))


def _in(path: str, places: Iterable[str]) -> bool:
    return any(path.startswith(place + "/") for place in places)


def _exists(root: int, path: str) -> bool:
    try:
        stat_beneath(root, path)
    except OSError:
        return False
    return True


def _config(top: Path, path: str) -> tuple[bytes, bytes] | None:
    """A git configuration without its logins, and as it is."""
    data = read_beneath(top, path, CONFIG_LIMIT) if top.is_dir() else None
    return None if data is None else (without_logins(data), data)
