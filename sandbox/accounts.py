"""/etc/passwd and /etc/group of a box: the image's entries and the box's own user, as files of ours."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from sandbox.containers import ContainerSpec, session_labels
from sandbox.engine import Engine, NotFoundError
from sandbox.spec import Owner

USER = "box"
HOME = "/home/box"
LIMIT = 1 << 20
_DEFAULTS = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "group": "root:x:0:\nnogroup:x:65534:\n",
}
_FIELDS = {"passwd": 7, "group": 4}


def account_files(engine: Engine, image: str, owner: Owner, directory: Path) -> tuple[Path, Path]:
    """(passwd, group) below `directory`, readable by everybody, made where they are not there yet.
    They depend on the image's id and the owner only, so the directory may be shared and kept.
    """
    key = hashlib.sha256(f"1 {image} {owner.uid} {owner.gid}".encode()).hexdigest()[:24]
    place = directory / "accounts" / key
    paths = place / "passwd", place / "group"
    if not all(path.exists() for path in paths):
        place.mkdir(parents=True, exist_ok=True)
        found = _image_files(engine, image)
        for path, text in zip(paths, account_texts(found, owner), strict=True):
            part = path.with_suffix(".part")
            part.write_text(text, "utf-8")
            part.chmod(0o644)
            part.replace(path)
    return paths


def account_texts(image: dict[str, str], owner: Owner) -> tuple[str, str]:
    """The two files' texts. The box's user comes first, so that it names its uid; root stays root."""
    mine = f"{USER}:x:{owner.uid}:{owner.gid}:{USER}:{HOME}:/bin/sh"
    passwd = [line for line in _entries(image, "passwd") if line.split(":")[0] != USER]
    passwd = [*passwd, mine] if owner.uid == 0 else [mine, *passwd]
    group = _entries(image, "group")
    if not any(line.split(":")[2] == str(owner.gid) for line in group):
        group = [f"{USER}:x:{owner.gid}:", *(line for line in group if line.split(":")[0] != USER)]
    return "\n".join(passwd) + "\n", "\n".join(group) + "\n"


def _entries(image: dict[str, str], name: str) -> list[str]:
    text = image.get(name) or _DEFAULTS[name]
    lines = (line for line in text.splitlines() if line.count(":") == _FIELDS[name] - 1)
    return [line for line in lines if line.isprintable() and line.split(":")[2].isdigit()]


def _image_files(engine: Engine, image: str) -> dict[str, str]:
    """Read out of a container that is never started."""
    container = engine.containers.create(
        ContainerSpec(image=image, command=("/nothing",), labels=session_labels("images"))
    )
    try:
        return {name: _read(engine.containers.get_archive(container, f"/etc/{name}")) for name in _DEFAULTS}
    finally:
        engine.containers.remove(container)


def _read(pieces: Iterator[bytes]) -> str:
    """A small regular file out of a tar; "" for anything else."""
    data = bytearray()
    try:
        for piece in pieces:
            data += piece
            if len(data) > LIMIT:
                return ""
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            member = archive.next()
            stream = archive.extractfile(member) if member is not None and member.isreg() else None
            return stream.read().decode("utf-8", "replace") if stream is not None else ""
    except (NotFoundError, tarfile.TarError):
        return ""
