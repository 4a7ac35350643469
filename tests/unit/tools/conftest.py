"""A bench over a local box, and where a test may put files."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from tests.support.fakebox import FakeBox
from tests.support.toolbench import ToolBench


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "root"
    place.mkdir()
    return place


@pytest.fixture
def bench(tmp_path: Path, root: Path) -> ToolBench:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return ToolBench(box=FakeBox(scratch), root=PurePosixPath(root))
