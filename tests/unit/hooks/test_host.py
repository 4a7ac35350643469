"""The warden and what it bounds, on the host."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runner.hooks.host import KEPT, clean, run

ENVIRONMENT = {"PATH": os.environ["PATH"]}


async def sh(script: str, *, stdin: bytes = b"", seconds: float = 60, most: int = 256) -> tuple[int | None, str, str]:
    ran = await run(("sh", "-c", script), stdin=stdin, environment=ENVIRONMENT, seconds=seconds, most=most)
    return ran.code, ran.stdout, ran.failure


def living(path: Path) -> list[int]:
    """Which of the processes noted in a file still run."""
    found = []
    for text in path.read_text().split():
        try:
            state = Path(f"/proc/{text}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            continue
        found += [int(text)] if state not in "ZX" else []
    return found


async def test_input_goes_in_and_output_and_code_come_out() -> None:
    assert await sh("cat; exit 3", stdin=b"x" * 200_000) == (3, "x" * 200_000, "")
    assert await sh("exit 0", stdin=b"x" * 2_000_000) == (0, "", "")
    assert (await sh("head -c 1000000 /dev/zero | tr '\\0' a"))[1] == "a" * KEPT


async def test_a_signal_is_told_apart_from_an_exit_code() -> None:
    assert await sh("kill -9 $$") == (-9, "", "")
    assert await sh("exit 137") == (137, "", "")


async def test_what_is_not_there_is_a_failure_with_words() -> None:
    ran = await run(("no-such-program",), stdin=b"", environment=ENVIRONMENT, seconds=60)
    assert (ran.code, "no-such-program" in ran.stderr) == (127, True)


async def test_too_many_processes_are_too_many() -> None:
    code, _, failure = await sh("for n in $(seq 60); do sleep 60 & done; sleep 60", most=20)
    assert (code, failure) == (-9, "had too many processes")


async def test_a_hook_that_ignores_every_signal_is_ended(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"trap '' TERM INT HUP; echo $$ > {pids}; while :; do sleep 1; done"
    assert (await sh(script, seconds=1))[2] == "took longer than 1 seconds"
    assert living(pids) == []


async def test_output_that_a_child_holds_open_does_not_hold_the_hook(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    assert await sh(f"setsid sh -c 'echo $$ > {pids}; exec sleep 300' & sleep 0.3; echo done") == (0, "done\n", "")
    assert living(pids) == []


async def test_cancelling_ends_it(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    work = asyncio.create_task(sh(f"echo $$ > {pids}; sleep 300"))
    while not (pids.exists() and pids.read_text()):  # noqa: ASYNC110 (the hook tells nobody else)
        await asyncio.sleep(0.02)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert living(pids) == []


def test_nothing_stays_when_the_controller_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"(setsid sleep 300 & echo $! >> {pids}); echo $$ >> {pids}; sleep 300"
    program = (
        "import asyncio; from runner.hooks.host import run; "
        f"asyncio.run(run(('sh', '-c', {script!r}), stdin=b'', environment={ENVIRONMENT!r}, seconds=300))"
    )
    (tmp_path / "tmp").mkdir()
    controller = subprocess.Popen([sys.executable, "-c", program], env=os.environ | {"TMPDIR": str(tmp_path / "tmp")})
    poll = asyncio.run(_until(lambda: pids.exists() and len(pids.read_text().split()) == 2))
    assert poll
    controller.send_signal(signal.SIGKILL)
    controller.wait()
    assert asyncio.run(_until(lambda: not living(pids) and not list((tmp_path / "tmp").iterdir())))


async def _until(holds: object) -> bool:
    for _ in range(600):
        if callable(holds) and holds():
            return True
        await asyncio.sleep(0.05)
    return False


def test_the_environment_is_a_short_list() -> None:
    environ = {
        "PATH": ".:/bin::rel:/usr/bin",
        "HOME": "/h",
        "AWS_SECRET_ACCESS_KEY": "x",
        "LD_PRELOAD": "x",
        "TZ": "UTC",
    }
    assert clean(environ, {"A": "1"}) == {"PATH": "/bin:/usr/bin", "HOME": "/h", "TZ": "UTC", "A": "1"}
