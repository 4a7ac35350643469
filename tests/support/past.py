"""A session's layers made by hand, without an engine: a root over a directory, HOME over a skeleton."""

from __future__ import annotations

import os
import shutil
from pathlib import Path, PurePosixPath

from sandbox.keeper import KeeperImage
from sandbox.layers import Layer
from sandbox.places import Places
from sandbox.pool import Pool
from sandbox.roots import Root
from sandbox.spec import Owner, Rung
from sandbox.walk import encode, walk
from sandbox.workspace import Workspace
from tests.support.layers_by_hand import Shape, build, write_upper

SESSION = "4f2a91c0-1111-4222-8333-444455556666"
HOME = PurePosixPath("/home/box")


class PastStage:
    """`turn` and `home` turn the places into a shape, as the box would have; `take` keeps a checkpoint."""

    def __init__(
        self,
        base: Path,
        lower: Shape,
        home: Shape | None = None,
        *,
        state: Path | None = None,
        session: str = SESSION,
        pool: Pool | None = None,
    ) -> None:
        self.pool = pool
        self.host, self.state, self.session = base / "host", state or base / "state", session
        self.host.mkdir(parents=True)
        build(self.host, lower)
        self.lowers = {"root": lower, "home": home or {}}
        self.layers = self.state / "layers"
        for name in ("root", "home"):
            (self.layers / name / "upper").mkdir(parents=True)
            (self.layers / name / "work").mkdir()
        (self.layers / "root" / "lower").symlink_to(self.host)
        (self.layers / "home" / "lower").mkdir()
        build(self.layers / "home" / "lower", home or {})
        (self.layers / "root" / "manifest").write_bytes(encode(walk(os.fsencode(self.host)), 0))
        rows = [
            Layer(name="root", at=PurePosixPath("/workspace/root"), host=self.host, rung=Rung.OVERLAY),
            Layer(name="home", at=HOME, host=None, rung=Rung.OVERLAY),
        ]
        _places(self.layers)._record(rows, 0)
        self.workspace = self.open()

    def open(self) -> Workspace:
        """As a new process has it."""
        root = Root(host=self.host, at=PurePosixPath("/workspace/root"), name="root", head="")
        return Workspace(None, session=self.session, state=self.state, roots=(root,), owner=_me(), pool=self.pool)

    def turn(self, wanted: Shape, *, opaque: bool = False, place: str = "root") -> None:
        """The box turns the place into `wanted`."""
        upper = self.layers / place / "upper"
        for path in upper.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        write_upper(upper, self.lowers[place], wanted, opaque=opaque)

    def take(self, label: str = "x") -> str:
        """A checkpoint; the present one where nothing changed."""
        made = self.workspace.checkpoints.take(label)
        return made.id if made else self.workspace.checkpoints.present


def _places(layers: Path) -> Places:
    def image() -> KeeperImage:
        raise AssertionError

    def chown(path: Path, owner: Owner) -> None:
        raise AssertionError(path, owner)

    return Places(layers, session=SESSION, owner=_me(), roots=(), own=(), chown=chown, image=image)


def _me() -> Owner:
    return Owner(uid=os.getuid(), gid=os.getgid())
