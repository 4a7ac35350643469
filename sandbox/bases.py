"""The base of each path: what it was when the session began, and keeping its content in time.

The lower layer is the user's live directory. As long as a path's stat equals the manifest's, the
host's file is the base; content is copied into the store when the path first appears in the layer,
so that a later edit on the host does not lose it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from sandbox.changes import Base, Change, user_attributes
from sandbox.errors import StoreError
from sandbox.manifest import Manifest, Stamp
from sandbox.store import Store
from sandbox.trees import Entry, Tree

CAPTURE_FILE = 64 << 20
CAPTURE_TOTAL = 256 << 20
CAPTURE_COUNT = 5000


class Bases:
    """The bases of one root. `applied` paths (ours, written to the host since) have newer stamps."""

    def __init__(self, root: str, manifest: Manifest | None, store: Store | None, *, began_ns: int) -> None:
        self.root = root
        self._manifest = manifest
        self._store = store
        self._began_ns = began_ns
        self._kept: dict[str, tuple[Stamp, str]] = {}
        self._applied: dict[str, Stamp | None] = {}
        self._taken: dict[str, tuple[int, str, str]] = {}
        self._first: dict[str, tuple[Stamp, str]] = {}
        for note in store.notes() if store else ():
            if note.get("root") != root:
                continue
            if note.get("type") == "base":
                self._kept[note["path"]] = (Stamp(**note["stamp"]), note["digest"])
                self._first.setdefault(note["path"], self._kept[note["path"]])
            elif note.get("type") == "applied":
                self._read_applied(note)

    def began(self, path: str) -> tuple[bool, Stamp | None]:
        """(known, stamp) of a path when the session began, or when we last applied it."""
        if path in self._applied:
            return True, self._applied[path]
        if self._manifest is None:
            return False, None
        return True, self._manifest.stamp(os.fsencode(path))

    def first(self, path: str) -> tuple[Stamp, str] | None:
        """What was kept of a path as it was when the session began, whatever was applied since: its stamp and the
        digest of its content; None where nothing was.
        """
        found = self._first.get(path)
        if found is None or self._manifest is None:
            return found
        began = self._manifest.stamp(os.fsencode(path))
        return found if began is not None and found[0].same(began) else None

    def was_absent(self, path: str) -> bool:
        """Whether a path is known not to have been there when the session began."""
        return self._manifest is not None and self._manifest.stamp(os.fsencode(path)) is None

    def content(self, digest: str) -> bytes:
        """A kept content. Raises StoreError."""
        assert self._store is not None
        return self._store.get(digest)

    def untouched(self, path: str, now: Entry | None) -> bool:
        """Whether the host's entry is still what it was. Without a manifest (it was never finished)
        what was changed last before the session began counts as untouched; no more can be known.
        """
        known, was = self.began(path)
        if not known:
            return now is not None and now.ctime_ns < self._began_ns
        if was is None or now is None:
            return was is None and now is None
        return now.stamp.same(was)

    def judge(self, change: Change) -> Change:
        """The change with what is known of its base."""
        if change.path in self._taken:
            return replace(change, base=Base.STORED, drifted=True)
        if self.untouched(change.path, change.old):
            return replace(change, base=Base.ABSENT if change.old is None else Base.HOST)
        known, was = self.began(change.path)
        if change.path in self._kept:
            return replace(change, base=Base.STORED, drifted=True)
        if known and was is None:
            return replace(change, base=Base.ABSENT, drifted=True)
        if not known and change.old is None:
            return replace(change, base=Base.ABSENT)
        return replace(change, base=Base.UNKNOWN, drifted=True)

    def capture(self, changes: Iterable[Change], lower: Tree) -> int:
        """Keep the base contents of these changes, as far as they are still known and not kept yet.
        Bounded: larger files, and what is over the total, stay on the host only. Returns how many.
        """
        assert self._store is not None
        count, total = 0, 0
        for change in changes:
            old = change.old
            if change.base is not Base.HOST or old is None or not old.is_file or change.path in self._kept:
                continue
            if old.size > CAPTURE_FILE or total + old.size > CAPTURE_TOTAL or count >= CAPTURE_COUNT:
                continue
            if self._keep(change.path, old, lower):
                count, total = count + 1, total + old.size
        if count:
            self._store.sync()
        return count

    def _keep(self, path: str, old: Entry, lower: Tree) -> bool:
        assert self._store is not None
        name = os.fsencode(path)
        try:
            digest = self._store.put(filled(lower.chunks(name)), old.size)
            after = lower.stat(name)
        except (OSError, StoreError):
            return False
        if after is None or after.stamp != old.stamp:
            return False
        self._kept[path] = (old.stamp, digest)
        self._first.setdefault(path, self._kept[path])
        self._store.note({"type": "base", "root": self.root, "path": path, "stamp": _json(old.stamp), "digest": digest})
        return True

    def stored(self, path: str) -> bytes:
        """The kept content of a path. Raises StoreError."""
        assert self._store is not None
        return self._store.get(self._kept[path][1])

    def still_holds(self, path: str, host: Tree) -> bool:
        """Whether the host's file has the kept content and mode again (touched, or put back)."""
        stamp, digest = self._kept[path]
        now = host.stat(os.fsencode(path))
        if now is None or now.mode != stamp.mode or stamp.size not in (now.size, -1):
            return False
        return _digest(host, os.fsencode(path)) == digest

    def stored_mode(self, path: str) -> int:
        """The st_mode that went with the kept content."""
        return self._kept[path][0].mode

    def put(self, data: bytes) -> str:
        """Keep a content; its digest."""
        assert self._store is not None
        return self._store.put([data], len(data))

    def sync(self) -> None:
        """Return when all that was noted will survive a power loss."""
        if self._store is not None:
            self._store.sync()

    def kept_json(self, path: str) -> dict[str, Any]:
        """What is kept of a path's base, for `taken_back`."""
        stamp, digest = self._kept[path]
        return {"kept": _json(stamp), "digest": digest}

    def applied(self, path: str, stamp: Stamp | None, *, merged: str = "", mode: int = 0, attributes: str = "") -> None:
        """We wrote this path on the host: it is the base of what comes. `merged`: the digest of the box's
        content (of this mode, with attributes of this `attributes_digest`) that is in it beside the host's own;
        that is the base then.
        """
        now = None if stamp is None else _json(stamp)
        self._note_applied({"path": path, "stamp": now, "merged": merged, "mode": mode, "attributes": attributes})

    def taken_back(self, path: str, stamp: Stamp | None, row: Mapping[str, Any]) -> None:
        """An apply of this path was undone; `row` says what was known of its base before."""
        now = None if stamp is None else _json(stamp)
        if not row.get("drifted"):
            self._note_applied({"path": path, "stamp": now})
        elif row["base"] == Base.STORED.value:
            self._note_applied(
                {"path": path, "stamp": row["kept"], "merged": row["digest"], "mode": row["kept"]["mode"]}
            )
        elif row["base"] == Base.ABSENT.value:
            self._note_applied({"path": path, "stamp": None})
        else:
            self._note_applied({"path": path, "stamp": _json(_NEVER)})

    def is_taken(self, change: Change, upper: Tree) -> bool:
        """Whether the box's content is all in the host's file already, beside the host's own changes."""
        taken, new = self._taken.get(change.path), change.new
        if taken is None or new is None or not new.is_file or new.mode != taken[0]:
            return False
        name = os.fsencode(change.path)
        return taken[2] in ("", attributes_digest(upper, name)) and _digest(upper, name) == taken[1]

    def _note_applied(self, body: dict[str, Any]) -> None:
        assert self._store is not None
        note = {"type": "applied", "root": self.root, **body}
        self._store.note(note, later=True)
        self._read_applied(note)

    def _read_applied(self, note: Mapping[str, Any]) -> None:
        path, stamp = note["path"], note["stamp"]
        self._applied[path] = None if stamp is None else Stamp(**stamp)
        self._kept.pop(path, None)
        self._taken.pop(path, None)
        if note.get("merged"):
            self._taken[path] = note["mode"], note["merged"], note.get("attributes", "")
            self._kept[path] = replace(_NEVER, mode=note["mode"], size=-1), note["merged"]


_NEVER = Stamp(mode=0, size=-1, mtime_ns=0, ctime_ns=0, inode=0)


def _digest(tree: Tree, name: bytes) -> str:
    content = hashlib.blake2b(digest_size=32)
    for piece in filled(tree.chunks(name)):
        content.update(piece)
    return content.hexdigest()


def attributes_digest(tree: Tree, name: bytes) -> str:
    """Tells a path's user attributes from others."""
    own = sorted((key, value.hex()) for key, value in user_attributes(tree, name).items())
    return hashlib.blake2b(json.dumps(own).encode("ascii"), digest_size=16).hexdigest()


def filled(pieces: Iterator[bytes | int]) -> Iterator[bytes]:
    """Pieces with their holes as zeros, a megabyte at a time."""
    for piece in pieces:
        if isinstance(piece, bytes):
            yield piece
            continue
        for at in range(0, piece, 1 << 20):
            yield bytes(min(1 << 20, piece - at))


def _json(stamp: Stamp) -> dict[str, int]:
    return {
        "mode": stamp.mode,
        "size": stamp.size,
        "mtime_ns": stamp.mtime_ns,
        "ctime_ns": stamp.ctime_ns,
        "inode": stamp.inode,
    }
