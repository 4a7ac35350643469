"""The toolbox: our own interpreter, search and decoding programs with their loader and libraries, and
the in-box server, in a read-only volume. It works in any Linux image, whatever that holds.

The large part is collected from Debian packages once and cached as an archive; a volume is filled
from it and from this checkout's server code, and named by the digest of both.
"""

from __future__ import annotations

import hashlib
import io
import secrets
import tarfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath

from sandbox.build import make_layer, read_file, run_build, throw_away
from sandbox.containers import LABEL, ContainerSpec, session_labels
from sandbox.dataclass import dataclass
from sandbox.engine import ConflictError, Engine, ImageInfo
from sandbox.errors import BoxStartError
from sandbox.locking import locked
from sandbox.recipe import RECIPES, Recipe, load_recipe, plain_digest
from sandbox.rootfs import normalise
from sandbox.spec import Mount

TOOLBOX = PurePosixPath("/opt/fumehood")
SERVER = TOOLBOX / "server"
# The loader is ours and is told where its libraries are: of the box's own nothing is read.
LOADER = (f"{TOOLBOX}/lib/ld.so", "--inhibit-cache", "--library-path", f"{TOOLBOX}/lib")
TOOLBOX_PYTHON = (*LOADER, f"{TOOLBOX}/bin/python3", "-I", "-S", "-B")
TOOLBOX_RG = (*LOADER, f"{TOOLBOX}/bin/rg")
TOOLBOX_QPDF = (*LOADER, f"{TOOLBOX}/bin/qpdf")
# Variables that an image may set and our own programs would obey. A box has them empty.
TOOLBOX_ENVIRONMENT = dict.fromkeys(
    ("GCONV_PATH", "GLIBC_TUNABLES", "LD_AUDIT", "LD_DEBUG", "LD_LIBRARY_PATH", "LD_PRELOAD", "LD_PROFILE", "LOCPATH"),
    "",
)

KIND_LABEL = "fumehood.toolbox"
FILLED_LABEL = "fumehood.filled"
MADE_LABEL = "fumehood.made"
PARTS_VERSION = 3
FILL_SECONDS = 120.0
SOURCES = Path(__file__).resolve().parent
STALE_SECONDS = 3600.0
COMPILE = (
    "import compileall, py_compile, sys\n"
    "mode = py_compile.PycInvalidationMode.UNCHECKED_HASH\n"
    f"sys.exit(not compileall.compile_dir('{SERVER}', quiet=1, invalidation_mode=mode))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolbox:
    """A filled volume. `digest`: hex sha256 of what it was made from."""

    volume: str
    digest: str

    @property
    def mount(self) -> Mount:
        """As every box has it."""
        return Mount(volume=self.volume, at=TOOLBOX, read_only=True)


def ensure_toolbox(engine: Engine, *, base: ImageInfo, cache: Path, progress: Callable[[str], None]) -> Toolbox:
    """The toolbox of this checkout in the engine. `base`: any image, for the container that fills the
    volume. `cache`: fumehood's cache directory.

    One request where it is there. Volumes cannot be renamed, so what is filled has a name of its own,
    and an empty volume under the toolbox's name, made last, points to it: a partial fill is never found.
    """
    server = server_files()
    parts = parts_digest()
    digest = toolbox_digest(parts, server)
    name = f"fumehood-toolbox-{digest[:12]}"
    if volume := _filled(engine, name):
        return Toolbox(volume=volume, digest=digest)
    with locked(cache / "toolbox/lock"):
        if volume := _filled(engine, name):
            return Toolbox(volume=volume, digest=digest)
        archive = cache / "toolbox" / f"{parts[:12]}-{engine.info.architecture}.tar.gz"
        if not archive.is_file():
            _collect(engine, load_recipe("toolbox"), archive, cache, progress)
        progress("filling the toolbox volume")
        toolbox = Toolbox(volume=_fill(engine, name, base, archive, server), digest=digest)
        remove_stale(engine, keep=name, now=time.time())
        return toolbox


def server_files() -> dict[str, bytes]:
    """Path below SERVER → source: the server as the package `sandbox.server` with `sandbox.wire`, and
    its modules beside it, so that they can be run as scripts.
    """
    files = {f"sandbox/{name}.py": (SOURCES / f"{name}.py").read_bytes() for name in ("__init__", "wire")}
    for path in sorted((SOURCES / "server").glob("*.py")):
        files[f"sandbox/server/{path.name}"] = path.read_bytes()
        if path.stem != "__init__":
            files[path.name] = path.read_bytes()
    for path in sorted((SOURCES / "server").glob("*.sh")):
        files[f"sandbox/server/{path.name}"] = path.read_bytes()
    return files


def toolbox_digest(parts: str, server: dict[str, bytes]) -> str:
    """What names a toolbox: the digest of its parts, and the server's code."""
    digest = hashlib.sha256(parts.encode())
    for name, text in sorted(server.items()):
        digest.update(f"{name} {len(text)}\n".encode() + text)
    return digest.hexdigest()


def parts_digest() -> str:
    """Names the large part: the recipe of its packages, and what collects from them."""
    return hashlib.sha256(
        f"{PARTS_VERSION} {plain_digest('toolbox')}".encode() + (RECIPES / "collect.py").read_bytes()
    ).hexdigest()


def _filled(engine: Engine, name: str) -> str:
    """The volume that `name` points to; empty where there is none, or where it was removed."""
    pointer = engine.volumes.find(name)
    volume = pointer.labels.get(FILLED_LABEL, "") if pointer is not None else ""
    if not volume:
        return ""
    # an engine makes an unknown volume when a container names it: only ours carries the label
    found = engine.volumes.find(volume)
    return volume if found is not None and KIND_LABEL in found.labels else ""


def _collect(engine: Engine, recipe: Recipe, archive: Path, cache: Path, progress: Callable[[str], None]) -> None:
    """Make the large part: an image of the packages' files, and collect.py in a container of it."""
    progress("collecting the toolbox: Python, ripgrep, qpdf and Pillow")
    layer = archive.with_suffix(".layer")
    made = make_layer(engine, recipe, out=layer, downloads=cache / "packages", registry=True, progress=progress)
    image = engine.images.load_tar(
        read_file(layer),
        repository="fumehood/parts",
        tag=f"{recipe.digest[:12]}-{secrets.token_hex(4)}",
        labels=session_labels("images"),
    )
    try:
        spec = ContainerSpec(
            image=image.id,
            command=("/usr/bin/python3", "-B", "/build/collect.py", "/build/fumehood", "/build/log"),
            labels=session_labels("images"),
            environment={"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
            read_only=False,
            hostname="build",
        )
        with throw_away(engine, spec) as container:
            engine.containers.put_archive(
                container, "/", _tar({"build/collect.py": (RECIPES / "collect.py").read_bytes()})
            )
            run_build(engine, container)
            part = archive.with_suffix(".part")
            normalise(
                engine.containers.get_archive(container, "/build/fumehood"), part, epoch=made.epoch, top="fumehood"
            )
            for old in archive.parent.glob("*.tar.gz"):
                old.unlink()
            part.rename(archive)
    finally:
        engine.images.remove(image.id)
        layer.unlink(missing_ok=True)


def _fill(engine: Engine, name: str, base: ImageInfo, archive: Path, server: dict[str, bytes]) -> str:
    """Fill a new volume, compile the server with the toolbox's own Python, and let `name` point to it.
    Returns the volume that won, where another process filled one at the same time.
    """
    volume = f"fumehood-toolbox-{secrets.token_hex(4)}-{name.rpartition('-')[2]}"
    labels = {LABEL: "1", KIND_LABEL: name, MADE_LABEL: str(int(time.time()))}
    engine.volumes.create(volume, options={}, labels=labels)
    try:
        spec = ContainerSpec(
            image=base.id,
            command=(*TOOLBOX_PYTHON, "-c", COMPILE),
            labels=session_labels("images"),
            mounts=(Mount(volume=volume, at=TOOLBOX),),
            read_only=False,
            hostname="build",
        )
        with throw_away(engine, spec) as container:
            engine.containers.put_archive(container, str(TOOLBOX), read_file(archive))
            engine.containers.put_archive(container, str(SERVER), _tar(server))
            engine.containers.start(container)
            _expect_success(engine.containers.wait(container, FILL_SECONDS), base)
        engine.volumes.remove(name)
        engine.volumes.create(name, options={}, labels=labels | {FILLED_LABEL: volume})
    except ConflictError:
        pass  # Podman says so when another process was first
    except BaseException:
        engine.volumes.remove(volume)
        raise
    won = _filled(engine, name)
    if won != volume:
        engine.volumes.remove(volume)
    return won


def _expect_success(code: int, base: ImageInfo) -> None:
    if code != 0:
        raise BoxStartError(f"the toolbox does not run in {base.tags[0] if base.tags else base.id} ({code})")


def remove_stale(engine: Engine, *, keep: str, now: float) -> None:
    """Remove toolboxes of other digests than `keep` names, an hour after they were filled, unless a
    container uses them: what a development of the server leaves behind. 57 MB each.
    """
    for volume in engine.volumes.list(KIND_LABEL):
        age = now - float(volume.labels.get(MADE_LABEL) or 0)
        if volume.labels[KIND_LABEL] != keep and age > STALE_SECONDS:
            with suppress(ConflictError):
                engine.volumes.remove(volume.name)


def _tar(files: dict[str, bytes]) -> bytes:
    """A tar of small files of root's, with their directories."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        parents = {str(parent) for name in files for parent in PurePosixPath(name).parents} - {"."}
        for name in sorted(parents):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for name, text in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), 0o644
            archive.addfile(entry, io.BytesIO(text))
    return buffer.getvalue()
