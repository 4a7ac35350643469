"""An engine of a test's own, which may be killed: dockerd as root, all that it keeps in a directory of its own. Beside
it, what only answers as one.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sandbox.engine import Engine, connect
from sandbox.errors import SandboxError

_NO_NETWORK = ("--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false")
_SECONDS = 60.0


class OwnEngine:
    """`start` and `kill` at will; `close` leaves nothing behind."""

    def __init__(self) -> None:
        # Where an engine usually has its store: overlays do not lie on overlays. Short, for the socket's path.
        self.place = Path(tempfile.mkdtemp(prefix="fumehood-engine-", dir="/var/lib"))
        self.endpoint = f"unix://{self.place}/sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the daemon."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Return when it answers. A daemon that is there stays."""
        if self._process is not None and self._process.poll() is None:
            return
        self._end_containerd()
        (self.place / "pid").unlink(missing_ok=True)
        roots = ("--data-root", self.place / "data", "--exec-root", self.place / "exec")
        daemon: list[str | Path] = [
            "dockerd",
            *roots,
            "--pidfile",
            self.place / "pid",
            "--host",
            self.endpoint,
            *_NO_NETWORK,
        ]
        with (self.place / "said").open("ab") as said:
            self._process = subprocess.Popen(daemon, stdout=said, stderr=said)
        limit = time.monotonic() + _SECONDS
        while not self._answers():
            assert self._process.poll() is None, (self.place / "said").read_text()[-3000:]
            assert time.monotonic() < limit, (self.place / "said").read_text()[-3000:]
            time.sleep(0.1)

    def engine(self) -> Engine:
        """Connected; the caller closes it."""
        return connect({"DOCKER_HOST": self.endpoint})

    def close(self) -> None:
        """Its containers, its processes and its files go."""
        if self._process is not None:
            self.start()
            engine = self.engine()
            for container in engine.containers.list("fumehood.session", all=True):
                engine.containers.remove(container.id)
            engine.close()
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(_SECONDS)
        self._end_containerd()
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        beneath = [row.split()[1] for row in mounts if row.split()[1].startswith(f"{self.place}/")]
        for each in sorted(beneath, reverse=True):
            subprocess.run(["umount", each], check=True)
        shutil.rmtree(self.place)

    def _end_containerd(self) -> None:
        """It goes with a daemon that was killed; a new daemon would wait for one that nobody has reaped."""
        file = self.place / "exec" / "containerd" / "containerd.pid"
        if file.exists():
            with suppress(FileNotFoundError, ProcessLookupError):
                process = Path("/proc") / file.read_text().strip()
                if str(self.place).encode() in (process / "cmdline").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)
            file.unlink()

    def _answers(self) -> bool:
        try:
            self.engine().close()
        except SandboxError:
            return False
        return True


@contextmanager
def answering(path: Path, answer: bytes) -> Iterator[None]:
    """Something that is no engine, and always answers the same."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client:
                    client.recv(1 << 16)
                    client.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)
