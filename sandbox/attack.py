"""The boundary under attack on this machine: everything that `sandbox.server.attacks` knows, from inside a
throw-away box, with things of the host's to reach for.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sandbox.dataclass import dataclass
from sandbox.engine import Engine, ImageInfo
from sandbox.errors import SandboxError
from sandbox.spec import Command, Exited, Limits, Stdout
from sandbox.toolbox import SERVER, TOOLBOX_PYTHON, Toolbox
from sandbox.trial import ROOT, Trial

ATTACK_SECONDS = 60.0
MOST_OUTPUT = 1 << 20
KINDS = {
    "network": "addresses outside, names, the host's loopback and sockets, raw and foreign socket families",
    "file system": "the host's files and devices, the system's, the toolbox, kernel settings",
    "kernel": "mounts, namespaces, modules, keys, tracing, io_uring, other ABIs, terminals",
    "privileges": "other users, capabilities, inherited descriptors",
    "server": "signals, ptrace, memory, limits and files of the box's own server",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attacked:
    """`tried`: attempts by kind. `won`: what got through, and what came of it; `kinds`: of which kind each of those
    is. `uid`: that of the commands in the box. `seconds`: all of it, the start of the box included.
    """

    engine: str
    runtime: str
    uid: int
    rungs: tuple[str, ...]
    fallbacks: tuple[str, ...]
    tried: Mapping[str, int]
    won: Mapping[str, str]
    kinds: Mapping[str, str]
    seconds: float


async def attack(engine: Engine, image: ImageInfo, toolbox: Toolbox, *, state: Path, runtime: str = "") -> Attacked:
    """Try to get out of a box, for a minute at most. Raises SandboxError where there is no box to attack, and where
    it does not survive.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    trial = Trial(engine, image, toolbox, state=state, runtime=runtime, limits=Limits())
    try:
        async with asyncio.timeout(ATTACK_SECONDS), trial:
            with bait(trial.place) as names:
                found = read_findings(await _output(trial, names))
            await trial.box.ping()
            rungs = tuple(sorted(set(trial.workspace.rungs.values())))
    except TimeoutError:
        raise SandboxError(f"the attacks took more than {ATTACK_SECONDS:.0f} s") from None
    return Attacked(
        engine=f"{engine.info.kind} {engine.info.version}",
        runtime=runtime or engine.info.default_runtime,
        uid=trial.box.spec.owner.uid,
        rungs=rungs,
        fallbacks=tuple(trial.box.used_fallbacks),
        tried=found["tried"],
        won=found["won"],
        kinds=found["kinds"],
        seconds=loop.time() - began,
    )


@contextmanager
def bait(place: Path) -> Iterator[tuple[str, ...]]:
    """Things of the host's that a box must not reach, as the attacks are told of them: a listener on its loopback,
    a unix socket with an abstract name, a file.
    """
    secret, name = place / "secret", f"fumehood-{secrets.token_hex(8)}"
    secret.write_text("of the host\n")
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0{name}")
        abstract.listen()
        yield f"host:{listener.getsockname()[1]}", f"abstract:{name}", f"secret:{secret}"


def read_findings(text: str) -> dict[str, dict[str, Any]]:
    """What the attacks printed: JSON from a hostile place, of known form and bounded. Raises SandboxError."""
    try:
        said = json.loads(text[text.rindex('{"targets"') :])
        tried = {kind: int(said["tried"].get(kind, 0)) for kind in KINDS}
        won = {str(name)[:200]: str(result)[:200] for name, result in said["won"].items()}
        kinds = {name: str(said["kinds"].get(name, "")) for name in won}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SandboxError(f"the attacks ended without a report: {text[-500:].strip() or 'no output'}") from None
    if not all(tried.values()):
        raise SandboxError("the attacks were not all tried")
    return {"tried": tried, "won": won, "kinds": kinds}


async def _output(trial: Trial, names: tuple[str, ...]) -> str:
    argv = (*TOOLBOX_PYTHON, f"{SERVER}/attacks.py", *names)
    data = bytearray()
    async for item in await trial.box.exec(Command(argv=argv, cwd=ROOT, merge=True, timeout=ATTACK_SECONDS)):
        match item:
            case Stdout(data=piece):
                data = (data + piece)[-MOST_OUTPUT:]
            case Exited():
                break
    return data.decode(errors="replace")
