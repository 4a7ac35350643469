"""A company's mirror of five registries as plain files, one package in each, and the tools that get packages from them
as far as this machine has them.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import sysconfig
import tarfile
import zipfile
from pathlib import Path

WHEEL = "tiny-1.0-py3-none-any.whl"
PROXIED_NODE = 24  # the first whose own clients go by NODE_USE_ENV_PROXY (22.21 and 22.22 do, too)
LIBRARIES = {
    "requests": ("requests", "urllib3", "idna", "certifi", "charset_normalizer"),
    "httpx2": ("httpx2", "httpcore2", "h11", "anyio", "idna", "truststore", "typing_extensions.py"),
}


def mirror(top: Path, files: str) -> None:
    """Files for a server. Its indexes of Python, npm and cargo name files below the address `files`."""
    _python(top / "simple/tiny", files)
    _npm(top / "npm", files)
    _crate(top / "crates", files)
    _module(top / "go/example.com/tiny/@v")
    if shutil.which("dpkg-deb"):
        _debian(top / "debian")


def _put(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def _archive(files: dict[str, str]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    return made.getvalue()


def _python(directory: Path, base: str) -> None:
    made = io.BytesIO()
    about = "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"
    with zipfile.ZipFile(made, "w") as wheel:
        wheel.writestr("tiny.py", "WORD = 'from the mirror'\n")
        wheel.writestr("tiny-1.0.dist-info/METADATA", about)
        wheel.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tiny-1.0.dist-info/RECORD", "tiny.py,,\n")
    _put(directory / WHEEL, made.getvalue())
    link = f'<a href="{base}/simple/tiny/{WHEEL}">{WHEEL}</a>'
    _put(directory / "index.html", f"<!DOCTYPE html><html><body>{link}</body></html>\n")


def _npm(directory: Path, base: str) -> None:
    data = _archive({"package/package.json": '{"name": "tiny", "version": "1.0.0"}', "package/index.js": "\n"})
    _put(directory / "files/tiny-1.0.0.tgz", data)
    integrity = f"sha512-{base64.b64encode(hashlib.sha512(data).digest()).decode()}"
    dist = {"tarball": f"{base}/npm/files/tiny-1.0.0.tgz", "integrity": integrity}
    version = {"name": "tiny", "version": "1.0.0", "dist": dist}
    told = {"name": "tiny", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
    _put(directory / "tiny", json.dumps(told))


def _crate(directory: Path, base: str) -> None:
    manifest = '[package]\nname = "tiny"\nversion = "1.0.0"\nedition = "2021"\n'
    data = _archive({"tiny-1.0.0/Cargo.toml": manifest, "tiny-1.0.0/src/lib.rs": ""})
    _put(directory / "files/tiny/1.0.0/download", data)
    row = {"name": "tiny", "vers": "1.0.0", "deps": [], "features": {}, "yanked": False}
    _put(directory / "ti/ny/tiny", json.dumps(row | {"cksum": hashlib.sha256(data).hexdigest()}) + "\n")
    _put(directory / "config.json", json.dumps({"dl": f"{base}/crates/files/{{crate}}/{{version}}/download"}))


def _module(directory: Path) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as packed:
        packed.writestr("example.com/tiny@v1.0.0/go.mod", "module example.com/tiny\n")
        packed.writestr("example.com/tiny@v1.0.0/tiny.go", "package tiny\n")
    _put(directory / "v1.0.0.zip", made.getvalue())
    _put(directory / "v1.0.0.mod", "module example.com/tiny\n")
    _put(directory / "v1.0.0.info", json.dumps({"Version": "v1.0.0", "Time": "2020-01-01T00:00:00Z"}))
    _put(directory / "list", "v1.0.0\n")


def _debian(directory: Path) -> None:
    tree = directory / "tree"
    control = "Package: tiny\nVersion: 1.0\nArchitecture: all\nMaintainer: t <t@example.org>\nDescription: tiny\n"
    _put(tree / "DEBIAN/control", control)
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", str(tree), str(directory / "tiny.deb")], check=True)
    shutil.rmtree(tree)
    data = (directory / "tiny.deb").read_bytes()
    row = f"Filename: tiny.deb\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
    index = f"{control}{row}\n"
    for kind in ("all", "amd64", "arm64"):
        _put(directory / f"dists/stable/main/binary-{kind}/Packages", index)
    sums = "".join(
        f" {hashlib.sha256(index.encode()).hexdigest()} {len(index)} main/binary-{kind}/Packages\n"
        for kind in ("all", "amd64", "arm64")
    )
    told = f"Suite: stable\nCodename: stable\nArchitectures: all amd64 arm64\nComponents: main\nSHA256:\n{sums}"
    _put(directory / "dists/stable/Release", told)


def tools(top: Path) -> frozenset[str]:
    """Copies of this machine's tools below `top`, for a box: which there are."""
    (top / "bin").mkdir(parents=True)
    there = {name for name in ("wget", "node", "uv") if _copied(shutil.which(name), top / "bin" / name)}
    if (npm := shutil.which("npm")) and "node" in there:
        shutil.copytree(Path(npm).resolve().parents[1], top / "npm", symlinks=True)
        there.add("npm")
    if "node" in there and int(_said("node", "--version").removeprefix("v").partition(".")[0]) >= PROXIED_NODE:
        there |= {"node fetch", "node https"}
    others = {"cargo": _rust(top), "go": _go(top)}
    others |= {name: _libraries(top / "python", needed) for name, needed in LIBRARIES.items()}
    return frozenset(there | {name for name, found in others.items() if found})


def _copied(program: str | None, to: Path) -> bool:
    if program is not None:
        shutil.copy(os.path.realpath(program), to)
    return program is not None


def _rust(top: Path) -> bool:
    root = Path(_said("rustc", "--print", "sysroot") or "/nonexistent")
    if not (root / "bin/cargo").exists():
        return False
    (top / "lib").mkdir()
    for library in (root / "lib").glob("*.so*"):
        shutil.copy(library, top / "lib" / library.name)
    return all(_copied(str(root / "bin" / name), top / "bin" / name) for name in ("cargo", "rustc"))


def _go(top: Path) -> bool:
    root = Path(_said("go", "env", "GOROOT") or "/nonexistent")
    if not (root / "bin/go").exists():
        return False
    (top / "go/bin").mkdir(parents=True)
    return all(_copied(str(root / name), top / "go" / name) for name in ("bin/go", "VERSION", "go.env"))


def _libraries(to: Path, names: tuple[str, ...]) -> bool:
    site = Path(sysconfig.get_path("purelib"))
    to.mkdir(exist_ok=True)
    for name in names:
        for about in site.glob(f"{name}-*.dist-info"):
            shutil.copytree(about, to / about.name, dirs_exist_ok=True)
        if (site / name).is_dir():
            shutil.copytree(site / name, to / name, dirs_exist_ok=True)
        elif (site / name).is_file():
            shutil.copy(site / name, to / name)
    return all((to / name).exists() for name in names)


def _said(*argv: str) -> str:
    if shutil.which(argv[0]) is None:
        return ""
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()
