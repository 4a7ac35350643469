"""What works on this machine and what does not, as data: each check says what was found and what can be
done. The box is not described but tried: a throw-away one is started over a throw-away directory.
"""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from sandbox.box import ContainerBox
from sandbox.checks import OWN_KERNEL, PROBE, Check, Level, check_files, fail, judge_probe, ok, parse_probe, warn
from sandbox.containers import OWNER_LABEL, owner_dead
from sandbox.disk import free_space
from sandbox.engine import Engine, ImageInfo, connect
from sandbox.errors import SandboxError, WorkspaceError
from sandbox.freezer import cannot_hold
from sandbox.images import ensure_image
from sandbox.layers import choose_rung
from sandbox.recipe import load_recipe
from sandbox.spec import Command, Exited, Limits, Rung, Stdout
from sandbox.toolbox import Toolbox, ensure_toolbox
from sandbox.trial import AS_IT_WAS, ROOT, Trial

BOX_SECONDS, REMOTE_BOX_SECONDS = 20.0, 90.0


@asynccontextmanager
async def attackable(environ: Mapping[str, str], *, state: Path) -> AsyncIterator[tuple[Engine, ImageInfo, Toolbox]]:
    """The engine, the base image and the toolbox, made where they are not there yet. Raises SandboxError."""
    if (check := check_state(state)).level is Level.FAIL:
        raise WorkspaceError(check.found, hint=check.advice)
    engine = await asyncio.to_thread(connect, environ)
    try:
        cache = state / "cache"
        image = await asyncio.to_thread(ensure_image, engine, "base", cache=cache, progress=lambda _line: None)
        toolbox = await asyncio.to_thread(ensure_toolbox, engine, base=image, cache=cache, progress=lambda _line: None)
        yield engine, image, toolbox
    finally:
        await asyncio.to_thread(engine.close)


async def examine(environ: Mapping[str, str], *, state: Path, cwd: Path, runtime: str = "") -> tuple[Check, ...]:
    """All checks, in the order to read them. `state`: fumehood's own directory, made when it is not there.
    `cwd`: the directory that a session would be about; nothing is written there. Some seconds; never raises
    SandboxError. Leaves nothing behind.
    """
    checks = [check_state(state), check_disk(state, Limits())]
    try:
        engine = await asyncio.to_thread(connect, environ)
    except SandboxError as error:
        return (fail("engine", str(error), error.hint), *checks)
    try:
        about = await asyncio.to_thread(_about_engine, engine, runtime)
        if checks[0].level is not Level.FAIL:
            checks.append(await asyncio.to_thread(check_rung, engine, cwd, state))
        image, toolbox, made = await asyncio.to_thread(_images, engine, state / "cache")
        checks += made
        if image is not None and toolbox is not None and checks[0].level is not Level.FAIL:
            checks += await check_box(engine, image, toolbox, state=state, runtime=runtime)
    except SandboxError as error:
        return (fail("engine", str(error), error.hint), *checks)
    else:
        return (*about, *checks)
    finally:
        engine.close()


def check_state(state: Path) -> Check:
    """Whether sessions can be kept: the directory exists, is ours, private and writable."""
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = state.stat()
        with tempfile.TemporaryFile(dir=state):
            pass
    except OSError as error:
        return fail("state", f"{state}: {error.strerror}", "set FUMEHOOD_HOME to a directory that you may write")
    if found.st_uid != os.geteuid():
        return warn("state", f"{state} belongs to uid {found.st_uid}", "set FUMEHOOD_HOME to a directory of your own")
    if stat.S_IMODE(found.st_mode) & 0o077:
        return warn("state", f"{state} can be read by others", f"chmod 700 {state}")
    return ok("state", str(state))


def check_disk(state: Path, limits: Limits) -> Check:
    """Free space where layers lie: the floor must stay free, and a budget should fit."""
    place = next((each for each in (state, *state.parents) if each.exists()), Path("/"))
    free = free_space(place)
    said = f"{free / (1 << 30):.1f} GiB free"
    if free < limits.disk_floor:
        return fail("disk", said, f"a session needs {limits.disk_floor >> 30} GiB to stay free; make room")
    if free < limits.disk_floor + limits.disk:
        return warn("disk", said, f"less than a session's budget of {limits.disk >> 30} GiB; --disk sets another")
    return ok("disk", said)


def check_rung(engine: Engine, cwd: Path, state: Path) -> Check:
    """How the current directory would be copied on write."""
    rung, reason = choose_rung(cwd, state, local=engine.info.local, forced=None)
    if rung is Rung.OVERLAY:
        return ok("copy-on-write", f"overlay over {cwd}")
    how = "blocks are shared" if rung is Rung.REFLINK else "all of it is copied at the start"
    return warn("copy-on-write", f"{rung} ({how}): {reason}")


def _about_engine(engine: Engine, runtime: str) -> list[Check]:
    info = engine.info
    kinds = [word for word, holds in (("rootless", info.rootless), ("userns-remap", info.userns_remap)) if holds]
    named = f"{info.kind} {info.version} (API {info.api}) at {info.endpoint}"
    checks = [ok("engine", ", ".join([named, info.architecture, f"cgroup v{info.cgroup}", *kinds]))]
    if not info.local:
        checks.append(warn("engine place", "not on this machine", "your directory is copied to it at each start"))
    choices = info.runtimes if info.kind != "podman" else ()  # Podman names what it knows, there or not
    checks.append(_check_runtime(runtime or info.default_runtime, info.runtimes, choices))
    if cannot_hold(engine):
        found = "rootless with cgroup v1: no limits, and background commands move on while a checkpoint is taken"
        checks.append(warn("cgroup", found, "boot with cgroup v2, or use the system's engine"))
    if info.storage == "vfs":
        advice = 'driver = "overlay" below [storage] in ~/.config/containers/storage.conf, then `podman system reset`'
        checks.append(warn("storage", "vfs: every start of a box copies the whole image", advice))
    if not info.seccomp:
        checks.append(warn("seccomp", "the engine filters no system calls", "use an engine built with seccomp"))
    dead = [each for each in engine.containers.list() if owner_dead(each.labels.get(OWNER_LABEL, ""))]
    if dead:
        checks.append(warn("leftovers", f"{len(dead)} containers of sessions that died", "fumehood clean"))
    return checks


def _check_runtime(runtime: str, known: tuple[str, ...], choices: tuple[str, ...]) -> Check:
    if known and runtime not in known:
        return fail("runtime", f"{runtime} is not known to the engine", f"it has {', '.join(known)}")
    if runtime in OWN_KERNEL:
        return ok("runtime", f"{runtime}: a kernel of its own; our seccomp profile is not in force there")
    others = [name for name in choices if name in OWN_KERNEL]
    more = f" ({', '.join(others)} could be had with --runtime)" if others else ""
    return ok("runtime", f"{runtime or 'the default'}{more}")


def _images(engine: Engine, cache: Path) -> tuple[ImageInfo | None, Toolbox | None, list[Check]]:
    recipe = load_recipe("base")
    image = engine.images.find(recipe.tag)
    if image is None:
        advice = "the first run makes it, or `fumehood images build`; the box below was not tried"
        return None, None, [warn("image", f"{recipe.tag} is not there yet", advice)]
    checks = [ok("image", f"{recipe.tag}, {image.size >> 20} MB")]
    try:
        toolbox = ensure_toolbox(engine, base=image, cache=cache, progress=lambda _line: None)
    except SandboxError as error:
        return image, None, [*checks, fail("toolbox", str(error), error.hint)]
    return image, toolbox, [*checks, ok("toolbox", f"volume {toolbox.volume}")]


async def check_box(
    engine: Engine, image: ImageInfo, toolbox: Toolbox, *, state: Path, runtime: str = ""
) -> list[Check]:
    """Start a box over a small directory, look at its walls from inside, change a file, and end it."""
    seconds = BOX_SECONDS if engine.info.local else REMOTE_BOX_SECONDS
    limits = Limits()
    trial = Trial(engine, image, toolbox, state=state, runtime=runtime, limits=limits)
    try:
        async with asyncio.timeout(seconds), trial:
            seen = parse_probe(await _output(trial.box))
            await trial.end()
            changed = await trial.workspace.changes()
            untouched = trial.file.read_text() == AS_IT_WAS
            rungs = ", ".join(sorted(set(trial.workspace.rungs.values())))
    except TimeoutError:
        return [fail("box", f"did not answer in {seconds:.0f} s")]
    except SandboxError as error:
        return [fail("box", str(error), error.hint)]
    checks = [ok("box", f"answers after {trial.seconds:.2f} s, {rungs}")]
    if trial.refused:
        checks.append(warn("overlay", f"the engine refused it: {trial.refused}", "copies are used instead"))
    return [
        *checks,
        *judge_probe(seen, tuple(trial.box.used_fallbacks), limits, runtime),
        check_files(seen, len(changed), untouched=untouched),
    ]


async def _output(box: ContainerBox) -> str:
    process = await box.exec(Command(argv=("/bin/sh", "-c", PROBE), cwd=ROOT, merge=True, timeout=10))
    data = b""
    async for item in process:
        match item:
            case Stdout(data=piece):
                data = (data + piece)[:16_384]
            case Exited():
                break
    return data.decode(errors="replace")
