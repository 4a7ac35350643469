"""Runs a command and stops it at one of its system calls that change something: kill -9 before the call, or the
call fails. A program of its own (ptrace(2) binds to a thread): `tracer.py REPORT AT ACT -- COMMAND...`.

AT counts such calls of the command's process, all its threads, from 1; 0 lets it run. ACT is `kill`, `kill:PID`
(another process goes, the command goes on) or an errno's name; that is returned by calls that can return it, others
happen. TRACE_ONLY in the environment: only
calls on open files whose paths hold it count. REPORT gets a JSON object: how many calls there were, and the one
that was hit. Linux 5.3, any architecture for `kill`, x86-64 for an errno. Processes that the command starts go
their way.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import struct
import sys
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
TRACEME, CONT, SETOPTIONS, GETEVENTMSG, GET_SYSCALL_INFO, GETREGS, SETREGS = 0, 7, 0x4200, 0x4201, 0x420E, 12, 13
TRACEFORK, TRACEVFORK, TRACECLONE, TRACESECCOMP, EXITKILL = 2, 4, 8, 0x80, 0x100000
EVENT_SECCOMP = 7
WALL = 0x40000000
# By name; the numbers of x86-64, and of the table that all newer architectures share.
CALLS = {
    "write": (1, 64), "pwrite64": (18, 68), "sendto": (44, 206), "sendmsg": (46, 211), "fsync": (74, 82),
    "fdatasync": (75, 83), "ftruncate": (77, 46), "rename": (82, -1), "mkdir": (83, -1), "rmdir": (84, -1),
    "link": (86, -1), "unlink": (87, -1), "symlink": (88, -1), "chmod": (90, -1), "fchmod": (91, 52),
    "chown": (92, -1), "fchown": (93, 55), "lchown": (94, -1), "mknod": (133, -1), "setxattr": (188, 5),
    "lsetxattr": (189, 6), "fsetxattr": (190, 7), "openat": (257, 56), "mkdirat": (258, 34), "mknodat": (259, 33),
    "fchownat": (260, 54), "unlinkat": (263, 35), "renameat": (264, 38), "linkat": (265, 37), "symlinkat": (266, 36),
    "fchmodat": (268, 53), "utimensat": (280, 88), "syncfs": (306, 267), "renameat2": (316, 276),
    "openat2": (437, 437), "writev": (20, 66), "pwritev": (296, 70), "pwritev2": (328, 287), "fallocate": (285, 47),
}  # fmt: skip
# What a full disk can refuse.
NEED_SPACE = (
    "writev", "pwritev", "pwritev2", "fallocate",
    "write", "pwrite64", "fsync", "fdatasync", "ftruncate", "rename", "renameat", "renameat2", "mkdir", "mkdirat",
    "link", "linkat", "symlink", "symlinkat", "mknod", "mknodat", "openat", "openat2", "setxattr", "fsetxattr",
)  # fmt: skip
ONLY = os.environ.get("TRACE_ONLY", "")
COLUMN = 0 if os.uname().machine == "x86_64" else 1
NAMES = {numbers[COLUMN]: name for name, numbers in CALLS.items() if numbers[COLUMN] >= 0}
ON_FILES = ("write", "pwrite64", "writev", "pwritev", "pwritev2", "ftruncate", "fallocate", "fsync", "fdatasync")


def ptrace(request: int, pid: int, address: int = 0, data: object = 0) -> int:
    LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    LIBC.ptrace.restype = ctypes.c_long
    pointer = ctypes.cast(data, ctypes.c_void_p) if isinstance(data, ctypes.Array) else ctypes.c_void_p(data)  # type: ignore[arg-type]
    done: int = LIBC.ptrace(request, pid, address, pointer)
    return done


def watch_only(numbers: list[int]) -> None:
    """A filter that stops this process and its children at these calls, where a tracer is, and lets all others be
    (seccomp(2), SECCOMP_RET_TRACE).
    """
    load, equals, leave = 0x20, 0x15, 0x06
    code = [struct.pack("HBBI", load, 0, 0, 0)]
    for at, number in enumerate(numbers):
        code.append(struct.pack("HBBI", equals, len(numbers) - at, 0, number))
    code.append(struct.pack("HBBI", leave, 0, 0, 0x7FFF0000))
    code.append(struct.pack("HBBI", leave, 0, 0, 0x7FF00000))
    program = ctypes.create_string_buffer(b"".join(code))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(code), ctypes.addressof(program)))
    if LIBC.prctl(38, 1, 0, 0, 0) != 0 or LIBC.prctl(22, 2, header, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no seccomp filter")


def counts(pid: int, name: str, arguments: tuple[int, ...]) -> str:  # noqa: PLR0911  (one row per kind)
    """What the call is about, where it changes something; else ""."""
    if name in ON_FILES:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{arguments[0]}")  # noqa: PTH115
        except OSError:
            return ""
        if ONLY not in target:
            return ""
        return (
            target
            if target.startswith("/") and not target.startswith(("/dev/null", "/dev/pts", "/dev/tty", "/proc"))
            else ""
        )
    if ONLY:
        return ""
    if name in ("sendto", "sendmsg"):
        return "socket" if name == "sendmsg" or arguments[2] > 1 else ""  # one byte: a loop wakes itself
    if name == "openat":
        return "creates" if arguments[2] & os.O_CREAT else ""
    if name == "openat2":
        how = Path(f"/proc/{pid}/mem")
        with how.open("rb") as memory:
            memory.seek(arguments[2])
            (flags,) = struct.unpack("Q", memory.read(8))
        return "creates" if flags & os.O_CREAT else ""
    return "path"


def group_of(thread: int) -> int:
    """The process of a thread; 0 when it has gone."""
    try:
        text = Path(f"/proc/{thread}/status").read_text()
    except OSError:
        return 0
    return int(text.partition("Tgid:")[2].split()[0])


def refuse(pid: int, number: int) -> None:
    """The call does not happen, and returns the error."""
    registers = (ctypes.c_ulonglong * 27)()
    ptrace(GETREGS, pid, 0, registers)
    registers[15] = 2**64 - 1  # orig_rax
    registers[10] = 2**64 - number  # rax
    ptrace(SETREGS, pid, 0, registers)


def trace(command: list[str], at: int, act: str, report: Path) -> int:  # noqa: C901, PLR0912  (one loop)
    child = os.fork()
    if child == 0:
        ptrace(TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        watch_only(sorted(NAMES))
        os.execvp(command[0], command)
    os.waitpid(child, 0)
    ptrace(SETOPTIONS, child, 0, TRACEFORK | TRACEVFORK | TRACECLONE | TRACESECCOMP | EXITKILL)
    ptrace(CONT, child)
    count, hit, code = 0, "", 0
    info = (ctypes.c_char * 88)()
    while True:
        try:
            pid, status = os.waitpid(-1, WALL)
        except ChildProcessError:
            break
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
            continue
        stop, deliver = os.WSTOPSIG(status), 0
        if status >> 16 == EVENT_SECCOMP:
            if group_of(pid) != child:  # the filter is inherited, and needs somebody who lets its calls be
                ptrace(CONT, pid)
                continue
            ptrace(GET_SYSCALL_INFO, pid, 88, info)
            number, *arguments = struct.unpack_from("7Q", info.raw, 24)
            name = NAMES.get(number, "")
            about = counts(pid, name, tuple(arguments)) if name else ""
            if about:
                count += 1
                if count == at:
                    if act == "kill":
                        hit = f"{name} {about}"
                        os.kill(child, signal.SIGKILL)
                        continue
                    if act.startswith("kill:"):
                        hit = f"{name} {about}"
                        os.kill(int(act.removeprefix("kill:")), signal.SIGKILL)
                    elif name in NEED_SPACE:
                        hit = f"{name} {about}"
                        refuse(pid, getattr(errno, act))
        elif status >> 16 == 0 and stop not in (signal.SIGSTOP, signal.SIGTRAP):
            deliver = stop
        ptrace(CONT, pid, 0, deliver)
    report.write_text(json.dumps({"count": count, "hit": hit}))
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    split = sys.argv.index("--")
    _report, _at, _act = sys.argv[1:split]
    sys.exit(trace(sys.argv[split + 1 :], int(_at), _act, Path(_report)))
