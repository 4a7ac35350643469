"""Run in a network namespace of its own: makes this machine own private, link-local and metadata addresses, with no
route anywhere, serves on each, and asks for each through the way out. Prints what came of it, as JSON.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import socket
import struct
from contextlib import AsyncExitStack
from typing import Any

from tests.support.outlet import Heard, TableJudge, outlet, serving

SIOCSIFFLAGS, SIOCSIFADDR, SIOCGIFINDEX = 0x8914, 0x8916, 0x8933
UP = 1
OWNED = ("10.1.2.3", "172.17.0.1", "192.168.7.7", "169.254.169.254", "100.100.100.200", "168.63.129.16", "127.0.0.1")
OWNED6 = ("fd00:ec2::254", "fc00::7", "::1")


def own_addresses() -> None:
    """The loopback interface up, with all these addresses."""
    with socket.socket() as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh", b"lo", UP))
        for number, address in enumerate(OWNED[:-1]):
            row = struct.pack("16sHH4s8x", b"lo:%d" % number, socket.AF_INET, 0, socket.inet_aton(address))
            fcntl.ioctl(sock, SIOCSIFADDR, row)
        (index,) = struct.unpack("16xi20x", fcntl.ioctl(sock, SIOCGIFINDEX, struct.pack("16s24x", b"lo")))
    with socket.socket(socket.AF_INET6) as sock:
        for address in OWNED6[:-1]:
            fcntl.ioctl(sock, SIOCSIFADDR, socket.inet_pton(socket.AF_INET6, address) + struct.pack("Ii", 128, index))


async def main() -> dict[str, Any]:
    """For each address: whether it answers here, and what the way out says of a name that resolves to it."""
    own_addresses()
    found: dict[str, Any] = {}
    for address in (*OWNED, *OWNED6):
        heard = Heard()
        async with AsyncExitStack() as stack:
            port = await stack.enter_async_context(serving(heard.answer, address))
            reader, writer = await asyncio.open_connection(address, port)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            answers = b"answer 1" in await reader.readuntil(b"answer 1")
            writer.close()
            judge = TableJudge(allowed={"a.example"}, named=())
            out = await stack.enter_async_context(outlet(judge, {"a.example": address}))
            head = f"GET http://a.example:{port}/ HTTP/1.1\r\nHost: a.example:{port}\r\nConnection: close\r\n\r\n"
            said = (await out.say(head.encode())).decode()
            tunnel = f"CONNECT a.example:{port} HTTP/1.1\r\nHost: a.example:{port}\r\n\r\n"
            through = (await out.say(tunnel.encode())).decode()
        refused = all("403" in answer and f"is {address} (" in answer for answer in (said, through))
        found[address] = {"answers": answers, "refused": refused, "heard": len(heard.requests)}
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main())))
