"""A real sshd on a port of the loopback, for whoever runs the tests, and an `ssh` that knows its keys. Nothing of the
user's own ~/.ssh is read or written.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SSHD = "/usr/sbin/sshd"  # it wants to be called by its whole path
_SERVER = """
Port {port}
ListenAddress 127.0.0.1
HostKey {place}/host
PidFile {place}/pid
AuthorizedKeysFile {place}/me.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
"""
_CLIENT = """
Host *
    User {user}
    IdentityFile {place}/me
    IdentitiesOnly yes
    UserKnownHostsFile {place}/known
    GlobalKnownHostsFile /dev/null
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server that answers. `log`: what it says of its connections."""

    port: int
    path: str
    log: Path


@contextmanager
def serve_ssh(place: Path) -> Iterator[Server]:
    """Until the end of the block; `path` is PATH with the right `ssh` first."""
    for key in ("host", "me"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place / key], check=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (place / "known").write_text(f"[127.0.0.1]:{port} {(place / 'host.pub').read_text()}")
    (place / "server").write_text(_SERVER.format(port=port, place=place))
    (place / "client").write_text(_CLIENT.format(user=getpass.getuser(), place=place))
    program = place / "bin/ssh"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {place}/client "$@"\n')
    program.chmod(0o755)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    log = place / "log"
    process = subprocess.Popen([SSHD, "-D", "-f", place / "server", "-E", log])
    try:
        _wait(port, log)
        yield Server(port=port, path=f"{program.parent}:{os.environ['PATH']}", log=log)
    finally:
        process.terminate()
        process.wait()


def _wait(port: int, log: Path) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"sshd does not answer: {log.read_text() if log.exists() else ''}")
