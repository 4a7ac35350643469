"""The seccomp profile of a box: a closed list of system calls for the engine's own architecture.

It binds everything in the container, the server included; a second filter of the server's takes
`unshare` from commands as well. Why each rule is there: SECURITY.md. Form: the Docker API's
(github.com/moby/moby, profiles/seccomp), which Podman reads too.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable
from typing import Any

_ARCHITECTURES = {
    "x86_64": "SCMP_ARCH_X86_64",
    "amd64": "SCMP_ARCH_X86_64",
    "aarch64": "SCMP_ARCH_AARCH64",
    "arm64": "SCMP_ARCH_AARCH64",
}

_FILES = """
access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64
fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fremovexattr
fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64 getxattr getxattrat lchown lgetxattr
link linkat listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat mkdir mkdirat mknod mknodat newfstatat
open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv
removexattr removexattrat rename renameat renameat2 rmdir sendfile setxattr setxattrat splice stat statfs statx
symlink symlinkat sync sync_file_range syncfs tee truncate umask unlink unlinkat utime utimensat utimes ustat write
writev inotify_add_watch inotify_init inotify_init1 inotify_rm_watch cachestat
"""
_MEMORY = """
brk get_robust_list madvise map_shadow_stack membarrier mincore mlock mlock2 mlockall mmap mprotect mremap mseal
msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect memfd_create shmat shmctl shmdt shmget
"""
_PROCESSES = """
capget capset execve execveat exit exit_group fork getegid geteuid getgid getgroups getpgid getpgrp getpid getppid
getpriority getresgid getresuid getrlimit getrusage getsid gettid getuid pause pidfd_open pidfd_send_signal prctl
arch_prctl rseq sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
sched_getscheduler sched_rr_get_interval sched_yield seccomp set_robust_list set_tid_address setfsgid setfsuid setgid
setgroups setpgid setregid setresgid setresuid setreuid setrlimit setsid setuid times uname vfork wait4 waitid
landlock_add_rule landlock_create_ruleset landlock_restrict_self getcpu getrandom sysinfo ioprio_get
"""
_SIGNALS_AND_TIME = """
alarm clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep restart_syscall rt_sigaction
rt_sigpending rt_sigprocmask rt_sigreturn rt_sigsuspend rt_sigtimedwait setitimer sigaltstack signalfd signalfd4 time
timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime
"""
_WAITING_AND_TALKING = """
accept accept4 bind connect epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
epoll_wait_old eventfd eventfd2 futex futex_requeue futex_wait futex_waitv futex_wake getpeername getsockname
getsockopt io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit listen mq_getsetattr mq_notify mq_open
mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd pipe pipe2 poll ppoll pselect6 recvfrom recvmmsg
recvmsg select semctl semget semop semtimedop sendmmsg sendmsg sendto setsockopt shutdown socketpair
"""

_ALLOW = "SCMP_ACT_ALLOW"
_ERRNO = "SCMP_ACT_ERRNO"

# clone(2) flags that make namespaces: NEWNS NEWCGROUP NEWUTS NEWIPC NEWUSER NEWPID NEWNET.
_NAMESPACES = 0x7E020000
_NEWUSER = 0x10000000
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_NETLINK_ROUTE, _NETLINK_AUDIT = 0, 9
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF, 0x40000)


def architecture_name(machine: str) -> str:
    """The profile's name of an architecture; KeyError for one that we do not support."""
    return _ARCHITECTURES[machine]


def supported(machine: str) -> bool:
    """Whether there is a profile for this architecture."""
    return machine in _ARCHITECTURES


def seccomp_profile(machine: str) -> dict[str, Any]:
    """The profile for an architecture as `uname -m` or the engine names it."""
    free = sorted({*_words(_FILES), *_words(_MEMORY), *_words(_PROCESSES), *_words(_SIGNALS_AND_TIME)})
    free += sorted(_words(_WAITING_AND_TALKING))
    rules = [
        _rule(free),
        _rule(["clone"], _arg(0, _NAMESPACES, "SCMP_CMP_MASKED_EQ", second=0)),
        # glibc falls back to clone, whose flags a filter can see
        _rule(["clone3"], action=_ERRNO, number=errno.ENOSYS),
        # for the server's helper; commands lose it by the server's own filter
        _rule(["unshare"], _arg(0, _NEWUSER)),
        *(_rule(["socket"], _arg(0, family)) for family in (_AF_UNIX, _AF_INET, _AF_INET6)),
        _rule(["socket"], _arg(0, _AF_NETLINK), _arg(2, _NETLINK_ROUTE)),
        # with EPERM useradd gives up, with EINVAL it takes auditing for absent
        _rule(["socket"], _arg(0, _AF_NETLINK), _arg(2, _NETLINK_AUDIT), action=_ERRNO, number=errno.EINVAL),
        # process 1 is nobody's to touch
        _rule(["ptrace"], _arg(1, 1, "SCMP_CMP_NE")),
        _rule(
            ["kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "prlimit64"],
            _arg(0, 1, "SCMP_CMP_NE"),
        ),
        _rule(
            ["sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler"],
            _arg(0, 1, "SCMP_CMP_NE"),
        ),
        _rule(["setpriority", "ioprio_set"], _arg(1, 1, "SCMP_CMP_NE")),
        *(_rule(["personality"], _arg(0, value)) for value in _PERSONALITIES),
        # a terminal's input is typed by people only
        _rule(["ioctl"], _arg(1, _TIOCSTI, "SCMP_CMP_NE"), _arg(1, _TIOCLINUX, "SCMP_CMP_NE")),
    ]
    return {
        "defaultAction": _ERRNO,
        "defaultErrnoRet": errno.EPERM,
        "architectures": [architecture_name(machine)],
        "syscalls": rules,
    }


def seccomp_json(machine: str) -> str:
    """The profile as Docker's API takes it and Podman reads it from a file."""
    return json.dumps(seccomp_profile(machine), separators=(",", ":"))


def _words(text: str) -> set[str]:
    return set(text.split())


def _rule(
    names: Iterable[str], *arguments: dict[str, Any], action: str = _ALLOW, number: int | None = None
) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": list(names), "action": action, "args": list(arguments)}
    return rule if number is None else rule | {"errnoRet": number}


def _arg(index: int, value: int, operation: str = "SCMP_CMP_EQ", *, second: int = 0) -> dict[str, Any]:
    return {"index": index, "value": value, "valueTwo": second, "op": operation}
