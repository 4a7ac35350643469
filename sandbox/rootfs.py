"""Root file systems as tar archives: put together from Debian packages, and brought into the one
form in which equal contents are equal bytes. No file system is touched, so no privilege is needed.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, BinaryIO

from sandbox.dataclass import dataclass
from sandbox.errors import ImageMissingError
from sandbox.packages import Package
from sandbox.recipe import Recipe

CHUNK = 1 << 20
MERGED = re.compile(r"bin|sbin|lib\w*")
# What engines put into every container, what grows while packages are installed, and our own build files.
VOLATILE = re.compile(
    r"""\.dockerenv | build(/.*)? | (dev|proc|sys|run|tmp|var/tmp)/.*
      | etc/(hosts|hostname|resolv\.conf|mtab|machine-id|\.pwd\.lock|(passwd|group|shadow|gshadow)-)
      | usr/sbin/policy-rc\.d
      | var/(log|cache/apt|cache/ldconfig|cache/debconf|lib/apt/lists)/.*
      | var/lib/dpkg/(.*-old|lock.*|updates/.*|triggers/Lock) | var/lib/dbus/machine-id
      | root/\..*""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A finished archive on disk, compressed. `digest`: `sha256:` and the hex hash of the archive
    before compression, which is what engines call the layer. `size` is uncompressed.
    """

    path: Path
    digest: str
    size: int


def unpack_packages(packages: Iterable[Package], recipe: Recipe, out: Path) -> None:
    """Write the files of `packages` that the recipe wants, with the recipe's links, as a plain tar.

    `/bin`, `/sbin` and `/lib*` become links into `/usr`, as Debian and Ubuntu have them.
    """
    seen: set[str] = set()
    merged: set[str] = set()
    with tarfile.open(out, "w", format=tarfile.PAX_FORMAT) as archive:
        for package in packages:
            with _package_files(package.path) as files:
                for member in files:
                    name = _merge(member.name, merged)
                    wanted = name and recipe.wants(f"/{name}") and (name not in seen or not member.isdir())
                    if not wanted or (recipe.keep and member.isdir()):
                        continue
                    seen.add(name)
                    member.name = name
                    if member.islnk():
                        member.linkname = _merge(member.linkname, merged)
                    archive.addfile(member, files.extractfile(member) if member.isreg() else None)
        links = {name: f"usr/{name}" for name in merged} | {path.strip("/"): to for path, to in recipe.links.items()}
        for name, target in sorted(links.items()):
            archive.addfile(_member(name, tarfile.SYMTYPE, 0o777, target))
        for name, text in package_database(recipe).items():
            archive.addfile(_member(name, tarfile.REGTYPE, 0o644, size=len(text)), io.BytesIO(text))


def package_database(recipe: Recipe) -> Mapping[str, bytes]:
    """The files that dpkg needs before it has installed anything: an empty list of packages, and
    the recipe's path filters, which hold for later installations in the image too.
    """
    if not recipe.install:
        return {}
    filters = [f"path-exclude={path}" for path in recipe.exclude] + [f"path-include={path}" for path in recipe.include]
    return {
        "var/lib/dpkg/status": b"",
        "var/lib/dpkg/available": b"",
        "etc/dpkg/dpkg.cfg.d/fumehood": "\n".join([*filters, ""]).encode(),
    }


def plain_name(name: str) -> str:
    """An entry's path without the leading `/` or `./`; empty for the root itself."""
    return re.sub(r"^\.?/+|^\.$", "", name)


def normalise(chunks: Iterable[bytes], out: Path, *, epoch: int, top: str = "") -> Layer:
    """Rewrite a container's whole file system so that equal contents give equal bytes.

    Entries are sorted, owners numeric, times no later than `epoch`; setuid and setgid bits, extended
    attributes (so file capabilities), devices, logs, caches and what engines add are left out.
    `top`: the directory within the archive that becomes its root. `out` is gzipped. Uses as much
    disk beside `out` as the file system is large.
    """
    raw = out.with_suffix(".raw")
    try:
        with raw.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
        with tarfile.open(raw, "r:") as source, _Measured(out) as sink:
            _rewrite(source, sink, epoch, top)
    finally:
        raw.unlink(missing_ok=True)
    return Layer(path=out, digest=f"sha256:{sink.digest.hexdigest()}", size=sink.size)


def _rewrite(source: tarfile.TarFile, sink: _Measured, epoch: int, top: str) -> None:
    """Copy entries in order of their names. Of hard-linked names the first holds the content."""
    entries = {plain_name(member.name.removeprefix(top)): member for member in source}
    first: dict[str, str] = {}
    with tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(entries):
            member = entries[name]
            if not name or VOLATILE.fullmatch(name) or member.isdev():
                continue
            original = plain_name(member.linkname.removeprefix(top)) if member.islnk() else name
            made = _member(name, member.type, member.mode & 0o1777, member.linkname, member.size)
            made.uid, made.gid, made.mtime = member.uid, member.gid, min(int(member.mtime), epoch)
            content: IO[bytes] | None = None
            if member.isreg() or member.islnk():
                holder = entries[original]
                if original in first:
                    made.type, made.linkname, made.size = tarfile.LNKTYPE, first[original], 0
                else:
                    first[original] = name
                    made.type, made.linkname, made.size = tarfile.REGTYPE, "", holder.size
                    content = source.extractfile(holder)
            archive.addfile(made, content)


def _member(name: str, kind: bytes, mode: int, linkname: str = "", size: int = 0) -> tarfile.TarInfo:
    """A bare entry of root's at time 0."""
    made = tarfile.TarInfo(name)
    made.type, made.mode, made.linkname = kind, mode, linkname
    made.size = size if kind == tarfile.REGTYPE else 0
    return made


def _merge(name: str, merged: set[str]) -> str:
    """A package's path without its leading `./`, moved below usr where Debian has links; the links
    that are needed are added to `merged`. Empty for a path that is such a directory itself.
    """
    name = plain_name(name)
    top, _, rest = name.partition("/")
    if not MERGED.fullmatch(top):
        return name
    merged.add(top)
    return f"usr/{top}/{rest}" if rest else ""


class _package_files:  # noqa: N801 (a context manager, used as a function)
    """The files of a .deb as a tar stream."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> tarfile.TarFile:
        self._process = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", self._path], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._files = tarfile.open(fileobj=self._process.stdout, mode="r|", bufsize=CHUNK)
        return self._files

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._files.close()
        assert self._process.stdout is not None
        while self._process.stdout.read(CHUNK):
            pass
        self._process.stdout.close()
        if self._process.wait() != 0 and kind is None:
            raise ImageMissingError(f"{self._path.name} cannot be unpacked")


class _Measured(io.RawIOBase):
    """A gzip file that hashes and counts what it is given. Its own bytes depend on nothing else."""

    def __init__(self, path: Path) -> None:
        self.digest = hashlib.sha256()
        self.size = 0
        self._file: BinaryIO = path.open("wb")
        self._gzip = gzip.GzipFile(filename="", mode="wb", fileobj=self._file, compresslevel=1, mtime=0)

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]  # tarfile gives bytes only
        self.digest.update(data)
        self.size += len(data)
        self._gzip.write(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._gzip.close()
            self._file.close()
        super().close()
