# ruff: noqa: INP001  (a script for a container, no package)
"""Collects the toolbox inside a container of the `toolbox` image: `collect.py OUT LOG`.

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
PACKAGES = ("PIL", "html2text")
# What no helper in a box imports: tests, toolkits, editors, installers, documentation.
LEFT_OUT = re.compile(
    r"(test|tests|idlelib|tkinter|turtledemo|lib2to3|ensurepip|pydoc_data|distutils|__pycache__|config-.*"
    r"|turtle\.py|_distutils_system_mod\.py|curses|_(dbm|curses|curses_panel|tkinter|imagingtk|imagingmath)\..*\.so"
    r"|_?(ctypes_test|test\w*|xx\w*)\..*\.so|(readline|nis|ossaudiodev)\..*\.so|.*\.exe|.*\.txt|.*\.md)"
)
# Files of the box that our binaries would obey or load code from: libraries to preload and caches of
# them, character set and locale modules, name service modules, engines of OpenSSL, modules of PKCS#11.
# `/etc` becomes `/sys`, `/lib` and `/usr/lib` become `/sys` and `/sys/lib`, of the same lengths: nobody
# in a box can make a file there.
OBEYED = {
    "ld.so": rb"/etc/ld\.so\.\w+|(/usr)?/lib(32|64|x32)?/[\w.-]*/?",
    "libc.so.6": rb"/etc/nsswitch\.conf|/usr/lib(64)?/[\w./-]*",
    "libcrypto.so.3": rb"/usr/lib/[\w./-]*",
    "libgnutls.so.30": rb"/etc/gnutls/\w+",
    "libp11-kit.so.0": rb"(/usr/lib|/usr/share/p11-kit|/etc/pkcs11)[\w./-]*",
}
PLACES = {b"/etc": b"/sys", b"/usr/lib": b"/sys/lib", b"/usr/share": b"/sys/share", b"/lib": b"/sys"}


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
    # These stand among the standard library, so that they are found without the site module.
    for name in PACKAGES:
        binaries += collect_modules(Path("/usr/lib/python3/dist-packages", name), library / name)
    (library / "sandbox").symlink_to("../../server/sandbox")
    loader = find_loader(binaries[0])
    for name, path in sorted(libraries(loader, binaries).items()):
        copy(path, out / "lib" / name)
    copy(loader, out / "lib/ld.so")
    for obedient in OBEYED:
        if (out / "lib" / obedient).exists():
            point_away(out / "lib" / obedient)
    content = (out / "lib/ld.so").read_bytes()
    wanted = (b"/sys/ld.so.preload\0", b"/sys/ld.so.cache\0", b"/sys/lib/\0")
    if not all(text in content for text in wanted) or re.search(rb"(?<!/sys)/lib/[\w-]*/?\0", content):
        sys.exit("the loader names files in a way that we do not know")


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


def point_away(path: Path) -> None:
    """Rewrite, in place, the strings of a binary that name files which it would obey."""

    def elsewhere(match: re.Match[bytes]) -> bytes:
        old = match[0]
        prefix = max((place for place in PLACES if old.startswith(place)), key=len)
        return PLACES[prefix] + old[len(prefix) :]

    content = path.read_bytes()
    # a C string goes up to a NUL; what stands before it need not be one
    content = re.sub(rb"(?<![\w.-])(?:" + OBEYED[path.name] + rb")(?=\0)", elsewhere, content)
    path.write_bytes(content)


def copy(source: Path, target: Path) -> Path:
    """Copy a binary; returns the copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755)
    return target


if __name__ == "__main__":
    sys.stderr = Path(sys.argv[2]).open("w")  # noqa: SIM115  (to the end of the process)
    main(Path(sys.argv[1]))
