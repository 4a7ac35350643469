"""Making images: from a registry's where one answers, else bootstrapped from the host distribution's
packages. Either way the work is done in throw-away containers and ends in one normalised layer,
so it needs no privilege but the engine, and bootstrapping needs nothing of the host but apt.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from sandbox.containers import OWNER_LABEL, SESSION_LABEL, owner_alive, session_labels
from sandbox.dataclass import dataclass
from sandbox.engine import ConflictError, ContainerSpec, Engine, NotFoundError
from sandbox.errors import ImageMissingError, SandboxError
from sandbox.packages import Distribution, Package, fetch_packages, host_acquire, host_distribution
from sandbox.recipe import RECIPES, Recipe
from sandbox.rootfs import CHUNK, Layer, normalise, unpack_packages

ANSWER_SECONDS = 4.0
BUILD_SECONDS = 900.0
Progress = Callable[[str], None]

# What dpkg and maintainer scripts need; the container has no network where it is bootstrapped.
CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETFCAP", "SETGID", "SETUID", "SYS_CHROOT")
PROXY_NAMES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A finished layer and where it came from. `packages`: lines of name, version, architecture
    and, where bootstrapped, hash.
    """

    layer: Layer
    source: str
    packages: tuple[str, ...]
    epoch: int


def make_layer(
    engine: Engine, recipe: Recipe, *, out: Path, downloads: Path, registry: bool, progress: Progress
) -> Made:
    """Make the recipe's image as one layer at `out`; `downloads` keeps packages between builds.

    Raises ImageMissingError with the reason and what the user can do about it.
    """
    remove_leftovers(engine)
    distribution = host_distribution()
    for origin in recipe.origins if registry else ():
        if not registry_gives(engine, origin, certain=distribution is None):
            continue
        try:
            return _from_registry(engine, recipe, origin, out, progress)
        except SandboxError as error:
            if distribution is None:
                raise
            progress(f"{origin}: {error}")
    if distribution is None:
        raise ImageMissingError(
            f"the image {recipe.name!r} cannot be made: no registry answers, and there is no apt to bootstrap from",
            hint=f"copy it from a host that has it: `docker save {recipe.tag} | docker load`",
        )
    return _bootstrap(engine, recipe, distribution, out=out, downloads=downloads, progress=progress)


def remove_leftovers(engine: Engine) -> None:
    """Remove the images and containers of builds whose process died in the middle."""
    for container in engine.containers.list(f"{SESSION_LABEL}=images"):
        if not owner_alive(container.labels.get(OWNER_LABEL, "")):
            engine.containers.remove(container.id)
    for image in engine.images.list(f"{SESSION_LABEL}=images"):
        if not owner_alive(image.labels.get(OWNER_LABEL, "")):
            with suppress(ConflictError):
                engine.images.remove(image.id)


def registry_gives(engine: Engine, name: str, *, certain: bool) -> bool:
    """Whether the engine reaches a registry that has `name`, known within a few seconds. Where the
    engine cannot be asked (Podman), the answer is `certain`: whether it is worth a long wait.
    """
    path = f"{engine.prefix}/distribution/{name}/json"
    try:
        with engine.transport.open("GET", path, timeout=ANSWER_SECONDS) as reply:
            for _ in reply.chunks():
                pass
    except NotFoundError:
        return certain and engine.kind != "docker"
    except SandboxError:
        return False
    return True


def _bootstrap(
    engine: Engine, recipe: Recipe, distribution: Distribution, *, out: Path, downloads: Path, progress: Progress
) -> Made:
    """Unpack the essential packages into a first image, and install everything in a container of it."""
    packages = fetch_packages(
        recipe.packages,
        essential=recipe.install,
        architecture=engine.info.architecture,
        distribution=distribution,
        directory=downloads,
        progress=progress,
    )
    epoch = max(package.epoch for package in packages)
    first = out.with_suffix(".first")
    try:
        unpack_packages([p for p in packages if p.essential or not recipe.install], recipe, first)
        if recipe.install:
            progress(f"installing {len(packages)} packages in a container without network")
            layer = _install(engine, recipe, packages, first=first, out=out, epoch=epoch)
        else:
            layer = normalise(read_file(first), out, epoch=epoch)
    finally:
        first.unlink(missing_ok=True)
    source = f"{distribution.name} {distribution.codename} packages"
    return Made(layer=layer, source=source, packages=tuple(package.line for package in packages), epoch=epoch)


def _install(
    engine: Engine, recipe: Recipe, packages: Iterable[Package], *, first: Path, out: Path, epoch: int
) -> Layer:
    """Run dpkg over the unpacked essentials; the container's file system becomes the layer."""
    tag = f"{recipe.digest[:12]}-{os.getpid()}"
    image = engine.images.load_tar(
        read_file(first), repository="fumehood/first", tag=tag, labels=session_labels("images")
    )
    try:
        spec = _build_spec(image.id, ("unpacked",), network="none", environment={"SOURCE_DATE_EPOCH": str(epoch)})
        with throw_away(engine, spec) as container:
            debs = {f"debs/{'essential' if p.essential else 'rest'}/{p.path.name}": p.path for p in packages}
            engine.containers.put_archive(container, "/", _build_files(debs))
            run_build(engine, container)
            return normalise(engine.containers.get_archive(container, "/"), out, epoch=epoch)
    finally:
        engine.images.remove(image.id)


def _from_registry(engine: Engine, recipe: Recipe, origin: str, out: Path, progress: Progress) -> Made:
    """Install the recipe's packages in a container of a registry's image, from its own sources."""
    progress(f"pulling {origin}")
    image = engine.images.find(origin) or engine.images.pull(origin)
    progress(f"installing {len(recipe.packages)} packages in a container of {origin}")
    epoch = int(datetime.fromisoformat(f"{image.created[:19]}+00:00").timestamp())
    proxies = {name: os.environ[name] for name in PROXY_NAMES if name in os.environ}
    environment = proxies | {"SOURCE_DATE_EPOCH": str(epoch)}
    spec = _build_spec(image.id, ("pulled", *recipe.packages), network="host", environment=environment)
    with throw_away(engine, spec) as container:
        engine.containers.put_archive(container, "/", _build_files({}, {"apt.conf": _proxies()}))
        run_build(engine, container)
        packages = read_back(engine, container, "/build/packages").decode("utf-8", "replace").splitlines()
        layer = normalise(engine.containers.get_archive(container, "/"), out, epoch=epoch)
    return Made(layer=layer, source=origin, packages=tuple(sorted(packages)), epoch=epoch)


def _proxies() -> bytes:
    """The host's proxies for apt; its certificates are files that the container does not have."""
    if host_distribution() is None:
        return b""
    return "\n".join(line for line in host_acquire().splitlines() if "proxy" in line.lower()).encode() + b"\n"


def _build_spec(
    image: str, arguments: tuple[str, ...], *, network: str, environment: Mapping[str, str]
) -> ContainerSpec:
    return ContainerSpec(
        image=image,
        command=("/bin/sh", "/build/build.sh", *arguments),
        labels=session_labels("images"),
        environment=environment,
        capabilities=CAPABILITIES,
        read_only=False,
        network=network,
        hostname="build",
    )


@contextmanager
def throw_away(engine: Engine, spec: ContainerSpec) -> Iterator[str]:
    """A container, not started, that is gone afterwards whatever happens."""
    container = engine.containers.create(spec)
    try:
        yield container
    finally:
        engine.containers.remove(container, force=True)


def read_back(engine: Engine, container: str, path: str) -> bytes:
    """A small file of a container; empty where there is none."""
    try:
        archive = b"".join(engine.containers.get_archive(container, path))
    except NotFoundError:
        return b""
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        member = files.next()
        content = files.extractfile(member) if member is not None and member.isreg() else None
        return content.read() if content is not None else b""


def read_file(path: Path) -> Iterator[bytes]:
    """A file in pieces."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def run_build(engine: Engine, container: str) -> None:
    """Start a container and wait for its end. Raises ImageMissingError with the last lines of /build/log."""
    engine.containers.start(container)
    code = engine.containers.wait(container, BUILD_SECONDS)
    if code != 0:
        log = read_back(engine, container, "/build/log").decode("utf-8", "replace").splitlines()
        wrong = [line for line in log if re.search(r"error|cannot|invalid|unable", line, re.IGNORECASE)]
        raise ImageMissingError(f"making the image failed ({code}): {' / '.join(wrong[-4:] or log[-4:])[-900:]}")


def _build_files(paths: Mapping[str, Path], texts: Mapping[str, bytes] | None = None) -> Iterator[bytes]:
    """A tar of /build: build.sh, files of the host, and texts. Produced as it is read."""
    contents = {"build.sh": (RECIPES / "build.sh").read_bytes(), **(texts or {})}
    for name, text in contents.items():
        yield _header(f"build/{name}", len(text)) + text + _padding(len(text))
    for name, path in paths.items():
        size = path.stat().st_size
        yield _header(f"build/{name}", size)
        yield from read_file(path)
        yield _padding(size)
    yield bytes(1024)


def _header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o755
    return entry.tobuf(tarfile.PAX_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % 512)
