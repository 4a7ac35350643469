"""Where a registry answers, an image is begun from what it gives; where none does, that is known at once."""

from __future__ import annotations

import io
import re
import secrets
import socket
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox.build import read_back, registry_gives, throw_away
from sandbox.containers import ContainerSpec, session_labels
from sandbox.engine import Engine, ImageInfo
from sandbox.errors import ImageMissingError
from sandbox.images import build_image, ensure_image
from sandbox.packages import distribution_sources, host_distribution
from sandbox.recipe import load_recipe
from tests.support.image_registry import serve_image

pytestmark = [pytest.mark.box, pytest.mark.timeout(300)]
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def with_sources(engine: Engine, image: ImageInfo) -> bytes:
    """The image's file system, with apt's sources as a distribution's own images have them."""
    spec = ContainerSpec(image=image.id, command=("/bin/true",), labels=session_labels("tests"))
    with throw_away(engine, spec) as container:
        archive = io.BytesIO(b"".join(engine.containers.get_archive(container, "/")))
    distribution = host_distribution()
    assert distribution is not None
    with tarfile.open(fileobj=archive, mode="a") as tar:
        for name, text in distribution_sources(distribution, Path("/etc/apt")).items():
            place = "etc/apt/sources.list.d" if name != "sources.list" else "etc/apt"
            entry = tarfile.TarInfo(f"{place}/{name}")
            entry.size, entry.mode = len(text.encode()), 0o644
            tar.addfile(entry, io.BytesIO(text.encode()))
    return archive.getvalue()


@pytest.mark.slow
def test_image_is_begun_from_a_registrys_where_one_answers(
    engine: Engine, plain_image: ImageInfo, tmp_path: Path
) -> None:
    """Podman cannot be asked what a registry has: there it is bootstrapped, as where none answers."""
    said: list[str] = []
    architecture = ARCHITECTURES.get(engine.info.architecture, engine.info.architecture)
    with serve_image(with_sources(engine, plain_image), architecture) as registry:
        origin = f"{registry.host}/debian:bookworm-slim"
        recipe = replace(load_recipe("plain"), origins=(origin,), digest=secrets.token_hex(32), packages=("make",))
        image = build_image(engine, recipe, cache=tmp_path, progress=said.append)
    spec = ContainerSpec(
        image=image.id,
        command=("/bin/sh", "-c", "{ command -v make; find / -xdev -perm /6000; ls -d /build; } >/out 2>&1"),
        labels=session_labels("tests"),
        capabilities=("DAC_OVERRIDE",),  # Podman's / is not its owner's to write
        read_only=False,
    )
    with throw_away(engine, spec) as container:
        engine.containers.start(container)
        engine.containers.wait(container, 60)
        out = read_back(engine, container, "/out").decode()
    engine.images.remove(image.id)
    engine.images.remove(origin)

    begun = engine.kind == "docker"
    assert (f"pulling {origin}" in said) == begun
    assert (image.labels["fumehood.source"] == origin) == begun
    assert any(line.startswith("make 4") for line in image.labels["fumehood.packages"].split("; "))
    assert out.splitlines()[0] == "/usr/bin/make"
    assert out.splitlines()[1:] == ["ls: cannot access '/build': No such file or directory"]


def test_image_that_the_engine_lacks_is_pulled(engine: Engine, busybox_image: ImageInfo, tmp_path: Path) -> None:
    """By Docker; Podman asks a registry for a certificate, and then it is said which image was not had."""
    spec = ContainerSpec(image=busybox_image.id, command=("/bin/true",), labels=session_labels("tests"))
    with throw_away(engine, spec) as container:
        layer = b"".join(engine.containers.get_archive(container, "/"))
    with serve_image(layer, ARCHITECTURES.get(engine.info.architecture, engine.info.architecture)) as registry:
        name = f"{registry.host}/some/image:1"
        if engine.kind != "docker":
            with pytest.raises(ImageMissingError, match=re.escape(name)):
                ensure_image(engine, name, cache=tmp_path, progress=lambda _: None)
            return
        image = ensure_image(engine, name, cache=tmp_path, progress=lambda _: None)
    engine.images.remove(image.id)

    assert image.tags == (name,)


@pytest.mark.timeout(30)
def test_registry_that_does_not_answer_is_no_reason_to_wait(engine: Engine) -> None:
    """A port that accepts and says nothing: the worst kind."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        gives = registry_gives(engine, f"127.0.0.1:{silent.getsockname()[1]}/debian:x", certain=False)

    assert not gives
