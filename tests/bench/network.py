"""Figures of the way out: bulk bytes beside the raw pipe, small requests beside none, tool calls during a download,
memory. The server is a process of its own on this machine.
"""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from sandbox.authority import Authority
from sandbox.box import ContainerBox
from sandbox.containers import ContainerSpec, session_labels
from sandbox.egress import Egress
from sandbox.engine import Engine
from sandbox.leaving import Way
from sandbox.spec import BoxSpec, Command, Owner
from sandbox.streams import Grant
from sandbox.toolbox import Toolbox
from sandbox.wire import PROXY_PORT
from tests.bench.figures import median
from tests.support.boxes import run
from tests.support.outlet import TableJudge

TMP = PurePosixPath("/tmp")
PEER = Path(__file__).with_name("network_peer.py")
BULK = 128 << 20
LARGE = 1 << 30
MANY = 200
TIMES = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Rates in MB/s, times in ms, `memory` in MB; `failed`: connections, of MANY at once. `bare`: bytes through the
    attach socket of a container that runs nothing of ours. `unboxed`: a download by TLS without a box.
    """

    bare: float
    raw: float
    unboxed: float
    passed: float
    inspected: float
    direct: float
    small_passed: float
    small_inspected: float
    calls: list[float]
    memory: float
    failed: int

    @property
    def call_p95(self) -> float:
        """Of tool calls while a download runs."""
        return sorted(self.calls)[int(len(self.calls) * 0.95)]


def measure(engine: Engine, image: str, toolbox: Toolbox, scratch: Path) -> Network:
    """All of it, once."""
    return asyncio.run(_measure(engine, image, toolbox, scratch))


@asynccontextmanager
async def _opened(
    engine: Engine, image: str, toolbox: Toolbox, scratch: Path, *, way: Way, pem: bytes
) -> AsyncIterator[ContainerBox]:
    faults: list[Exception] = []
    egress = Egress(way, fault=faults.append)
    spec = BoxSpec(session="bench", image=image, owner=Owner(uid=1000, gid=1000), cwd=TMP, mounts=(toolbox.mount,))
    grants = {"tcp": Grant(limit=256, accept=egress.accept)}
    async with ContainerBox(spec, engine, scratch=scratch, grants=grants) as box:
        await box.write(TMP / "trusted.pem", pem)
        await box.write(TMP / "peer.py", PEER.read_bytes())
        yield box
        await egress.close()
    assert not faults, faults


async def _measure(engine: Engine, image: str, toolbox: Toolbox, scratch: Path) -> Network:
    world, session = Authority(datetime.now(UTC)), Authority(datetime.now(UTC))
    trust = ssl.create_default_context(cadata=world.certificate.decode())
    with tempfile.TemporaryDirectory() as directory:
        chain, trusted = Path(directory) / "chain.pem", Path(directory) / "trusted.pem"
        chain.write_bytes(world._chain("127.0.0.1"))
        trusted.write_bytes(world.certificate)
        server = subprocess.Popen(  # noqa: ASYNC220 (nothing else runs yet)
            [sys.executable, PEER, "serve", chain], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            _, port = map(int, server.stdout.readline().split())

            def here(order: str, count: int) -> float:
                command = [sys.executable, str(PEER), order, "127.0.0.1", str(port), str(count), "0", str(trusted)]
                return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

            direct = here("ask", TIMES)
            way = Way(TableJudge(allowed={"127.0.0.1"}))
            async with _opened(engine, image, toolbox, scratch, way=way, pem=world.certificate) as box:
                pairs = [(await asyncio.to_thread(_bare, engine, image), await _raw(box)) for _ in range(5)]
                bare, raw = (median(column) for column in zip(*pairs, strict=True))
                downloads = [(here("fetch", BULK), await _fetch(box, port, BULK)) for _ in range(3)]
                unboxed, passed = (median(column) for column in zip(*downloads, strict=True))
                small_passed = await _small(box, port)
                before = _resident()
                fetching = asyncio.create_task(_fetch(box, port, LARGE))
                calls = await _calls_during(box, fetching)
                memory = _resident() - before
                failed = int(await _asked(box, port, "many", MANY))
            way = Way(TableJudge(allowed={"127.0.0.1"}, scheme="inspected"), authority=session, trust=trust)
            async with _opened(engine, image, toolbox, scratch, way=way, pem=session.certificate) as box:
                inspected = median([await _fetch(box, port, BULK) for _ in range(3)])
                small_inspected = await _small(box, port)
        finally:
            server.kill()
            server.communicate()
    return Network(
        bare=bare,
        raw=raw,
        unboxed=unboxed,
        passed=passed,
        inspected=inspected,
        direct=direct,
        small_passed=small_passed,
        small_inspected=small_inspected,
        calls=calls,
        memory=memory,
        failed=failed,
    )


def _bare(engine: Engine, image: str) -> float:
    """As many bytes into the standard input of a container without anything of ours, by the same engine's socket."""
    script = f"head -c {BULK} >/dev/null; echo done"
    container = engine.containers.create(
        ContainerSpec(
            image=image,
            command=("/bin/sh", "-c", script),
            labels=session_labels("bench"),
            mounts=(),
            capabilities=(),
            security_opt=("no-new-privileges",),
            stdin=True,
            hostname="bare",
            pids=64,
            memory=512 << 20,
        )
    )
    try:
        with closing(engine.containers.attach(container)) as attached:
            engine.containers.start(container)
            attached.settimeout(60)
            block = bytes(1 << 20)
            began = time.perf_counter()
            for _ in range(BULK >> 20):
                attached.sendall(block)
            assert attached.recv(1000)
            return BULK / (time.perf_counter() - began) / 1e6
    finally:
        engine.containers.remove(container, force=True)


async def _raw(box: ContainerBox) -> float:
    """Bytes into a command's standard input, as fast as the pipe takes them."""
    process = await box.exec(Command(argv=("cat >/dev/null",), cwd=TMP, shell=True, stdin=True))
    block = bytes(1 << 20)
    began = time.perf_counter()
    for _ in range(BULK >> 20):
        await process.write_stdin(block)
    await process.write_stdin(None)
    async for _ in process:
        pass
    return BULK / (time.perf_counter() - began) / 1e6


async def _fetch(box: ContainerBox, port: int, size: int) -> float:
    """One download by curl, over TLS, from its first byte."""
    text, end = await run(
        box,
        "env -u no_proxy -u NO_PROXY curl -sS --cacert /tmp/trusted.pem -o /dev/null"
        f" -w '%{{time_starttransfer}} %{{time_total}}' https://127.0.0.1:{port}/{size}",
    )
    assert end.code == 0, text
    began, ended = map(float, text.split())
    return size / (ended - began) / 1e6


async def _small(box: ContainerBox, port: int) -> float:
    return float(await _asked(box, port, "ask", TIMES))


async def _asked(box: ContainerBox, port: int, order: str, count: int) -> str:
    text, end = await run(box, f"python3 /tmp/peer.py {order} 127.0.0.1 {port} {count} {PROXY_PORT} /tmp/trusted.pem")
    assert end.code == 0, text
    return text.splitlines()[-1]


async def _calls_during(box: ContainerBox, fetching: asyncio.Task[float]) -> list[float]:
    """Milliseconds of tool calls (a read of a small file, and `true`) for as long as a download runs."""
    took = []
    while not fetching.done():
        for call in (box.read(TMP / "trusted.pem"), run(box, "true")):
            began = time.perf_counter()
            await call
            took.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(0.01)
    await fetching
    return took


def _resident() -> float:
    """This process's memory in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    row = next(line for line in lines if line.startswith("VmRSS"))
    return int(row.split()[1]) / 1024
