"""Engines that run without root, as the user who calls them: that user is uid 0 in their containers."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from sandbox.spec import BoxSpec, Owner


def run_by_us(endpoint: str) -> bool:
    """Whether this process's user, not being root, runs the engine: told by whose its socket is, without a request."""
    if not endpoint.startswith("unix://") or os.geteuid() == 0:
        return False
    try:
        return Path(endpoint.removeprefix("unix://")).stat().st_uid == os.geteuid()
    except OSError:
        return False


def as_mapped(spec: BoxSpec) -> BoxSpec:
    """The box as such an engine is to be asked for it: what is ours on the host belongs to its root."""
    us = os.geteuid()
    mounts = tuple(
        replace(mount, top=(0, 0, mount.top[2])) if mount.top and mount.top[0] == us else mount for mount in spec.mounts
    )
    owner = Owner(uid=0, gid=0) if spec.owner.uid == us else spec.owner
    return replace(spec, owner=owner, mounts=mounts)
