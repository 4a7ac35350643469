"""Starting a process as a list of system calls that the child makes before its last one, execve.

On x86_64 the child is made by clone(CLONE_VM | CLONE_VFORK), as vfork(2) does: it borrows our memory and
we sleep until it executes, so nothing is copied, which takes a tenth of the time of a fork from Python.
Such a child may not run Python. So the loop over the list is these 108 bytes of machine code; elsewhere,
and where such memory may not be executed, Python forks and makes the calls itself.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os

from sandbox.server import linux

# One row per call: number, five arguments, the result once made, and 1 where a failure is passed over.
ROW = 8
RESULT = 6
PASSED_OVER = 7

CLONE_VM, CLONE_VFORK = 0x100, 0x4000
_PROTECTIONS = mmap.PROT_READ | mmap.PROT_WRITE, mmap.PROT_READ | mmap.PROT_EXEC
_X86_64 = bytes.fromhex(
    "53"  # push rbx
    "4154"  # push r12
    "4989fc"  # mov r12, rdi        the rows
    "4889f3"  # mov rbx, rsi        how many
    "4889d7"  # mov rdi, rdx        clone's flags
    "31f6"  # xor esi, esi          no stack of its own: the child never uses it
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


class Spawner:
    """Makes children of our parent (so that process 1 reaps them). For a process of one thread."""

    def __init__(self) -> None:
        self.results: list[int] = []
        self._code = _executable(_X86_64) if linux.X86 else None
        self._run = ctypes.PYFUNCTYPE(ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_long)(
            ctypes.addressof(ctypes.c_char.from_buffer(self._code)) if self._code is not None else 0
        )

    @property
    def borrows(self) -> bool:
        """Whether children borrow our memory."""
        return self._code is not None

    def __call__(self, calls: list[tuple[int, int, int, int, int, int, int, int]]) -> tuple[int, int, int]:
        """(pid, 0, 0) when the last call replaced the child's program. Else (pid, which row, its errno):
        the child ends with 127. Raises OSError where none could be made. What the rows point to must live on.
        """
        size = len(calls) * ROW * 8
        table = _shared(size) if self._code is None else bytearray(size)
        rows = (ctypes.c_long * (len(calls) * ROW)).from_buffer(table)
        rows[:] = [value for call in calls for value in call]
        pid = self._borrow(rows, len(calls)) if self._code is not None else _fork(rows, len(calls))
        self.results = rows[RESULT::ROW]
        for number, (call, result) in enumerate(zip(calls, self.results, strict=True)):
            if result < 0 and (not call[PASSED_OVER] or number == len(calls) - 1):
                return pid, number, -result
        return pid, 0, 0

    def _borrow(self, rows: ctypes.Array[ctypes.c_long], count: int) -> int:
        flags = CLONE_VM | CLONE_VFORK | linux.CLONE_PARENT | linux.SIGCHLD
        pid = int(self._run(ctypes.addressof(rows), count, flags))
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        return pid


def row(number: int, *arguments: int, passed_over: bool = False) -> tuple[int, int, int, int, int, int, int, int]:
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


def _shared(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)


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
