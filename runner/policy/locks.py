"""What managed settings forbid a session, whichever way it was asked for; and what settings fill in where nothing
was asked for. Both work on the fields of a SessionSpec.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from runner.effects import Mode
from runner.errors import LockedError
from runner.policy.keys import BY_NAME, Scope
from runner.policy.layers import Entry, Settings
from runner.spec import BoxLimits, SessionSpec, TurnLimits

_TURN = {
    "limits.maxTurns": "max_turns",
    "limits.maxBudgetUsd": "max_budget_usd",
    "limits.maxTokens": "max_tokens",
    "limits.maxSeconds": "max_seconds",
}
_BOX = {"limits.memory": "memory", "limits.disk": "disk", "limits.cpus": "cpus", "limits.pids": "pids"}
NETWORK = {
    "network.limits.up": "up",
    "network.limits.down": "down",
    "network.limits.requestsPerMinute": "requests",
    "network.limits.body": "body",
    "network.limits.seconds": "seconds",
    "network.limits.perHost.up": "host.up",
    "network.limits.perHost.down": "host.down",
    "network.limits.perHost.requestsPerMinute": "host.requests",
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
OWN_IMAGES = frozenset({"base", "busybox", "plain"})


def amount(value: float | str) -> float:
    """A limit's number: sizes in bytes."""
    if isinstance(value, int | float):
        return value
    found = _SIZE.fullmatch(value.strip())
    assert found is not None  # the shape was checked
    return int(float(found[1]) * _UNITS[found[2].lower()])


def ceiling(settings: Settings, key: str) -> tuple[float, Entry] | None:
    """The lowest value that managed settings give a limit, and where."""
    found = [(amount(entry.value), entry) for entry in settings.managed(key)]
    return min(found, key=lambda pair: pair[0]) if found else None


def limits(settings: Settings, names: Mapping[str, str]) -> dict[str, Any]:
    """What settings say of limits, under managed ceilings; a repository only tightens those of the network."""
    made: dict[str, float] = {}
    for key, name in names.items():
        bound = ceiling(settings, key)
        others = [entry for entry in settings.all(key) if entry not in settings.managed(key)]
        tightens = BY_NAME[key].scope is Scope.TIGHTENS
        theirs = [amount(entry.value) for entry in others if tightens and entry.from_repository]
        own = [amount(entry.value) for entry in others if not tightens or not entry.from_repository]
        wanted = [*own[:1], *theirs, *([bound[0]] if bound is not None else [])]
        if wanted:
            made[name] = min(wanted)
    return _whole(made)


def turn_limits(settings: Settings) -> dict[str, Any]:
    """Fields of TurnLimits."""
    return limits(settings, _TURN)


def box_limits(settings: Settings) -> dict[str, Any]:
    """Fields of BoxLimits. A managed ceiling below our own default counts, too."""
    return limits(settings, _BOX)


@lru_cache(maxsize=4)
def network_limits(settings: Settings) -> dict[str, Any]:
    """What requests of the box may take, by the names in NETWORK; the same object for the same settings."""
    return limits(settings, NETWORK)


def under_ceilings(spec: SessionSpec, settings: Settings) -> tuple[SessionSpec, tuple[str, ...]]:
    """A stored session's spec, brought under what managed settings want today; and what changed."""
    notes: list[str] = []
    turn: dict[str, float] = {}
    box: dict[str, float] = {}
    for names, part, changed in ((_TURN, spec.limits, turn), (_BOX, spec.box, box)):
        for key, name in names.items():
            bound = ceiling(settings, key)
            if bound is not None and _over(getattr(part, name), bound[0]):
                changed[name] = bound[0]
                notes.append(f"{key} is {bound[0]:g} by {bound[1].where}")
    mode = spec.mode
    if mode not in settings.modes:
        mode = settings.start_mode
        notes.append(f"mode {spec.mode.value} is locked by managed settings; the session goes on in {mode.value}")
    made = replace(spec, mode=mode, limits=replace(spec.limits, **_whole(turn)), box=replace(spec.box, **_whole(box)))
    return made, tuple(notes)


def _whole(values: Mapping[str, float]) -> dict[str, Any]:
    return {
        name: int(value) if float(value).is_integer() and name != "cpus" else value for name, value in values.items()
    }


def _over(value: float | None, bound: float) -> bool:
    return value is None or value > bound


def check_spec(spec: SessionSpec, settings: Settings) -> None:
    """Raises LockedError for the first thing in a spec that managed settings forbid."""
    check_mode(spec.mode, settings)
    for model in (spec.model, *spec.fallback_models):
        check_model(model, settings)
    check_image(spec.image, settings)
    parts: tuple[tuple[dict[str, str], TurnLimits | BoxLimits], ...] = ((_TURN, spec.limits), (_BOX, spec.box))
    for names, part in parts:
        for key, name in names.items():
            bound = ceiling(settings, key)
            if bound is not None and _over(getattr(part, name), bound[0]):
                asked = getattr(part, name)
                raise LockedError(
                    f"{key} may be {bound[0]:g} at most, not {'unbounded' if asked is None else f'{asked:g}'}: "
                    f"{bound[1].where}"
                )


def check_mode(mode: Mode, settings: Settings) -> None:
    """Raises LockedError for a mode that is locked."""
    if mode in settings.modes:
        return
    keys = ("forcedMode", "permissions.disableBypassPermissionsMode", "permissions.disableAutoMode")
    where = next(entry.where for key in keys for entry in settings.all(key))
    raise LockedError(f"permission mode {mode.value} is locked: {where}")


def check_model(model: str, settings: Settings) -> None:
    """Raises LockedError for a model (`provider:name`) that is not on the list, or is on the denied one."""
    for entry in settings.all("deniedModels"):
        if names_model(entry.text, model):
            raise LockedError(f"model {model} is denied: {entry.where}")
    allowed = settings.value("availableModels")
    if allowed is not None and not any(names_model(text, model) for text in allowed):
        raise LockedError(
            f"model {model} is not one of those that settings allow: {_list(settings, 'availableModels')}"
        )


def names_model(text: str, model: str) -> bool:
    """Whether an entry of a list of models speaks of this one: a family (`opus`), an id, or the beginning of one
    that ends at a dash; with a provider (`scripted:`) it speaks of that provider's only, without of Anthropic's.
    """
    provider, _, name = model.rpartition(":") if ":" not in model else model.partition(":")
    wanted, colon, entry = text.strip().partition(":")
    if colon:
        return wanted == (provider or "anthropic") and entry in ("", "*", name)
    if (provider or "anthropic") != "anthropic":
        return False
    name, entry = name.removesuffix("[1m]").lower(), wanted.removesuffix("[1m]").lower()
    return bool(entry) and (
        name == entry or name.startswith(f"{entry}-") or (entry.isalpha() and entry in name.split("-"))
    )


def check_image(image: str, settings: Settings) -> None:
    """Raises LockedError for an image, or a registry of images, that is not on the list."""
    allowed = settings.value("allowedImages")
    if allowed is not None and not any(fnmatch.fnmatchcase(image, text) for text in allowed):
        raise LockedError(
            f"image {image} is not one of those that managed settings allow: {_list(settings, 'allowedImages')}"
        )
    registries = settings.value("allowedRegistries")
    if registries is not None and image not in OWN_IMAGES and registry_of(image) not in registries:
        where = registry_of(image) or "the engine's own registry"
        raise LockedError(f"images from {where} are not allowed, but from {_list(settings, 'allowedRegistries')}")


def _list(settings: Settings, key: str) -> str:
    """What a list allows, and where it stands."""
    entries = settings.all(key)
    files = ", ".join(dict.fromkeys(entry.source.file for entry in entries))
    return f"{', '.join(dict.fromkeys(entry.text for entry in entries))} ({files})" if entries else "none"


def registry_of(image: str) -> str:
    """The registry that an image's name names, "" where it names none and the engine chooses."""
    head, slash, _ = image.partition("/")
    return head if slash and ("." in head or ":" in head or head == "localhost") else ""
