"""Removing what dead owners left in the engine: containers and volumes, never layers or toolboxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from runner.sessions.store import Store, is_session_id
from sandbox.containers import LABEL, OWNER_LABEL, SESSION_LABEL, owner_dead
from sandbox.engine import Engine
from sandbox.errors import EngineRefusedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What a clean-up took away."""

    containers: int = 0
    volumes: int = 0


def remove_dead(engine: Engine, store: Store) -> Removed:
    """Remove containers and volumes whose owner is dead: that of a session in the store by its lock, any
    other by its label. What cannot be told (another machine's, another user's) stays. Blocks.
    """
    containers = volumes = 0
    for container in engine.containers.list(LABEL, all=True):
        if _is_dead(container.labels, store):
            engine.containers.remove(container.id, force=True)
            containers += 1
    for volume in engine.volumes.list(LABEL):
        if _is_dead(volume.labels, store):
            try:
                engine.volumes.remove(volume.name)
            except EngineRefusedError:  # a container uses it
                continue
            volumes += 1
    return Removed(containers=containers, volumes=volumes)


def _is_dead(labels: Mapping[str, str], store: Store) -> bool:
    session, owner = labels.get(SESSION_LABEL, ""), labels.get(OWNER_LABEL, "")
    if is_session_id(session) and store.directory(session).exists():
        return not store.lock(session).held()
    return owner_dead(owner)


def evict(engine: Engine, session: str) -> None:
    """Remove what an earlier owner's boxes left of a session whose lock this process holds. Blocks."""
    for container in engine.containers.list(f"{SESSION_LABEL}={session}", all=True):
        engine.containers.remove(container.id, force=True)
