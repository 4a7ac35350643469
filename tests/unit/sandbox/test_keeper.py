"""The keeper's two ends, joined in this process; in a container they meet in tests/box."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from sandbox import wire
from sandbox.errors import WorkspaceError
from sandbox.keeper import Keeper
from sandbox.kepttree import KeptTree
from sandbox.server import keeper as server
from sandbox.trees import LocalTree, content
from tests.support.layers_by_hand import build, whiteout

pytestmark = pytest.mark.user


class Joined(Keeper):
    """Asks the server's functions themselves."""

    def __init__(self, layers: Path, roots: dict[str, Path]) -> None:
        super().__init__(None, None, session="s", layers=layers, roots=roots)
        self._layers, self._roots = layers, roots
        self.asked: list[str] = []
        self.answers: list[bytes] = []
        self.wanted: set[int] = set()

    def place(self, path: Path) -> str:
        super().place(path)
        return str(path)

    def ask(self, kind: str, **arguments: Any) -> int:
        self.asked.append(kind)
        header: dict[str, Any] = {"t": "open", "s": 1, "k": kind}
        self.answers.append(server.answer(header, json.dumps(arguments).encode("ascii")))
        self.wanted.add(len(self.answers) - 1)
        return len(self.answers) - 1

    def answer(self, asked: int) -> tuple[dict[str, Any], bytes]:
        self.wanted.remove(asked)
        [*data, (last, _)] = wire.Decoder().feed(self.answers[asked])
        if last["t"] == "fail":
            raise OSError(getattr(errno, last.get("detail") or "EINVAL"), last["code"])
        return last["r"], b"".join(payload for _, payload in data)


class Denied(LocalTree):
    """A tree that this process may not read at all."""

    def scan(self, path: bytes) -> Any:
        raise PermissionError

    def stat(self, path: bytes) -> Any:
        raise PermissionError

    def chunks(self, path: bytes, limit: int | None = None) -> Any:
        raise PermissionError
        yield

    def readlink(self, path: bytes) -> bytes:
        raise PermissionError

    def attributes(self, path: bytes) -> dict[str, bytes]:
        raise PermissionError


@pytest.fixture
def layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    top = tmp_path / "layers"
    top.mkdir()
    monkeypatch.setattr(server, "_TOPS", (os.fsencode(top) + b"/",))
    return top


def kept(layers: Path) -> KeptTree:
    tree = KeptTree(layers, Joined(layers, {}))
    tree.close()
    tree._local = Denied(layers)
    return tree


def test_tree_is_the_same_through_the_keeper(layers: Path) -> None:
    build(layers, {"d": {"f": (0o600, b"x" * 500_000), "n\udcff\n": (0o644, b"")}, "l": "../up", "e": {}})
    whiteout(layers / "w")
    os.setxattr(layers / "e", "user.overlay.opaque", b"y")
    with (layers / "holes").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(3 << 20)
        file.write(b"end")
    through = kept(layers)
    with LocalTree(layers) as direct:
        for path in (b"", b"d", b"e"):
            assert through.scan(path) == direct.scan(path)
        for path in (b"d/f", b"l", b"w", b"none", b"d/f/x"):
            assert through.stat(path) == direct.stat(path)
        for path in (b"d/f", b"holes"):
            assert content(through, path, 10 << 20) == content(direct, path, 10 << 20)
            assert content(through, path, 300_001) == content(direct, path, 300_001)
        assert any(isinstance(piece, int) for piece in through.chunks(b"holes"))
        assert through.readlink(b"l") == b"../up"
        assert through.attributes(b"e") == direct.attributes(b"e") == {"user.overlay.opaque": b"y"}
        assert through.attributes(b"l") == {}
    through.close()


def test_large_directories_come_in_parts(layers: Path) -> None:
    for number in range(4000):
        (layers / f"{number:0200d}").touch()
    through = kept(layers)
    assert [entry.path for entry in through.scan(b"")] == [b"%0200d" % number for number in range(4000)]
    assert isinstance(through._keeper, Joined)
    assert len(through._keeper.asked) > 1
    through.close()


def test_keeper_is_not_asked_for_what_this_process_may_read(layers: Path) -> None:
    build(layers, {"f": (0o644, b"x")})
    tree = KeptTree(layers, Joined(layers, {}))
    assert [entry.path for entry in tree.scan(b"")] == [b"f"]
    assert content(tree, b"f", 10) == b"x"
    assert isinstance(tree._keeper, Joined)
    assert tree._keeper.asked == []
    tree.close()


VERBS = ["scan", "stat", "read", "readlink", "attributes", "chown", "remove", "write", "bind", "dress"]


@pytest.mark.parametrize("kind", VERBS)
@pytest.mark.parametrize(
    "path", ["/etc/passwd", "{top}/../outside", "{top}/link/f", "relative", "{top}/./f", "", 7, None]
)
def test_keeper_touches_nothing_outside_of_its_directories(layers: Path, kind: str, path: object) -> None:
    (layers.parent / "outside").mkdir()
    (layers.parent / "outside" / "f").write_bytes(b"precious")
    (layers / "link").symlink_to("../outside")
    named = path.format(top=layers) if isinstance(path, str) else path
    arguments = {"path": named, "start": 0, "offset": 0, "uid": os.geteuid(), "gid": os.getegid()}
    arguments |= {"size": 99, "data": "eA==", "mode": 0o644, "mtime_ns": 0, "attributes": {}}
    frame = server.answer({"t": "open", "s": 1, "k": kind}, json.dumps(arguments).encode("ascii"))
    [(header, _)] = wire.Decoder().feed(frame)
    assert header["t"] == "fail"
    assert (layers.parent / "outside" / "f").read_bytes() == b"precious"


@pytest.mark.parametrize("payload", [b"", b"[]", b"{", b"{}", b'{"path": 1}', b"[" * 100_000])
def test_nonsense_is_answered_with_a_code(layers: Path, payload: bytes) -> None:
    for kind in ("scan", "nothing"):
        [(header, _)] = wire.Decoder().feed(server.answer({"t": "open", "s": 3, "k": kind}, payload))
        assert (header["t"], header["s"], header["code"]) == ("fail", 3, "invalid")


def test_trees_are_removed_and_given_away_beneath_the_layers(layers: Path) -> None:
    build(layers, {"d": {"e": {"f": (0o644, b"")}, "l": "/etc"}})
    keeper = Joined(layers, {})
    (layers / "d").chmod(0o1731)
    keeper.request("chown", path=str(layers / "d"), uid=os.geteuid(), gid=os.getegid())
    assert stat.S_IMODE((layers / "d").stat().st_mode) == 0o1731
    keeper.request("remove", path=str(layers / "d"))
    keeper.request("remove", path=str(layers / "d"))
    assert list(layers.iterdir()) == []
    assert Path("/etc/passwd").exists()


def test_what_a_tar_cannot_tell_is_made_beneath_the_layers(layers: Path) -> None:
    build(layers, {"d": {}, "f": (0o600, b""), "l": "f"})
    keeper = Joined(layers, {})
    keeper.request("write", path=str(layers / "f"), offset=2 << 20, size=0, data="ZW5k")
    keeper.request("write", path=str(layers / "f"), offset=0, size=4 << 20, data="")
    keeper.request("bind", path=str(layers / "d/s"))
    told = {"uid": os.geteuid(), "gid": os.getegid()}
    keeper.request(
        "dress", path=str(layers / "f"), mode=0o4751, mtime_ns=-1_500_000_000, attributes={"user.a": "00ff"}, **told
    )
    keeper.request("dress", path=str(layers / "l"), mode=0o777, mtime_ns=7, attributes={}, **told)
    seen = (layers / "f").stat()
    assert (seen.st_size, seen.st_mtime_ns, seen.st_blocks * 512 < 1 << 20) == (4 << 20, -1_500_000_000, True)
    assert stat.S_IMODE(seen.st_mode) == 0o4751
    assert os.getxattr(layers / "f", "user.a") == b"\0\xff"
    assert (layers / "f").read_bytes()[2 << 20 :].rstrip(b"\0") == b"end"
    assert (layers / "l").lstat().st_mtime_ns == 7
    assert stat.S_ISSOCK((layers / "d/s").lstat().st_mode)
    for name in ("trusted.overlay.opaque", "security.capability"):
        with pytest.raises(OSError, match="invalid"):
            keeper.request("dress", path=str(layers / "f"), mode=0, mtime_ns=0, attributes={name: "79"}, **told)


def test_without_an_engine_what_cannot_be_read_is_a_clear_error(tmp_path: Path) -> None:
    keeper = Keeper(None, None, session="s", layers=tmp_path, roots={})
    with pytest.raises(WorkspaceError, match="cannot be read by you"):
        keeper.remove(tmp_path / "x")
    with pytest.raises(ValueError, match="is not the keeper's"):
        keeper.place(Path("/etc"))


@pytest.mark.parametrize("count", [3, 700])
def test_a_tree_that_fits_is_told_at_one_go_and_a_larger_one_piece_by_piece(layers: Path, count: int) -> None:
    build(layers, {"a": {"b": {f"f{n}": (0o644, b"x") for n in range(count)}, "n\udcff": "to"}, "z": {}})
    through = kept(layers)
    asked = through._keeper.asked  # type: ignore[attr-defined]
    found = [entry.path for entry in through.below(b"")]
    with LocalTree(layers) as direct:
        assert found == [b"a", b"a/b", *(e.path for e in direct.scan(b"a/b")), b"a/n\xff", b"z"]
    assert asked == (["below"] if count < 500 else ["below", "scan", "below", "scan", "below", "scan", "below"])


def test_small_files_are_taken_many_at_one_go(layers: Path) -> None:
    top = layers / "root"
    (top / "d").mkdir(parents=True)
    contents = {b"d/f%d" % n: b"%d" % n * (n * 300) for n in range(100)} | {b"big": b"x" * (wire.PAYLOAD + 1)}
    for name, data in contents.items():
        (top / os.fsdecode(name)).write_bytes(data)
    os.setxattr(top / "d/f3", "user.mark", b"m")
    with (top / "sparse").open("wb") as sparse:
        sparse.truncate(5000)
    (top / "link").symlink_to("/etc/passwd")
    os.mkfifo(top / "fifo")
    keeper = Joined(layers, {})
    tree = KeptTree(top, keeper)
    try:
        entries = [entry for path in (b"", b"d") for entry in tree.scan(path) if not entry.is_directory]
        keeper.asked.clear()
        found = {entry.path: (attributes, data) for entry, attributes, data in tree.wholes(entries)}
    finally:
        tree.close()
    assert found.keys() == contents.keys() | {b"sparse", b"link", b"fifo"}
    assert found[b"d/f3"] == ({"user.mark": b"m"}, contents[b"d/f3"])
    assert {name for name, (_, data) in found.items() if data is None} == {b"big", b"sparse", b"link", b"fifo"}
    assert all(data in (None, contents.get(name)) for name, (_, data) in found.items())
    assert keeper.asked.count("take") == len(keeper.asked) < 50  # 3 MB, in 48 KiB and more


def test_answers_are_had_in_any_order_and_those_that_nobody_wants_hold_nothing_up(layers: Path) -> None:
    top = layers / "root"
    top.mkdir()
    for number in range(300):
        (top / f"f{number}").write_bytes(b"%d" % number * 2000)
    keeper = Joined(layers, {})
    tree = KeptTree(top, keeper)
    entries = tree.scan(b"")
    some = tree.wholes(entries)
    first, _, data = next(some)
    assert data == (top / os.fsdecode(first.path)).read_bytes()
    some.close()
    assert keeper.wanted == set()
    found = {entry.path: data for entry, _, data in tree.wholes(entries)}
    assert found == {entry.path: (top / os.fsdecode(entry.path)).read_bytes() for entry in entries}
    assert keeper.wanted == set()
    tree.close()


@pytest.mark.parametrize("paths", [["/etc/passwd"], ["/layers/../etc/passwd"], [7], 7, None])
def test_what_is_none_of_the_keepers_is_not_taken(paths: Any) -> None:
    request = json.dumps({"paths": paths}).encode("ascii")
    ((last, _),) = wire.Decoder().feed(server.answer({"t": "open", "s": 1, "k": "take"}, request))
    assert (last["t"], last["code"]) == ("fail", wire.PathCode.INVALID)
