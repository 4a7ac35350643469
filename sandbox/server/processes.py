"""The processes of the box as process 1 sees them: who belongs to which command, and killing them."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SIGKILL = 9
_COUNTERS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")


class Row:
    """One living process."""

    __slots__ = ("group", "parent", "pid", "session")

    def __init__(self, pid: int, parent: int, group: int, session: int) -> None:
        self.pid = pid
        self.parent = parent
        self.group = group
        self.session = session


def living() -> Iterator[Row]:
    """Every process but zombies, from /proc."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            fd = os.open(f"/proc/{name}/stat", os.O_RDONLY)
        except OSError:
            continue
        try:
            fields = os.read(fd, 512).rpartition(b")")[2].split(None, 5)
        except OSError:
            continue
        finally:
            os.close(fd)
        if len(fields) > 4 and fields[0] not in b"ZX":
            yield Row(int(name), int(fields[1]), int(fields[2]), int(fields[3]))


def family(leader: int, sessions: set[int], rows: list[Row]) -> list[Row]:
    """The processes of a command: its leader's session and descendants, whatever is in a session seen
    among these before (`sessions`, completed here: a daemon that left its parents is still known), and theirs.
    """
    sessions.add(leader)
    chosen: dict[int, Row] = {}
    grown = True
    while grown:
        grown = False
        for row in rows:
            if row.pid not in chosen and (row.session in sessions or row.parent in chosen or row.pid == leader):
                chosen[row.pid] = row
                sessions.add(row.session)
                grown = True
    return list(chosen.values())


def signal_family(leader: int, sessions: set[int], number: int) -> int:
    """Signal a command's processes; how many there were. The leader's own group is hit at one stroke,
    so that a bomb in it cannot outrun us; before that we look who descends from it, which cannot be told after.
    """
    family(leader, sessions, [row for row in living() if row.pid != 1])
    _send(-leader, number)
    rows = [row for row in living() if row.pid != 1]
    found = family(leader, sessions, rows)
    for row in found:
        _send(row.pid, number)
    return len(found)


def kill(pid: int) -> None:
    """SIGKILL to one process."""
    if pid > 1:
        _send(pid, SIGKILL)


def _send(target: int, number: int) -> None:
    try:
        os.kill(target, number)
    except OSError:  # gone already
        return


def kill_everything() -> None:
    """SIGKILL to all but ourselves, the forker included. One call, no fork: it works in any bomb."""
    _send(-1, SIGKILL)


def memory_kills() -> int:
    """How often the kernel killed in this box for want of memory."""
    for path in _COUNTERS:
        try:
            fd = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        try:
            for line in os.read(fd, 4096).splitlines():
                if line.startswith(b"oom_kill "):
                    return int(line.split()[1])
        except (OSError, ValueError):
            continue
        finally:
            os.close(fd)
    return 0
