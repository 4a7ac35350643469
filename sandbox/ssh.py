"""An engine on another machine through the user's own `ssh`: each request runs `docker system dial-stdio` there,
as Docker's command line does, with the user's keys, agent and ~/.ssh/config. All requests share one connection.
Nobody is asked for a password.
"""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from sandbox.errors import EngineLostError, EngineMissingError
from sandbox.transport import SocketReply, SocketTransport

CONNECT_SECONDS = 15
PERSIST_SECONDS = 60  # how long the shared connection outlives a controller that was killed
HINT = "see that `ssh HOST docker version` works without a question"
SAID = 500


class SshTransport(SocketTransport):
    """Transport over `ssh://[USER@]HOST[:PORT][/PATH]`; PATH names the socket there, where it is not Docker's usual
    one. Raises EngineMissingError for an address that is none.
    """

    def __init__(self, endpoint: str, environ: Mapping[str, str], *, timeout: float = 60.0) -> None:
        super().__init__(endpoint, timeout=timeout)
        self._command = command(endpoint)
        runtime = environ.get("XDG_RUNTIME_DIR", "")
        place = runtime if Path(runtime).is_dir() else None
        self._master = Path(tempfile.mkdtemp(prefix="fumehood-ssh-", dir=place or None))
        sharing = ("ControlMaster=auto", f"ControlPath={self._master}/%C", f"ControlPersist={PERSIST_SECONDS}")
        self._command[1:1] = [word for option in sharing for word in ("-o", option)]
        self._environ = dict(environ)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        self._errors: dict[int, IO[bytes]] = {}

    def close(self) -> None:
        """End what still runs, the connection that all share too."""
        with self._lock:
            processes, self._processes = self._processes, []
        for process in processes:
            process.terminate()
            process.wait()
        if any(self._master.iterdir()):
            at = self._command.index("--")
            leave = [*self._command[:at], "-O", "exit", *self._command[at : at + 2]]
            subprocess.run(leave, env=self._environ, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        shutil.rmtree(self._master, ignore_errors=True)

    def _connect(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        said = tempfile.TemporaryFile()  # noqa: SIM115  closed with the answer
        try:
            with theirs:
                process = subprocess.Popen(
                    self._command,
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=said,
                    env=self._environ,
                    start_new_session=True,
                )
        except OSError as error:
            ours.close()
            said.close()
            raise EngineMissingError(f"{self.endpoint}: ssh cannot be run: {error.strerror}", hint=HINT) from error
        with self._lock:
            self._processes = [each for each in self._processes if each.poll() is None]
            self._processes.append(process)
            self._errors[ours.fileno()] = said
        return ours

    def _reply(self, sock: socket.socket) -> SocketReply:
        with self._lock:
            said = self._errors.pop(sock.fileno())
        with said:
            try:
                return super()._reply(sock)
            except EngineLostError as error:
                said.seek(0)
                lines = said.read(SAID).decode("utf-8", "replace").strip().splitlines()
                if not lines:
                    raise
                raise EngineMissingError(f"{self.endpoint}: {lines[-1]}", hint=HINT) from error


def command(endpoint: str) -> list[str]:
    """The ssh command line for an endpoint. Raises EngineMissingError."""
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not host or host.startswith("-") or (parts.username or "").startswith("-") or parts.password is not None:
        raise EngineMissingError(f"DOCKER_HOST={endpoint} names no host", hint="such as ssh://user@host:22")
    options = ["-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_SECONDS}"]
    options += ["-p", str(port)] if port else []
    options += ["-l", parts.username] if parts.username else []
    there = ["--host", shlex.quote(f"unix://{parts.path}")] if parts.path.strip("/") else []
    return ["ssh", *options, "--", host, "docker", *there, "system", "dial-stdio"]
