"""Images made here, by whoever runs the tests, with no registry: what is in them, and what is not."""

from __future__ import annotations

import gzip
import os
import secrets
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest

from sandbox.build import make_layer, read_back, throw_away
from sandbox.containers import ContainerSpec, owner_label, session_labels
from sandbox.engine import Engine, ImageInfo
from sandbox.errors import ImageMissingError
from sandbox.images import build_image, ensure_image, list_images
from sandbox.recipe import Recipe, load_recipe

pytestmark = [pytest.mark.box, pytest.mark.timeout(600)]


def run(engine: Engine, image: ImageInfo, script: str) -> str:
    """What a shell script writes to /out, run as root in a container of the image."""
    spec = ContainerSpec(
        image=image.id,
        command=("/bin/sh", "-c", f"exec >/out 2>&1; {script}"),
        labels=session_labels("tests"),
        capabilities=("DAC_OVERRIDE",),  # Podman's / is not its owner's to write
        read_only=False,
    )
    with throw_away(engine, spec) as container:
        engine.containers.start(container)
        engine.containers.wait(container, 120)
        return read_back(engine, container, "/out").decode()


def quiet(line: str) -> None:
    del line


def test_base_image_holds_the_tools_of_everyday_work(engine: Engine, base_image: ImageInfo) -> None:
    names = "git rg python3 curl jq less make patch ps pkill diff find xargs tar gzip sed awk bash apt-get perl"

    assert run(engine, base_image, f"for n in {names}; do command -v $n >&2 || echo $n; done 2>/dev/null") == ""
    assert run(engine, base_image, "for n in cc gcc clang c++ sudo; do command -v $n; done; true") == ""
    assert run(engine, base_image, "git init -q /tmp/r && cd /tmp/r && git -c user.name=a -c user.email=a@b "
               "commit -q --allow-empty -m m && git log --format=%s") == "m\n"  # fmt: skip
    assert run(engine, base_image, "test -s /etc/ssl/certs/ca-certificates.crt && ls /var/log /var/lib/apt/lists") == (
        "/var/lib/apt/lists:\n\n/var/log:\n"
    )


def test_base_image_has_locale_and_time_zones(engine: Engine, base_image: ImageInfo) -> None:
    script = 'python3 -c "import sys,locale;print(sys.getfilesystemencoding(), locale.getlocale()[1])"; date +%Z'

    assert run(engine, base_image, script) == "utf-8 UTF-8\nUTC\n"
    assert run(engine, base_image, "TZ=Asia/Tokyo date +%z") == "+0900\n"


def test_base_image_gives_nobody_privileges(engine: Engine, base_image: ImageInfo) -> None:
    assert run(engine, base_image, "find / -xdev -perm /6000") == ""
    script = (
        "import os\n"
        "for d, _, names in os.walk('/usr'):\n"
        "    for n in names:\n"
        "        try: found = os.listxattr(d + '/' + n, follow_symlinks=False)\n"
        "        except OSError: found = ()\n"
        "        if found: print(n, found)\n"
    )
    assert run(engine, base_image, f'python3 -c "{script}"') == ""


def test_packages_can_be_installed_over_the_base_image(engine: Engine, base_image: ImageInfo) -> None:
    assert run(engine, base_image, "dpkg --audit; dpkg-query -W -f '${db:Status-Status}\n' | sort -u") == "installed\n"


def test_base_image_says_what_it_is_made_of(engine: Engine, base_image: ImageInfo) -> None:
    lines = base_image.labels["fumehood.packages"].split("; ")

    assert base_image.labels["fumehood.recipe"] == "base"
    assert base_image.labels["fumehood.digest"] == load_recipe("base").digest
    assert any(line.startswith("git 1:") and len(line.rpartition("sha256:")[2]) == 64 for line in lines)
    assert base_image.id in {image.id for image in list_images(engine)}


def test_busybox_image_holds_one_program(engine: Engine, busybox_image: ImageInfo) -> None:
    assert run(engine, busybox_image, "busybox find /usr -type f; busybox ls /usr") == "/usr/bin/busybox\nbin\n"


def test_plain_image_has_git_but_no_python(engine: Engine, plain_image: ImageInfo) -> None:
    assert run(engine, plain_image, "command -v git; command -v python3; true") == "/usr/bin/git\n"


@pytest.fixture
def recipe(engine: Engine) -> Iterator[Recipe]:
    """A recipe whose image nobody else uses."""
    made = replace(load_recipe("busybox"), digest=secrets.token_hex(32))
    yield made
    engine.images.remove(made.tag)


def test_image_is_loaded_from_the_cache_without_any_package(engine: Engine, tmp_path: Path, recipe: Recipe) -> None:
    first = build_image(engine, recipe, cache=tmp_path, progress=quiet)
    shutil.rmtree(tmp_path / "packages")
    engine.images.remove(recipe.tag)
    said: list[str] = []

    second = build_image(engine, recipe, cache=tmp_path, progress=said.append)

    assert (second.layers, said) == (first.layers, [])


def test_damaged_cache_is_noticed_and_made_again(engine: Engine, tmp_path: Path, recipe: Recipe) -> None:
    first = build_image(engine, recipe, cache=tmp_path, progress=quiet)
    layer = next((tmp_path / "images").glob("*.tar.gz"))
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("other"))
    layer.write_bytes(buffer.getvalue())
    engine.images.remove(recipe.tag)

    second = build_image(engine, recipe, cache=tmp_path, progress=quiet)

    assert second.layers == first.layers


def test_image_of_the_engine_is_taken_as_it_is(engine: Engine, busybox_image: ImageInfo, tmp_path: Path) -> None:
    engine.images.tag(busybox_image.id, repository="localhost/somebody", tag="else")
    try:
        found = ensure_image(engine, "localhost/somebody:else", cache=tmp_path, progress=quiet)
    finally:
        engine.images.remove("localhost/somebody:else")

    assert found.id == busybox_image.id


@pytest.mark.parametrize("name", ["localhost:1/no/such:image", "Not A Name", "a\nb", ""])
def test_image_that_nobody_has_is_a_clear_error(engine: Engine, tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageMissingError) as caught:
        ensure_image(engine, name, cache=tmp_path, progress=quiet)

    assert caught.value.exit_code == 45
    assert caught.value.hint


def test_packages_are_never_added_to_foreign_images(engine: Engine, busybox_image: ImageInfo, tmp_path: Path) -> None:
    with pytest.raises(ImageMissingError, match="cannot be added"):
        ensure_image(engine, busybox_image.id, packages=("gcc",), cache=tmp_path, progress=quiet)


def test_package_that_does_not_exist_is_named(engine: Engine, image_cache: Path) -> None:
    with pytest.raises(ImageMissingError, match="no-such-package-at-all"):
        ensure_image(engine, "busybox", packages=("no-such-package-at-all",), cache=image_cache, progress=quiet)


@pytest.fixture
def with_tree(engine: Engine, image_cache: Path) -> Iterator[ImageInfo]:
    image = ensure_image(engine, "plain", packages=("tree",), cache=image_cache, progress=quiet)
    yield image
    engine.images.remove(image.id)


@pytest.mark.slow
def test_added_packages_make_an_image_of_their_own(
    engine: Engine, with_tree: ImageInfo, plain_image: ImageInfo
) -> None:
    assert with_tree.id != plain_image.id
    assert run(engine, with_tree, "command -v tree") == "/usr/bin/tree\n"


@pytest.mark.slow
def test_the_same_packages_give_the_same_layer(
    engine: Engine, base_image: ImageInfo, tmp_path: Path, image_cache: Path
) -> None:
    """Built twice with nothing shared but the downloads."""
    digests = [
        make_layer(
            engine,
            load_recipe("base"),
            out=tmp_path / f"layer{number}",
            downloads=image_cache / "packages",
            registry=False,
            progress=quiet,
        ).layer.digest
        for number in (1, 2)
    ]

    assert digests[0] == digests[1]
    with gzip.open(tmp_path / "layer1") as layer:
        assert layer.seek(0, os.SEEK_END) > 100_000_000


def left_by_builds(engine: Engine, owner: str) -> list[str]:
    label = f"fumehood.owner={owner}"
    containers = [container.name for container in engine.containers.list(label)]
    return containers + [image.id for image in engine.images.list(label)]


def test_nothing_of_a_build_is_left_in_the_engine(engine: Engine, tmp_path: Path, recipe: Recipe) -> None:
    before = left_by_builds(engine, owner_label())  # what holds the tests' toolbox
    build_image(engine, recipe, cache=tmp_path, progress=quiet)

    assert left_by_builds(engine, owner_label()) == before


def test_what_a_killed_build_left_goes_with_the_next(engine: Engine, tmp_path: Path, recipe: Recipe) -> None:
    dead = session_labels("images") | {"fumehood.owner": f"gone:{secrets.randbelow(10**9)}:1"}
    with throw_away(engine, ContainerSpec(image=list_images(engine)[0].id, command=("/bin/true",), labels=dead)):
        build_image(engine, recipe, cache=tmp_path, progress=quiet)

        assert left_by_builds(engine, dead["fumehood.owner"]) == []
