"""Starting a process as a list of system calls that the child makes before its last one, execve.

A child forked from Python copies ten megabytes of interpreter to make a dozen calls, which takes longer
than all that the command does. Here the child is made without the interpreter: all our memory but three
small pieces is left out of it (MADV_DONTFORK), and the loop over the list is these 108 bytes of machine
code. On other processors, and where such memory may not be executed, Python forks and makes the calls.

List and texts lie in memory shared with the child, so that we can read how far it came.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os

from sandbox.server import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    Row: TypeAlias = tuple[int, int, int, int, int, int, int, int]

# One row per call: number, five arguments, the result once made, and 1 where a failure is passed over.
ROW = 8
RESULT = 6
PASSED_OVER = 7
ROWS = 512
ARENA = 8 << 20
# Linux's bounds for one argument and for all, which other kernels do not have (gVisor).
LONGEST, TEXTS = 128 << 10, 2 << 20
WORD = 8

CLONE_VFORK = 0x4000
MADV_DONTFORK = 10
_PROTECTIONS = mmap.PROT_READ | mmap.PROT_WRITE, mmap.PROT_READ | mmap.PROT_EXEC
_X86_64 = bytes.fromhex(
    "53"  # push rbx
    "4154"  # push r12
    "4989fc"  # mov r12, rdi        the rows
    "4889f3"  # mov rbx, rsi        how many
    "4889d7"  # mov rdi, rdx        clone's flags
    "31f6"  # xor esi, esi          no other stack: the child uses none
    "31d2"  # xor edx, edx
    "4531d2"  # xor r10d, r10d
    "4531c0"  # xor r8d, r8d
    "b838000000"  # mov eax, 56     clone
    "0f05"  # syscall
    "4885c0"  # test rax, rax
    "7404"  # jz child
    "415c"  # pop r12
    "5b"  # pop rbx
    "c3"  # ret                     the parent: pid, or minus errno
    "498b0424"  # child: mov rax, [r12]
    "498b7c2408"  # mov rdi, [r12+8]
    "498b742410"  # mov rsi, [r12+16]
    "498b542418"  # mov rdx, [r12+24]
    "4d8b542420"  # mov r10, [r12+32]
    "4d8b442428"  # mov r8, [r12+40]
    "0f05"  # syscall
    "4989442430"  # mov [r12+48], rax
    "4885c0"  # test rax, rax
    "7908"  # jns next
    "49837c243800"  # cmp qword [r12+56], 0
    "7409"  # je fail
    "4983c440"  # next: add r12, 64
    "48ffcb"  # dec rbx
    "75c6"  # jnz child
    "b83c000000"  # fail: mov eax, 60   exit
    "bf7f000000"  # mov edi, 127
    "0f05"  # syscall
)


class Arena:
    """Memory shared with children: texts and vectors of them, by address. `reset` forgets what came after `keep`."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, ARENA, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._kept = self._used = ROWS * ROW * WORD

    def text(self, text: bytes) -> int:
        """Where a NUL-terminated copy lies. OSError(E2BIG) when it or all together are too long for a program."""
        if len(text) >= LONGEST or self._used - self._kept + len(text) > TEXTS:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
        return self._put(text + b"\0")

    def vector(self, addresses: list[int]) -> int:
        """Where a NULL-terminated vector of addresses lies."""
        self._used += -self._used % WORD
        return self._put(b"".join(address.to_bytes(WORD, "little") for address in (*addresses, 0)))

    def keep(self) -> None:
        """What is there now stays."""
        self._kept = self._used

    def reset(self) -> None:
        """Room for the next."""
        self._used = self._kept

    def rows(self, count: int) -> ctypes.Array[ctypes.c_long]:
        """The list of calls, at the arena's start."""
        return (ctypes.c_long * (count * ROW)).from_buffer(self._memory)

    def _put(self, data: bytes) -> int:
        at, end = self._used, self._used + len(data)
        if end > ARENA:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
        self._memory[at:end] = data
        self._used = end
        return self.address + at


class Spawner:
    """Makes children of our parent (so that process 1 reaps them). For a process of one thread."""

    def __init__(self, *, native: bool = linux.X86) -> None:
        self.arena = Arena()
        self.results: list[int] = []
        self._code = _executable(_X86_64) if native else None
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._code)) if self._code is not None else 0
        self._run = ctypes.PYFUNCTYPE(ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_long)(self._address)

    @property
    def native(self) -> bool:
        """Whether children do without Python."""
        return self._code is not None

    def slim(self) -> None:
        """Leave our memory out of children from now on: they need the code, the arena, and the thread's block,
        at which the kernel looks when it switches tasks (rseq). To be repeated when our memory grew.
        """
        if not self.native:
            return
        thread = linux.thread_address() & -mmap.PAGESIZE
        kept = [
            (self._address, self._address + mmap.PAGESIZE),
            (self.arena.address, self.arena.address + ARENA),
            (thread - mmap.PAGESIZE, thread + 2 * mmap.PAGESIZE),
        ]
        with open("/proc/self/maps", "rb") as table:
            lines = [line.split() for line in table]
        for line in lines:
            start, end = (int(number, 16) for number in line[0].split(b"-"))
            if len(line) < 6 or line[5][:1] != b"[" or line[5] in {b"[heap]", b"[stack]"}:
                for first, last in without(start, end, kept):
                    linux.advise(first, last - first, MADV_DONTFORK)

    def __call__(self, calls: list[Row]) -> tuple[int, int, int]:
        """(pid, 0, 0) when the last call replaced the child's program. Else (pid, which row, its errno): the
        child ends with 127. Raises OSError where none could be made. What rows point to lies in the arena.
        """
        if len(calls) > ROWS:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
        rows = self.arena.rows(len(calls))
        rows[:] = [value for call in calls for value in call]
        if self.native:
            flags = CLONE_VFORK | linux.CLONE_PARENT | linux.SIGCHLD
            pid = int(self._run(self.arena.address, len(calls), flags))
            if pid < 0:
                raise OSError(-pid, os.strerror(-pid))
        else:
            pid = _fork(rows, len(calls))
        self.results = rows[RESULT::ROW]
        for number, (call, result) in enumerate(zip(calls, self.results, strict=True)):
            if result < 0 and (not call[PASSED_OVER] or number == len(calls) - 1):
                return pid, number, -result
        return pid, 0, 0


def without(start: int, end: int, kept: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """A range less some others."""
    ranges = [(start, end)]
    for low, high in kept:
        ranges = [
            piece
            for first, last in ranges
            for piece in ((first, min(last, low)), (max(first, high), last))
            if piece[0] < piece[1]
        ]
    return ranges


def row(number: int, *arguments: int, passed_over: bool = False) -> Row:
    """A row of the list."""
    a, b, c, d, e = (*arguments, 0, 0, 0, 0, 0)[:5]
    return number, a, b, c, d, e, 0, int(passed_over)


def _executable(code: bytes) -> mmap.mmap | None:
    """The code in memory that can be executed, and written no more; None where that is refused."""
    try:
        memory = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, _PROTECTIONS[0])
        memory.write(code)
        linux.protect(ctypes.addressof(ctypes.c_char.from_buffer(memory)), mmap.PAGESIZE, _PROTECTIONS[1])
    except OSError:
        return None
    return memory


def _fork(rows: ctypes.Array[ctypes.c_long], count: int) -> int:
    """The same by an ordinary fork. Waits until the child executed, or gave up."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        pid = linux.fork_sibling()
        if pid == 0:
            _make_calls(rows, count)
        os.close(writing)
        writing = -1
        os.read(reading, 1)
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)
    return pid


def _make_calls(rows: ctypes.Array[ctypes.c_long], count: int) -> None:
    try:
        for at in range(0, count * ROW, ROW):
            result = linux.system_call(*rows[at : at + RESULT])
            rows[at + RESULT] = result
            if result < 0 and not rows[at + PASSED_OVER]:
                break
    except BaseException:  # noqa: BLE001  a forked child never returns
        rows[RESULT] = -errno.EIO
    finally:
        os._exit(127)
