"""Joins standard input and output to a port of the box's own loopback interface: `relay.py PORT`. Standard library.

Run in the box by the toolbox's Python, once for each connection of `fumehood port`. Ends with 3 where nobody listens.
"""

import os
import socket
import sys
import threading

BLOCK = 64 << 10
NOBODY = 3


def connect(port: int) -> "socket.socket | None":
    """The server, on either loopback address."""
    for address in ("127.0.0.1", "::1"):
        try:
            return socket.create_connection((address, port), timeout=10)
        except OSError:
            continue
    return None


def give(sock: socket.socket) -> None:
    """What the server says, to standard output; then nobody has to go on."""
    try:
        while data := sock.recv(BLOCK):
            view = memoryview(data)
            while view:
                view = view[os.write(1, view) :]
    except OSError:
        pass
    os._exit(0)


def take(sock: socket.socket) -> None:
    """Standard input, to the server, and its end."""
    try:
        while data := os.read(0, BLOCK):
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        return


def main(port: int) -> int:
    """Until the server ends what it says."""
    sock = connect(port)
    if sock is None:
        return NOBODY
    sock.settimeout(None)
    giving = threading.Thread(target=give, args=(sock,))
    giving.start()
    take(sock)
    giving.join()
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
