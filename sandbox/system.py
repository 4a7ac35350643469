"""The root file system of a session's boxes, where it is writable: a layer of the engine's, kept as images.

A checkpoint's note names the image that belongs to it; between checkpoints (a box that ended, or was left
behind by an owner that died) a small file of ours does. An image that neither names is garbage. An image is
the box's own image and one layer with all that its container wrote, so the number of layers grows by one
with each box, not with each commit; where there are too many, the next box starts from one that holds all.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sandbox.containers import SESSION_LABEL, SYSTEM_LABEL, ContainerSpec, session_labels
from sandbox.dataclass import dataclass
from sandbox.engine import ConflictError, Engine, ImageInfo, NotFoundError
from sandbox.errors import (
    DiskFullError,
    EngineRefusedError,
    ImageMissingError,
    SandboxError,
    StoreError,
    WorkspaceError,
)

BASE_LABEL = "fumehood.base"
STATE_LABEL = "fumehood.state"
RECORD_VERSION = 1
DEEPEST = 40
NAME = "system/"
Ask = Callable[[bool], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What no checkpoint tells. `image` belongs to the state after checkpoint `after`, while that is the latest;
    `box`: the container whose root file system is in no image yet. `base`: the session's own image.
    """

    image: str = ""
    after: str = ""
    box: str = ""
    base: str = ""
    version: int = RECORD_VERSION

    @classmethod
    def read(cls, file: Path) -> Record:
        """Empty where there is none. Raises StoreError."""
        try:
            made = cls(**json.loads(file.read_bytes()))
        except FileNotFoundError:
            return cls()
        except (ValueError, TypeError) as error:
            raise StoreError(f"{file}: {error}") from error
        if made.version != RECORD_VERSION:
            raise StoreError(f"{file}: version {made.version} is not known")
        return made

    def write(self, file: Path) -> None:
        """Whole or not at all, and durable."""
        file.parent.mkdir(mode=0o700, exist_ok=True)
        new = file.with_suffix(".new")
        with new.open("w") as opened:
            json.dump(asdict(self), opened)
            opened.flush()
            os.fsync(opened.fileno())
        new.replace(file)


class System:
    """One session's. `begin` and `end` frame each box that may write its root file system; while one runs, `look`,
    `watch`, `commit` and `kept` are for whoever takes a checkpoint, in this order. `after`: the latest checkpoint.
    Everything blocks.
    """

    def __init__(self, engine: Engine | None, *, session: str, state: Path, deepest: int = DEEPEST) -> None:
        """`state`: the session's directory. `deepest`: so many layers over the box's own image at most."""
        self._engine = engine
        self._session = session
        self._state = state
        self._file = record_file(state)
        self._deepest = deepest
        self._record = Record.read(self._file)
        self._base: ImageInfo | None = None
        self._container = ""
        self._ask: Ask | None = None
        self._unkept = False

    # A box's life

    def image(self, base: ImageInfo, kept: str, *, after: str) -> ImageInfo:
        """What the next box starts from. `base`: the session's own image; `kept`: of checkpoint `after`, the latest.
        What was made over another base does not count. Raises ImageMissingError, EngineRefusedError.
        """
        self._base = base
        name = self.present(kept, after=after)
        if not name:
            return base
        found = self._need_engine().images.find(name)
        if found is None:
            raise ImageMissingError(
                f"the engine has lost the image of this session's root file system ({name[:19]})",
                hint="`fumehood rewind` to a checkpoint from before anything was installed still works",
            )
        if found.labels.get(BASE_LABEL, base.id) != base.id:
            return base
        if len(found.layers) - len(base.layers) > self._deepest:
            found = self._flattened(found, base)
            self._write(image=found.id, after=after)
        return found

    def begin(self, container: str, ask: Ask) -> None:
        """A box runs. `ask`: whether its root file system changed since the watch began; True begins it anew."""
        self._container, self._ask, self._unkept = container, ask, False
        self._write(box=container, base=self._base.id if self._base else "")

    def end(self, after: Callable[[], str], freeze: Callable[[], AbstractContextManager[object]]) -> None:
        """The box is about to go, or has ended by itself: its root file system is kept where it changed, held by
        `freeze`. What this raises leaves the container to `rescue`: it must not be removed then.
        """
        if self._container and self._record.box == self._container:
            found = {}
            if self.look():
                with freeze():
                    found = self._image_after(after, self._container)
            self._write(**found, box="")
        self._container, self._ask, self._unkept = "", None, False

    def rescue(self, after: Callable[[], str]) -> None:
        """Keep what the box of an owner that died had written, and remove it. Before the next box, and before a
        checkpoint of a session at rest.
        """
        left = self._record.box
        if not left or left == self._container:
            return
        containers = self._need_engine().containers
        try:
            containers.kill(left)
            found = self._image_after(after, left)
        except NotFoundError:
            found = {}
        self._write(**found, box="")
        containers.remove(left)

    # For checkpoints

    def present(self, kept: str, *, after: str) -> str:
        """The image of the state as it stands, "" for the session's own. `kept`: what checkpoint `after` names."""
        record = self._record
        return record.image if record.image and record.after == after else kept

    def look(self) -> bool:
        """Whether the running box changed it since it was last kept. True where that cannot be told."""
        if self._ask is None:
            return False
        try:
            return self._unkept or self._ask(False)
        except (SandboxError, TimeoutError):
            return True

    def watch(self) -> None:
        """Look for changes anew: what comes from here on is seen by the next `look`."""
        self._unkept = True
        if self._ask is not None:
            with suppress(SandboxError, TimeoutError):
                self._ask(True)

    def commit(self) -> str:
        """Make an image of the running box, which the caller holds still. Raises DiskFullError, SandboxError."""
        self._unkept = True
        return self._commit(self._container)

    def kept(self) -> None:
        """The image of the last `commit` is named by a checkpoint."""
        self._unkept = False
        self.forget()

    def forget(self) -> None:
        """What no checkpoint names counts no more: before one is gone back to."""
        if self._record.image:
            self._write(image="", after="")

    def require(self, image: str) -> None:
        """Raises WorkspaceError where the engine does not have it."""
        if image and self._engine is not None and self._engine.images.find(image) is None:
            raise WorkspaceError(f"the engine has lost the image of the root file system then ({image[:19]})")

    def size(self, image: str) -> int:
        """Bytes that an image takes beside the session's own."""
        found = self._need_engine().images.find(image)
        return 0 if found is None else max(found.size - (self._base.size if self._base else 0), 0)

    # Removal

    def sweep(self, named: Collection[str]) -> int:
        """Remove the images that are not `named` by a checkpoint (nor by us); how many went."""
        return sweep(self._need_engine(), self._session, {*named, self._record.image})

    def discard(self, named: Callable[[], Collection[str]]) -> None:
        """Everything of the session's in the engine goes, but images that are `named` by others."""
        if self._engine is None:
            return
        if self._record.box:
            self._engine.containers.remove(self._record.box)
        if session_images(self._engine, self._session):
            sweep(self._engine, self._session, named())

    # Within

    def _image_after(self, after: Callable[[], str], container: str) -> dict[str, str]:
        return {"image": self._commit(container), "after": after()}

    def _write(self, **fields: str) -> None:
        had = {"image": self._record.image, "after": self._record.after, "box": self._record.box}
        had |= {"base": self._record.base, **fields}
        self._record = Record(image=had["image"], after=had["after"], box=had["box"], base=had["base"])
        self._record.write(self._file)

    def _commit(self, container: str) -> str:
        engine = self._need_engine()
        try:
            image = engine.containers.commit(
                container, repository=self._repository, tag=uuid.uuid4().hex[:12], changes=self._changes(container)
            )
        except EngineRefusedError as error:
            if "no space" in str(error).lower():
                raise DiskFullError("no space for the root file system in the engine") from error
            raise
        return image

    def _changes(self, container: str) -> list[str]:
        """Lines that leave of the container's configuration only what is the image's; a name cannot be taken away."""
        info = self._need_engine().containers.inspect(container)
        config: Mapping[str, Any] = info.get("Config") or {}
        base = self._record.base
        own = self._base or self._need_engine().images.find(base)
        theirs = dict(entry.partition("=")[::2] for entry in (own.environment if own else ()))
        ours = dict.fromkeys((entry.partition("=")[0] for entry in config.get("Env") or ()), "")
        blank = dict.fromkeys(own.labels if own else (), "")
        return [*_lines("ENV", ours | theirs), *_lines("LABEL", blank | self._labels(base)), *_PLAIN]

    def _labels(self, base: str) -> dict[str, str]:
        return session_labels(self._session) | {BASE_LABEL: base, STATE_LABEL: state_mark(self._state)}

    def _flattened(self, image: ImageInfo, base: ImageInfo) -> ImageInfo:
        """The same root file system in one layer."""
        engine = self._need_engine()
        spec = ContainerSpec(image=image.id, command=("/none",), labels=session_labels(self._session))
        container = engine.containers.create(spec)
        try:
            return engine.images.load_tar(
                engine.containers.export(container),
                repository=self._repository,
                tag=uuid.uuid4().hex[:12],
                labels=self._labels(base.id),
                changes=_lines("ENV", dict(entry.partition("=")[::2] for entry in base.environment)),
            )
        finally:
            engine.containers.remove(container)

    @property
    def _repository(self) -> str:
        return f"fumehood/session-{self._session.replace('-', '')[:12]}"

    def _need_engine(self) -> Engine:
        if self._engine is None:
            raise WorkspaceError("this session's root file system needs a container engine")
        return self._engine


_PLAIN = ('ENTRYPOINT ["/bin/sh"]', "USER 0:0", "WORKDIR /")


def _lines(word: str, values: Mapping[str, str]) -> list[str]:
    return [f"{word} {json.dumps(key)}={json.dumps(value)}" for key, value in values.items()]


def record_file(state: Path) -> Path:
    """Where a session's Record lies."""
    return state / "store" / "system.json"


def left_box(state: Path) -> str:
    """The container whose root file system is in no image yet, "" where there is none. Never raises."""
    try:
        return Record.read(record_file(state)).box
    except (StoreError, OSError):
        return ""


def holds_work(container: str, labels: Mapping[str, str]) -> bool:
    """Whether a container may be all that holds what was installed in a session, whosever it is. True where that
    cannot be told.
    """
    machine, _, place = labels.get(STATE_LABEL, "").partition(":")
    if labels.get(SYSTEM_LABEL) != "1" or not place:
        return False
    if not machine or machine != _machine():
        return True
    try:
        return Record.read(record_file(Path(place))).box == container
    except (StoreError, OSError):
        return True


def state_mark(state: Path) -> str:
    """Names a session's directory, and the machine that it lies on."""
    return f"{_machine()}:{state}"


def forgotten(labels: Mapping[str, str], sessions: Path) -> bool:
    """Whether an image is of a session of this machine whose directory is gone, and no other store's to remove:
    there, a fork may name it still. `sessions`: our own store's. False where that cannot be told.
    """
    machine, _, place = labels.get(STATE_LABEL, "").partition(":")
    if not place or not machine or machine != _machine():
        return False
    gone = Path(place)
    return _is_gone(gone) and (gone.parent == sessions or _is_gone(gone.parent))


def _is_gone(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def sweep(engine: Engine, session: str, named: Collection[str]) -> int:
    """Remove a session's images but those that are named, newest first; what others stand on stays."""
    gone = 0
    for image in sorted(session_images(engine, session), key=lambda image: image.created, reverse=True):
        if image.id not in named:
            with suppress(ConflictError):
                engine.images.remove(image.id)
                gone += 1
    return gone


def session_images(engine: Engine, session: str = "") -> list[ImageInfo]:
    """Images of root file systems, of one session or of all."""
    label = f"{SESSION_LABEL}={session}" if session else STATE_LABEL
    return [image for image in engine.images.list(label) if image.labels.get(STATE_LABEL)]


def _machine() -> str:
    try:
        return hashlib.sha256(Path("/etc/machine-id").read_bytes()).hexdigest()[:16]
    except OSError:
        return ""
