"""What the in-box server does where a kernel (gVisor's) lacks a call that it is built on."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.server import linux
from sandbox.server.linux import open_path

pytestmark = pytest.mark.user

READ, LOOK = os.O_RDONLY | os.O_NONBLOCK, os.O_PATH | os.O_NOFOLLOW
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL

# A forker whose children are its own, whatever it asks for.
FORKER = """
import array, json, marshal, os, socket
from sandbox.server import linux
from sandbox.server.forker import Forker

linux.CLONE_PARENT = 0
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
pid = os.fork()
if pid == 0:
    line, null = theirs.detach(), os.open("/dev/null", os.O_RDWR)
    for fd, source in ((60, line), (61, null)):
        os.dup2(source, fd, inheritable=False)
    for fd, source in ((3, 61), (4, 60), (5, 61)):
        os.dup2(source, fd, inheritable=False)
    os.closerange(6, 100)
    Forker(os.getuid(), os.getgid()).serve()
theirs.close()
null = os.open("/dev/null", os.O_RDWR)
ours.settimeout(20)
commands = [b"exit 3", b"sleep 0.2; exit 4", b"kill -9 $$"]
for number, text in enumerate(commands, start=1):
    job = marshal.dumps((number, [(b"/bin/sh", [b"sh", b"-c", text])], {}, b"/", False))
    ours.sendmsg([job], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null, null, null]))])
started, ended = {}, {}
while len(ended) < len(commands):
    number, child, stage, code = marshal.loads(ours.recv(1000))
    if stage == "exit":
        ended[child] = os.waitstatus_to_exitcode(code)
    else:
        started[number] = (child, stage)
ours.close()
os.waitpid(pid, 0)
print(json.dumps([[ended[started[n][0]], started[n][1]] for n in (1, 2, 3)]))
"""


def test_ends_of_commands_are_told_by_the_forker_where_they_are_its_children() -> None:
    done = subprocess.run([sys.executable, "-c", FORKER], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == [[3, ""], [4, ""], [-9, ""]]


def outcome(open_it: Callable[..., int], path: bytes, flags: int) -> object:
    """Which file it is, or the errno."""
    try:
        fd = open_it(path, flags, 0o600 if flags & os.O_CREAT else 0)
    except OSError as error:
        return error.errno
    found = os.fstat(fd)
    os.close(fd)
    if flags & os.O_CREAT:
        Path(os.fsdecode(path)).unlink()
        return "made"
    return found.st_dev, found.st_ino, found.st_mode


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/file").write_text("x")
    (tmp_path / "link").symlink_to("inner")
    (tmp_path / "link to file").symlink_to("inner/file")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "s"))
    return tmp_path


@pytest.mark.parametrize("flags", [READ, LOOK, os.O_PATH, os.O_PATH | os.O_DIRECTORY, NEW])
def test_a_path_opened_name_by_name_is_what_openat2_opens(place: Path, flags: int) -> None:
    names = ["inner", "inner/", "inner/file", "inner/file/", "inner/file/x", "link", "link/", "link/file", "fifo", "s"]
    names += ["link to file", "dangling", "dangling/x", "no", "no/x", "inner/../inner/file", "link/../link", "./inner"]
    paths = [os.fsencode(place / "x")[:-1] + name.encode() for name in names]
    paths += [b"/", b"//", b"/proc/self", b"/proc/self/status", b"/proc/1/root/etc", b"/" + b"x" * 300]
    for path in paths:
        if flags & os.O_CREAT and path.endswith(b"/"):
            continue  # refused by both, with different words
        assert outcome(linux._open_stepwise, path, flags) == outcome(open_path, path, flags), path


def test_a_new_file_opened_name_by_name_has_its_mode(place: Path) -> None:
    fd = linux._open_stepwise(os.fsencode(place / "inner/new"), NEW, 0o640)
    os.close(fd)
    assert (place / "inner/new").stat().st_mode & 0o777 == 0o640
