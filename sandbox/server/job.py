"""What the forker is told: the job as bytes, its descriptors, and the terminal where it has one."""

from __future__ import annotations

import _socket
import fcntl
import marshal
import os
import struct

from sandbox.server import files
from sandbox.server.files import RefusedError
from sandbox.wire import PathCode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TIOCSWINSZ = 0x5414
TIOCSPTLCK = 0x40045431
TIOCGPTN = 0x80045430
SMALL_JOB = 64 << 10
SEARCHED = b"/usr/local/bin:/usr/bin:/bin"
# Where shells write down the directory that they end in: the first that can be made, on the box's own tmpfs.
REPORTS = (b"/run/fumehood", b"/dev/shm/.fumehood")
REPORTER = os.fsencode(__file__.rsplit("/", 1)[0] + "/report.sh")


def build(
    request: dict[str, Any], environment: dict[bytes, bytes], *, shell: bytes, reports: bytes, number: int
) -> tuple[bytes, bytes]:
    """(the job, the path of its report or b""). `environment`: the box's own, which the forker has too.
    `reports`: the directory for those.
    """
    argv = [text_of(text) for text in request["argv"]]
    if not argv or not argv[0]:
        raise RefusedError(PathCode.INVALID, "no command")
    added = {text_of(name): text_of(value) for name, value in request.get("env", {}).items()}
    report = b""
    if request.get("shell"):
        report = b"%b/%d" % (reports, number)
        theirs = added.get(b"BASH_ENV") or environment.get(b"BASH_ENV", b"")
        argv, more = reporting(shell, argv[0], report, theirs)
        added |= more
        if b"SHELL" not in environment:  # else bash asks the user database for it, at each start
            added.setdefault(b"SHELL", shell)
        candidates = [(shell, argv)]
    elif b"/" in argv[0]:
        candidates = [(argv[0], argv)]
    else:
        path = added.get(b"PATH") or environment.get(b"PATH", SEARCHED)
        candidates = [(folder + b"/" + argv[0], argv) for folder in path.split(b":") if folder]
    job = (number, candidates, added, files.checked(request["cwd"]), bool(request.get("pty")))
    return marshal.dumps(job), report


def reporting(shell: bytes, script: bytes, report: bytes, theirs: bytes) -> tuple[list[bytes], dict[bytes, bytes]]:
    """(argv, what the environment has more) of a shell that runs the script and writes its last directory
    to `report`. bash is told outside of the script, so that its messages show nothing of ours (and by its
    whole path, so that it need not look for itself); other shells before it. `theirs`: the BASH_ENV of the box.
    """
    name = shell.rpartition(b"/")[2]
    if name != b"bash":
        return [name, b"-c", b"trap '{ pwd -P >|%b; } 2>/dev/null' EXIT\n%b" % (report, script)], {}
    added = {b"FUMEHOOD_REPORT": report, b"BASH_ENV": REPORTER}
    if theirs:
        added[b"FUMEHOOD_BASH_ENV"] = theirs
    return [shell, b"-c", script, name], added


def send(jobs: _socket.socket, data: bytes, descriptors: list[int]) -> None:
    """One message to the forker. BlockingIOError when too many wait."""
    memory = -1
    try:
        if len(data) > SMALL_JOB:
            memory = os.memfd_create("job", os.MFD_CLOEXEC)
            os.write(memory, data)
            data, descriptors = b"-", [*descriptors, memory]
        packed = struct.pack(f"{len(descriptors)}i", *descriptors)
        jobs.sendmsg([data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)])
    finally:
        if memory >= 0:
            os.close(memory)


def make_reports() -> bytes:
    """The directory for reports, made as the owner; where none can be made shells do not tell where they end."""
    for place in REPORTS:
        try:
            os.mkdir(place, 0o700)
        except OSError:
            continue
        return place
    return REPORTS[0]


def text_of(text: object) -> bytes:
    """An argument or a variable as the kernel takes it."""
    if type(text) is not str or "\0" in text:
        raise RefusedError(PathCode.INVALID, "not a text without NUL")
    return os.fsencode(text)


def open_terminal(rows: int, columns: int) -> tuple[int, int]:
    """(master, slave) of a new terminal, which belongs to the owner."""
    master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
        (number,) = struct.unpack("i", fcntl.ioctl(master, TIOCGPTN, struct.pack("i", 0)))
        set_size(master, rows, columns)
        slave = os.open(f"/dev/pts/{number}", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except BaseException:
        os.close(master)
        raise
    return master, slave


def set_size(fd: int, rows: int, columns: int) -> None:
    """Tell a terminal its size."""
    fcntl.ioctl(fd, TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
