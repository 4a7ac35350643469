"""A program `ssh` that goes nowhere: it passes its input and output to an engine's socket on this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_SSH = """#!{python}
import os, socket, sys, threading

with open({seen!r}, "a") as seen:
    print(*sys.argv[1:], file=seen)
if "refused" in sys.argv:
    sys.exit("ssh: connect to host refused port 22: Connection refused")
with socket.socket(socket.AF_UNIX) as engine:
    engine.connect({socket!r})

    def send():
        while data := os.read(0, 65536):
            engine.sendall(data)
        engine.shutdown(socket.SHUT_WR)

    threading.Thread(target=send, daemon=True).start()
    while data := engine.recv(65536):
        while data:
            data = data[os.write(1, data):]
os._exit(0)
"""


def pretend_ssh(place: Path, engine: Path) -> dict[str, str]:
    """PATH with such a program first; what it was called with is in `place/seen`."""
    program = place / "ssh"
    program.write_text(_SSH.format(python=sys.executable, seen=str(place / "seen"), socket=str(engine)))
    program.chmod(0o755)
    return {"PATH": f"{place}:{os.environ['PATH']}"}
