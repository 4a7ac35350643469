"""Real boxes for tests: opened with what every test has, and the few things that tests do with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sandbox.box import ContainerBox
from sandbox.engine import Engine, ImageInfo
from sandbox.spec import Box, BoxSpec, Command, Exited, Limits, Mount, Owner, Stdout
from sandbox.streams import Grant
from sandbox.toolbox import Toolbox

TMP = PurePosixPath("/tmp")


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Makes boxes of one image."""

    engine: Engine
    image: ImageInfo
    toolbox: Toolbox
    cache: Path

    def box(
        self,
        uid: int = 1000,
        *,
        mounts: tuple[Mount, ...] = (),
        limits: Limits | None = None,
        grants: Mapping[str, Grant] | None = None,
        **options: Any,
    ) -> ContainerBox:
        spec = BoxSpec(
            session=options.pop("session", "c0ffee00-tests"),
            image=options.pop("image", self.image.id),
            owner=Owner(uid=uid, gid=uid),
            cwd=TMP,
            mounts=(self.toolbox.mount, *mounts),
            limits=limits or Limits(),
            **options,
        )
        return ContainerBox(spec, self.engine, scratch=self.cache, grants=grants)


async def run(box: Box, script: str, **options: Any) -> tuple[str, Exited]:
    """Run a script: all output as text, and the end."""
    parts: list[bytes] = []
    async for item in await box.exec(Command(argv=(script,), cwd=TMP, shell=True, merge=True, **options)):
        if isinstance(item, Exited):
            return b"".join(parts).decode("utf-8", "replace"), item
        assert isinstance(item, Stdout)
        parts.append(item.data)
    raise AssertionError("no end")
