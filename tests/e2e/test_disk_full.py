"""A disk that is full, a real one of a small size, under everything that changes a session: the command says so, or is
done; nothing is lost, and with room again the next command goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Bench, furnished, opened
from tests.support.small_disk import fill, small_disk
from tests.support.struck import COMMANDS, Walk, travelled

pytestmark = [pytest.mark.box, pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]
MEGABYTES = 1500  # a turn begins only where a gigabyte is left
ROOM = (0, 4 << 10, 16 << 10, 64 << 10, 300 << 10)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a size, with nothing in it."""
    with small_disk(tmp_path, MEGABYTES) as place:
        yield place


class FullDisk(Walk):
    """The disk fills up before the command begins, but for so much."""

    def __init__(self, bench: Bench, filler: Path) -> None:
        super().__init__(bench)
        self.filler = filler
        self.refused: set[str] = set()

    def struck(self, *arguments: str, drawn: int) -> bool:
        room = ROOM[drawn % len(ROOM)]
        fill(self.filler, room)
        try:
            end = self.bench.run(*arguments, check=None)
        finally:
            self.filler.unlink()
        self.what = f"{arguments} with {room} bytes of room: exit {end.returncode}; {end.stdout} {end.stderr}"
        if end.returncode:
            assert "space" in end.stdout + end.stderr, self.what
            self.refused.add(arguments[0])
        return end.returncode == 0


def test_a_full_disk_costs_nothing_whatever_is_done_on_it(disk: Path, image_cache: Path) -> None:
    with opened(disk, image_cache) as bench:
        travelled(furnished(bench))
        full = FullDisk(bench, disk / "filler")
        full.walk([*COMMANDS] * 2, 2)
        assert {"-p", "undo", "apply"} <= full.refused
