"""Replacing overlays beneath a running box: an acceleration, where this process may do it (root of this machine,
the box's processes in sight), and required nowhere.

New overlays are mounted aside, then a throw-away thread enters the box's mount namespace, takes the old ones off
and puts the new ones there (fsopen(2), fsmount(2), move_mount(2), setns(2)). The old ones are held until they
are let go of in the background: the last reference to an overlay writes out its whole file system.
Nothing in the box may move meanwhile, nor hold on to the place: such a process would go on in the old one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import field
from pathlib import Path, PurePosixPath

from sandbox.confined import open_beneath
from sandbox.dataclass import dataclass
from sandbox.freezer import Freezer
from sandbox.freezing import Stack, SwapError

_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = range(428, 433)
_SET_FLAG, _SET_STRING, _CREATE = 0, 1, 6
_CLOEXEC = 1
_NOSUID_NODEV = 0x2 | 0x4
_EMPTY_FROM, _EMPTY_TO = 0x04, 0x40
_CLONE, _EMPTY_PATH = 1, 0x1000
_CLONE_FS, _CLONE_NEWNS = 0x200, 0x20000
_DETACH = 2
_FLAGS = (b"userxattr",)
_VALUES = ((b"index", b"off"), (b"metacopy", b"off"))
# statx(2), of which only the mount's id is wanted.
_AT_FDCWD, _DO_NOT_SYNC, _STATX_MNT_ID = -100, 0x4000, 0x1000
_STATX_SIZE, _MASK, _ID, _ID_AT = 256, struct.Struct("=I"), struct.Struct("=Q"), 144
_PATH = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _call(name: str, *arguments: int | bytes | None) -> int:
    passed = [ctypes.c_char_p(a) if isinstance(a, bytes | None) else ctypes.c_long(a) for a in arguments]
    result = int(getattr(_libc, name)(*passed))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def mount_overlay(stack: Stack) -> int:
    """A new overlay that is attached nowhere, as a descriptor. Raises OSError."""
    context = _call("syscall", _SYS_FSOPEN, b"overlay", _CLOEXEC)
    try:
        for flag in _FLAGS:
            _call("syscall", _SYS_FSCONFIG, context, _SET_FLAG, flag, None, 0)
        pairs = [(b"lowerdir+", os.fsencode(lower)) for lower in stack.lowers]
        pairs += [(b"upperdir", os.fsencode(stack.upper)), (b"workdir", os.fsencode(stack.work)), *_VALUES]
        for key, value in pairs:
            _call("syscall", _SYS_FSCONFIG, context, _SET_STRING, key, value, 0)
        _call("syscall", _SYS_FSCONFIG, context, _CREATE, None, None, 0)
        return _call("syscall", _SYS_FSMOUNT, context, _CLOEXEC, _NOSUID_NODEV)
    finally:
        os.close(context)


@dataclass(slots=True)
class _Place:
    """One mount that is to be replaced. `new` is ours until it is attached, `old` holds what was there."""

    at: bytes
    new: int
    old: int = -1


@dataclass(slots=True)
class Mounts:
    """Overlays that are ready to take the place of others in the box of process `pid`."""

    pid: int
    places: list[_Place] = field(default_factory=list)

    def swap(self) -> None:
        """All of them, or none. Raises SwapError."""
        error = _in_namespace(self.pid, self._replace)
        if error is None:
            return
        if _in_namespace(self.pid, self._put_back) is None:
            raise SwapError(str(error))
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        raise SwapError(str(error), dead=True)

    def close(self) -> None:
        """Let go of all of them, in the background: it may take as long as writing out a file system."""
        held = [fd for place in self.places for fd in (place.new, place.old) if fd >= 0]
        self.places = []
        threading.Thread(target=_close, args=(held,), name="old mounts").start()

    # In the thread: nothing is imported or opened there but what the box's own tree is meant to give.

    def _replace(self, root: int) -> None:
        for place in self.places:
            there = open_beneath(root, place.at, _PATH)
            try:
                clone = _call("syscall", _SYS_OPEN_TREE, there, b"", _CLONE | _EMPTY_PATH | os.O_CLOEXEC)
                os.fchdir(there)
                _call("umount2", b".", _DETACH)
                place.old = clone
            finally:
                os.fchdir(root)
                os.close(there)
            _attach(place.new, root, place.at)

    def _put_back(self, root: int) -> None:
        for place in self.places:
            if place.old < 0:
                continue
            there = open_beneath(root, place.at, _PATH)
            try:
                if _is_mount(there, place.new):
                    os.fchdir(there)
                    _call("umount2", b".", _DETACH)
            finally:
                os.fchdir(root)
                os.close(there)
            _attach(place.old, root, place.at)


def _close(held: list[int]) -> None:
    for fd in held:
        os.close(fd)


def _attach(mount: int, root: int, at: bytes) -> None:
    there = open_beneath(root, at, _PATH)
    try:
        _call("syscall", _SYS_MOVE_MOUNT, mount, b"", there, b"", _EMPTY_FROM | _EMPTY_TO)
    finally:
        os.close(there)


def _is_mount(there: int, mount: int) -> bool:
    one, other = os.fstat(there), os.fstat(mount)
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


def _in_namespace(pid: int, work: Callable[[int], None]) -> OSError | None:
    """Do something in the mount namespace of a process, given its root directory; what went wrong, if anything did."""
    failed: list[OSError] = []
    try:
        space = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return error

    def enter() -> None:
        try:
            _call("unshare", _CLONE_FS)
            _call("setns", space, _CLONE_NEWNS)
            root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                work(root)
            finally:
                os.close(root)
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=enter, name="in the box's mounts")
    thread.start()
    thread.join()
    os.close(space)
    return failed[0] if failed else None


class Remount:
    """A Swap for one running box. `of` says whether there can be one."""

    way = "live"

    def __init__(self, freezer: Freezer) -> None:
        self._freezer = freezer
        self._pid = freezer.pid

    @classmethod
    def of(cls, freezer: Freezer | None) -> Remount | None:
        """None where this process may not, or cannot see the box's processes."""
        if freezer is None or not freezer.pid or os.geteuid() != 0:
            return None
        try:
            os.close(os.open(f"/proc/{freezer.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            return None
        return cls(freezer)

    def held(self, at: PurePosixPath) -> str:
        """As Swap.held; what cannot be told counts as held."""
        try:
            mount, device = self._mount(at)
            own = Path(f"/proc/{self._pid}/ns/mnt").stat().st_ino
            living = self._freezer.living()
            if living is None:
                return "its processes cannot be told"
            for pid in living:
                with suppress(ProcessLookupError, FileNotFoundError):
                    if Path(f"/proc/{pid}/ns/mnt").stat().st_ino != own:
                        return f"process {pid} has mounts of its own"
                    if any(found == mount for found in _mounts_of(pid, device)):
                        return f"process {pid} uses it"
        except (OSError, ValueError) as error:
            return str(error)
        return ""

    def stage(self, stacks: Mapping[PurePosixPath, Stack]) -> Mounts:
        """As Swap.stage."""
        held = [f"{at}: {why}" for at in stacks if (why := self.held(at))]
        if held:
            raise SwapError(held[0])
        made = Mounts(pid=self._pid)
        try:
            for at, stack in stacks.items():
                made.places.append(_Place(at=os.fsencode(at)[1:], new=mount_overlay(stack)))
        except OSError as error:
            made.close()
            raise SwapError(f"no overlay can be mounted: {error.strerror}") from error
        return made

    def _mount(self, at: PurePosixPath) -> tuple[int, int]:
        """Id and device of the overlay at a place. Raises ValueError where it is none, or others lie beneath."""
        found = None
        for line in Path(f"/proc/{self._pid}/mountinfo").read_text("utf-8", "surrogateescape").splitlines():
            fields = line.split(" ")
            point = _unescaped(fields[4])
            if point == str(at):
                if found is not None:
                    raise ValueError("several mounts in one place")
                major, minor = map(int, fields[2].split(":"))
                found = int(fields[0]), os.makedev(major, minor), fields[fields.index("-") + 1]
            elif point.startswith(f"{at}/"):
                raise ValueError("other mounts lie in it")
        if found is None or found[2] != "overlay":
            raise ValueError("there is no overlay")
        return found[:2]


def _mounts_of(pid: str, device: int) -> Iterator[int]:
    """Ids of the mounts that a process uses: by its directories, descriptors and mappings. Raises OSError where it
    watches something on `device` (inotify): it would hear of nothing any more.
    """
    base = f"/proc/{pid}"
    for name in ("cwd", "root", "exe"):
        yield from _mount_id(f"{base}/{name}")
    for fd in os.listdir(f"{base}/fd"):  # noqa: PTH208 (names only)
        with suppress(FileNotFoundError):
            text = Path(f"{base}/fdinfo/{fd}").read_text("ascii", "replace")
            yield from _ids(text)
            if f"sdev:{os.major(device) << 20 | os.minor(device):x} " in text:
                raise OSError(errno.EBUSY, f"process {pid} watches it")
    for area in os.listdir(f"{base}/map_files"):  # noqa: PTH208
        yield from _mount_id(f"{base}/map_files/{area}")


def _mount_id(link: str) -> Iterator[int]:
    """Of what a link of /proc leads to; none where that is gone. A server has hundreds of mappings: one call each."""
    found = ctypes.create_string_buffer(_STATX_SIZE)
    if _libc.statx(_AT_FDCWD, os.fsencode(link), _DO_NOT_SYNC, _STATX_MNT_ID, found) < 0:
        code = ctypes.get_errno()
        if code == errno.ENOENT:
            return
        raise OSError(code, os.strerror(code), link)
    if not _MASK.unpack_from(found)[0] & _STATX_MNT_ID:
        raise OSError(errno.ENOSYS, "the kernel tells no mount", link)
    yield _ID.unpack_from(found, _ID_AT)[0]


def _ids(fdinfo: str) -> Iterator[int]:
    for line in fdinfo.splitlines():
        name, _, value = line.partition(":")
        if name == "mnt_id":
            yield int(value)


def _unescaped(text: str) -> str:
    """A path of mountinfo, its octal escapes undone."""
    raw = text.encode("utf-8", "surrogateescape").decode("unicode_escape").encode("latin-1") if "\\" in text else b""
    return os.fsdecode(raw) if raw else text
