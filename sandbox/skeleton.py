"""What the box's own writable places (HOME, /tmp, /var/tmp) hold before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path, PurePosixPath

from sandbox.dataclass import dataclass

HOME = PurePosixPath("/home/box")


@dataclass(frozen=True, slots=True, kw_only=True)
class Skeleton:
    """A place of ours: its layer's name, where it is, its mode, and small files by relative name (executable where
    they begin with `#!`).
    """

    name: str
    at: PurePosixPath
    mode: int
    files: Mapping[str, bytes] = field(default_factory=dict)

    def write(self, directory: Path) -> None:
        """Make it in `directory`, which does not exist yet."""
        directory.mkdir()
        for name, data in self.files.items():
            file = directory / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
            file.chmod(0o755 if data.startswith(b"#!") else 0o644)
        directory.chmod(self.mode)


def own_places(*, name: str, email: str, files: Mapping[str, bytes] | None = None) -> tuple[Skeleton, ...]:
    """HOME with the user's git name and email, /tmp and /var/tmp. `files`: more for HOME."""
    home: dict[str, bytes] = {}
    if name or email:
        home[".gitconfig"] = gitconfig(name, email)
    home |= files or {}
    return (
        Skeleton(name="home", at=HOME, mode=0o755, files=home),
        Skeleton(name="tmp", at=PurePosixPath("/tmp"), mode=0o1777),  # noqa: S108 - the box's, a layer of ours
        Skeleton(name="vartmp", at=PurePosixPath("/var/tmp"), mode=0o1777),  # noqa: S108 - the same
    )


def gitconfig(name: str, email: str) -> bytes:
    """A `.gitconfig` with an identity and nothing else."""

    def quoted(value: str) -> str:
        kept = "".join(c for c in value if c >= " " and c != "\x7f")
        return '"' + kept.replace("\\", "\\\\").replace('"', '\\"') + '"'

    lines = ["[user]", *(f"\t{key} = {quoted(value)}" for key, value in (("name", name), ("email", email)) if value)]
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")
