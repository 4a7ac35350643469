"""A box has no way out but its proxy, whose every request is decided on the host. Servers are on this machine only."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runner.sessions.wayout import CONNECTIONS
from sandbox.box import ContainerBox
from sandbox.egress import Egress
from sandbox.leaving import Way
from sandbox.spec import Command, Stdout
from sandbox.streams import Grant
from tests.support.boxes import TMP, Boxes, run
from tests.support.outlet import Heard, TableJudge, serving

pytestmark = [pytest.mark.box, pytest.mark.network]
NET_PROBE = Path(__file__).with_name("net_probe.py")
MANY = b"""import asyncio, sys

async def ask():
    reader, writer = await asyncio.open_connection("127.0.0.1", 7151)
    at = f"127.0.0.1:{sys.argv[1]}"
    writer.write(f"GET http://{at}/ HTTP/1.1\\r\\nHost: {at}\\r\\n\\r\\n".encode())
    answer = await reader.readuntil(b"answer")
    writer.close()
    return answer.startswith(b"HTTP/1.1 200")

async def main():
    print(sum(await asyncio.gather(*(ask() for _ in range(200)))))

asyncio.run(main())
"""
SERVE = b"""import socket
listener = socket.create_server(("0.0.0.0", 8099))
print("listening", flush=True)
listener.accept()
"""


@asynccontextmanager
async def connected(
    boxes: Boxes, judge: TableJudge, uid: int = 1000, *, limit: int = 16
) -> AsyncIterator[ContainerBox]:
    faults: list[Exception] = []
    egress = Egress(Way(judge), fault=faults.append)
    async with boxes.box(uid, grants={"tcp": Grant(limit=limit, accept=egress.accept)}) as box:
        yield box
        await egress.close()
    assert faults == []


@pytest.mark.parametrize("uid", [1000, 0])
async def test_a_request_leaves_through_the_proxy_only(boxes: Boxes, uid: int) -> None:
    heard, judge = Heard(), TableJudge(allowed={"127.0.0.1"})
    async with serving(heard.answer) as port, connected(boxes, judge, uid) as box:
        text, end = await run(box, f"env -u no_proxy -u NO_PROXY curl -sS http://127.0.0.1:{port}/x")
        assert (text, end.code) == ("answer 1", 0)
        text, _ = await run(box, f"curl -sS --noproxy '*' --max-time 5 http://127.0.0.1:{port}/x")
        assert "Failed to connect" in text or "Couldn't connect" in text
        text, _ = await run(box, "curl -sS http://evil.example/; curl -sS https://evil.example/")
        assert "fumehood: no rule allows evil.example:80" in text
        assert "CONNECT tunnel failed, response 403" in text
    assert len(heard.requests) == 1


async def test_there_is_no_other_way_out(boxes: Boxes, tmp_path: Path) -> None:
    """Whatever socket: the host's loopback and abstract sockets, other boxes, the engine's gateway, name servers."""
    heard, judge = Heard(), TableJudge(allowed=set())
    name = f"fumehood-test-{tmp_path.name}"
    tried: dict[str, Any] = {
        "udp": [["127.0.0.1", 53], ["127.0.0.11", 53], ["8.8.8.8", 53], ["::1", 53], ["10.255.255.1", 53]],
        "abstract": name,
    }
    far = [["10.255.255.1", 80], ["169.254.169.254", 80], ["172.17.0.1", 80], ["fe80::1", 80], ["2001:db8::1", 443]]
    unix = await asyncio.start_unix_server(partial(_answered, heard), f"\0{name}")
    async with serving(heard.echo) as port, unix, connected(boxes, judge) as box, connected(boxes, judge) as other:
        await other.write(TMP / "serve.py", SERVE)
        listening = await other.exec(Command(argv=("python3", "/tmp/serve.py"), cwd=TMP))
        assert isinstance(await anext(aiter(listening)), Stdout)
        await box.write(TMP / "probe.py", NET_PROBE.read_bytes())
        tried["tcp"] = [["127.0.0.1", port], ["localhost", port], ["::1", port], ["127.0.0.1", 8099], *far]
        text, end = await run(box, f"python3 /tmp/probe.py '{json.dumps(tried)}'")
        assert end.code == 0, text
        found = json.loads(text)
        assert heard.requests == []
        here = await _on_host(tried | {"tcp": [["127.0.0.1", port]], "udp": []})
        await listening.kill()
    assert found == {"reached": {}, "interfaces": ["lo"], "routes": 0}
    assert judge.asked == []
    # the same probe does reach them from where it should
    assert {f"tcp 127.0.0.1:{port}", "abstract"} <= here["reached"].keys()


async def _answered(heard: Heard, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await heard.echo(reader, writer)
    writer.close()


async def _on_host(tried: dict[str, Any]) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(NET_PROBE), json.dumps(tried), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    found: dict[str, Any] = json.loads(said)
    return found


async def test_a_box_without_a_grant_has_no_proxy(boxes: Boxes) -> None:
    async with boxes.box() as box:
        text, _ = await run(box, "env | grep -ci proxy; curl -sS -x http://127.0.0.1:7151 http://a.example/")
    assert text.startswith("0\n")
    assert "curl: (7)" in text


async def test_the_proxy_cannot_be_taken_over_by_a_command(boxes: Boxes) -> None:
    """Another listener on its port, and its owner's death: neither is a command's to have."""
    take = (
        "import socket; s = socket.socket()\n"
        "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
        "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n"
        "s.bind(('127.0.0.1', 7151)); s.listen(1); print('taken')"
    )
    judge = TableJudge(allowed=set())
    async with connected(boxes, judge, 0) as box:
        text, _ = await run(box, f'python3 -c "{take}"; kill -9 1; kill -9 -1; curl -sS http://evil.example/')
        text, _ = await run(box, f'python3 -c "{take}"; curl -sS http://evil.example/')
    assert "taken" not in text
    assert "no rule allows evil.example:80" in text


async def test_tls_for_another_host_does_not_pass(boxes: Boxes) -> None:
    own, other, judge = Heard(), Heard(), TableJudge(allowed={"127.0.0.1"})
    async with serving(own.echo) as first, serving(other.echo) as second, connected(boxes, judge) as box:
        through = "env -u no_proxy -u NO_PROXY curl -sS -k --max-time 10"
        text, end = await run(box, f"{through} https://127.0.0.1:{first}/")
        assert own.requests[0][:1] == b"\x16", text
        text, end = await run(
            box, f"{through} https://evil.example:{second}/ --connect-to evil.example:{second}:127.0.0.1:{second}"
        )
    assert end.code != 0
    assert other.requests == []
    assert "TLS for evil.example in a tunnel to 127.0.0.1" in judge.over[-1][1].refusal


async def test_a_download_is_whole_and_tools_go_on_beside_it(boxes: Boxes) -> None:
    piece = bytes(range(256)) * 256

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1000 * len(piece)))
        for _ in range(1000):
            writer.write(piece)
            await writer.drain()

    judge = TableJudge(allowed={"127.0.0.1"})
    async with serving(serve) as port, connected(boxes, judge) as box:
        fetch = f"env -u no_proxy -u NO_PROXY curl -sS http://127.0.0.1:{port}/ | sha256sum"
        fetching = asyncio.create_task(run(box, fetch))
        calls = 0
        while not fetching.done():
            text, _ = await run(box, "echo here")
            assert text == "here\n"
            calls += 1
        text, _ = await fetching
    assert text.split()[0] == hashlib.sha256(piece * 1000).hexdigest()
    assert calls > 3
    assert judge.over[0][1].received > 1000 * len(piece)


async def test_more_connections_than_granted_wait_for_their_turn(boxes: Boxes) -> None:
    heard, judge = Heard(), TableJudge(allowed={"127.0.0.1"})
    async with serving(heard.answer) as port, connected(boxes, judge) as box:
        fetch = f"env -u no_proxy -u NO_PROXY curl -sS http://127.0.0.1:{port}/ >/tmp/out.$i"
        text, end = await run(
            box, f"for i in $(seq 60); do {fetch} & done; wait; cat /tmp/out.* | grep -o answer | wc -l"
        )
    assert (text.strip(), end.code) == ("60", 0)
    assert len(judge.over) == 60


async def test_two_hundred_connections_at_once_all_pass(boxes: Boxes) -> None:
    """None is answered before all of them are there."""
    judge, there = TableJudge(allowed={"127.0.0.1"}), asyncio.Barrier(200)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await there.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nanswer")
        await writer.drain()

    async with serving(serve) as port, connected(boxes, judge, limit=CONNECTIONS) as box:
        await box.write(TMP / "many.py", MANY)
        text, end = await run(box, f"python3 /tmp/many.py {port}")
        async with asyncio.timeout(20):
            while len(judge.over) < 200:  # noqa: ASYNC110 (what is waited for knows nothing of tests)
                await asyncio.sleep(0.05)
    assert (text.strip(), end.code) == ("200", 0)
    assert [outcome.failure for _, outcome in judge.over] == [""] * 200


async def test_a_body_that_nobody_reads_is_not_fetched(boxes: Boxes) -> None:
    """An endless body fills what is on its way, and no more."""
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + bytes(65536) + b"\r\n")
            await writer.drain()
            sent += 65536

    judge = TableJudge(allowed={"127.0.0.1"})
    async with serving(serve) as port, connected(boxes, judge) as box:
        head = f"GET http://127.0.0.1:{port}/ HTTP/1.1\\r\\nHost: 127.0.0.1:{port}\\r\\n\\r\\n"
        await run(box, f"exec 3<>/dev/tcp/127.0.0.1/7151; printf '{head}' >&3; sleep 2; head -c 100 <&3")
        async with asyncio.timeout(20):
            while not judge.over:  # noqa: ASYNC110 (what is waited for knows nothing of tests)
                await asyncio.sleep(0.05)
    assert 0 < sent < 32 << 20
    assert judge.over[0][1].failure
