"""A session's directory driven at random beside its plain model: writes of a box, checkpoints, going back and
forth, applies, and a host that changes meanwhile. Where the layer lies and how it is seen is a `Bed`'s.
"""

from __future__ import annotations

import copy
import ctypes
import errno
import os
import shutil
import subprocess
import tempfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from sandbox.changes import Change
from sandbox.checkpoints import Checkpoints
from sandbox.copies import remove_tree
from sandbox.held import HeldBack
from sandbox.keeper import Keeper, KeeperImage
from sandbox.layers import Layer
from sandbox.places import Places
from sandbox.pool import Pool
from sandbox.reversal import UndoRefusedError
from sandbox.roots import find_roots
from sandbox.selection import ApplyConflictError, Selection
from sandbox.skeleton import own_places
from sandbox.spec import Owner, Rung
from sandbox.views import Views
from sandbox.walk import encode, walk
from tests.support import file_model as model
from tests.support.file_model import Node, above, agree, beneath, told, twins

NAMES = ["a", "b", "d", "s", "x", "n\udcff\n", "o" * 255]
TARGETS = ["a", "nowhere", "d/x", "."]
START: model.Tree = {
    "a": Node("file", 0o644, b"one\ntwo\nthree\nfour\nfive\n"),
    "b": Node("file", 0o755, b"b one\nb two\nb three\n"),
    "d": Node("dir", 0o755),
    "d/x": Node("file", 0o644, b"x one\nx two\nx three\nx four\n"),
    "d/s": Node("dir", 0o750),
    "d/s/b": Node("file", 0o600, b"deep one\ndeep two\n"),
    "l": Node("link", target="a"),
}
OPTIONS = "userxattr,index=off,metacopy=off"


def write_tree(top: Path, tree: model.Tree) -> None:
    """Make a tree of the model."""
    for path, node in tree.items():
        place = top / path
        if node.kind == "dir":
            place.mkdir()
        elif node.kind == "link":
            place.symlink_to(node.target)
        else:
            place.write_bytes(node.data)
        if node.kind != "link":
            place.chmod(node.mode)


class Bed(Protocol):
    """Where the box's directory is seen. `views` and `checkpoints` are the session's own."""

    over: bool
    host: Path
    checkpoints: Checkpoints
    views: Views
    layer: Layer

    def seen(self) -> Path:
        """The directory as the box sees it, to look at and to write to."""
        ...

    def changes(self) -> list[Change]:
        """As the session finds them."""
        ...

    def apply(self, selection: Selection | None = None) -> None:
        """Raises ApplyConflictError."""
        ...

    def rest(self) -> None:
        """Nothing stands on the layers any more."""
        ...

    def again(self) -> None:
        """As a new process finds it."""
        ...

    def fork(self, checkpoint: str) -> Bed:
        """A session that goes on from a checkpoint of this one, over the same host."""
        ...

    def close(self) -> None:
        """All of it goes, and what it was forked from."""
        ...


class LocalBed:
    """Layers of this machine without a box: a whole copy, or an overlay that this process mounts (as root)."""

    def __init__(self, rung: Rung) -> None:
        self.over = rung is Rung.OVERLAY
        self.base = Path(tempfile.mkdtemp(prefix="fumehood-machine-", dir=_quick()))
        self.host = self.base / "repo"
        self.host.mkdir()
        write_tree(self.host, START)
        self._session = str(uuid.uuid4())
        self._state = self.base / "state"
        self._state.mkdir()
        self._forks = 0
        self._before: LocalBed | None = None
        self._pool = Pool(self.base / "pool")
        self._stand()
        self._open()
        self._places.make(local=True, forced=rung, began_ns=0)
        self.layer = next(layer for layer in self._layers() if layer.host is not None)
        (self._places.path(self.layer) / "manifest").write_bytes(encode(walk(os.fsencode(self.host)), 0))
        if not self.over:
            copied = encode(walk(os.fsencode(self._places.top(self.layer))), 0)
            (self._places.path(self.layer) / "copy.manifest").write_bytes(copied)

    def _stand(self) -> None:
        self._merged = self._state.with_name(f"{self._state.name}.merged")
        self._merged.mkdir()
        self._mounted = False

    def fork(self, checkpoint: str) -> LocalBed:
        """A session that goes on from a checkpoint of this one, over the same host."""
        made = copy.copy(self)
        made._before = self
        self._forks += 1
        made._session, made._state = str(uuid.uuid4()), self._state.with_name(f"{self._state.name}-{self._forks}")
        made._forks = 0
        made._state.mkdir()
        self.checkpoints.fork(checkpoint, [(made._session, made._state)])
        made._stand()
        made._open()
        made.layer = next(layer for layer in made._layers() if layer.host is not None)
        return made

    def _layers(self) -> tuple[Layer, ...]:
        assert self._places.table is not None
        return self._places.table.layers

    def _open(self) -> None:
        def image() -> KeeperImage:
            raise AssertionError

        roots = find_roots(self.host, [], home=Path("/nowhere"), state=self._state).roots
        layers = self._state / "layers"
        keeper = Keeper(None, None, session=self._session, layers=layers, roots={r.name: r.host for r in roots})
        self._places = Places(
            layers,
            session=self._session,
            owner=Owner(uid=os.getuid(), gid=os.getgid()),
            roots=roots,
            own=own_places(name="", email=""),
            chown=keeper.chown,
            image=image,
            frozen=self._pool.tree,
        )
        self.checkpoints = Checkpoints(self._places, keeper, directory=self._state / "store", pool=self._pool)
        log = self._state / "store" / "log"
        self.views = Views(self._places, keeper, store=log, held=HeldBack.load())

    def seen(self) -> Path:
        if not self.over:
            return self._places.top(self.layer)
        if not self._mounted:
            place = self._places.path(self.layer)
            options = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work,{OPTIONS}"
            _libc("mount", b"overlay", os.fsencode(self._merged), b"overlay", 0, os.fsencode(options))
            self._mounted = True
        return self._merged

    def changes(self) -> list[Change]:
        """As the session finds them."""
        touched = [] if self.over else sorted(self.views.touched_beneath(self.layer, [b""]))
        return self.views.changes(self.layer, touched)

    def apply(self, selection: Selection | None = None) -> None:
        """Raises ApplyConflictError."""
        self.views.apply(self.changes(), selection or Selection(), dry=False)

    def rest(self) -> None:
        if self._mounted:
            _libc("umount2", os.fsencode(self._merged), 0)
            self._mounted = False

    def again(self) -> None:
        self.checkpoints.close()
        self._open()

    def close(self) -> None:
        self.rest()
        self.checkpoints.close()
        if self._before is not None:
            self._before.close()
        else:
            remove_tree(self.base)


def _quick() -> Path | None:
    """A file system in memory that keeps user attributes, where there is one: an apply flushes a lot."""
    place = Path("/dev/shm")
    try:
        with tempfile.TemporaryDirectory(dir=place) as probe:
            os.setxattr(probe, "user.probe", b"1")
        return place if shutil.disk_usage(place).free > 256 << 20 else None
    except OSError:
        return None


def _libc(name: str, *arguments: Any) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def can_mount_overlays() -> bool:
    """Whether this process may mount overlays by itself: as root, mostly."""
    base = Path(tempfile.mkdtemp(prefix="fumehood-probe-"))
    try:
        for name in ("l", "u", "w", "m"):
            (base / name).mkdir()
        options = f"lowerdir={base}/l,upperdir={base}/u,workdir={base}/w,{OPTIONS}"
        _libc("mount", b"overlay", os.fsencode(base / "m"), b"overlay", 0, os.fsencode(options))
        _libc("umount2", os.fsencode(base / "m"), 0)
    except OSError:
        return False
    else:
        return True
    finally:
        remove_tree(base)


@dataclass
class Done:
    """An apply, to be taken back: the host before it, and what the model knew then."""

    before: model.Tree
    paths: set[str]
    knew: tuple[Any, ...]
    edited: set[str] = field(default_factory=set)


class TimeMachine(RuleBasedStateMachine):
    """Every rule does the same to the real thing and to the model, and both must agree after it."""

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

    # What fumehood does

    @rule()
    def checkpoint(self) -> None:
        self._take()

    @rule()
    def turn_ends(self) -> None:
        self.bed.views.capture(self.bed.changes())
        self._take()

    @rule(data=st.data(), process=st.booleans(), emptied=st.booleans())
    def rewind(self, data: st.DataObject, process: bool, emptied: bool) -> None:
        wanted = data.draw(st.sampled_from(list(self.known)), label="checkpoint")
        self._take()
        self._go(wanted, process=process, emptied=emptied)
        self.history.append(wanted)
        self.future.clear()

    @precondition(lambda self: len(getattr(self, "history", ())) > 1)
    @rule()
    def undo(self) -> None:
        self._take()
        self.future.append(self.history.pop())
        self._go(self.history[-1])

    @precondition(lambda self: bool(getattr(self, "future", False)))
    @rule()
    def redo(self) -> None:
        before = len(self.history)
        self._take()
        if len(self.history) > before:  # something was written since: it is kept, and there is nothing to redo
            self.future.clear()
            return
        wanted = self.future.pop()
        self.history.append(wanted)
        self._go(wanted)

    def _take(self) -> None:
        real = self._agreed()
        made = self.bed.checkpoints.take("x")
        present = self.bed.checkpoints.present
        if made is None:
            _, version, was = self.known[present]
            assert was == real or self._shows(version), "a checkpoint was wanted and none was taken"
        else:
            self.known[present] = (self.layer.saved(), self.version, real)
            self.history.append(present)

    def _shows(self, version: int) -> bool:
        """Whether the host has written since, and it shows through."""
        return self.bed.over and version != self.version

    def _go(self, wanted: str, *, process: bool = False, emptied: bool = False) -> None:
        saved, version, real = self.known[wanted]
        self.bed.rest()
        self.bed.checkpoints.restore(wanted, note={"to": wanted})
        if process:
            self.bed.again()
            assert self.bed.checkpoints.pending == {"to": wanted}
            self.bed.checkpoints.finish()
        self.bed.checkpoints.settle()
        if emptied:
            self.bed.checkpoints.empty_trash()
        self.layer.load(saved)
        now = self._agreed()
        assert now == real or self._shows(version), "what came back is not what was kept"
        assert self.bed.checkpoints.take("nothing changed") is None

    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        """From now on the walk goes on in a fork. Its applies are its own, and so is what it can take back."""
        wanted = data.draw(st.sampled_from(list(self.known)), label="fork at")
        self._take()
        saved, version, real = self.known[wanted]
        self.bed.rest()
        self.bed = self.bed.fork(wanted)
        assert self.bed.checkpoints.present == wanted
        self.layer.load(saved)
        now = self._agreed()
        assert now == real or self._shows(version), "a fork is not what was kept"
        assert self.bed.checkpoints.take("nothing changed") is None
        past = [each.id for each in self.bed.checkpoints.list()]
        assert past[-1] == wanted
        self.known = {each: self.known[each] for each in past}
        self.history = [*(each for each in self.history if each in self.known), wanted]
        self.future.clear()
        self.applies.clear()

    @rule(how=st.sampled_from(["plain", "plain", "force", "ours", "merge"]))
    def apply(self, how: str) -> None:
        self._agreed()
        view, host = self.layer.view(), self.host
        changed = self._wanted(view)
        against = {p for p in changed if p in self.drift}
        must = {p for p in against & self.must if self._must(view, p)}
        before = copy.deepcopy(host)
        unsure = self._unsure(view)
        self.bed.rest()
        self.version += 1
        selection = Selection(force=how == "force", ours=how == "ours", merge=how == "merge")
        try:
            self.bed.apply(selection)
        except ApplyConflictError as error:
            for remark in error.conflicts:
                if not self.bed.over and "holds more" in remark.why:
                    continue  # what was made, applied and removed: see `_wanted`
                around = {remark.path, *above(remark.path), *(p for p in self.drift if p.startswith(remark.path + "/"))}
                assert around & self.drift, f"{remark.path} did not change on the host: {remark.why}"
                inside = (p for p in self.layer.touched if p.startswith(remark.path + "/"))
                touched = remark.path in self.layer.touched or around & self.layer.touched or any(inside)
                assert touched, f"{remark.path} did not change in the box: {remark.why}"
            self._host_agrees()
            return
        assert how != "plain" or not must, f"{must} were changed by both and overwritten"
        put_back = {p for p in against if self._put_back(p)}
        against -= put_back
        for path in unsure | (put_back if how == "ours" else set()):
            came = self._came_over(view, path)
            (changed.add if came else changed.discard)(path)
            if not came:
                against.discard(path)
            elif path in self.drift:
                assert path in self.layer.touched, f"{path} did not change in the box, and the host's is lost"
        knew = copy.deepcopy((self.base, self.drift, self.must, self.taken))
        if how == "ours":
            changed -= against
        if how == "merge":
            self._merged(view, against)
        self._bring(view, changed if how != "merge" else changed - against)
        self._host_agrees()
        done = {p for p in changed if told_host(before).get(p) != told_host(host).get(p)}
        if done:
            self.applies.append(Done(before, done, knew))

    @rule()
    def undo_apply(self) -> None:
        self.bed.rest()
        if not self.applies:
            assert self.bed.views.undo_apply() == ()
            return
        self.version += 1
        last = self.applies[-1]
        hit = {p for p in last.paths if p in last.edited or any(e.startswith(p + "/") for e in last.edited)}
        try:
            self.bed.views.undo_apply()
        except UndoRefusedError:
            self._host_agrees()
            if hit:
                return
            raise
        assert not (hit & {p for p in last.edited if p in self.host}), f"{hit} were changed by the host, and are lost"
        self.applies.pop()
        for path in last.paths:
            self.host.pop(path, None)
        for path in sorted(last.paths & last.before.keys()):
            self.host[path] = last.before[path]
        self._sort_host()
        self.base, drift, must, self.taken = last.knew
        self.drift = drift | (self.drift - last.paths)
        self.must = must | (self.must - last.paths)
        self._host_agrees()

    # What must be so

    def _agreed(self) -> Any:
        """The box's directory is the model's; as it really is."""
        self._sort_host()
        view = self.layer.view()
        real, links = model.seen(str(self.bed.seen()))
        agree(told(view), real)
        wanted = twins({p: node for p, node in view.items() if p in self.layer.upper})
        assert links == wanted, f"names of one file: model {wanted}, real {links}"
        return real, links

    def _host_agrees(self) -> None:
        real, _ = model.seen(str(self.bed.host))
        plain = {p: (row[0], row[1] & 0o777, *row[2:4], row[4] if row[0] == "file" else ()) for p, row in real.items()}
        wanted = told_host(self.host)
        names = wanted.keys() | plain.keys()
        differing = {p: (wanted.get(p), plain.get(p)) for p in names if wanted.get(p) != plain.get(p)}
        assert not differing, f"on the host: path: (model, real) = {differing}"

    def _wanted(self, view: model.Tree) -> set[str]:
        """The paths that an apply brings over."""
        found = set()
        hidden = self.host.keys() - view.keys() if self.bed.over else set()
        for path in self.layer.touched | hidden:
            mine, theirs = view.get(path), self.host.get(path)
            if mine is None and (theirs is None or (not self.bed.over and path not in START)):
                continue  # a whole copy does not tell what was made, applied and removed from what never was
            if mine is not None and (mine.kind == "fifo" or mine.same(theirs)):
                continue
            taken = self.taken.get(path)
            if taken is not None and mine is not None and mine.same(taken):
                continue
            found.add(path)
        for path in found & view.keys():
            found |= {each for each in above(path) if each not in self.host}
        return found

    def _unsure(self, view: model.Tree) -> set[str]:
        """Over a whole copy it cannot always be told of a file that is as it was first whether the box made it so
        again: where an apply changed the host's meanwhile, either may stay.
        """
        if self.bed.over:
            return set()
        first = {p for p in START.keys() & view.keys() if view[p].same(START[p])}
        return {p for p in first if not view[p].same(self.host.get(p))}

    def _came_over(self, view: model.Tree, path: str) -> bool:
        """Whether the host has what the box has."""
        real, _ = model.seen(str(self.bed.host))
        mine, row = view.get(path), real.get(path)
        if mine is None or row is None:
            return mine is None and row is None
        return mine.told() == (row[0], row[1] & 0o777, *row[2:4], row[4] if row[0] == "file" else ())

    def _put_back(self, path: str) -> bool:
        """Whether a file of the host is again what it was before the host changed it: where that was kept, it has not
        drifted.
        """
        node = self.host.get(path)
        return node is not None and node.kind == "file" and (node.data, node.mode & 0o777) == self.base.get(path)

    def _must(self, view: model.Tree, path: str) -> bool:
        """Whether both sides changed a file, each in its own way."""
        mine, theirs = view.get(path), self.host.get(path)
        was = self.base.get(path)
        data = None if was is None else was[0]
        if theirs is None or theirs.kind != "file" or theirs.data == data:
            return False
        return mine is None or mine.kind != "file" or mine.data != data

    def _bring(self, view: model.Tree, changed: set[str]) -> None:
        """The model's apply."""
        gone = [p for p in changed if p in self.host and (p not in view or view[p].kind != self.host[p].kind)]
        for path in sorted(gone, reverse=True):
            if not beneath(self.host, path):
                del self.host[path]
        for path in sorted(changed & view.keys()):
            node = copy.deepcopy(view[path])
            node.mode, node.mtime, node.opaque = node.mode & 0o777, None, False
            if node.kind == "dir":  # an apply leaves a directory's attributes alone
                node.attributes = self.host[path].attributes if path in self.host else {}
            self.host[path] = node
        self._known(view, changed)
        self._sort_host()

    def _known(self, view: model.Tree, changed: set[str]) -> None:
        for path in changed:
            self.base[path] = (view[path].data, view[path].mode & 0o777) if path in view else None
        self.drift -= changed
        self.must -= changed
        self.taken = {p: node for p, node in self.taken.items() if p not in changed}

    def _merged(self, view: model.Tree, against: set[str]) -> None:
        """What was merged holds what either side added."""
        for path in against:
            place = self.bed.host / path
            mine, theirs = view[path], self.host[path]
            assert mine.kind == theirs.kind == "file"
            text = place.read_bytes()
            was = set((self.base.get(path) or (b"", 0))[0].splitlines())
            for side in (mine, theirs):
                missing = set(side.data.splitlines()) - was - set(text.splitlines())
                assert not missing, f"{path}: the merge lost {missing}"
            both = {**theirs.attributes, **mine.attributes}
            self.host[path] = Node("file", place.stat().st_mode & 0o777, text, attributes=both)
            self.taken[path] = copy.deepcopy(mine)
            self.base[path] = mine.data, mine.mode & 0o777
            self.drift.add(path)

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


def told_host(tree: model.Tree) -> dict[str, tuple[Any, ...]]:
    """What is compared of the host's: no times, no special bits, attributes of files only."""
    return {path: node.told() for path, node in tree.items()}
