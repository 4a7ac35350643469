"""LocalBox keeps the contract of a box."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath

import pytest

from sandbox.conformance import BoxContract
from sandbox.local import LocalBox


class TestLocalBox(BoxContract):
    @pytest.fixture
    async def box(self, tmp_path: Path) -> AsyncIterator[LocalBox]:
        async with LocalBox(tmp_path) as box:
            yield box

    @pytest.fixture
    def place(self, tmp_path: Path) -> PurePosixPath:
        (tmp_path / "place").mkdir()
        return PurePosixPath(tmp_path / "place")
