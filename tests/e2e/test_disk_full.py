"""A disk that is full, a real one of a small size, under everything that changes a session: the command says so, or is
done; nothing is lost, and with room again the next command goes on.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Bench, furnished, opened
from tests.support.struck import COMMANDS, Walk, travelled

pytestmark = [pytest.mark.box, pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]
MEGABYTES = 1500  # a turn begins only where a gigabyte is left
ROOM = (0, 4 << 10, 16 << 10, 64 << 10, 300 << 10)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a size, with nothing in it."""
    place, image = tmp_path / "disk", tmp_path / "image"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(MEGABYTES << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


class FullDisk(Walk):
    """The disk fills up before the command begins, but for so much."""

    def __init__(self, bench: Bench, filler: Path) -> None:
        super().__init__(bench)
        self.filler = filler
        self.refused: set[str] = set()

    def struck(self, *arguments: str, drawn: int) -> bool:
        room = ROOM[drawn % len(ROOM)]
        self._fill(room)
        try:
            end = self.bench.run(*arguments, check=None)
        finally:
            self.filler.unlink()
        self.what = f"{arguments} with {room} bytes of room: exit {end.returncode}; {end.stdout} {end.stderr}"
        if end.returncode:
            assert "space" in end.stdout + end.stderr, self.what
            self.refused.add(arguments[0])
        return end.returncode == 0

    def _fill(self, room: int) -> None:
        """To the last block, then let go of so much."""
        with self.filler.open("wb", buffering=0) as file:
            size, step = 0, 1 << 30
            while step >= 4 << 10:
                try:
                    os.posix_fallocate(file.fileno(), size, step)
                    size += step
                except OSError:
                    step //= 2
            file.truncate(max(0, size - room))


def test_a_full_disk_costs_nothing_whatever_is_done_on_it(disk: Path, image_cache: Path) -> None:
    with opened(disk, image_cache) as bench:
        travelled(furnished(bench))
        full = FullDisk(bench, disk / "filler")
        full.walk([*COMMANDS] * 2, 2)
        assert {"-p", "undo", "apply"} <= full.refused
