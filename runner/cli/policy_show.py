"""`fumehood policy show`: what is in force here, and where it comes from."""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePosixPath
from typing import Any

from runner.cli.answers import AsJson, out, out_json
from runner.policy.compose import Ground
from runner.policy.explain import BOUNDARY
from runner.policy.hiding import LOGINS
from runner.policy.keys import KEYS, How
from runner.policy.layers import Settings
from runner.sessions.enforced import configured
from runner.sessions.masking import strengths
from runner.sessions.specs import standing_policy


def in_force(as_json: AsJson = False) -> None:
    """Every setting in force here, with the source it comes from; then what does not count, and why."""
    chain, composed, ground = standing_policy(Path.cwd(), environ=os.environ)
    settings, mode = chain.settings, composed.policy.mode.value
    if as_json:
        out_json(_shown(settings, mode, composed.policy.digest, chain.notes))
        return
    out(f"mode           {mode}")
    out(f"policy digest  {composed.policy.digest}")
    for name, value, where in _rows(settings):
        out(f"{name:14} {value}  ({where})")
    held = strengths(composed.policy, _hosts(ground))
    lines = {}
    for rule in composed.policy.rules:
        kind = f", {held[rule]}" if rule in held else ""
        where = f"{rule.source.file}:{rule.source.line}" if rule.source.file else "command line"
        about = f"{rule.decision.name.lower():14} {rule.text}  ({rule.source.layer.value}, {where}"
        if about not in lines or BOUNDARY in kind:
            lines[about] = kind
    for about, kind in lines.items():
        out(f"{about}{kind})")
    hooks = configured(settings)
    for hook in hooks.handlers if hooks is not None else ():
        where = f"{hook.source.file}:{hook.source.line}"
        place = "in the box" if hook.where == "box" else "on the host"
        says = f"{hook.event} {hook.matcher.text or '*'} {place}: {hook.text}"
        out(f"hook           {says}  ({hook.source.layer.value}, {where})")
    for note in (*chain.notes, *composed.notes, *(hooks.notes if hooks is not None else ())):
        out(f"not counted    {note}")
    if not settings.loaded:
        out("no settings files; see fumehood policy init")


def _hosts(ground: Ground) -> dict[PurePosixPath, Path]:
    """The roots by their places in the box; none where the home directory would have to be walked."""
    moved = {at: host for host, at in ground.moved}
    hosts = {root: Path(moved.get(root, root)) for root in ground.place.roots}
    return {at: host for at, host in hosts.items() if ground.home is None or not ground.home.is_relative_to(host)}


def _rows(settings: Settings) -> list[tuple[str, str, str]]:
    rows = []
    for key in KEYS:
        entries = settings.all(key.name)
        if key.name in ("permissions.deny", "permissions.ask", "permissions.allow") or not entries:
            continue
        counted = entries if key.how in (How.UNION, How.COMMON) else entries[:1]
        for entry in counted:
            if key.name == "hidden" and entry.text != LOGINS:
                continue  # shown as a rule
            value = entry.text if isinstance(entry.value, str | dict) else json.dumps(entry.value)
            rows.append((key.name, value, f"{entry.source.layer.value}, {entry.where}"))
    for name, entry in settings.env.items():
        rows.append((f"env.{name}", "set", f"{entry.source.layer.value}, {entry.where}"))
    return rows


def _shown(settings: Settings, mode: str, digest: str, notes: tuple[str, ...]) -> dict[str, Any]:
    values = {
        key.name: {
            "value": settings.value(key.name),
            "from": [
                {
                    "value": entry.value,
                    "source": entry.source.layer.value,
                    "file": entry.source.file,
                    "line": entry.source.line,
                }
                for entry in settings.all(key.name)
            ],
        }
        for key in KEYS
        if settings.all(key.name)
    }
    return {
        "mode": mode,
        "digest": digest,
        "files": [{"source": one.layer.value, "file": one.file} for one in settings.loaded],
        "settings": values,
        "locks": list(settings.locks),
        "not_counted": list(notes),
        "idle": [{"file": one.file, "key": key, "line": line} for one in settings.loaded for key, line in one.idle],
    }
