"""The helper that starts commands: a process of the server's own uid, alone with all capabilities of
the box's one user namespace. It forks children in advance; each is the server's child, waits for
one job on the shared socket, becomes the owner with nothing left, and executes it.

A job is one message: marshalled (candidates [(path, argv)], environment, cwd, terminal) and the
descriptors of standard input, output, error, the status pipe, and a memory file where the job is
large. The child writes its pid to the status pipe, which closes on success; else " STAGE ERRNO".
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import gc
import marshal
import os

from sandbox.server import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

TIOCSCTTY = 0x540E
JOB_SIZE = 96 << 10
OOM_SCORE = b"500"
RETRY = 0.05
_CONTROL, _JOBS = 3, 4


def run(control: int, jobs: int, *, uid: int, gid: int, capabilities: int) -> NoReturn:
    """The forker's life, in a process just forked. On `control` it says b"n" (in its namespace) or
    b"-" (refused), waits for b"y", then forks one child for every byte that comes; b"!" and a text
    is its last word.
    """
    line = _arrange(control, jobs)
    try:
        _enter(line, capabilities)
        _serve(line, uid=uid, gid=gid, capabilities=capabilities)
    except BaseException as error:  # noqa: BLE001  nothing may return into the server's code
        _say(line, error)
    os._exit(1)


def _say(line: _socket.socket, error: BaseException) -> None:
    try:
        line.send(b"!" + repr(error).encode("utf-8", "replace")[:500])
    except OSError:
        return


def _arrange(control: int, jobs: int) -> _socket.socket:
    """Keep the two sockets and no other descriptor: above all none of the pipe."""
    control, jobs = fcntl.fcntl(control, fcntl.F_DUPFD_CLOEXEC, 64), fcntl.fcntl(jobs, fcntl.F_DUPFD_CLOEXEC, 64)
    os.dup2(control, _CONTROL, inheritable=False)
    os.dup2(jobs, _JOBS, inheritable=False)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd, inheritable=False)
    os.closerange(_JOBS + 1, 1 << 16)
    linux.unblock_signals()
    return _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, _CONTROL)


def _enter(control: _socket.socket, capabilities: int) -> None:
    try:
        linux.unshare_user()
        linux.prctl(linux.PR_SET_DUMPABLE, 1)
        control.send(b"n")
    except OSError:
        control.send(b"-")
    if control.recv(1) != b"y":
        os._exit(0)
    linux.bound_capabilities(capabilities)
    bits = linux.SECURE_KEEP_CAPS_LOCKED
    if not capabilities:
        bits |= linux.SECURE_NOROOT | linux.SECURE_NO_SETUID_FIXUP
    linux.prctl(linux.PR_SET_SECUREBITS, bits)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.refuse_namespaces()
    linux.prctl(linux.PR_SET_DUMPABLE, 1)


def _serve(control: _socket.socket, *, uid: int, gid: int, capabilities: int) -> None:
    jobs = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, _JOBS)
    gc.disable()
    gc.freeze()
    wanted = 0
    while True:
        if wanted:
            try:
                if linux.fork_sibling() == 0:
                    _child(jobs, uid, gid, capabilities)
                wanted -= 1
                continue
            except OSError:  # the limit of processes: the children made in advance still serve
                control.settimeout(RETRY)
        try:
            orders = control.recv(64)
        except TimeoutError:
            continue
        finally:
            control.settimeout(None)
        if not orders:
            os._exit(0)
        wanted += len(orders)


def _child(jobs: _socket.socket, uid: int, gid: int, capabilities: int) -> NoReturn:
    status = -1
    stage = b"start"
    try:
        os.setsid()
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(score, OOM_SCORE)
        os.close(score)
        pid = b"%d" % os.getpid()
        data, descriptors = _receive(jobs)
        status = descriptors[3]
        os.write(status, pid)
        if len(descriptors) > 4:
            data = os.pread(descriptors[4], 16 << 20, 0)
        candidates, environment, cwd, terminal = marshal.loads(data)  # noqa: S302  the server's own words
        if terminal:
            fcntl.ioctl(descriptors[0], TIOCSCTTY, 0)
        for number in range(3):
            os.dup2(descriptors[number], number)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        linux.set_capabilities(capabilities)
        stage = b"cwd"
        os.chdir(cwd)
        stage = b"exec"
        _execute(candidates, environment)
    except OSError as error:
        if status >= 0:
            os.write(status, b" %b %d" % (stage, error.errno or errno.EIO))
    except BaseException:  # noqa: BLE001  a forked child never returns
        if status >= 0:
            os.write(status, b" %b %d" % (stage, errno.EIO))
    os._exit(127)


def _receive(jobs: _socket.socket) -> tuple[bytes, list[int]]:
    data, extra, _, _ = jobs.recvmsg(JOB_SIZE, _socket.CMSG_SPACE(5 * 4), _socket.MSG_CMSG_CLOEXEC)
    if not data:
        os._exit(0)
    packed = extra[0][2]
    return data, list(memoryview(packed).cast("i"))


def _execute(candidates: list[tuple[bytes, list[bytes]]], environment: dict[bytes, bytes]) -> NoReturn:
    """Try each path in turn as execvp(3) does; the most telling error is raised."""
    worst = OSError(errno.ENOENT, "")
    for path, argv in candidates:
        try:
            os.execve(path, argv, environment)  # noqa: S606  what the command names
        except OSError as error:
            if error.errno == errno.ENOEXEC:
                os.execve("/bin/sh", [b"sh", path, *argv[1:]], environment)  # noqa: S606
            if error.errno not in {errno.ENOENT, errno.ENOTDIR}:
                worst = error
    raise worst
