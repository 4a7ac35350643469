"""Boxes of images that are not ours: with only busybox, without Python, and with a hostile configuration."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import pytest

from sandbox.build import throw_away
from sandbox.containers import ContainerSpec, session_labels
from sandbox.engine import Engine, ImageInfo
from sandbox.toolbox import TOOLBOX_ENVIRONMENT
from tests.support.boxes import TMP, Boxes, run

pytestmark = [pytest.mark.box]


@pytest.mark.parametrize("image", ["busybox_image", "plain_image"])
async def test_box_serves_commands_and_files(boxes: Boxes, image: str, request: pytest.FixtureRequest) -> None:
    found: ImageInfo = request.getfixturevalue(image)

    async with boxes.box(image=found.id) as box:
        await box.write(TMP / "a", b"from outside\n")
        text, end = await run(box, "cat /tmp/a; echo inside >/tmp/b; command -v python3; id -u")
        back = await box.read(TMP / "b")

    assert (text, end.code) == ("from outside\n1000\n", 0)
    assert back.data == b"inside\n"


Configured = Callable[..., ImageInfo]


@pytest.fixture
def configured(engine: Engine, busybox_image: ImageInfo) -> Iterator[Configured]:
    """Makes the busybox image anew, with lines of a Dockerfile."""
    made: list[str] = []

    def make(*changes: str) -> ImageInfo:
        spec = ContainerSpec(image=busybox_image.id, command=("/bin/true",), labels=session_labels("tests"))
        with throw_away(engine, spec) as container:
            files = b"".join(engine.containers.get_archive(container, "/"))
        image = engine.images.load_tar(
            [files], repository="fumehood/hostile", tag=secrets.token_hex(4), labels={"fumehood": "1"}, changes=changes
        )
        made.append(image.id)
        return image

    yield make
    for image in made:
        engine.images.remove(image)


async def test_image_cannot_make_our_server_load_or_say_anything(boxes: Boxes, configured: Configured) -> None:
    """LD_DEBUG alone would fill the pipe with the loader's words; a preloaded library would be the server."""
    hostile = (
        "LD_DEBUG=all LD_PRELOAD=/opt/fumehood/lib/libsqlite3.so.0 LD_LIBRARY_PATH=/usr/lib LD_AUDIT=/x.so "
        "GCONV_PATH=/usr LOCPATH=/usr GLIBC_TUNABLES=glibc.malloc.check=3 PYTHONINSPECT=1 PYTHONHOME=/usr"
    )
    image = configured(*(f"ENV {setting}" for setting in hostile.split()))

    async with boxes.box(image=image.id) as box:
        assert (await box.read(TMP.parent / "etc/passwd")).data.startswith(b"box:")
        text, end = await run(box, "env")

    assert end.code == 0
    # the image's own programs have what it sets; the server had none of it
    lines = text.splitlines()
    assert "LD_DEBUG=all" in lines
    assert "GCONV_PATH=/usr" in lines
    assert not [line for line in lines if line.startswith("FUMEHOOD")]


async def test_what_is_blank_for_the_server_is_not_set_for_commands(boxes: Boxes) -> None:
    """An empty GCONV_PATH alone costs each program a millisecond."""
    async with boxes.box() as box:
        text, _ = await run(box, "env")

    names = {line.partition("=")[0] for line in text.splitlines()}
    assert not names & set(TOOLBOX_ENVIRONMENT)
    assert not [name for name in names if name.startswith(("FUMEHOOD", "BASH_ENV"))]


async def test_image_cannot_choose_how_the_box_is_started(boxes: Boxes, configured: Configured) -> None:
    image = configured(
        "USER 7",
        "WORKDIR /nowhere",
        'ENTRYPOINT ["/bin/false"]',
        'CMD ["/bin/false"]',
        "EXPOSE 80",
        "VOLUME /data",
    )

    async with boxes.box(image=image.id) as box:
        text, end = await run(box, "id -u; pwd; touch /data/x && echo written; ls /nowhere 2>&1 | head -1")

    assert end.code == 0
    assert text.startswith("1000\n/tmp\nwritten\n")
