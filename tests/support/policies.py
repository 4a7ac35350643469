"""Settings for tests: places of managed settings that belong to the tests' own user, and joined sources."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from runner.effects import Place, Source
from runner.policy.compose import Ground
from runner.policy.documents import parse
from runner.policy.layers import Loaded, Settings, join
from runner.policy.managed import Managed, Places, read_managed

NOW = datetime(2026, 11, 25, tzinfo=UTC)
CWD = PurePosixPath("/proj")
PLACE = Place(cwd=CWD, home=PurePosixPath("/home/box"), roots=(CWD,))
GROUND = Ground(place=PLACE)


def places(root: Path) -> Places:
    """Empty places below `root`."""
    made = Places(fumehood=root / "etc/fumehood", claude=root / "etc/claude-code", owner=os.getuid())
    for place in (made.fumehood, made.claude):
        place.mkdir(parents=True, mode=0o755)
        place.parent.chmod(0o755)
    return made


def put(path: Path, value: Mapping[str, Any] | str) -> Path:
    """A settings file as an administrator leaves it."""
    path.parent.mkdir(exist_ok=True, mode=0o755, parents=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    path.chmod(0o644)
    return path


def manage(where: Places, value: Mapping[str, Any] | str) -> Path:
    """The main file of managed settings."""
    return put(where.fumehood / "managed-settings.yaml", value)


def read(where: Places, seen: Mapping[str, int] | None = None) -> Managed:
    """What is read there now."""
    return read_managed(where, now=NOW, seen=seen or {})


def loaded(
    layer: Source, value: Mapping[str, Any], *, name: str = "", place: int = 0, repository: bool = False
) -> Loaded:
    """A source of these values, each on a line of its own."""
    name = name or f"{layer.value}.yaml"
    return Loaded(
        layer=layer,
        document=parse(json.dumps(value, indent=1).encode(), name),
        place=place,
        from_repository=repository or layer in (Source.LOCAL, Source.PROJECT),
    )


def joined(*sources: Loaded, trusted: bool = False) -> Settings:
    """These sources as one."""
    return join(sources, trusted=trusted)
