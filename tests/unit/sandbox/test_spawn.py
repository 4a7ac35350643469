"""Starting a process as a list of system calls: by machine code with next to no memory, and by a fork."""

from __future__ import annotations

import errno
import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.server.spawn import without

pytestmark = pytest.mark.user

# The helper makes children of its parent: so one process more, which reaps them.
SCRIPT = """
import json, os, sys
from sandbox.server import linux
from sandbox.server.spawn import Spawner, row

def helper(out):
    spawner = Spawner(native=sys.argv[1] == "native")
    arena = spawner.arena
    texts = lambda *items: arena.vector([arena.text(item) for item in items])
    argv, env = texts(b"sh", b"-c", b"pwd; echo $GIVEN; exit 7"), texts(b"GIVEN=yes")
    missing = arena.text(b"/nowhere")
    arena.keep()
    spawner.slim()
    folder = arena.text(sys.argv[2].encode())
    run = row(linux.SYS_EXECVE, arena.text(b"/bin/sh"), argv, env, passed_over=True)
    none = row(linux.SYS_EXECVE, missing, argv, env, passed_over=True)
    found = {"native": spawner.native}
    found["runs"] = spawner([
        row(linux.SYS_SETSID), row(linux.SYS_DUP3, out, 1, 0), row(linux.SYS_CHDIR, folder), none, run
    ])
    found["no directory"] = spawner([row(linux.SYS_CHDIR, missing), run])
    found["no program"] = spawner([row(linux.SYS_SETSID), none])
    for _ in range(300):
        spawner([row(linux.SYS_SETSID), none])
    found["here"] = os.getcwd()
    try:
        arena.text(b"x" * (9 << 20))
    except OSError as error:
        found["too large"] = error.errno
    os.write(out, json.dumps(found).encode() + b"\\n")
    os._exit(0)

reading, writing = os.pipe()
pid = os.fork()
if pid == 0:
    helper(writing)
os.close(writing)
text = open(reading).read()
codes = []
while True:
    try:
        child, status = os.wait()
    except ChildProcessError:
        break
    codes.append((child == pid, os.waitstatus_to_exitcode(status)))
print(json.dumps({"text": text.splitlines(), "codes": sorted(codes)}))
"""


@pytest.mark.parametrize("how", ["native", "fork"])
def test_children_run_or_say_what_failed(how: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    found = json.loads(done.stdout)
    lines = found["text"]
    told = next(json.loads(line) for line in lines if line.startswith("{"))
    assert sorted(line for line in lines if not line.startswith("{")) == sorted([str(tmp_path), "yes"])
    assert found["codes"] == [[False, 7], *[[False, 127]] * 302, [True, 0]]
    assert told["native"] == (how == "native" and platform.machine() == "x86_64")
    assert told["too large"] == errno.E2BIG
    assert told["runs"][1:] == [0, 0]
    assert told["no directory"][1:] == [0, 2]
    assert told["no program"][1:] == [1, 2]
    assert told["here"] == str(Path.cwd())


@pytest.mark.parametrize(
    ("kept", "left"),
    [
        ([], [(10, 20)]),
        ([(0, 5)], [(10, 20)]),
        ([(0, 30)], []),
        ([(12, 14)], [(10, 12), (14, 20)]),
        ([(5, 12), (18, 25)], [(12, 18)]),
        ([(12, 13), (15, 16)], [(10, 12), (13, 15), (16, 20)]),
        ([(10, 20)], []),
    ],
)
def test_ranges_less_others(kept: list[tuple[int, int]], left: list[tuple[int, int]]) -> None:
    assert without(10, 20, kept) == left
