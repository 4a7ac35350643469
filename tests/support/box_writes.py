"""What a box, and a host beside it, do to a session's directory at random, to the real thing and to the model."""

from __future__ import annotations

import copy
import errno
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.support import file_model as model
from tests.support.beds import START, Bed
from tests.support.file_model import Node, beneath

NAMES = ["a", "b", "d", "s", "x", "n\udcff\n", "o" * 255]
TARGETS = ["a", "nowhere", "d/x", "."]


@dataclass
class Done:
    """An apply, to be taken back: the host before it, and what the model knew then."""

    before: model.Tree
    paths: set[str]
    knew: tuple[Any, ...]
    edited: set[str] = field(default_factory=set)


class BoxWrites(RuleBasedStateMachine):
    """The rules of box and host. What becomes of it, and whether both agree, is the time machine's."""

    def _take(self, *, frozen: bool = False) -> None:
        """A checkpoint, where one is wanted."""
        raise NotImplementedError

    def make_bed(self) -> Bed:
        raise NotImplementedError

    @initialize()
    def begin(self) -> None:
        self.bed = self.make_bed()
        self.host = copy.deepcopy(START)
        self.layer = model.Layer(self.host, over=self.bed.over)
        self.base: dict[str, tuple[bytes, int] | None] = {p: (node.data, node.mode) for p, node in START.items()}
        self.drift: set[str] = set()
        self.must: set[str] = set()
        self.brushed: set[str] = set()
        self.taken: dict[str, Node] = {}
        self.applies: list[Done] = []
        self.known: dict[str, tuple[Any, ...]] = {}
        self.number = self.version = 0
        self.history: list[str] = []
        self.future: list[str] = []
        self._take()

    def teardown(self) -> None:
        if hasattr(self, "bed"):
            self.bed.close()

    # What a box does

    @rule(data=st.data(), body=st.sampled_from([b"", b"\0bin", b"text\n"]))
    def create(self, data: st.DataObject, body: bytes) -> None:
        self._create(self._new(data), body)

    def _create(self, path: str | None, body: bytes) -> None:
        if path is None:
            return
        text = body and self._token("box") + body
        place = self._place(path)
        with place.open("xb") as file:
            file.write(text)
        place.chmod(0o644)
        self.layer.put(path, Node("file", 0o644, text))

    @rule(data=st.data(), how=st.sampled_from(["over", "append", "replace", "last line"]))
    def write(self, data: st.DataObject, how: str) -> None:
        path = self._old(data, "file")
        if path is None or (how != "replace" and not self._writable(path)):
            return
        place, old = self._place(path), self.layer.view()[path].data
        text = self._token("box")
        text = {"append": old + text, "last line": old[: old[:-1].rfind(b"\n") + 1] + text}.get(how, text)
        if how == "replace":
            beside = place.with_name(".new")
            beside.write_bytes(text)
            beside.chmod(0o640)
            beside.replace(place)
            self.layer.touched.add(path)
            self.layer.put(path, Node("file", 0o640, text))
            return
        with place.open("ab" if how == "append" else "wb") as file:
            file.write(text[len(old) :] if how == "append" else text)
        node = self.layer.raised(path)
        node.data, node.mtime = text, None

    @rule(data=st.data(), size=st.sampled_from([5 << 20, 9 << 20]))
    def sparse(self, data: st.DataObject, size: int) -> None:
        path = self._old(data, "file")
        if path is None or not self._writable(path):
            return
        token = self._token("box")
        with self._place(path).open("wb") as file:
            file.truncate(size)
            file.seek(size // 2)
            file.write(token)
        node = self.layer.raised(path)
        node.data = bytes(size // 2) + token + bytes(size - size // 2 - len(token))
        node.mtime = None

    @rule(data=st.data())
    def mkdir(self, data: st.DataObject) -> None:
        path = self._new(data)
        if path is not None:
            self._place(path).mkdir()
            self._place(path).chmod(0o750)
            self.layer.put(path, Node("dir", 0o750))

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        path = self._old(data)
        if path is not None:
            self._remove(path)

    def _remove(self, path: str) -> None:
        place = self._place(path)
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink()
        self.layer.remove(path)

    @rule(data=st.data(), kind=st.sampled_from(["file", "dir", "link", "fifo"]))
    def become(self, data: st.DataObject, kind: str) -> None:
        """Something else under the same name."""
        path = self._old(data)
        if path is None:
            return
        self._remove(path)
        place = self._place(path)
        if kind == "file":
            self._create(path, b"became\n")
        elif kind == "link":
            place.symlink_to("a")
            self.layer.put(path, Node("link", target="a"))
        elif kind == "fifo":
            os.mkfifo(place)
            place.chmod(0o600)
            self.layer.put(path, Node("fifo", 0o600))
        else:
            place.mkdir()
            place.chmod(0o755)
            self.layer.put(path, Node("dir", 0o755))
            self._create(f"{path}/x", b"became\n")

    @rule(data=st.data(), text=st.sampled_from(TARGETS))
    def symlink(self, data: st.DataObject, text: str) -> None:
        path = self._new(data)
        if path is not None:
            self._place(path).symlink_to(text)
            self.layer.put(path, Node("link", target=text))

    @rule(data=st.data())
    def hard_link(self, data: st.DataObject) -> None:
        source, path = self._old(data, "file"), self._new(data)
        if source is not None and path is not None and self._brushes(source):
            os.link(self._place(source), self._place(path))
            self.layer.put(path, self.layer.raised(source))
            self.layer.raised(source)

    @rule(data=st.data(), mode=st.sampled_from([0o600, 0o755, 0o444, 0o4755]))
    def chmod(self, data: st.DataObject, mode: int) -> None:
        path = self._old(data, "file", "dir")
        if path is not None:
            mode = mode | 0o700 if self.layer.view()[path].kind == "dir" else mode
            self._place(path).chmod(mode)
            self.layer.raised(path).mode = mode

    @rule(data=st.data(), value=st.sampled_from([b"", b"\0value", None]))
    def attribute(self, data: st.DataObject, value: bytes | None) -> None:
        path = self._old(data, "file", "dir")
        if path is None or not self._writable(path) or not self._brushes(path):
            return
        node = self.layer.raised(path)
        if value is not None:
            os.setxattr(self._place(path), "user.own", value)
            node.attributes["user.own"] = value
        elif "user.own" in node.attributes:
            os.removexattr(self._place(path), "user.own")
            del node.attributes["user.own"]
        else:
            self._place(path).chmod(node.mode)

    @rule(data=st.data(), mtime=st.integers(1, 2 * 10**18))
    def set_time(self, data: st.DataObject, mtime: int) -> None:
        path = self._old(data)
        if path is not None:
            os.utime(self._place(path), ns=(mtime, mtime), follow_symlinks=False)
            self.layer.raised(path).mtime = mtime

    @rule(data=st.data())
    def rename(self, data: st.DataObject) -> None:
        source, path = self._old(data), self._new(data)
        if source is None or path is None or path.startswith(source + "/"):
            return
        inside = [source, *beneath(self.layer.view(), source)]
        moved = True
        try:
            self._place(source).rename(self._place(path))
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            moved = False
            subprocess.run(["mv", "-T", self._place(source), self._place(path)], check=True)
        nodes = {p: self.layer.raised(p) for p in inside}
        times = {p: node.mtime for p, node in nodes.items()}
        self.layer.remove(source)
        for p, node in nodes.items():
            self.layer.put(path + p[len(source) :], node, moved=moved and p == source)
        for p, node in nodes.items():
            node.mtime = times[p]

    @rule(data=st.data())
    def replace_by_rename(self, data: st.DataObject) -> None:
        source, path = self._old(data, "file", "link"), self._old(data, "file", "link", "fifo")
        if source is None or path is None or source == path:
            return
        twin = self.layer.view()[source] is self.layer.view()[path]
        self._place(source).rename(self._place(path))
        if twin:  # rename(2): two names of one file, nothing happens
            return
        node = self.layer.raised(source)
        mtime = node.mtime
        self.layer.remove(source)
        self.layer.put(path, node)
        node.mtime = mtime

    # What the host does

    @rule(data=st.data(), how=st.sampled_from(["in place", "replace", "delete", "mode"]))
    def host_edit(self, data: st.DataObject, how: str) -> None:
        paths = [p for p, node in self.host.items() if node.kind == "file"]
        if not paths:
            return
        path = data.draw(st.sampled_from(sorted(paths)), label="on the host")
        if path in self.brushed:
            return
        place, node = self.bed.host / path, self.host[path]
        self.bed.rest()
        if how == "delete":
            place.unlink()
            del self.host[path]
        elif how == "mode":
            node.mode = 0o700 if node.mode != 0o700 else 0o644
            place.chmod(node.mode)
        else:
            node.data = self._token("host") + node.data
            if how == "replace":
                (self.bed.host / ".fumehood-edit").write_bytes(node.data)
                (self.bed.host / ".fumehood-edit").chmod(node.mode)
                (self.bed.host / ".fumehood-edit").replace(place)
                node.attributes = {}
            else:
                place.chmod(node.mode | 0o200)
                place.write_bytes(node.data)
                place.chmod(node.mode)
            node.mtime = None
        self._drifted(path)

    @rule(name=st.sampled_from(["h", "a", "b"]))
    def host_create(self, name: str) -> None:
        if name in self.host:
            return
        self.bed.rest()
        node = Node("file", 0o644, self._token("host"))
        (self.bed.host / name).write_bytes(node.data)
        (self.bed.host / name).chmod(0o644)
        self.host[name] = node
        self._drifted(name)

    def _drifted(self, path: str) -> None:
        self.version += 1
        if path not in self.host and self.base.get(path) is None:  # as it was
            self.drift.discard(path)
            self.must.discard(path)
        else:
            self.drift.add(path)
            if path in self.layer.touched:
                self.must.add(path)
        for done in self.applies:
            done.edited.add(path)

    # What rules draw from

    def _token(self, who: str) -> bytes:
        self.number += 1
        return b"%s %d\n" % (who.encode(), self.number)

    def _place(self, path: str) -> Path:
        return self.bed.seen() / path

    def _writable(self, path: str) -> bool:
        mode = self.layer.view()[path].mode
        return bool(mode & 0o200) and not mode & 0o4000

    def _brushes(self, path: str) -> bool:
        """Whether a file's stat may be moved and nothing else: over a whole copy that counts as touched until
        the file is made again, so the host leaves such a file alone here.
        """
        if self.bed.over:
            return True
        if path in self.drift:
            return False
        self.brushed.add(path)
        return True

    def _old(self, data: st.DataObject, *kinds: str) -> str | None:
        """A path that is there."""
        paths = [p for p, node in self.layer.view().items() if not kinds or node.kind in kinds]
        return data.draw(st.sampled_from(sorted(paths)), label="path") if paths else None

    def _new(self, data: st.DataObject) -> str | None:
        """A path that is not."""
        view = self.layer.view()
        places = ["", *(p + "/" for p, node in view.items() if node.kind == "dir" and p.count("/") < 3)]
        paths = [top + name for top in places for name in NAMES if top + name not in view]
        return data.draw(st.sampled_from(sorted(paths)), label="new path") if paths else None

    def _sort_host(self) -> None:
        """Parents first, as a walk meets them."""
        rows = sorted(self.host.items())
        self.host.clear()
        self.host.update(rows)
