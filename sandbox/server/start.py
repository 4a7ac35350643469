"""The start of the in-box server, process 1 of the box: it takes an identity of its own, starts the
forker in the box's user namespace, and only then loads the rest and says hello.

Arguments are `name=value`: uid and gid of the owner, system=1 for a writable root file system, and
top=UID:GID:NANOSECONDS:PATH for each place whose top directory is to be made so first.
"""

from __future__ import annotations

import _socket
import errno
import gc
import os

from sandbox.server import forker, linux

SERVER_ID = 64999
START_TIMEOUT = 5.0
# What commands hold inside their namespace where the root file system is writable: enough for dpkg.
SYSTEM_CAPABILITIES = linux.mask(
    linux.CAP_CHOWN,
    linux.CAP_DAC_OVERRIDE,
    linux.CAP_FOWNER,
    linux.CAP_FSETID,
    linux.CAP_SETGID,
    linux.CAP_SETUID,
    linux.CAP_SETFCAP,
)
SERVER_CAPABILITIES = linux.mask(linux.CAP_SETUID, linux.CAP_SETGID, linux.CAP_KILL, linux.CAP_SETPCAP)


class Settings:
    """What the controller said about this box on the command line."""

    def __init__(self, arguments: list[str]) -> None:
        pairs = [argument.split("=", 1) for argument in arguments]
        given = dict(pairs)
        self.tops = [value.split(":", 3) for name, value in pairs if name == "top"]
        self.uid = int(given["uid"])
        self.gid = int(given["gid"])
        self.system = given.get("system") == "1"
        taken = {self.uid, self.gid}
        self.server_id = next(number for number in range(SERVER_ID, SERVER_ID - 3, -1) if number not in taken)
        self.capabilities = SYSTEM_CAPABILITIES if self.system else 0

    @property
    def owner_is_root(self) -> bool:
        """Whether commands run as uid 0, so that it has to be mapped."""
        return self.uid == 0


def restore_environment() -> None:
    """FUMEHOOD_FOR_COMMANDS lists variables that would change our own start, ..._NAME is what was meant for
    NAME. What the loader and the C library obey was blank for ourselves; commands have it as it was meant.
    """
    for name in os.environ.pop("FUMEHOOD_FOR_COMMANDS", "").split(":"):
        os.environ.pop(name, "")
        meant = os.environ.pop(f"FUMEHOOD_FOR_COMMANDS_{name}", "")
        if meant:
            os.environ[name] = meant


def restore_tops(tops: list[list[str]]) -> None:
    """Give places their owners and times, while we are root still."""
    for uid, gid, time_ns, path in tops:
        try:
            if not os.stat(path).st_uid:
                os.utime(path, ns=(int(time_ns), int(time_ns)))
            os.chown(path, int(uid), int(gid), follow_symlinks=False)
        except OSError as error:  # commands are told when they write there
            os.write(2, f"{path}: {error.strerror}\n".encode())


def become_server(settings: Settings) -> None:
    """Change from root to the server's own id, keeping four capabilities (and what is handed on)."""
    linux.default_signals()
    wanted = SERVER_CAPABILITIES
    if settings.owner_is_root:
        wanted |= linux.mask(linux.CAP_SETFCAP)
    if settings.system:
        wanted |= SYSTEM_CAPABILITIES
    linux.prctl(linux.PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(settings.server_id, settings.server_id, settings.server_id)
    os.setresuid(settings.server_id, settings.server_id, settings.server_id)
    linux.set_capabilities(wanted)
    linux.prctl(linux.PR_SET_KEEPCAPS, 0)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.prctl(linux.PR_SET_DUMPABLE, 1)
    os.umask(0o022)


class Forker:
    """The forker as the server sees it: started here, and again whenever it died."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.pid = 0
        self.namespace = False
        self.jobs: _socket.socket
        self.control: _socket.socket

    def start(self) -> None:
        """Fork it. `confirm` completes what it needs from us. Raises OSError."""
        self.pid = 0
        self.control, control = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        self.jobs, jobs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        settings = self._settings
        pid = os.fork()
        if pid == 0:
            forker.run(
                control.fileno(), jobs.fileno(), uid=settings.uid, gid=settings.gid, capabilities=settings.capabilities
            )
        control.close()
        jobs.close()
        self.pid = pid

    def confirm(self) -> None:
        """Write the namespace's maps. Raises OSError when it died, or
        when a namespace is refused that was had before.
        """
        self.control.settimeout(START_TIMEOUT)
        said = self.control.recv(500)
        if said not in {b"n", b"-"} or (self.namespace and said == b"-"):
            raise OSError(errno.ECHILD, f"the forker did not start: {said!r}")
        self.namespace = said == b"n"
        if self.namespace:
            settings = self._settings
            hidden = {settings.server_id} if settings.owner_is_root else {0, settings.server_id}
            self._write("gid_map", linux.free_ids("gid", {settings.server_id}))
            self._write("uid_map", linux.free_ids("uid", hidden))
        self.control.send(b"y")
        self.control.setblocking(False)
        self.jobs.setblocking(False)

    def close(self) -> None:
        """Forget the sockets of one that died."""
        self.control.close()
        self.jobs.close()

    def _write(self, name: str, text: bytes) -> None:
        fd = os.open(f"/proc/{self.pid}/{name}", os.O_WRONLY)
        try:
            os.write(fd, text)
        finally:
            os.close(fd)


def main(arguments: list[str]) -> None:
    """Never returns."""
    settings = Settings(arguments)
    gc.disable()
    restore_environment()
    restore_tops(settings.tops)
    become_server(settings)
    helper = Forker(settings)
    helper.start()
    # Loaded beside the forker's own start: json alone takes 8 ms.
    from sandbox.server.serve import Server  # noqa: PLC0415

    helper.confirm()
    Server(settings, helper).run()
