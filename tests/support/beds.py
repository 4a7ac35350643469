"""Where the time machine's directory lies and how it is seen: layers of this machine without a box."""

from __future__ import annotations

import copy
import ctypes
import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any, Protocol

from sandbox.changes import Change
from sandbox.checkpoints import Checkpoints
from sandbox.copies import remove_tree
from sandbox.held import HeldBack
from sandbox.keeper import Keeper, KeeperImage
from sandbox.layers import Layer, overlay_options
from sandbox.places import Places
from sandbox.pool import Pool
from sandbox.roots import find_roots
from sandbox.selection import Selection
from sandbox.skeleton import own_places
from sandbox.spec import Owner, Rung
from sandbox.views import Views
from sandbox.walk import encode, walk
from tests.support import file_model as model
from tests.support.file_model import Node

START: model.Tree = {
    "a": Node("file", 0o644, b"one\ntwo\nthree\nfour\nfive\n"),
    "b": Node("file", 0o755, b"b one\nb two\nb three\n"),
    "d": Node("dir", 0o755),
    "d/x": Node("file", 0o644, b"x one\nx two\nx three\nx four\n"),
    "d/s": Node("dir", 0o750),
    "d/s/b": Node("file", 0o600, b"deep one\ndeep two\n"),
    "l": Node("link", target="a"),
}
OPTIONS = "userxattr,index=off,metacopy=off"


def write_tree(top: Path, tree: model.Tree) -> None:
    """Make a tree of the model."""
    for path, node in tree.items():
        place = top / path
        if node.kind == "dir":
            place.mkdir()
        elif node.kind == "link":
            place.symlink_to(node.target)
        else:
            place.write_bytes(node.data)
        if node.kind != "link":
            place.chmod(node.mode)


class Bed(Protocol):
    """Where the box's directory is seen. `views` and `checkpoints` are the session's own."""

    over: bool
    host: Path
    checkpoints: Checkpoints
    views: Views

    @property
    def layer(self) -> Layer:
        """The root's, as it stands."""
        ...

    def seen(self) -> Path:
        """The directory as the box sees it, to look at and to write to."""
        ...

    def changes(self) -> list[Change]:
        """As the session finds them."""
        ...

    def apply(self, selection: Selection | None = None) -> None:
        """Raises ApplyConflictError."""
        ...

    def rest(self) -> None:
        """Nothing stands on the layers any more."""
        ...

    def again(self) -> None:
        """As a new process finds it."""
        ...

    def fork(self, checkpoint: str) -> Bed:
        """A session that goes on from a checkpoint of this one, over the same host."""
        ...

    def close(self) -> None:
        """All of it goes, and what it was forked from."""
        ...


class LocalBed:
    """Layers of this machine without a box: a whole copy, or an overlay that this process mounts (as root)."""

    def __init__(self, rung: Rung) -> None:
        self.over = rung is Rung.OVERLAY
        self.base = Path(tempfile.mkdtemp(prefix="fumehood-machine-", dir=_quick()))
        self.host = self.base / "repo"
        self.host.mkdir()
        write_tree(self.host, START)
        self._session = str(uuid.uuid4())
        self._state = self.base / "state"
        self._state.mkdir()
        self._forks = 0
        self._before: LocalBed | None = None
        self._pool = Pool(self.base / "pool")
        self._stand()
        self._open()
        self._places.make(local=True, forced=rung, began_ns=0)
        (self._places.path(self.layer) / "manifest").write_bytes(encode(walk(os.fsencode(self.host)), 0))
        if not self.over:
            copied = encode(walk(os.fsencode(self._places.top(self.layer))), 0)
            (self._places.path(self.layer) / "copy.manifest").write_bytes(copied)

    def _stand(self) -> None:
        self._merged = self._state.with_name(f"{self._state.name}.merged")
        self._merged.mkdir()
        self._mounted = False

    def fork(self, checkpoint: str) -> LocalBed:
        """A session that goes on from a checkpoint of this one, over the same host."""
        made = copy.copy(self)
        made._before = self
        self._forks += 1
        made._session, made._state = str(uuid.uuid4()), self._state.with_name(f"{self._state.name}-{self._forks}")
        made._forks = 0
        made._state.mkdir()
        self.checkpoints.fork(checkpoint, [(made._session, made._state)])
        made._stand()
        made._open()
        return made

    @property
    def layer(self) -> Layer:
        """The root's, as it stands."""
        assert self._places.table is not None
        return next(layer for layer in self._places.table.layers if layer.host is not None)

    def _open(self) -> None:
        def image() -> KeeperImage:
            raise AssertionError

        roots = find_roots(self.host, [], home=Path("/nowhere"), state=self._state).roots
        layers = self._state / "layers"
        keeper = Keeper(None, None, session=self._session, layers=layers, roots={r.name: r.host for r in roots})
        self._places = Places(
            layers,
            session=self._session,
            owner=Owner(uid=os.getuid(), gid=os.getgid()),
            roots=roots,
            own=own_places(name="", email=""),
            chown=keeper.chown,
            image=image,
            frozen=self._pool.tree,
        )
        self.checkpoints = Checkpoints(self._places, keeper, directory=self._state / "store", pool=self._pool)
        log = self._state / "store" / "log"
        self.views = Views(self._places, keeper, store=log, held=HeldBack.load())

    def seen(self) -> Path:
        if not self.over:
            return self._places.top(self.layer)
        if not self._mounted:
            options = overlay_options(self._places.path(self.layer), self._places.trees(self.layer))["o"]
            options = options.removesuffix(",nosuid,nodev")  # mount(2) takes them as flags
            _libc("mount", b"overlay", os.fsencode(self._merged), b"overlay", 0, os.fsencode(options))
            self._mounted = True
        return self._merged

    def changes(self) -> list[Change]:
        """As the session finds them."""
        touched = [] if self.over else sorted(self.views.touched_beneath(self.layer, [b""]))
        return self.views.changes(self.layer, touched)

    def apply(self, selection: Selection | None = None) -> None:
        """Raises ApplyConflictError."""
        self.views.apply(self.changes(), selection or Selection(), dry=False)

    def rest(self) -> None:
        if self._mounted:
            _libc("umount2", os.fsencode(self._merged), 0)
            self._mounted = False

    def again(self) -> None:
        self.checkpoints.close()
        self._open()

    def close(self) -> None:
        self.rest()
        self.checkpoints.close()
        if self._before is not None:
            self._before.close()
        else:
            remove_tree(self.base)


def _quick() -> Path | None:
    """A file system in memory that keeps user attributes, where there is one: an apply flushes a lot."""
    place = Path("/dev/shm")
    try:
        with tempfile.TemporaryDirectory(dir=place) as probe:
            os.setxattr(probe, "user.probe", b"1")
        return place if shutil.disk_usage(place).free > 256 << 20 else None
    except OSError:
        return None


def _libc(name: str, *arguments: Any) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def can_mount_overlays() -> bool:
    """Whether this process may mount overlays by itself: as root, mostly."""
    base = Path(tempfile.mkdtemp(prefix="fumehood-probe-"))
    try:
        for name in ("l", "u", "w", "m"):
            (base / name).mkdir()
        options = f"lowerdir={base}/l,upperdir={base}/u,workdir={base}/w,{OPTIONS}"
        _libc("mount", b"overlay", os.fsencode(base / "m"), b"overlay", 0, os.fsencode(options))
        _libc("umount2", os.fsencode(base / "m"), 0)
    except OSError:
        return False
    else:
        return True
    finally:
        remove_tree(base)
