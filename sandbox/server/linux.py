"""The Linux calls that Python lacks, for the in-box server: identity, namespaces, openat2, signalfd."""

from __future__ import annotations

import ctypes
import errno
import os
import stat

X86 = os.uname().machine == "x86_64"
SYS_CLONE = 56 if X86 else 220
SYS_UNSHARE = 272 if X86 else 97
SYS_OPENAT2 = 437
SYS_SETSID = 112 if X86 else 157
SYS_CLOSE = 3 if X86 else 57
SYS_OPENAT = 257 if X86 else 56
SYS_WRITE = 1 if X86 else 64
SYS_DUP3 = 292 if X86 else 24
SYS_IOCTL = 16 if X86 else 29
SYS_SETRESGID = 119 if X86 else 149
SYS_SETRESUID = 117 if X86 else 147
SYS_CHDIR = 80 if X86 else 49
SYS_EXECVE = 59 if X86 else 221
AUDIT_ARCH = 0xC000003E if X86 else 0xC00000B7

CLONE_PARENT = 0x8000
CLONE_NEWUSER = 0x10000000
SIGCHLD = 17

CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_KILL = 0, 1, 3, 4, 5
CAP_SETGID, CAP_SETUID, CAP_SETPCAP, CAP_SETFCAP = 6, 7, 8, 31

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_SECUREBITS = 28
PR_SET_NO_NEW_PRIVS = 38

# linux/securebits.h: no capability from uid 0, none lost by changing uid, keep_caps off; each locked.
SECURE_NOROOT = 0x03
SECURE_NO_SETUID_FIXUP = 0x0C
SECURE_KEEP_CAPS_LOCKED = 0x20

_SAME = 0xFFFFFFFF  # an id that is to stay as it is

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04

# sys/inotify.h: MODIFY ATTRIB CLOSE_WRITE MOVED_FROM MOVED_TO CREATE DELETE DELETE_SELF MOVE_SELF; ONLYDIR DONT_FOLLOW
_WATCHED = 0xFCE | 0x01000000 | 0x02000000

_libc = ctypes.CDLL(None, use_errno=True)
_held = ctypes.PyDLL(None, use_errno=True)  # keeps the interpreter's lock over the call
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_held.syscall.restype = ctypes.c_long
_libc.pthread_self.restype = ctypes.c_ulong


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _Filter(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("filter", ctypes.POINTER(_Filter)))


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def mask(*capabilities: int) -> int:
    """Capability numbers as a bit set."""
    bits = 0
    for number in capabilities:
        bits |= 1 << number
    return bits


def prctl(option: int, value: int = 0, third: int = 0) -> int:
    """Set an attribute of this thread or process (man 2 prctl). Raises OSError."""
    return _checked(_libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(third), 0, 0), f"prctl {option}")


def set_capabilities(bits: int) -> None:
    """Make `bits` the permitted and effective sets of this thread; inheritable becomes empty."""
    data = (_CapData * 2)()
    for half in range(2):
        data[half].permitted = data[half].effective = (bits >> (32 * half)) & 0xFFFFFFFF
    _checked(_libc.capset(ctypes.byref(_CapHeader(0x20080522, 0)), data), "capset")


def _permitted() -> int:
    data = (_CapData * 2)()
    _checked(_libc.capget(ctypes.byref(_CapHeader(0x20080522, 0)), data), "capget")
    return int(data[0].permitted) | int(data[1].permitted) << 32


def bound_capabilities(bits: int) -> None:
    """Drop everything else from the bounding set."""
    for number in range(64):
        if not bits >> number & 1 and _libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(number), 0, 0, 0) < 0:
            if ctypes.get_errno() == errno.EINVAL:
                return
            _checked(-1, "bounding set")


def secure(bits: int) -> None:
    """Set this thread's securebits. A kernel that has none (gVisor) is passed over: with an empty bounding set
    no exec gives a capability there either. Raises OSError.
    """
    try:
        prctl(PR_SET_SECUREBITS, bits)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def unshare_user() -> None:
    """Enter a new user namespace."""
    _checked(_libc.unshare(CLONE_NEWUSER), "unshare")


def fork_sibling() -> int:
    """Fork a child of our parent (clone with CLONE_PARENT), from a process of one thread only."""
    pid = _held.syscall(SYS_CLONE, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0)
    return _checked(pid, "clone")


def system_call(number: int, *arguments: int) -> int:
    """Any system call with numbers and addresses; minus errno when it fails. The interpreter's lock is kept."""
    result = int(_held.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)))
    return -ctypes.get_errno() if result < 0 else result


def protect(address: int, size: int, protection: int) -> None:
    """Change what may be done with pages of memory. Raises OSError."""
    _checked(_libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), protection), "mprotect")


def advise(address: int, size: int, advice: int) -> None:
    """Tell the kernel how pages of memory are used (madvise). Raises OSError."""
    _checked(_libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), advice), "madvise")


def thread_address() -> int:
    """Where the C library keeps this thread's block."""
    return int(_libc.pthread_self())


def set_fs_ids(uid: int, gid: int) -> bool:
    """Take the ids that file access is checked with, for this thread and those it starts. Says whether
    the kernel did it (setfsuid(2) itself never fails). A kernel without such ids (gVisor) gets them as the
    effective ones: who may send signals to us or trace us, our real and saved ids still decide.
    """
    _libc.setfsgid(gid)
    _libc.setfsuid(uid)
    if _libc.setfsuid(ctypes.c_uint(_SAME)) == uid and _libc.setfsgid(ctypes.c_uint(_SAME)) == gid:
        return True
    calls = ((SYS_SETRESGID, gid), (SYS_SETRESUID, uid))
    prctl(PR_SET_KEEPCAPS, 1)  # capabilities(7): with the last id that is 0 all capabilities would go
    done = all(system_call(number, _SAME, effective, _SAME) == 0 for number, effective in calls)
    prctl(PR_SET_KEEPCAPS, 0)
    set_capabilities(_permitted())  # the effective ones went all the same
    return done


def open_path(path: bytes, flags: int, mode: int = 0) -> int:
    """openat2(2) of an absolute path through no link at all. Raises OSError."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)
    fd = _syscall(SYS_OPENAT2, -100, ctypes.c_char_p(path), ctypes.byref(how), ctypes.c_size_t(24))
    if fd < 0 and ctypes.get_errno() == errno.ENOSYS:
        return _open_stepwise(path, flags, mode)
    return _checked(fd, "open")


def _open_stepwise(path: bytes, flags: int, mode: int) -> int:
    """The same for a kernel without that call (gVisor), name by name."""
    names = [name for name in path.split(b"/") if name] or [b"."]
    if path[-1:] == b"/" and not flags & os.O_CREAT:
        flags |= os.O_DIRECTORY
    at = os.open(b"/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for number, name in enumerate(names, start=1):
        wanted = flags if number == len(names) else os.O_PATH | os.O_DIRECTORY
        try:
            below = os.open(name, wanted | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=at)
            if not flags & os.O_NOFOLLOW and stat.S_ISLNK(os.fstat(below).st_mode):
                os.close(below)
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        except NotADirectoryError:
            if stat.S_ISLNK(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
            raise
        finally:
            os.close(at)
        at = below
    return at


def default_signals() -> None:
    """SIG_DFL for every signal: a signal with a handler reaches an init process from inside the box."""
    for number in range(1, 65):
        _libc.signal(number, None)


def child_signals() -> int:
    """Block SIGCHLD and return a descriptor that is readable when it came (signalfd(2))."""
    bits = ctypes.create_string_buffer(128)
    bits[2] = b"\x01"  # SIGCHLD is 17
    _checked(_libc.sigprocmask(0, bits, None), "sigprocmask")
    return _checked(_libc.signalfd(-1, bits, os.O_CLOEXEC | os.O_NONBLOCK), "signalfd")


def unblock_signals() -> None:
    """Let every signal through again."""
    _checked(_libc.sigprocmask(2, ctypes.create_string_buffer(128), None), "sigprocmask")


def inotify() -> int:
    """A descriptor for watches, which never blocks (inotify_init1(2)). Raises OSError."""
    return _checked(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK), "inotify")


def watch_directory(fd: int, path: bytes) -> None:
    """Tell of everything that changes a directory or what lies in it (inotify_add_watch(2)). Raises OSError."""
    _checked(_libc.inotify_add_watch(fd, ctypes.c_char_p(path), ctypes.c_uint32(_WATCHED)), "watch")


def refuse_namespaces() -> None:
    """A filter on top of the engine's: no unshare, no foreign ABI. For everything started from here."""
    load, equal, greater, give = 0x20, 0x15, 0x35, 0x06
    lines = [
        (load, 0, 0, 4),
        (equal, 1, 0, AUDIT_ARCH),
        (give, 0, 0, 0x80000000),  # kill the process
        (load, 0, 0, 0),
        (equal, 0, 1, SYS_UNSHARE),
        (give, 0, 0, 0x00050000 | errno.EPERM),
        (greater, 0, 1, 0x40000000),  # x32
        (give, 0, 0, 0x00050000 | errno.EPERM),
        (give, 0, 0, 0x7FFF0000),  # allow
    ]
    array = (_Filter * len(lines))(*(_Filter(*line) for line in lines))
    program = _Program(len(lines), array)
    address = ctypes.addressof(program)
    prctl(PR_SET_SECCOMP, 2, address)


def free_ids(kind: str, leave_out: set[int]) -> bytes:
    """Lines for /proc/PID/uid_map or gid_map that map every id of this namespace onto itself but some."""
    with open(f"/proc/self/{kind}_map", encoding="ascii") as table:
        ranges = [(int(line.split()[0]), int(line.split()[2])) for line in table]
    lines = []
    for first, count in ranges:
        start, end = first, min(first + count, 0xFFFFFFFF)
        for hole in sorted(number for number in leave_out if start <= number < end):
            if hole > start:
                lines.append((start, hole - start))
            start = hole + 1
        if start < end:
            lines.append((start, end - start))
    return b"".join(b"%d %d %d\n" % (first, first, count) for first, count in lines)
