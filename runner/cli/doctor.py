"""`fumehood doctor`: what works on this machine and what does not, found out by trying."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TextIO

import typer
from typer import Option

from runner.errors import FumehoodError
from runner.policy.managed import PLACES, Places
from runner.sessions.enforced import configured
from runner.sessions.specs import standing_policy
from runner.sessions.store import state_home
from runner.ui.diff import wants_colour
from runner.ui.safe import encodable, visible
from runner.ui.words import plural
from sandbox.attack import KINDS, Attacked, attack
from sandbox.checks import Check, Level, fail, ok, warn
from sandbox.doctor import attackable, examine
from sandbox.errors import SandboxError

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
EXIT_UNFIT = 1
NARROW = 60
_KEYS = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")
_COLOURS = {Level.OK: "32", Level.WARN: "33", Level.FAIL: "31"}


@app.command()
def doctor(
    as_json: Annotated[bool, Option("--json", help="One JSON object.")] = False,
    runtime: Annotated[str, Option("--runtime", metavar="NAME", help="Try the box with this OCI runtime.")] = "",
    attacks: Annotated[bool, Option("--attack", help="Try to get out of a throw-away box instead.")] = False,
) -> None:
    """Try what a session needs; ends with 1 when something fails, with --attack when something gets through."""
    if attacks:
        found = asyncio.run(_attack(os.environ, runtime))
        lines = [json.dumps(asdict(found))] if as_json else attack_report(found)
        sys.stdout.write(encodable("".join(line + "\n" for line in lines), sys.stdout.encoding or "ascii"))
        raise typer.Exit(EXIT_UNFIT if found.won else 0)
    boundary = asyncio.run(examine(os.environ, state=state_home(os.environ), cwd=Path.cwd(), runtime=runtime))
    ours = (check_key(os.environ), check_terminal(os.environ, sys.stdout), *check_settings(os.environ, Path.cwd()))
    checks = (*boundary, *ours)
    if as_json:
        sys.stdout.write(json.dumps({"ok": is_fit(checks), "checks": [asdict(check) for check in checks]}) + "\n")
    else:
        colour = wants_colour(os.environ, terminal=sys.stdout.isatty())
        text = "".join(line + "\n" for line in report(checks, colour=colour))
        sys.stdout.write(encodable(text, sys.stdout.encoding or "ascii"))
    raise typer.Exit(0 if is_fit(checks) else EXIT_UNFIT)


async def _attack(environ: Mapping[str, str], runtime: str) -> Attacked:
    state = state_home(environ)
    async with attackable(environ, state=state) as (engine, image, toolbox):
        return await attack(engine, image, toolbox, state=state, runtime=runtime)


def attack_report(found: Attacked) -> list[str]:
    """What was tried and what got through, as lines."""
    rungs = ", ".join(found.rungs)
    lines = [f"a throw-away box of {found.engine}, runtime {found.runtime}, {rungs}; commands as uid {found.uid}", ""]
    for kind, count in found.tried.items():
        through = [name for name in found.won if found.kinds[name] == kind]
        lines.append(f"{'THROUGH' if through else 'blocked'}  {kind:12} {plural(count, 'attempt')}: {KINDS[kind]}")
        lines += [f"         {visible(name, lines=False)}: {visible(found.won[name], lines=False)}" for name in through]
    lines += [f"fallback {visible(each, lines=False)}" for each in found.fallbacks]
    count = sum(found.tried.values())
    what = f"{len(found.won)} of {count} attempts got through" if found.won else f"all {count} attempts were blocked"
    return [*lines, "", f"{what}, in {found.seconds:.1f} s"]


def is_fit(checks: Sequence[Check]) -> bool:
    """Whether a session can run as promised: warnings do not count."""
    return all(check.level is not Level.FAIL for check in checks)


def check_key(environ: Mapping[str, str]) -> Check:
    """Whether a model can be asked. The key itself is never read further than whether it is there."""
    named = next((name for name in _KEYS if environ.get(name)), "")
    if not named:
        return warn("model key", "none in the environment", "export ANTHROPIC_API_KEY=...; scripted models need none")
    base = environ.get("ANTHROPIC_BASE_URL", "")
    return ok("model key", f"{named} is set" + (f", for {base}" if base else ""))


def check_settings(environ: Mapping[str, str], cwd: Path, places: Places = PLACES) -> list[Check]:
    """Whether settings can be used here, and which of their keys mean nothing to this program."""
    try:
        chain, composed, _ = standing_policy(cwd, environ=environ, places=places)
        hooks = configured(chain.settings)
    except (FumehoodError, SandboxError) as error:
        return [fail("settings", str(error), getattr(error, "hint", ""))]
    files = [one.file for one in chain.settings.loaded]
    checks = [ok("settings", ", ".join(files) if files else "no files")]
    for one in chain.settings.loaded:
        if one.idle:
            keys = ", ".join(f"{key} (line {line})" for key, line in one.idle)
            checks.append(warn("settings", f"{one.file}: without a meaning here: {keys}", ""))
    checks += [warn("settings", note, "") for note in (*chain.notes, *composed.notes)]
    if hooks is not None:
        checks.append(
            ok("hooks", ", ".join(f"{h.event} ({h.where}) {h.text[:40]}" for h in hooks.handlers) or "none count")
        )
        checks += [warn("hooks", note, "") for note in hooks.notes]
    return checks


def check_terminal(environ: Mapping[str, str], out: TextIO) -> Check:
    """What live progress can count on."""
    if not out.isatty():
        return ok("terminal", "none: output is plain text")
    if environ.get("TERM", "") in ("", "dumb"):
        return warn("terminal", "TERM is not set", "progress is shown line by line")
    columns, rows = shutil.get_terminal_size()
    said = f"{environ.get('TERM')}, {columns} by {rows}, {out.encoding}"
    if columns < NARROW:
        return warn("terminal", said, f"under {NARROW} columns much is cut off")
    return ok("terminal", said)


def report(checks: Sequence[Check], *, colour: bool) -> list[str]:
    """The checks as lines, and what they come to."""
    wide = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        mark = f"{check.level.value:4}"
        if colour:
            mark = f"\x1b[{_COLOURS[check.level]}m{mark}\x1b[0m"
        lines.append(f"{mark}  {check.name:{wide}}  {visible(check.found, lines=False)}")
        if check.advice:
            lines.append(f"{'':{wide + 8}}{visible(check.advice, lines=False)}")
    failed = sum(check.level is Level.FAIL for check in checks)
    warned = sum(check.level is Level.WARN for check in checks)
    if failed:
        return [*lines, "", f"{failed} of {len(checks)} checks failed"]
    remarks = f"; {plural(warned, 'remark')}" if warned else ""
    return [*lines, "", f"everything needed works{remarks}"]
