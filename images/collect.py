# ruff: noqa: INP001  (a script for a container, no package)
"""Collects the toolbox inside a container of the `toolbox` image: `collect.py OUT`.

OUT becomes what is mounted at /opt/fumehood: bin/ (python3, rg, qpdf), lib/ (a loader, every library
that those and Python's extension modules need, and pythonX.Y/, compiled only), and an empty server/.
Run by that image's own Python; nothing of the host takes part. Standard library only.
"""

from __future__ import annotations

import os
import py_compile
import re
import shutil
import subprocess
import sys
from pathlib import Path

PROGRAMS = ("rg", "qpdf")
# What no helper in a box imports: tests, toolkits, editors, installers, documentation.
LEFT_OUT = re.compile(
    r"(test|tests|idlelib|tkinter|turtledemo|lib2to3|ensurepip|pydoc_data|distutils|__pycache__|config-.*"
    r"|turtle\.py|_sysconfigdata.*|_(dbm|curses|curses_panel|crypt|tkinter|imagingtk|imagingmath)\..*\.so"
    r"|_?(ctypes_test|test\w*|xx\w*)\..*\.so|(readline|nis|ossaudiodev)\..*\.so|.*\.exe|.*\.txt|.*\.md)"
)
# The loader reads these two files of the box it runs in; ours must obey neither. Same lengths.
LOADER_FILES = {b"/etc/ld.so.preload\0": b"/opt/fumehood/none\0", b"/etc/ld.so.cache\0": b"/opt/fumehood/no\0"}


def main(out: Path) -> None:
    """Make the whole tree; any doubt ends the run with a sentence."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    (out / "bin").mkdir(parents=True)
    (out / "lib").mkdir()
    (out / "server").mkdir()
    binaries = [copy(Path(os.path.realpath(sys.executable)), out / "bin/python3")]
    binaries += [copy(Path("/usr/bin", program), out / "bin" / program) for program in PROGRAMS]
    library = out / "lib" / version
    binaries += collect_modules(Path(os.__file__).parent, library)
    # Pillow stands among the standard library, so that it is found without the site module.
    binaries += collect_modules(Path("/usr/lib/python3/dist-packages/PIL"), library / "PIL")
    (library / "sandbox").symlink_to("../../server/sandbox")
    loader = find_loader(binaries[0])
    for name, path in sorted(libraries(loader, binaries).items()):
        copy(path, out / "lib" / name)
    patch_loader(loader, out / "lib/ld.so")


def collect_modules(source: Path, target: Path) -> list[Path]:
    """Compile every module of a tree to a .pyc that stands where its source stood and is never
    checked against one; copy extension modules. Returns those.
    """
    extensions: list[Path] = []
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source)
        if any(LEFT_OUT.fullmatch(part) for part in relative.parts) or not path.is_file():
            continue
        place = target / relative
        if path.suffix == ".so":
            extensions.append(copy(path, place))
        elif path.suffix == ".py":
            place.parent.mkdir(parents=True, exist_ok=True)
            py_compile.compile(
                str(path),
                cfile=str(place.with_suffix(".pyc")),
                dfile=str(relative),
                doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
    return extensions


def find_loader(program: Path) -> Path:
    """The interpreter that an ELF program names (its PT_INTERP segment)."""
    match = re.search(rb"/lib[\w/-]*/ld-linux[\w.-]*\.so\.[0-9]", program.read_bytes()[:4096])
    if match is None:
        sys.exit(f"{program} names no loader")
    return Path(match[0].decode())


def libraries(loader: Path, binaries: list[Path]) -> dict[str, Path]:
    """Name → path of every shared library that the binaries need, as the loader itself resolves them."""
    found: dict[str, Path] = {}
    for binary in binaries:
        listed = subprocess.run([loader, "--list", binary], capture_output=True, text=True, check=False)
        if listed.returncode != 0 or "not found" in listed.stdout:
            sys.exit(f"{binary}: {listed.stdout}{listed.stderr}")
        found |= {name: Path(path) for name, path in re.findall(r"^\s*(\S+) => (/\S+) \(", listed.stdout, re.MULTILINE)}
    return {name: path for name, path in found.items() if not name.startswith("ld-linux")}


def patch_loader(source: Path, target: Path) -> None:
    """Copy the loader with the names of the box's own files made into names that do not exist."""
    content = source.read_bytes()
    for name, nothing in LOADER_FILES.items():
        if name not in content or len(name) != len(nothing):
            sys.exit(f"the loader does not hold {name!r}")
        content = content.replace(name, nothing)
    target.write_bytes(content)
    target.chmod(0o755)


def copy(source: Path, target: Path) -> Path:
    """Copy a binary; returns the copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755)
    return target


if __name__ == "__main__":
    main(Path(sys.argv[1]))
