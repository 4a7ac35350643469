"""Boxes for the tests of this directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.engine import Engine, ImageInfo
from sandbox.toolbox import Toolbox
from tests.support.boxes import Boxes


@pytest.fixture(scope="session")
def boxes(engine: Engine, base_image: ImageInfo, toolbox: Toolbox, image_cache: Path) -> Boxes:
    return Boxes(engine=engine, image=base_image, toolbox=toolbox, cache=image_cache)
