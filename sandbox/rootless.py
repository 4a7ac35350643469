"""Engines that run without root. One that this process's user runs sees the same files, and has this user as uid 0 in
its containers; of another one nothing is known but what goes over its socket.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from sandbox.engine import Engine
from sandbox.spec import BoxSpec, Owner


def is_ours(engine: Engine) -> bool:
    """Whether this process's user, not being root, runs the engine. It is asked only where its socket may be ours."""
    return os.geteuid() != 0 and _owner_of(engine) == os.geteuid() and engine.info.rootless


def is_local(engine: Engine) -> bool:
    """Whether an engine sees this machine's directories as this user does: root's engine, or one that this user runs.
    It is asked only where it may be some other's.
    """
    private = _owner_of(engine) != 0 or "/run/user/" in engine.endpoint or "/home/" in engine.endpoint
    return engine.on_this_machine and not (private and engine.info.rootless and not is_ours(engine))


def as_mapped(spec: BoxSpec) -> BoxSpec:
    """The box as an engine of ours is to be asked for it: what is ours on the host belongs to its root."""
    us = os.geteuid()
    mounts = tuple(
        replace(mount, top=(0, 0, mount.top[2])) if mount.top and mount.top[0] == us else mount for mount in spec.mounts
    )
    owner = Owner(uid=0, gid=0) if spec.owner.uid == us else spec.owner
    return replace(spec, owner=owner, mounts=mounts)


def _owner_of(engine: Engine) -> int:
    """Whose its socket is; root's where there is none."""
    try:
        return Path(engine.endpoint.removeprefix("unix://")).stat().st_uid if engine.on_this_machine else 0
    except OSError:
        return 0
