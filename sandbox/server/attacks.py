# a script whose calls themselves are the point
# ruff: noqa: D103, S103, S108, T201
"""Runs inside a box as a command and tries what must not work: `fumehood doctor --attack`, and the tests.

Prints one JSON object: `tried`, attempts by kind; `won`, attack -> what came of it, for those that succeeded;
`targets`, the server's processes and threads. Arguments: `control` (in a container without hardening), `child`
(against a process of its own), `host:PORT` (a listener on the host's loopback), `abstract:NAME` (the host's unix
socket of that abstract name), `secret:PATH` (a file of the host).
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import platform
import signal
import socket
import struct
import sys
from collections.abc import Callable
from functools import partial

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"
won: dict[str, str] = {}
tried: dict[str, int] = {}
kind = ""
kinds: dict[str, str] = {}
# Addresses that are documentation's, and the one where clouds keep their keys. A box has no route to any.
OUTSIDE = ("192.0.2.1", "169.254.169.254", "10.0.0.1", "172.17.0.1", "2001:db8::1", "fe80::1", "::ffff:192.0.2.1")
NAMES = ("fumehood.example", "host.docker.internal", "metadata.google.internal")
# x86_64 and aarch64 numbers
CALLS = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438), "tkill": (200, 130),
    "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138), "prlimit64": (302, 261), "ioprio_set": (251, 30),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "move_pages": (279, 239),
    "migrate_pages": (256, 238), "unshare": (272, 97), "clone": (56, 220), "clone3": (435, 435), "setns": (308, 268),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "fsopen": (430, 430),
    "open_tree": (428, 428), "move_mount": (429, 429), "mount_setattr": (442, 442), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "syslog": (103, 116), "reboot": (169, 142),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "acct": (163, 89),
    "sethostname": (170, 161), "swapon": (167, 224), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "adjtimex": (159, 171), "quotactl": (179, 60), "fanotify_init": (300, 262), "vmsplice": (278, 75),
    "memfd_secret": (447, 447), "mbind": (237, 235), "set_mempolicy": (238, 237), "kexec_load": (246, 104),
    "personality": (135, 92), "lookup_dcookie": (212, 18), "remap_file_pages": (216, 234),
}  # fmt: skip
if X86:
    CALLS |= {"iopl": (172, 0), "ioperm": (173, 0), "modify_ldt": (154, 0), "uselib": (134, 0), "ustat_x32": (136, 0)}
    del CALLS["ustat_x32"]


def call(name: str, *arguments: object) -> int:
    number = CALLS[name][0 if X86 else 1]
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return int(result)


def attempt(name: str, work: Callable[..., object]) -> None:
    tried[kind] = tried.get(kind, 0) + 1
    try:
        result = work()
    except (OSError, ValueError, ZeroDivisionError):
        return
    won[name] = repr(result)[:200]


def opens(path: str, flags: int) -> bytes | str:
    fd = os.open(path, flags)
    try:
        return os.read(fd, 64) if flags == os.O_RDONLY else "opened"
    finally:
        os.close(fd)


def writes(path: str, text: bytes) -> int:
    fd = os.open(path, os.O_WRONLY)
    try:
        return os.write(fd, text)
    finally:
        os.close(fd)


def against(label: str, pid: int, signals: tuple[int, ...] = tuple(range(65))) -> None:
    """One process or thread of the server's."""
    for number in signals:
        attempt(f"{label}: kill {number}", lambda number=number: os.kill(pid, number))
        attempt(f"{label}: tkill {number}", lambda number=number: call("tkill", pid, number))
        attempt(f"{label}: tgkill {number}", lambda number=number: call("tgkill", pid, pid, number))
    info = ctypes.create_string_buffer(128)
    attempt(f"{label}: sigqueue", lambda: call("rt_sigqueueinfo", pid, 9, info))

    def by_pidfd(number: int) -> int:
        fd = call("pidfd_open", pid, 0)
        return call("pidfd_send_signal", fd, number, 0, 0)

    for number in {0, 9, 15, 19}.intersection(signals):
        attempt(f"{label}: pidfd signal {number}", lambda number=number: by_pidfd(number))
    attempt(f"{label}: pidfd_getfd", lambda: call("pidfd_getfd", call("pidfd_open", pid, 0), 0, 0))
    attempt(f"{label}: process_madvise", lambda: call("process_madvise", call("pidfd_open", pid, 0), 0, 0, 21, 0))
    attempt(f"{label}: process_mrelease", lambda: call("process_mrelease", call("pidfd_open", pid, 0), 0))
    attempt(f"{label}: ptrace attach", lambda: call("ptrace", 16, pid, 0, 0))
    attempt(f"{label}: ptrace seize", lambda: call("ptrace", 0x4206, pid, 0, 0))
    buffer = ctypes.create_string_buffer(64)
    vector = struct.pack("PN", ctypes.addressof(buffer), 64)
    remote = struct.pack("PN", 0x400000, 64)
    attempt(f"{label}: vm read", lambda: call("process_vm_readv", pid, vector, 1, remote, 1, 0))
    attempt(f"{label}: vm write", lambda: call("process_vm_writev", pid, vector, 1, remote, 1, 0))
    attempt(f"{label}: kcmp", lambda: call("kcmp", pid, os.getpid(), 0, 0, 0))
    for name in (
        "environ",
        "maps",
        "smaps",
        "mem",
        "auxv",
        "stack",
        "syscall",
        "personality",
        "pagemap",
        "io",
        "fdinfo/0",
    ):
        attempt(f"{label}: read {name}", lambda name=name: opens(f"/proc/{pid}/{name}", os.O_RDONLY) or 1 / 0)
    for name in ("cwd", "exe", "root", "fd/0", "fd/1", "ns/user", "ns/mnt", "ns/pid"):
        attempt(f"{label}: link {name}", lambda name=name: os.readlink(f"/proc/{pid}/{name}"))
    for name in ("fd", "map_files", "task/%d/fd" % pid):
        attempt(f"{label}: list {name}", lambda name=name: os.listdir(f"/proc/{pid}/{name}"))
    for name, text in (
        ("oom_score_adj", b"1000"), ("oom_adj", b"15"), ("clear_refs", b"1"), ("coredump_filter", b"0"),
        ("autogroup", b"19"), ("comm", b"x"), ("timerslack_ns", b"1"), ("mem", b"x"), ("sched", b"0"),
        ("uid_map", b"0 0 1"), ("gid_map", b"0 0 1"), ("setgroups", b"deny"), ("loginuid", b"0"),
        ("attr/current", b"x"),
    ):  # fmt: skip
        attempt(f"{label}: write {name}", lambda name=name, text=text: writes(f"/proc/{pid}/{name}", text))
    limits = struct.pack("QQ", 1, 1)
    for resource in (0, 7, 9):
        attempt(f"{label}: prlimit get {resource}", lambda r=resource: call("prlimit64", pid, r, 0, buffer))
        attempt(f"{label}: prlimit set {resource}", lambda r=resource: call("prlimit64", pid, r, limits, 0))
    attempt(f"{label}: nice", lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))
    attempt(f"{label}: ioprio", lambda: call("ioprio_set", 1, pid, (3 << 13)))
    attempt(f"{label}: affinity", lambda: os.sched_setaffinity(pid, {0}))
    attempt(f"{label}: scheduler", lambda: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0)))
    attempt(f"{label}: move_pages", lambda: call("move_pages", pid, 1, struct.pack("P", 0x1000), 0, buffer, 0))
    attempt(f"{label}: migrate_pages", lambda: call("migrate_pages", pid, 64, buffer, buffer))
    for name in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup"):
        attempt(f"{label}: setns {name}", lambda n=name: call("setns", os.open(f"/proc/{pid}/ns/{n}", os.O_RDONLY), 0))


def identities(server: int) -> None:
    for name, change in (("uid", os.setuid), ("gid", os.setgid)):
        for number in {server, 0, 1, 65534} - {os.getuid(), os.getgid()}:
            attempt(f"set{name} {number}", lambda change=change, number=number: change(number))
    attempt("setgroups", lambda: os.setgroups([0]))
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        attempt(f"capability set {name}", lambda name=name: held(name))


def held(name: str) -> str:
    with open("/proc/self/status") as status:
        value = next(line.split()[1] for line in status if line.startswith(name))
    return value if int(value, 16) else str(1 // 0)


def namespaces() -> None:
    for name, flag in (("user", 1 << 28), ("mnt", 1 << 17), ("pid", 1 << 29), ("net", 1 << 30), ("ipc", 1 << 27),
                       ("uts", 1 << 26), ("cgroup", 1 << 25), ("time", 1 << 7)):  # fmt: skip
        attempt(f"unshare {name}", lambda flag=flag: call("unshare", flag))
        attempt(f"clone {name}", lambda flag=flag: cloned(flag))
    attempt("clone3", lambda: call("clone3", ctypes.create_string_buffer(88), 88))


def cloned(flag: int) -> int:
    pid = call("clone", flag | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def kernel() -> None:
    buffer = ctypes.create_string_buffer(256)
    text = ctypes.create_string_buffer(b"tmpfs")
    target = ctypes.create_string_buffer(b"/tmp")
    attempt("mount", lambda: call("mount", text, target, text, 0, 0))
    attempt("mount bind", lambda: call("mount", target, target, text, 4096, 0))
    attempt("mount remount", lambda: call("mount", text, ctypes.create_string_buffer(b"/"), text, 32, 0))
    attempt("umount", lambda: call("umount2", ctypes.create_string_buffer(b"/proc"), 2))
    for name in ("pivot_root", "chroot", "fsopen", "open_tree", "move_mount", "mount_setattr"):
        attempt(name, lambda name=name: call(name, target, target, 0, 0, 0))
    attempt("io_uring_setup", lambda: call("io_uring_setup", 4, buffer))
    attempt("io_uring_enter", lambda: call("io_uring_enter", 0, 0, 0, 0, 0, 0))
    attempt("io_uring_register", lambda: call("io_uring_register", 0, 0, 0, 0))
    attempt("add_key", lambda: call("add_key", ctypes.create_string_buffer(b"user"), text, text, 5, -3))
    attempt("request_key", lambda: call("request_key", ctypes.create_string_buffer(b"user"), text, 0, -3))
    attempt("keyctl", lambda: call("keyctl", 0, -3, 1))
    attempt("bpf", lambda: call("bpf", 0, buffer, 128))
    attempt("perf_event_open", lambda: call("perf_event_open", buffer, 0, -1, -1, 0))
    attempt("userfaultfd", lambda: call("userfaultfd", 1))
    attempt("fanotify_init", lambda: call("fanotify_init", 0, 0))
    attempt("memfd_secret", lambda: call("memfd_secret", 0))
    attempt("syslog", lambda: call("syslog", 3, buffer, 10))
    attempt("kexec_load", lambda: call("kexec_load", 0, 0, 0, 0))
    attempt("name_to_handle_at", lambda: call("name_to_handle_at", -100, target, buffer, buffer, 0))
    attempt("open_by_handle_at", lambda: call("open_by_handle_at", -100, buffer, 0))
    attempt("sethostname", lambda: call("sethostname", text, 4))
    attempt("acct", lambda: call("acct", 0))
    attempt("swapon", lambda: call("swapon", text, 0))
    attempt("settimeofday", lambda: call("settimeofday", buffer, 0))
    attempt("clock_settime", lambda: call("clock_settime", 0, buffer))
    attempt("quotactl", lambda: call("quotactl", 0x800001 << 8, 0, 0, buffer))
    attempt("init_module", lambda: call("init_module", buffer, 16, text))
    attempt("reboot", lambda: call("reboot", 0xFEE1DEAD, 0x28121969, 0x89ABCDEF, 0))
    attempt("personality", lambda: call("personality", 0x0400000 | 0x0008))
    if X86:
        attempt("iopl", lambda: call("iopl", 3))
        attempt("ioperm", lambda: call("ioperm", 0x80, 1, 1))
        attempt("modify_ldt", lambda: call("modify_ldt", 0, buffer, 16))


def sockets() -> None:
    families = {"vsock": 40, "packet": 17, "alg": 38, "key": 15, "xdp": 44, "bluetooth": 31, "can": 29, "rds": 21,
                "tipc": 30, "nfc": 39, "smc": 43, "qipcrtr": 42, "kcm": 41, "phonet": 35}  # fmt: skip
    for name, family in families.items():
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
            attempt(f"socket {name} {kind}", lambda family=family, kind=kind: socket.socket(family, kind))
    for protocol in range(1, 32):
        attempt(f"netlink {protocol}", lambda p=protocol: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, p))
    attempt("raw ip", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
    interfaces = [name for _, name in socket.if_nameindex()]
    if set(interfaces) - {"lo", "tunl0", "sit0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0"}:
        won["interfaces"] = repr(interfaces)


def network(names: list[str]) -> None:
    """What is beyond the box's own loopback."""
    for address in OUTSIDE:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        for port in (53, 80, 443):
            attempt(f"connect {address} {port}", lambda a=address, p=port: reached(a, p))
        for way, protocol in (("udp", 0), ("ping", socket.IPPROTO_ICMPV6 if ":" in address else socket.IPPROTO_ICMP)):
            attempt(f"{way} {address}", lambda a=address, f=family, p=protocol: sent(f, p, (a, 53)))
    for name in NAMES:
        attempt(f"resolve {name}", lambda name=name: socket.getaddrinfo(name, 443))
    for name in names:
        what, _, value = name.partition(":")
        if what == "host":
            for address in ("127.0.0.1", "::1", "localhost"):
                attempt(f"the host's {address}", lambda a=address, v=value: reached(a, int(v)))
        elif what == "abstract":
            attempt("the host's abstract unix socket", lambda v=value: connected("\0" + v))


def reached(address: str, port: int) -> str:
    with socket.create_connection((address, port), timeout=1):
        return "connected"


def sent(family: int, protocol: int, address: tuple[str, int]) -> int:
    with socket.socket(family, socket.SOCK_DGRAM, protocol) as sock:
        return sock.sendto(b"\x08\x00\xf7\xfd\x00\x01\x00\x01", address)


def connected(address: str) -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(address)
        return "connected"


def bait(names: list[str]) -> None:
    """Files of the host."""
    for name in names:
        what, _, value = name.partition(":")
        if what == "secret":
            for path in (value, f"/proc/1/root{value}", f"/proc/1/cwd{value}", f"/host{value}", f"/../../..{value}"):
                attempt(f"read {path}", lambda path=path: opens(path, os.O_RDONLY))


def files() -> None:
    for path in ("/opt/fumehood/server/sandbox/server/main.py", "/opt/fumehood/bin/python3", "/opt/fumehood/lib/ld.so"):
        attempt(f"write {path}", lambda path=path: opens(path, os.O_WRONLY))
        attempt(f"unlink {path}", lambda path=path: os.unlink(path))
        attempt(f"chmod {path}", lambda path=path: os.chmod(path, 0o777))
        attempt(f"rename {path}", lambda path=path: os.rename(path, path + "x"))
    for folder in ("/opt/fumehood/server", "/opt/fumehood", "/opt", "/usr/lib", "/etc", "/"):
        attempt(f"create in {folder}", lambda folder=folder: os.mkdir(f"{folder}/planted"))
    for path in ("/etc/passwd", "/etc/group", "/etc/ld.so.preload", "/usr/bin/env"):
        attempt(f"write {path}", lambda path=path: os.close(os.open(path, os.O_WRONLY | os.O_CREAT)))
    for path in (
        "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger",
        "/proc/sys/kernel/ns_last_pid", "/sys/kernel/uevent_helper", "/sys/fs/cgroup/release_agent",
        "/sys/fs/cgroup/memory/release_agent", "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/memory/tasks",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory.max", "/sys/power/state",
    ):  # fmt: skip
        attempt(f"write {path}", lambda path=path: opens(path, os.O_WRONLY))
    for path in ("/proc/kcore", "/sys/kernel/vmcoreinfo", "/proc/timer_list", "/proc/keys", "/dev/mem", "/dev/kmsg",
                 "/dev/vda", "/dev/sda", "/dev/fuse", "/dev/kvm", "/dev/net/tun", "/dev/vsock"):  # fmt: skip
        attempt(f"read {path}", lambda path=path: opens(path, os.O_RDONLY) or 1 / 0)
    attempt("mknod", lambda: os.mknod("/tmp/disk", 0o60660, os.makedev(8, 0)))
    attempt("mknod char", lambda: os.mknod("/tmp/mem", 0o20660, os.makedev(1, 1)))
    for path in ("/var/run/docker.sock", "/run/docker.sock", "/run/podman/podman.sock", "/run/containerd"):
        if os.path.exists(path):
            won[f"there is {path}"] = ""


def terminal() -> None:
    master, slave = os.openpty()
    attempt("TIOCSTI", lambda: fcntl.ioctl(slave, 0x5412, b"x"))
    os.close(master)
    os.close(slave)


def foreign() -> None:
    """A system call of another ABI kills whoever makes it (x86 only)."""
    if not X86:
        return
    for name, code in (("int 0x80", b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"), ("x32", b"\xb8\x27\x00\x00\x40\x0f\x05\xc3")):
        pid = os.fork()
        if pid == 0:
            page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
            page.write(code)
            result = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
            os._exit(0 if result > 0 else 3)
        _, status = os.waitpid(pid, 0)
        if os.waitstatus_to_exitcode(status) == 0:
            won[name] = "worked"


def descriptors() -> None:
    """What this command was given."""
    names = sorted(int(name) for name in os.listdir("/proc/self/fd"))
    extra = [fd for fd in names if fd > 2 and os.path.exists(f"/proc/self/fd/{fd}")]
    if len(extra) > 1:  # listing itself opens one
        won["descriptors"] = repr([os.readlink(f"/proc/self/fd/{fd}") for fd in extra])


def own_child() -> None:
    """A control: the attacks work where nothing stands against them."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
    survivable = {0, signal.SIGCONT, signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH}
    for number in survivable:
        attempt(f"child: kill {number}", lambda number=number: os.kill(pid, number))
    attempt("child: ptrace seize", lambda: call("ptrace", 0x4206, pid, 0, 0))
    against("child", pid, signals=())
    os.kill(pid, 9)
    print(json.dumps({"targets": [], "tried": tried, "won": won, "kinds": {}}))


def main() -> None:
    if sys.argv[1:] == ["child"]:
        own_child()
        return
    targets = {}
    server = os.stat("/proc/1").st_uid
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid() and os.stat(f"/proc/{name}").st_uid == server:
            targets["server" if name == "1" else f"helper {name}"] = int(name)
    for thread in os.listdir("/proc/1/task"):
        targets.setdefault(f"thread {thread}", int(thread))
    targets.pop("thread 1", None)
    control = sys.argv[1:] == ["control"]
    of("privileges", descriptors)
    if control:  # as root without any hardening it would hurt the container itself
        of("privileges", lambda: identities(server))
    for label, pid in targets.items():
        of("server", partial(against, label, pid))
    of("file system", files, lambda: bait(sys.argv[1:]))
    of("network", sockets)
    if not control:
        of("network", lambda: network(sys.argv[1:]))
    of("kernel", terminal, foreign, namespaces, kernel)
    if not control:
        of("privileges", lambda: identities(server))
    print(json.dumps({"targets": sorted(targets), "tried": tried, "won": won, "kinds": kinds}))


def of(name: str, *works: Callable[[], None]) -> None:
    """Try attacks of one kind."""
    global kind
    kind, before = name, set(won)
    for work in works:
        work()
    kinds.update(dict.fromkeys(set(won) - before, name))


if __name__ == "__main__":
    try:
        main()
    except ZeroDivisionError:
        sys.exit(3)
