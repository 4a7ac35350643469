"""The processes of the box: jobs to the forker and its answers, the dead that are reaped, and killing all."""

from __future__ import annotations

import errno
import fcntl
import marshal
import os

from sandbox.server import job, linux, processes
from sandbox.server.channel import SOON
from sandbox.server.files import RefusedError
from sandbox.server.loop import EPOLLIN, Loop
from sandbox.wire import PathCode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.server.commands import Command
    from sandbox.server.start import Forker, Settings

SAMPLE = 1.0
RETRY = 0.05


class Children:
    """All commands that run or wait to, and the forker."""

    def __init__(self, loop: Loop, settings: Settings, forker: Forker) -> None:
        self._loop = loop
        self._settings = settings
        self._forker = forker
        self._memory_kills = processes.memory_kills()
        self._number = 0
        self._commands: dict[int, Command] = {}
        self._pending: dict[int, Command] = {}
        self._waiting: dict[int, tuple[bytes, list[int]]] = {}
        self._when_revived: list[Callable[[], None]] = []
        self._unclaimed: dict[int, int] = {}
        self._listening = True
        self._reaps = False

    def begin(self, signals: int) -> None:
        """`signals`: readable when a child died."""
        self._loop.watch(signals, EPOLLIN, lambda _: self._on_dead(signals))
        self._watch_forker()
        self._loop.later(self, SAMPLE, self._sample)

    def number(self) -> int:
        """A number that no other command has."""
        self._number += 1
        return self._number

    def out_of_memory(self) -> bool:
        """Whether the kernel killed for want of memory since this was asked last."""
        before, self._memory_kills = self._memory_kills, processes.memory_kills()
        return self._memory_kills > before

    def submit(self, data: bytes, descriptors: list[int], command: Command) -> None:
        """Give a job to the forker, now or as soon as there is one again. Raises RefusedError. Its answer is read when
        the command has ended, as most do at once, or after a moment: to be woken for it takes processor time that is
        the command's.
        """
        if self._forker.pid:
            self._send(data, descriptors)
        else:
            self._waiting[command.number] = (data, [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0) for fd in descriptors])
        alone = not self._pending and not self._unclaimed
        self._pending[command.number] = command
        if command.awaited or self._reaps or not self._forker.pid:
            self.listen()
        elif alone and self._listening:
            self._listening = False
            self._loop.forget(self._forker.jobs.fileno())
        if not self._listening:
            self._loop.later(command, SOON, self.listen)

    def listen(self) -> None:
        """Hear from now on what the forker answers."""
        if not self._listening:
            self._listening = True
            self._loop.watch(self._forker.jobs.fileno(), EPOLLIN, self._on_jobs)

    def ended(self, command: Command) -> None:
        """It is over."""
        self._pending.pop(command.number, None)
        if self._commands.get(command.pid) is command:
            del self._commands[command.pid]

    def kill_all(self, when_done: Callable[[], None] | None = None) -> None:
        """End every process of the box but this one, and start afresh."""
        self._take_answers()
        if when_done is not None:
            self._when_revived.append(when_done)
        for command in list(self._commands.values()):
            command.lost()
        processes.kill_everything()
        self._revive()

    def expel_forker(self) -> None:
        """It does not answer: a new one comes when it is reaped."""
        processes.kill(self._forker.pid)

    def _send(self, data: bytes, descriptors: list[int]) -> None:
        try:
            job.send(self._forker.jobs, data, descriptors)
        except OSError as error:
            raise RefusedError(PathCode.NO_PROCESS, os.strerror(error.errno or errno.EIO)) from error

    def _send_waiting(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for number, (data, descriptors) in waiting.items():
            try:
                if number in self._pending:
                    self._send(data, descriptors)
            except RefusedError:
                self._pending.pop(number).on_refused("start", errno.EAGAIN)
            finally:
                for fd in descriptors:
                    os.close(fd)

    def _take_answers(self) -> None:
        """All that the forker has answered so far."""
        while self._pending and self._forker.pid and self._on_answer():
            pass

    def _on_jobs(self, _: int) -> None:
        self._on_answer()

    def _on_answer(self) -> bool:
        """The forker started a command, or could not; or it is gone, of which SIGCHLD tells. Whether it spoke."""
        try:
            data = self._forker.jobs.recv(4096)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._loop.forget(self._forker.jobs.fileno())
            return False
        number, pid, stage, code = marshal.loads(data)  # noqa: S302  the forker's own words
        if stage == "exit":
            self._reaps = True
            self._reaped(pid, code)
            return True
        command = self._pending.pop(number, None)
        if command is None:
            processes.signal_family(pid, set(), processes.SIGKILL)
        elif stage:
            command.on_refused(stage, code)
        else:
            self._commands[pid] = command
            command.on_started(pid)
            status = self._unclaimed.pop(pid, None)
            if status is not None:
                del self._commands[pid]
                command.on_exit(status)
        if not self._pending:
            self._unclaimed.clear()
        return True

    def _on_dead(self, signals: int) -> None:
        try:
            os.read(signals, 128 * 16)
        except BlockingIOError:
            return
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._reaped(pid, status)

    def _reaped(self, pid: int, status: int) -> None:
        if pid not in self._commands and pid != self._forker.pid:
            self._take_answers()
        command = self._commands.pop(pid, None)
        if command is not None:
            command.on_exit(status)
        elif pid == self._forker.pid:
            self._revive()
        elif self._pending:
            self._unclaimed[pid] = status
            self.listen()

    def _sample(self) -> None:
        """Look who descends from whom, for commands that run for a while."""
        self._loop.later(self, SAMPLE, self._sample)
        if self._commands:
            rows = [row for row in processes.living() if row.pid != 1]
            for command in list(self._commands.values()):
                command.note_family(rows)

    def _revive(self) -> None:
        """A new forker in a new namespace, for the one that died. What it had been given will not begin."""
        self._take_answers()
        for number in self._pending.keys() - self._waiting.keys():
            self._pending.pop(number).on_refused("start", errno.ECHILD)
        self._loop.forget(self._forker.control.fileno())
        self._loop.forget(self._forker.jobs.fileno())
        self._forker.close()
        settings = self._settings
        linux.set_fs_ids(settings.server_id, settings.server_id)  # its maps are the server's to write
        linux.prctl(linux.PR_SET_DUMPABLE, 1)
        try:
            self._forker.start()
            self._forker.confirm()
        except OSError:  # the dead still count against the limit of processes
            processes.kill(self._forker.pid)
            self._forker.pid = 0
            self._loop.later(self, RETRY, self._revive)
        else:
            self._watch_forker()
            self._send_waiting()
            for action in self._when_revived:
                action()
            self._when_revived.clear()
        finally:
            linux.set_fs_ids(settings.uid, settings.gid)
            linux.prctl(linux.PR_SET_DUMPABLE, 1)

    def _watch_forker(self) -> None:
        self._loop.watch(self._forker.control.fileno(), EPOLLIN, lambda _: self._on_last_words())
        self._listening = False
        self.listen()

    def _on_last_words(self) -> None:
        """The forker says why it ends, or has ended."""
        control = self._forker.control
        try:
            said = control.recv(600)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if said:
            os.write(2, said + b"\n")
        else:
            self._loop.forget(control.fileno())
