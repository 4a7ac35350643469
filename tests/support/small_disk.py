"""A real file system of a small size, and filling it to the last block."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STEPS = 1 << 30


@contextmanager
def small_disk(scratch: Path, megabytes: int) -> Iterator[Path]:
    """A new ext4 in a file below `scratch`, mounted until the block ends. Root only."""
    place, image = scratch / "disk", scratch / "image"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def fill(filler: Path, room: int) -> None:
    """Take all of its disk with one file, but for so many bytes."""
    with filler.open("wb", buffering=0) as file:
        size, step = 0, STEPS
        while step >= 4 << 10:
            try:
                os.posix_fallocate(file.fileno(), size, step)
                size += step
            except OSError:
                step //= 2
        file.truncate(max(0, size - room))
