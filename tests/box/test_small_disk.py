"""Checkpoints on a real disk that is full, in a box that runs and in one that rests: one is taken whole or not at all,
and with room again the next one keeps what this one could not.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from sandbox.errors import DiskFullError
from tests.support.box_changes import LOOK, back_to
from tests.support.sessions import Bench
from tests.support.small_disk import fill, small_disk

pytestmark = [pytest.mark.box, pytest.mark.root, pytest.mark.timeout(240)]
ROOM = (0, 32 << 10, 3 << 20)
WORK = (
    "echo {0} >> file; mkdir -p many{0}; for n in $(seq 60); do echo {0} $n > many{0}/$n; done; "
    "head -c 700000 /dev/urandom > large; echo {0} > ~/note; echo {0} > /tmp/t"
)


async def test_a_checkpoint_on_a_full_disk_is_taken_whole_or_not_at_all(
    bench: Bench, repo: Path, tmp_path: Path
) -> None:
    refused = 0
    with small_disk(tmp_path, 96) as disk:
        async with bench.session(repo, disk / "state") as inside:
            try:
                workspace, points = inside.workspace, inside.workspace.checkpoints
                await inside.run("true")
                states = [(await workspace.checkpoint("first"), await inside.python(LOOK))]
                for number, room in enumerate((*ROOM, *ROOM[:2])):
                    await inside.run(WORK.format(number))
                    seen = await inside.python(LOOK)
                    before = [each.id for each in points.list()]
                    if number == len(ROOM):  # from here on what is much is frozen, where nothing stands on it
                        points.most = (40, 300_000)
                    fill(disk / "filler", room)
                    try:
                        made = await workspace.checkpoint("full")
                    except DiskFullError:
                        refused += 1
                        assert [each.id for each in points.list()] == before
                        made = None
                    if number > len(ROOM):
                        with suppress(DiskFullError):  # what is much is frozen then, where there is room for it
                            await inside.end()
                    (disk / "filler").unlink()
                    if number > len(ROOM):
                        await inside.again()
                    assert await inside.python(LOOK) == seen, room
                    if made is None:
                        made = await workspace.checkpoint("with room again")
                    states.append((made, seen))
                assert 0 < refused < len(states) - 1
                for at in (0, 2, len(states) - 1):
                    kept, seen = states[at]
                    assert kept is not None
                    await back_to(inside, kept.id)
                    assert (await inside.python(LOOK)).splitlines() == seen.splitlines()
            finally:
                (disk / "filler").unlink(missing_ok=True)
                await inside.discard()
