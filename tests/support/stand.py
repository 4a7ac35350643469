"""Layers made by hand with a session's checkpoints over them, changes to try out, and a death at any step."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import strategies as st

from sandbox.checkpoints import Checkpoints
from sandbox.freezing import AtRest
from sandbox.keeper import Keeper, KeeperImage
from sandbox.layers import Layer, LayerTable
from sandbox.places import Places
from sandbox.pool import Pool
from sandbox.spec import Owner, Rung
from sandbox.trees import Tree, content
from tests.support.whole_tree import tree

SESSION = "4f2a91c0-1111-4222-8333-444455556666"


class Stand:
    """Two layers (a root's and HOME) in a directory, and the session's checkpoints."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.layers = base / "layers"
        self.keeper = Keeper(None, None, session=SESSION, layers=self.layers, roots={})
        places = self.places()
        self.layers.mkdir(parents=True)
        rows = [
            Layer(name="root", at=PurePosixPath("/r"), host=base, rung=Rung.OVERLAY),
            Layer(name="home", at=PurePosixPath("/home/box"), host=None, rung=Rung.OVERLAY),
        ]
        for layer in rows:
            (self.layers / layer.name / "upper").mkdir(parents=True)
            (self.layers / layer.name / "work").mkdir()
        places._record(rows, 0)
        self.root, self.home = self.layers / "root" / "upper", self.layers / "home" / "upper"
        self.checkpoints = self.open()

    def places(self, pool: Pool | None = None, layers: Path | None = None) -> Places:
        def image() -> KeeperImage:
            raise AssertionError

        return Places(
            layers or self.layers,
            session=SESSION,
            owner=Owner(uid=os.getuid(), gid=os.getgid()),
            roots=(),
            own=(),
            chown=self.keeper.chown,
            image=image,
            frozen=(pool or Pool(self.base / "store" / "frozen")).tree,
        )

    def open(self) -> Checkpoints:
        """As a new process has them."""
        return Checkpoints(self.places(), self.keeper, directory=self.base / "store")

    def take(self) -> str:
        made = self.checkpoints.take("x")
        assert made is not None
        return made.id

    def seen(self) -> dict[str, Any]:
        return {name: tree(self.layers / name / "upper") for name in ("root", "home")}


class KilledError(Exception):
    """Stands for kill -9: nothing after it runs."""


@contextmanager
def killed_after(steps: int, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is done inside dies at the call after so many of these methods of Path, if it comes so far."""
    left = iter(range(steps))

    def counted(name: str) -> None:
        real = getattr(Path, name)

        def wrapped(*arguments: Any, **options: Any) -> Any:
            if next(left, None) is None:
                raise KilledError
            return real(*arguments, **options)

        patched.setattr(Path, name, wrapped)

    with monkeypatch.context() as patched, suppress(KilledError):
        for name in names:
            counted(name)
        yield


NAMES = st.sampled_from(["a", "b", "c", "d\udcff\n", "é", " "])


CONTENTS = st.binary(max_size=40)


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(
            ["write", "append", "unlink", "mkdir", "rmtree", "link", "hard", "whiteout", "opaque", "mode", "attribute",
             "no attribute", "mtime", "fifo", "rename", "sparse", "chown"]
        ),
        st.sampled_from(["root", "home"]),
        st.lists(NAMES, min_size=1, max_size=3),
        NAMES,
        CONTENTS,
    ),
    max_size=12,
)  # fmt: skip


def change(  # noqa: C901, PLR0912, PLR0917 (one row per kind)
    stand: Stand, kind: str, layer: str, parts: list[str], other: str, data: bytes
) -> None:
    """One change as an overlay would leave it, if it can be made here."""
    top = getattr(stand, layer)
    path = top.joinpath(*parts)
    beside = path.with_name(other)
    if kind == "rmtree" and not path.is_dir():
        return  # shutil would open a fifo, and wait
    if kind in ("write", "append", "sparse") and os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        return
    try:
        match kind:
            case "write":
                path.write_bytes(data)
            case "append":
                with path.open("ab") as file:
                    file.write(data)
            case "unlink":
                path.unlink()
            case "mkdir":
                path.mkdir()
            case "rmtree":
                shutil.rmtree(path)
            case "link":
                path.symlink_to(other)
            case "hard":
                os.link(beside, path, follow_symlinks=False)
            case "whiteout":
                os.mknod(path, stat.S_IFCHR, 0)
            case "opaque":
                path.mkdir()
                os.setxattr(path, "user.overlay.opaque", b"y")
            case "mode":
                path.chmod(0o4755 if len(data) % 2 else 0o640, follow_symlinks=path.is_symlink() is False)
            case "attribute":
                os.setxattr(path, "user.own", data)
            case "no attribute":
                os.removexattr(path, "user.own")
            case "mtime":
                os.utime(path, ns=(len(data), 10**18 + len(data)), follow_symlinks=False)
            case "fifo":
                os.mkfifo(path)
            case "rename":
                path.rename(beside)
            case "sparse":
                with path.open("wb") as file:
                    file.truncate(9 << 20)
                    file.seek(5 << 20)
                    file.write(data)
            case "chown" if os.getuid() == 0:
                os.chown(path, 1234, 5678, follow_symlinks=False)
    except (OSError, NotImplementedError):
        pass


FREEZE_ALL = (0, 0)
NEVER = (10**6, 1 << 40)


def take(stand: Stand, *, freeze: bool) -> str:
    """A checkpoint of layers that nothing stands on."""
    stand.checkpoints.most = FREEZE_ALL if freeze else NEVER
    made = stand.checkpoints.take("x", swap=AtRest())
    return made.id if made else stand.checkpoints.present


def lowers(stand: Stand, name: str) -> tuple[str, ...]:
    table = LayerTable.read(stand.layers / "layers.json")
    assert table is not None
    return next(layer.lowers for layer in table.layers if layer.name == name)


def meaning(found: Tree, path: bytes) -> tuple[Any, ...]:
    entry = found.stat(path)
    assert entry is not None
    kind = stat.S_IFMT(entry.mode)
    own: Any = b""
    if entry.is_file:
        own = content(found, path, 1 << 30)
    elif entry.is_link:
        own = found.readlink(path)
    attributes = {} if entry.is_link else found.attributes(path)
    kept = {name: value for name, value in attributes.items() if not name.startswith("user.overlay.")}
    return kind, entry.mode, entry.uid, entry.gid, own, kept if kind in (stat.S_IFREG, stat.S_IFDIR) else {}
