from __future__ import annotations

import io
import json
import os
import stat
import tarfile
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from sandbox.copies import copy_tree, remove_tree
from sandbox.disk import DiskWatch, pause_for, usage_of
from sandbox.errors import StoreError, WorkspaceError
from sandbox.layers import Layer, LayerTable, choose_rung, copy_attributes, overlay_options
from sandbox.remote import default_volume, read_mark, tar_pieces, volumes_named, write_mark
from sandbox.skeleton import gitconfig, own_places
from sandbox.spec import Limits, Owner, Rung
from tests.support.layers_by_hand import build, read, whiteout

pytestmark = pytest.mark.user

GOLDEN = Path(__file__).parent / "golden"
TABLE = LayerTable(
    session="0f0e0d0c",
    began_ns=1_700_000_000_000_000_000,
    owner=Owner(uid=1000, gid=100),
    layers=(
        Layer(name="app", at=PurePosixPath("/srv/app"), host=Path("/srv/app"), rung=Rung.OVERLAY),
        Layer(name="b", at=PurePosixPath("/workspace/b"), host=Path("/x/b\udcff"), rung=Rung.COPY, reason="odd"),
        Layer(name="h", at=PurePosixPath("/home/box"), host=None, rung=Rung.OVERLAY, remote=True, planted={"a": "x"}),
    ),
)
STACKED = replace(
    TABLE,
    layers=(replace(TABLE.layers[0], lowers=("4f2a91c0d1e2", "0123456789ab")), *TABLE.layers[1:]),
    frozen=("0123456789ab", "4f2a91c0d1e2", "aaaaaaaaaaaa"),
)


def test_layer_table_is_written_as_in_the_golden_file_and_earlier_ones_are_read(tmp_path: Path) -> None:
    STACKED.write(tmp_path / "layers.json")
    assert (tmp_path / "layers.json").read_bytes() == (GOLDEN / "layers-2.json").read_bytes()
    assert LayerTable.read(GOLDEN / "layers-2.json") == STACKED
    assert LayerTable.read(GOLDEN / "layers-1.json") == TABLE


def test_missing_table_is_none_and_a_damaged_or_newer_one_an_error(tmp_path: Path) -> None:
    assert LayerTable.read(tmp_path / "none") is None
    for text in ("{", "[]", "{}", json.dumps({"version": 3})):
        (tmp_path / "layers.json").write_text(text)
        with pytest.raises(StoreError):
            LayerTable.read(tmp_path / "layers.json")


def test_overlay_is_chosen_where_nothing_speaks_against_it(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "layers").mkdir()
    assert choose_rung(tmp_path / "root", tmp_path / "layers", local=True, forced=None) == (Rung.OVERLAY, "")


def test_copy_is_chosen_with_its_reason_where_overlay_cannot_be(tmp_path: Path) -> None:
    odd = tmp_path / "od:d"
    (tmp_path / "root" / "state").mkdir(parents=True)
    odd.mkdir()
    for layers, local in ((odd, True), (tmp_path, False), (tmp_path / "root" / "state", True)):
        rung, reason = choose_rung(tmp_path / "root", layers, local=local, forced=None)
        assert rung in (Rung.COPY, Rung.REFLINK)
        assert reason


def test_forced_rung_is_taken_or_refused_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "l").mkdir()
    assert choose_rung(tmp_path, tmp_path / "l", local=True, forced=Rung.COPY) == (Rung.COPY, "--cow copy")
    with pytest.raises(WorkspaceError, match="no overlay"):
        choose_rung(tmp_path, tmp_path / "l", local=True, forced=Rung.OVERLAY)


def test_option_string_names_only_our_own_short_paths(tmp_path: Path) -> None:
    assert overlay_options(Path("/s/layers/app")) == {
        "type": "overlay",
        "device": "overlay",
        "o": "lowerdir=/s/layers/app/lower,upperdir=/s/layers/app/upper,workdir=/s/layers/app/work,"
        "userxattr,index=off,metacopy=off,nosuid,nodev",
    }


def test_frozen_layers_come_before_the_root_and_never_more_than_the_kernel_takes() -> None:
    frozen = [Path(f"/s/layers/{number:012}/d") for number in range(20)]
    options = overlay_options(Path("/s/layers/app"), frozen)["o"]
    assert options.startswith(f"lowerdir={':'.join(map(str, frozen))}:/s/layers/app/lower,upperdir=")
    for too_many in ([*frozen, Path("/one/more")], [Path("/" + "x" * 2000)] * 2):
        with pytest.raises(WorkspaceError, match="too many"):
            overlay_options(Path("/s/layers/app"), too_many)


def test_upper_directory_takes_after_the_root(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    one.chmod(0o2751)
    os.setxattr(one, "user.note", b"x")
    os.setxattr(one, "user.overlay.opaque", b"y")
    os.utime(one, ns=(1, 2_000_000_003))
    assert copy_attributes(one, two)
    found = two.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_mtime_ns) == (0o2751, 2_000_000_003)
    assert [name for name in os.listxattr(two) if name.startswith("user.")] == ["user.note"]


def test_copies_keep_modes_times_links_holes_and_skip_our_state(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    build(source, {"f": (0o751, b"x"), "l": "f", "d": {"s": {"state": (0o644, b"")}, "o": (0o644, b"1")}})
    os.link(source / "f", source / "hard")
    os.utime(source / "f", ns=(5, 5))
    with (source / "big").open("wb") as file:
        file.truncate(1 << 30)
    assert copy_tree(source, target, reflink=False, skip=source / "d/s") == ()
    assert (target / "f").stat().st_mtime_ns == 5
    assert (target / "f").stat().st_ino == (target / "hard").stat().st_ino
    assert (target / "big").stat().st_blocks == 0
    (target / "big").unlink()
    assert read(target) == {"f": (0o751, b"x"), "hard": (0o751, b"x"), "l": "f", "d": {"o": (0o644, b"1")}}


def test_trees_are_removed_however_closed_they_are(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    build(top, {"d": {"e": {"f": (0o000, b"x")}, "l": "/etc"}, "g": (0o644, b"")})
    whiteout(top / "d" / "w")
    for name in ("d/e", "d"):
        (top / name).chmod(0)
    assert remove_tree(top) == ()
    assert not top.exists()
    assert remove_tree(top) == ()
    assert Path("/etc").is_dir()


def test_usage_counts_blocks_once(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    empty = usage_of(tmp_path)
    (tmp_path / "d" / "f").write_bytes(b"x" * 100_000)
    os.link(tmp_path / "d" / "f", tmp_path / "hard")
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(1 << 30)
    assert 100_000 <= usage_of(tmp_path) - empty < 120_000


async def test_disk_watch_says_which_bound_was_reached(tmp_path: Path) -> None:
    said: list[str] = []

    async def full(sentence: str) -> None:
        said.append(sentence)

    (tmp_path / "f").write_bytes(b"x" * 100_000)
    await DiskWatch(tmp_path, Limits(disk=1 << 16, disk_floor=0), full).run()
    await DiskWatch(tmp_path, Limits(disk_floor=1 << 60), full).run()
    assert said[0] == "the session's disk budget of 0 MiB is used up"
    assert said[1].startswith("the host has only ")


@pytest.mark.parametrize(
    ("room", "lost", "seconds", "pause"),
    [
        (1000, 0, 0.5, 0.1),
        (1000, -5, 0.5, 0.1),
        (1000, 100, 0.0, 0.1),
        (1000, 5000, 0.5, 0.05),
        (1000, 10_000, 0.5, 0.025),
        (1000, 10, 0.5, 0.1),
        (-1, 10, 0.5, 0.02),
    ],
)
def test_the_disk_is_looked_at_the_sooner_the_faster_it_fills(
    room: int, lost: int, seconds: float, pause: float
) -> None:
    assert pause_for(room, lost, seconds) == pause


async def test_disk_watch_is_not_misled_by_others_who_free_what_the_session_takes(tmp_path: Path) -> None:
    said: list[str] = []
    looks = 0

    async def full(sentence: str) -> None:
        said.append(sentence)

    def free(path: Path) -> int:
        nonlocal looks
        looks += 1
        if looks == 2:
            (path / "f").write_bytes(b"x" * (2 << 20))
        return (10 + looks) << 30

    await DiskWatch(tmp_path, Limits(disk=1 << 20), full, free=free, clock=lambda: looks * 10.0).run()
    assert said == ["the session's disk budget of 1 MiB is used up"]


def test_home_holds_an_identity_and_nothing_else(tmp_path: Path) -> None:
    home, tmp, vartmp = own_places(name='A "B"\n[core]', email="")
    assert home.files == {".gitconfig": b'[user]\n\tname = "A \\"B\\"[core]"\n'}
    assert (tmp.mode, vartmp.mode, str(vartmp.at)) == (0o1777, 0o1777, "/var/tmp")
    tmp.write(tmp_path / "t")
    assert stat.S_IMODE((tmp_path / "t").stat().st_mode) == 0o1777
    assert own_places(name="", email="")[0].files == {}
    assert gitconfig("a\\b", "c@d") == b'[user]\n\tname = "a\\\\b"\n\temail = "c@d"\n'


def test_tar_for_another_machine_holds_the_tree_and_says_what_it_could_not(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    build(
        source, {"f": (0o751, b"x" * 3000), "l": "nowhere", "d": {"n\udcff\n": (0o600, b""), "s": {"x": (0o644, b"")}}}
    )
    os.utime(source / "f", ns=(5, 1_600_000_000_123_456_789))
    failures: list[str] = []
    pieces = tar_pieces("r", source, failures, owner=Owner(uid=7, gid=8), skip=source / "d/s")
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces)), errors="surrogateescape") as tar:
        assert {(member.uid, member.gid) for member in tar} == {(7, 8)}
        assert tar.getnames()[0] == "layer/r"
        # Debian 12's Python 3.11.2 has no `filter` argument yet
        tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, _path: member)
        tar.extractall(target)
    assert failures == []
    target /= "layer/r"
    assert abs((target / "f").stat().st_mtime_ns - 1_600_000_000_123_456_789) < 1000
    assert read(target) == {"f": (0o751, b"x" * 3000), "l": "nowhere", "d": {"n\udcff\n": (0o600, b"")}}


def test_a_mark_names_the_volume_of_a_layer(tmp_path: Path) -> None:
    place = tmp_path / "layers" / "repo"
    place.mkdir(parents=True)
    first = default_volume("0f0e0d0c-1111", "repo")
    assert (read_mark(place / "filled"), first) == ("", "fumehood-0f0e0d0c1111-repo")
    (place / "filled").touch()  # as an earlier version left it
    assert read_mark(place / "filled") == ""
    assert volumes_named(place.parent, "0f0e0d0c-1111") == {first}
    write_mark(place / "new", f"{first}-2")
    write_mark(place / ".trash-x", f"{first}-3")
    (place / ".trash-fork-1").mkdir()
    write_mark(place / ".trash-fork-1" / "filled", "a fork's")
    assert volumes_named(place.parent, "0f0e0d0c-1111") == {first, f"{first}-2", f"{first}-3"}
    for damaged in (b"{", b"[]", b'{"version": 2, "volume": "x"}'):
        (place / "filled").write_bytes(damaged)
        with pytest.raises(StoreError):
            read_mark(place / "filled")
