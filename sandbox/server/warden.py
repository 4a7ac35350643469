"""Runs one command and leaves nothing of it: a program of its own, on the host and in the box.

`warden.py SECONDS PROCESSES REPORT ARGV...`: every descendant is adopted here when its parent dies, so that all of
them are found and killed when the command ends, is too many, takes too long, or whoever started this goes. It ends
as the command did. REPORT: a descriptor that `CODE WORD` is written to, - for none.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
TICK = 0.05
PATIENCE = 5.0
PASSES = 20


def descendants(root: int) -> set[int]:
    """Every process below `root`, from /proc."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read(512).rpartition(b")")[2].split(None, 2)
            except OSError:
                continue
            if len(fields) > 1 and fields[0] not in b"ZX":
                parents[int(name)] = int(fields[1])
    found = {root}
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        grown = bool(more)
        found |= more
    return found - {root}


def reap() -> dict[int, int]:
    """The dead that were ours, with their exit codes."""
    found: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        found[pid] = os.waitstatus_to_exitcode(status)


def send(pids: set[int], number: int) -> None:
    """Signal them all; those that are gone are no harm."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:
            continue


def kill_all() -> dict[int, int]:
    """Stop whatever is below, so that nothing forks on, then kill it. The exit codes of what was reaped."""
    me, stopped, codes = os.getpid(), set[int](), dict[int, int]()
    for _ in range(PASSES):
        fresh = descendants(me) - stopped
        if not fresh:
            break
        send(fresh, signal.SIGSTOP)
        stopped |= fresh
    until = time.monotonic() + PATIENCE
    while left := descendants(me):
        send(left, signal.SIGKILL)
        codes |= reap()
        if time.monotonic() > until:
            break
        time.sleep(0.005)
    return codes | reap()


def run(argv: list[str], report: int) -> int:
    """The command's process."""
    pid = os.fork()
    if pid == 0:
        try:
            if report >= 0:
                os.close(report)
            os.setsid()
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            for number in (signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            os.execvp(argv[0], argv)  # noqa: S606 (the vector is the caller's)
        except OSError as error:
            os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
        finally:
            os._exit(127)
    return pid


def tell(report: int, text: str, *, alone: bool) -> None:
    """What became of it. `alone`: nobody is there to hear it, nor to remove the empty directory that this runs in."""
    if alone:
        with contextlib.suppress(OSError):
            os.rmdir(os.getcwd())
    else:
        os.write(report, text.encode())


def end(code: int) -> None:
    """As the command did."""
    if code < 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 255)


def main() -> None:
    """See the module."""
    seconds, most, argv = float(sys.argv[1]), int(sys.argv[2]), sys.argv[4:]
    report = -1 if sys.argv[3] == "-" else int(sys.argv[3])
    libc = ctypes.CDLL(None)
    signals = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    parent = os.getppid()
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        return
    leader = run(argv, report)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    until, codes, word = time.monotonic() + seconds, dict[int, int](), ""
    while leader not in codes and not word:
        left = until - time.monotonic()
        if left <= 0:
            word = "timeout"
            break
        told = signal.sigtimedwait(signals, min(TICK, left))
        if told is not None and told.si_signo != signal.SIGCHLD:
            word = "cancelled"
        codes |= reap()
        if leader not in codes and len(descendants(os.getpid())) > most:
            word = "processes"
    codes |= kill_all()
    code = codes.get(leader, -signal.SIGKILL)
    if report >= 0:
        tell(report, f"{code} {word}", alone=os.getppid() != parent)
    end(code)


if __name__ == "__main__":
    main()
