"""ContainerBox keeps the contract of a box: for a user's repository, for root's, for a directory service's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath

import pytest
import pytest_asyncio

from sandbox.box import ContainerBox
from sandbox.conformance import BoxContract
from sandbox.engine import Engine, ImageInfo
from sandbox.spec import BoxSpec, Command, Owner
from sandbox.toolbox import Toolbox

pytestmark = [pytest.mark.box, pytest.mark.asyncio(loop_scope="module")]
ROOT = PurePosixPath("/")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=[1000, 0, 1_234_567_890])
async def opened(
    request: pytest.FixtureRequest, engine: Engine, base_image: ImageInfo, toolbox: Toolbox, image_cache: Path
) -> AsyncIterator[ContainerBox]:
    """One box for the whole suite: starting one takes longer than most tests."""
    spec = BoxSpec(
        session="c0ffee00-contract",
        image=base_image.id,
        owner=Owner(uid=request.param, gid=request.param),
        cwd=ROOT,
        mounts=(toolbox.mount,),
        runtime=request.config.getoption("--runtime"),
    )
    async with ContainerBox(spec, engine, scratch=image_cache) as box:
        yield box


class TestContainerBox(BoxContract):
    @pytest_asyncio.fixture(loop_scope="module")
    async def box(self, opened: ContainerBox) -> ContainerBox:
        await opened.kill_all()
        return opened

    @pytest_asyncio.fixture(loop_scope="module")
    async def place(self, box: ContainerBox) -> PurePosixPath:
        place = PurePosixPath("/tmp/place")
        for argv in (("rm", "-rf", str(place)), ("mkdir", str(place))):
            async for _ in await box.exec(Command(argv=argv, cwd=ROOT)):
                pass
        return place
