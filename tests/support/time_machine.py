"""A session's directory driven at random beside its plain model: writes of a box, checkpoints, going back and
forth, applies, and a host that changes meanwhile. Where the layer lies and how it is seen is a `Bed`'s.
"""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from sandbox.freezing import AtRest
from sandbox.reversal import UndoRefusedError
from sandbox.selection import ApplyConflictError, Selection
from tests.support import file_model as model
from tests.support.beds import START
from tests.support.box_writes import BoxWrites, Done
from tests.support.file_model import Node, above, agree, beneath, told, twins


class TimeMachine(BoxWrites):
    """Every rule does the same to the real thing and to the model, and both must agree after it."""

    # What fumehood does

    @rule(frozen=st.booleans())
    def checkpoint(self, frozen: bool) -> None:
        self._take(frozen=frozen)

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

    def _take(self, *, frozen: bool = False) -> None:
        """`frozen`: the layer is frozen, whatever is in it. (An overlay tells no more which names of its lower layers
        are one file once one of them is written to: then it is not.)
        """
        real = self._agreed()
        if frozen and self.bed.over and not twins(self.layer.upper):
            self.bed.rest()
            usual, self.bed.checkpoints.most = self.bed.checkpoints.most, (0, 0)
            made = self.bed.checkpoints.take("x", swap=AtRest())
            self.bed.checkpoints.most = usual
            assert made is None or self.bed.checkpoints.list()[-1].way == "rest", "nothing was frozen"
        else:
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


def told_host(tree: model.Tree) -> dict[str, tuple[Any, ...]]:
    """What is compared of the host's: no times, no special bits, attributes of files only."""
    return {path: node.told() for path, node in tree.items()}
