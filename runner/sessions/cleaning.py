"""Removing what dead owners left in the engine: containers, volumes, images and layers on another machine that nobody
names; never other layers or toolboxes.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from runner.dataclass import dataclass
from runner.errors import SessionBusyError
from runner.sessions.store import Store, is_session_id
from sandbox.containers import LABEL, LAYER_LABEL, OWNER_LABEL, SESSION_LABEL, owner_dead
from sandbox.engine import Engine, VolumeInfo
from sandbox.errors import EngineRefusedError, SandboxError
from sandbox.points import images_named
from sandbox.remote import volumes_named
from sandbox.system import forgotten, holds_work, left_box, session_images, sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What a clean-up took away."""

    containers: int = 0
    volumes: int = 0
    images: int = 0


def remove_dead(engine: Engine, store: Store) -> Removed:
    """Remove containers and volumes whose owner is dead: that of a session in the store by its lock, any other by
    its label. Images and layers go that are nobody's. What cannot be told (another machine's, another user's) stays.
    Blocks.
    """
    containers = volumes = 0
    for container in engine.containers.list(LABEL, all=True):
        if _is_dead(container.labels, store) and not holds_work(container.id, container.labels):
            engine.containers.remove(container.id, force=True)
            containers += 1
    for volume in engine.volumes.list(LABEL):
        if LAYER_LABEL in volume.labels:
            volumes += _remove_layer(engine, volume, store)
        elif _is_dead(volume.labels, store):
            volumes += _removed(engine, volume)
    return Removed(containers=containers, volumes=volumes, images=_remove_images(engine, store))


def _remove_images(engine: Engine, store: Store) -> int:
    """Remove images of root file systems whose session is gone, and those of a session at rest that no checkpoint
    of it names (their maker died before he wrote it).
    """
    gone, images = 0, session_images(engine)
    if not images:
        return 0
    try:
        named = {
            name: images_named(store.directory(name))
            for name in store.names()
            if (store.directory(name) / "store").is_dir()
        }
    except (SandboxError, OSError):  # whose log cannot be read may name any of them
        return 0
    for session in {image.labels[SESSION_LABEL] for image in images}:
        directory = store.directory(session)
        if not is_session_id(session) or not directory.exists():
            theirs = (image.labels for image in images if image.labels[SESSION_LABEL] == session)
            if all(forgotten(labels, store.sessions) for labels in theirs):
                gone += sweep(engine, session, frozenset().union(*named.values()))
            continue
        with suppress(SessionBusyError, SandboxError, OSError), store.lock(session):
            gone += sweep(engine, session, images_named(directory).union(*named.values()))
    return gone


def _is_dead(labels: Mapping[str, str], store: Store) -> bool:
    session, owner = labels.get(SESSION_LABEL, ""), labels.get(OWNER_LABEL, "")
    if is_session_id(session) and store.directory(session).exists():
        return not store.lock(session).held()
    return owner_dead(owner)


def _remove_layer(engine: Engine, volume: VolumeInfo, store: Store) -> bool:
    """Remove a volume that was to be a layer and that no session names: of one of this machine that is gone or never
    came to be, or left behind by one at rest. Whether it went.
    """
    session = volume.labels.get(SESSION_LABEL, "")
    directory = store.directory(session)
    if not is_session_id(session) or not directory.exists():
        nobodys = forgotten(volume.labels, store.sessions) and owner_dead(volume.labels.get(OWNER_LABEL, ""))
        return nobodys and _removed(engine, volume)
    with suppress(SessionBusyError, SandboxError, OSError):
        if volume.name not in volumes_named(directory / "layers", session):
            with store.lock(session):  # what was begun meanwhile is named
                return volume.name not in volumes_named(directory / "layers", session) and _removed(engine, volume)
    return False


def _removed(engine: Engine, volume: VolumeInfo) -> bool:
    """Whether a volume went; False where a container uses it."""
    try:
        engine.volumes.remove(volume.name)
    except EngineRefusedError:
        return False
    return True


def evict(engine: Engine, session: str, state: Path) -> None:
    """Remove what an earlier owner's boxes left of a session whose lock this process holds; a container that alone
    holds what was installed is only stopped. `state`: the session's directory. Blocks.
    """
    left = left_box(state)
    for container in engine.containers.list(f"{SESSION_LABEL}={session}", all=True):
        if container.id == left:
            engine.containers.kill(container.id)
        else:
            engine.containers.remove(container.id, force=True)
