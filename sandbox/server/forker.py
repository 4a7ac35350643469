"""The helper that starts commands: a process of the server's own uid, alone with all capabilities of
the box's one user namespace. What it starts is the server's child, becomes the owner with its last
step before execve, and there loses every capability: the bounding set is empty, uid 0 counts for nothing.

A job is one message on a socket: marshalled (number, candidates [(path, argv)], what the environment has
more, cwd, terminal), and descriptors of standard input, output, error, and of a memory file where the job
is large. The answer is marshalled (number, pid, stage, errno); stage "" means that it runs. Where the kernel
makes the children ours instead (gVisor), their ends are told too: (0, pid, "exit", status).
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import gc
import marshal
import os
import select
import time

from sandbox.server import linux
from sandbox.server.spawn import Spawner, row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from sandbox.server.spawn import Row

TIOCSCTTY = 0x540E
JOB_SIZE = 96 << 10
LARGEST_JOB = 16 << 20
OOM_SCORE = b"500"
RETRIES, PAUSE = 20, 0.05
REAP = 0.01
SLIM_AT = frozenset({0, 1, 16, 256, 4096})
_CONTROL, _JOBS, _SPARE = 3, 4, 5
_FIRST_FREE = 6


def run(control: int, jobs: int, *, uid: int, gid: int, capabilities: int) -> NoReturn:
    """The forker's life, in a process just forked. On `control` it says b"n" (in its namespace) or
    b"-" (refused), waits for b"y", then serves `jobs`; b"!" and a text are its last words.
    """
    line = _arrange(control, jobs)
    try:
        _enter(line, capabilities)
        Forker(uid, gid).serve()
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
    for fd in (0, 1, 2, _SPARE):
        os.dup2(null, fd, inheritable=False)
    os.closerange(_FIRST_FREE, 1 << 16)
    linux.unblock_signals()
    os.setsid()
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
    linux.secure(bits)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.refuse_namespaces()
    linux.prctl(linux.PR_SET_DUMPABLE, 1)


class Forker:
    """Takes jobs, one after the other."""

    def __init__(self, uid: int, gid: int) -> None:
        self._spawn = Spawner()
        self._jobs = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, _JOBS)
        arena = self._spawn.arena
        self._ours: bool | None = None
        self._children = 0
        self._environment = {name: arena.text(name + b"=" + value) for name, value in os.environb.items()}
        score, path = arena.text(OOM_SCORE), arena.text(b"/proc/self/oom_score_adj")
        self._first = [
            row(linux.SYS_SETSID),
            # the lowest free descriptor is known: the one that is closed here
            row(linux.SYS_CLOSE, _SPARE),
            row(linux.SYS_OPENAT, -100, path, os.O_WRONLY | os.O_CLOEXEC),
            row(linux.SYS_WRITE, _SPARE, score, len(OOM_SCORE)),
        ]
        self._then = [
            row(linux.SYS_SETRESGID, gid, gid, gid),
            row(linux.SYS_SETRESUID, uid, uid, uid),
        ]
        arena.keep()

    def serve(self) -> NoReturn:
        """Until the server is gone."""
        gc.disable()
        gc.freeze()
        count = 0
        while True:
            if count in SLIM_AT:  # our own memory grows with the first jobs
                self._spawn.slim()
            count += 1
            self._reap_until_asked()
            data, extra, _, _ = self._jobs.recvmsg(JOB_SIZE, _socket.CMSG_SPACE(4 * 4), _socket.MSG_CMSG_CLOEXEC)
            if not data:
                os._exit(0)
            descriptors = list(memoryview(extra[0][2]).cast("i"))
            if len(descriptors) > 3:
                data = os.pread(descriptors[3], LARGEST_JOB, 0)
            try:
                answer = self._start(marshal.loads(data), descriptors)  # noqa: S302  the server's own words
            finally:
                for fd in descriptors:
                    os.close(fd)
            self._jobs.send(marshal.dumps(answer))

    def _reap_until_asked(self) -> None:
        """Where children are ours: tell of each that ended, until there is a job."""
        while self._children and not select.select([_JOBS], [], [], REAP)[0]:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid:
                self._children -= 1
                self._jobs.send(marshal.dumps((0, pid, "exit", status)))

    def _note(self, pid: int) -> None:
        """Whose child it is, told by the first one."""
        if self._ours is None:
            try:
                found, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                self._ours = False
                return
            self._ours = True
            if found:
                self._jobs.send(marshal.dumps((0, pid, "exit", status)))
                return
        self._children += self._ours

    def _start(
        self, job: tuple[int, list[tuple[bytes, list[bytes]]], dict[bytes, bytes], bytes, bool], given: list[int]
    ) -> tuple[int, int, str, int]:
        number, candidates, added, cwd, terminal = job
        arena = self._spawn.arena
        arena.reset()
        try:
            environment = self._environment | {n: arena.text(n + b"=" + v) for n, v in added.items()}
            variables = arena.vector(list(environment.values()))
            pid, stage, error = self._try(candidates, variables, cwd, given, terminal=terminal)
            if stage == "exec" and error == errno.ENOEXEC:  # a script that does not say of what
                scripts = [(b"/bin/sh", [b"sh", path, *argv[1:]]) for path, argv in candidates]
                pid, stage, error = self._try(scripts, variables, cwd, given, terminal=terminal)
        except OSError as refused:
            return number, 0, "start", refused.errno or errno.EIO
        return number, pid, stage, error

    def _try(
        self,
        candidates: list[tuple[bytes, list[bytes]]],
        variables: int,
        cwd: bytes,
        given: list[int],
        *,
        terminal: bool,
    ) -> tuple[int, str, int]:
        """(pid, stage, errno): the child's calls, in this order because each needs what the next takes away."""
        arena = self._spawn.arena
        calls = [*self._first, *(row(linux.SYS_DUP3, given[fd], fd, 0) for fd in range(3))]
        if terminal:
            calls.append(row(linux.SYS_IOCTL, 0, TIOCSCTTY, 0))
        calls += self._then
        entering = len(calls)
        calls.append(row(linux.SYS_CHDIR, arena.text(cwd)))
        argv: list[bytes] = []
        vector = 0
        for path, words in candidates:
            if words is not argv:
                argv, vector = words, arena.vector([arena.text(word) for word in words])
            calls.append(row(linux.SYS_EXECVE, arena.text(path), vector, variables, passed_over=True))
        pid, failed, error = self._make(calls)
        if failed > entering:
            return pid, "exec", _worst(self._spawn.results[entering + 1 :])
        if error:
            return pid, "cwd" if failed == entering else "start", error
        return pid, "", 0

    def _make(self, calls: list[Row]) -> tuple[int, int, int]:
        """Try again for a while where the box has no process left. Raises OSError."""
        for _ in range(RETRIES):
            try:
                return self._spawn_one(calls)
            except BlockingIOError:
                time.sleep(PAUSE)
        return self._spawn_one(calls)

    def _spawn_one(self, calls: list[Row]) -> tuple[int, int, int]:
        made = self._spawn(calls)
        if self._ours is not False:
            self._note(made[0])
        return made


def _worst(results: list[int]) -> int:
    """The most telling errno of several attempts to execute."""
    telling = [-result for result in results if -result not in {errno.ENOENT, errno.ENOTDIR}]
    return telling[0] if telling else errno.ENOENT
