"""Packing and thinning stores: nothing that is needed is lost, at whatever point a crash comes."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.checkpoints import Checkpoints
from sandbox.compaction import StoppedError, beside, never, repack, rewrite, thin
from sandbox.errors import StoreError
from sandbox.store import PACK, Store
from tests.support.layers_by_hand import Shape, read
from tests.support.past import PastStage


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[PastStage]:
    made = PastStage(tmp_path, {"f": (0o644, b"begun\n")})
    yield made
    made.workspace.checkpoints.close()


def log(stage: PastStage) -> Path:
    return stage.state / "store" / "checkpoints"


def text(seed: int) -> bytes:
    """4 KB that are much like those of another seed."""
    lines = [f"line {number} of a file that is edited again and again\n" for number in range(80)]
    lines[seed % 80] = f"edited in turn {seed}\n"
    return "".join(lines).encode()


def turns(stage: PastStage, end: int, start: int = 0) -> list[tuple[str, Shape]]:
    """Checkpoints, and what the upper directory held at each."""
    made = []
    for number in range(start, end):
        shape: Shape = {f"e{i}": (0o644, text(number * 10 + i)) for i in range(10)}
        stage.turn(shape | {"f": (0o644, b"begun\n")})
        made.append((stage.take(), read(stage.layers / "root" / "upper")))
    return made


def again(stage: PastStage) -> Checkpoints:
    """As a new process has them."""
    stage.workspace.checkpoints.close()
    stage.workspace = stage.open()
    return stage.workspace.checkpoints


def back(stage: PastStage, checkpoint: str) -> Shape:
    stage.workspace.checkpoints.restore(checkpoint)
    stage.workspace.checkpoints.settle()
    return read(stage.layers / "root" / "upper")


def test_two_hundred_turns_over_the_same_ten_files_take_less_than_their_contents_compressed(stage: PastStage) -> None:
    made = turns(stage, 200)
    stage.workspace.checkpoints.pack(never)
    distinct = {data[1] for _, shape in made for data in shape.values() if isinstance(data, tuple)}
    assert log(stage).stat().st_size < sum(len(zlib.compress(data)) for data in distinct)
    for number in (0, 57, 199):
        assert back(stage, made[number][0]) == made[number][1]


def test_checkpoints_taken_while_it_is_packed_are_kept_and_readers_beside_go_on(
    stage: PastStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = turns(stage, 5)
    reader = Store(log(stage), writable=False)
    during: list[tuple[str, Shape]] = []

    def stop() -> bool:
        if not during:
            during.extend(turns(stage, 7, 5))
        return False

    stage.workspace.checkpoints.pack(stop)
    assert any(record.kind == PACK for record in Store(log(stage), writable=False).records)
    with reader:
        assert len([note for note in reader.notes() if note["type"] == "checkpoint"]) == 5
        for digest, _ in reader.digests():
            reader.get(digest)
    after = turns(stage, 8, 7)
    for checkpoints in (stage.workspace.checkpoints, again(stage)):
        assert [each.id for each in checkpoints.list()] == [name for name, _ in [*made, *during, *after]]
    for name, shape in [*made, *during, *after]:
        assert back(stage, name) == shape


def test_packing_that_is_stopped_or_fails_leaves_everything(stage: PastStage, monkeypatch: pytest.MonkeyPatch) -> None:
    made = turns(stage, 5)
    data = log(stage).read_bytes()
    with pytest.raises(StoppedError):
        stage.workspace.checkpoints.pack(lambda: True)

    def full(*arguments: object) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(OSError, match="no space"):
        stage.workspace.checkpoints.pack(never)
    monkeypatch.undo()
    assert log(stage).read_bytes() == data
    assert not beside(log(stage)).exists()
    assert back(stage, made[1][0]) == made[1][1]


def test_a_half_written_new_file_of_a_crash_is_swept_away(stage: PastStage) -> None:
    made = turns(stage, 3)
    beside(log(stage)).write_bytes(log(stage).read_bytes()[:500])
    again(stage)
    assert back(stage, made[0][0]) == made[0][1]
    assert not beside(log(stage)).exists()


@pytest.mark.parametrize("seed", range(6))
def test_thinning_keeps_what_it_is_told_to_and_takes_away_what_only_the_others_needed(
    stage: PastStage, seed: int
) -> None:
    chance = random.Random(seed)
    made = turns(stage, 12)
    back(stage, made[4][0])
    made += turns(stage, 15, 12)
    present = stage.workspace.checkpoints.present
    drop = frozenset(name for name, _ in made if name != present and chance.random() < 0.6)
    stage.workspace.checkpoints.close()
    if seed % 2:
        repack(log(stage))
    done = thin(log(stage), drop)
    assert done.after < done.before
    checkpoints = again(stage)
    assert checkpoints.present == present
    shapes = dict(made)
    assert [each.id for each in checkpoints.list()] == [name for name in shapes if name not in drop]
    with Store(log(stage), writable=False) as store:
        held = {data for shape in map(shapes.get, set(shapes) - drop) for _, data in files(shape)}
        gone = {data for shape in map(shapes.get, drop) for _, data in files(shape)} - held
        assert not {data for digest, _ in store.digests() if (data := store.get(digest)) in gone}
    for name, shape in shapes.items():
        if name not in drop:
            assert back(stage, name) == shape
    stage.turn({"f": (0o644, b"new\n")})
    stage.take()


def files(shape: Shape | None) -> Iterator[tuple[str, bytes]]:
    for name, node in (shape or {}).items():
        if isinstance(node, tuple):
            yield name, node[1]


def test_a_store_of_version_1_becomes_one_of_today(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_bytes((Path(__file__).parent / "golden" / "store-1.bin").read_bytes())
    repack(file)
    with Store(file, writable=True) as store:
        assert store.version == 2
        assert [store.get(digest) for digest, _ in store.digests()] == [b"hello", b""]
        assert list(store.notes()) == [{"type": "base", "path": "a"}]


def test_damage_is_told_and_nothing_is_written_anew_from_it(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with Store(file, writable=True) as store:
        store.add(b"something that will be damaged")
        store.note({"type": "x"})
    data = bytearray(file.read_bytes())
    data[data.index(b"something")] ^= 1
    file.write_bytes(data)
    with pytest.raises(StoreError, match="damaged"):
        repack(file)
    assert file.read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_what_does_not_shrink_stays_plain_and_large_contents_stand_alone(tmp_path: Path) -> None:
    noise, large = random.Random(1).randbytes(50_000), b"large " * 300_000
    with Store(tmp_path / "log", writable=True) as store:
        digests = [store.add(data) for data in (noise, large, b"small", large + b"2")]
        target = rewrite(store, digests, [], stop=never)
    with target:
        assert [target.get(digest) for digest in digests] == [noise, large, b"small", large + b"2"]
        assert target.size < 60_000
        assert target.plain == len(noise) + len(b"small")


async def test_a_workspace_packs_in_the_background_when_there_is_enough(stage: PastStage) -> None:
    def packed() -> bool:
        with Store(log(stage), writable=False) as store:
            return any(record.kind == PACK for record in store.records)

    stage.turn({"f": (0o644, b"small\n")})
    stage.take()
    stage.workspace.tidy()
    stage.workspace._packing.wait()
    assert not packed()
    stage.turn({"f": (0o644, b"a line that comes again and again\n" * 60_000)})
    point = stage.take()
    stage.workspace.tidy()
    stage.workspace._packing.wait()
    assert packed()
    assert log(stage).stat().st_size < 50_000
    stage.turn({"f": (0o644, b"changed\n")})
    stage.take()
    assert back(stage, point) == {"f": (0o644, b"a line that comes again and again\n" * 60_000)}
    stage.workspace.tidy()
    await stage.workspace.release()
    assert not beside(log(stage)).exists()
