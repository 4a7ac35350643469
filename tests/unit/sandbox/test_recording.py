"""Exchanges that are recorded and played again: over a real pipe, with servers on the loopback interface."""

from __future__ import annotations

import asyncio
import gzip
import shutil
import ssl
import stat
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from sandbox.authority import Authority
from sandbox.errors import StoreError
from sandbox.fsck import check_stores
from sandbox.pool import Pool
from sandbox.recording import FILE, PIECE, Recorder, Recording
from sandbox.replaying import Replay
from sandbox.rulings import Request
from sandbox.store import Store
from tests.support.outlet import Heard, Outlet, TableJudge, outlet, over_tls, serving

pytestmark = pytest.mark.network
GOLDEN = Path(__file__).parents[1] / "golden" / "net-recording-v1"
SECRET = b"s3cret/token+of ours"
HOST = "a.example"


def request(method: str, url: str, body: bytes = b"", *, more: bytes = b"") -> bytes:
    host = url.split("/")[2]
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    head = f"{method} {url} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n".encode()
    return head + length + more + b"\r\n" + body


@asynccontextmanager
async def recording(file: Path, judge: TableJudge, **more: Any) -> AsyncIterator[Outlet]:
    recorder = Recorder(file, session="s", secrets=(SECRET,), **more.pop("recorder", {}))
    try:
        async with outlet(judge, {HOST: "127.0.0.1"}, tape=recorder, **more) as out:
            yield out
    finally:
        recorder.close()


@asynccontextmanager
async def replaying(file: Path, judge: TableJudge, **more: Any) -> AsyncIterator[Outlet]:
    """Nothing is resolved there, so nothing is connected to."""
    replay = Replay(Recording(file), secrets=(SECRET,), **more.pop("replay", {}))
    try:
        async with outlet(judge, replay=replay, **more) as out:
            yield out
            assert out.resolved == []
    finally:
        replay.close()


def body_of(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


async def test_each_request_is_answered_as_it_was_with_no_server_there(tmp_path: Path) -> None:
    """The n-th equal request gets the n-th answer; the last is repeated for GET, and for nothing else."""
    heard, judge, file = Heard(), TableJudge(allowed={HOST}), tmp_path / FILE
    async with serving(heard.answer) as port, recording(file, judge) as out:
        at = f"http://{HOST}:{port}"
        asked = [request("GET", f"{at}/x"), request("GET", f"{at}/x"), request("POST", f"{at}/x", b"one")]
        live = [await out.say(each) for each in asked]
    assert [body_of(each) for each in live] == [b"answer 1", b"answer 2", b"answer 3"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    judge = TableJudge(allowed={HOST})
    async with replaying(file, judge) as out:
        assert [await out.say(each) for each in asked] == live
        assert body_of(await out.say(asked[0])) == b"answer 2"
        again = await out.say(asked[2])
        other = await out.say(request("POST", f"{at}/x", b"two"))
        never = await out.say(request("GET", f"{at}/y"))
        denied = await out.say(request("GET", f"http://b.example:{port}/x"))
    assert len(heard.requests) == 3
    assert [each[9:12] for each in (again, other, never, denied)] == [b"502", b"502", b"502", b"403"]
    assert f"fumehood: POST {at}/x was not recorded again: its answers were given".encode() in again
    assert f"fumehood: POST {at}/x was not recorded with this body".encode() in other
    assert f"fumehood: GET {at}/y was not recorded\n".encode() in never
    failures = [outcome.failure for _, outcome in judge.over if outcome.failure]
    assert len(failures) == 3
    assert f"GET {at}/y was not recorded" in failures
    assert judge.asked[-1] == f"GET http://b.example:{port}/x"


async def test_what_was_given_is_not_given_again_to_a_session_that_goes_on(tmp_path: Path) -> None:
    """Nor does what is recorded in one that goes on stand before what was recorded then."""
    heard, file, given = Heard(), tmp_path / FILE, list[int]()
    async with serving(heard.answer) as port:
        asked = request("GET", f"http://{HOST}:{port}/")
        for _ in range(3):
            async with recording(file, TableJudge(allowed={HOST})) as out:
                await out.say(asked)
    for number in (1, 2):
        judge = TableJudge(allowed={HOST})
        async with replaying(file, judge, replay={"played": tuple(given), "note": given.append}) as out:
            assert body_of(await out.say(asked)) == b"answer %d" % number
    assert given == [1, 2]


async def test_addresses_are_judged_as_they_were_recorded(tmp_path: Path) -> None:
    heard, file = Heard(), tmp_path / FILE
    async with serving(heard.answer) as port, recording(file, TableJudge(allowed={HOST})) as out:
        asked = request("GET", f"http://{HOST}:{port}/")
        await out.say(asked)
    async with replaying(file, TableJudge(allowed={HOST}, named=())) as out:
        refused = await out.say(asked)
    assert refused[9:12] == b"403"
    assert b"a.example is not connected to: it is 127.0.0.1 (loopback)" in refused


async def test_requests_inside_of_tls_are_recorded(tmp_path: Path) -> None:
    world, session = Authority(datetime.now(UTC)), Authority(datetime.now(UTC))
    trust = ssl.create_default_context(cadata=world.certificate.decode())
    heard, file = Heard(), tmp_path / FILE

    async def ask(out: Outlet) -> bytes:
        connection = await out.end.open()
        await connection.send(f"CONNECT {HOST}:{port} HTTP/1.1\r\nHost: {HOST}:{port}\r\n\r\n".encode())
        await connection.until(b"\r\n\r\n")
        plain = f"GET /x HTTP/1.1\r\nHost: {HOST}:{port}\r\n\r\n".encode()
        answer = await over_tls(connection, HOST, session.certificate, plain, until=b"answer 1")
        await connection.leave()
        return answer

    judge = TableJudge(allowed={HOST}, scheme="inspected")
    async with (
        serving(heard.answer, secure=world.context(HOST)) as port,
        recording(file, judge, authority=session, trust=trust) as out,
    ):
        live = await ask(out)
    async with replaying(file, TableJudge(allowed={HOST}, scheme="inspected"), authority=session) as out:
        assert await ask(out) == live
    assert len(heard.requests) == 1
    with Recording(file) as found:
        assert [one.request for one in found.exchanges] == [f"GET https://{HOST}:{port}/x"]


async def test_no_secret_is_in_a_recording(tmp_path: Path) -> None:
    """Wherever it stands, in pieces, percent-encoded or packed by the server; keys and cookies neither."""
    file, heard = tmp_path / FILE, list[bytes]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heard.append(head)
        said = await reader.readexactly(9 + len(SECRET)) + SECRET + b" end"
        packed = b"gzip" in head.lower()
        body = gzip.compress(said) if packed else said
        more = b"Content-Encoding: gzip\r\n" if packed else b""
        cookie = b"Set-Cookie: id=cookie-of-theirs; Path=/; HttpOnly\r\nX-Echo: " + SECRET + b"\r\n"
        writer.write(b"HTTP/1.1 200 OK\r\n" + cookie + more + b"Content-Length: %d\r\n\r\n" % len(body))
        for at in range(0, len(body), 7):
            writer.write(body[at : at + 7])
            await writer.drain()
            await asyncio.sleep(0)

    keys = b"Authorization: Bearer key-of-mine\r\nCookie: a=cookie-of-mine\r\nX-Api-Key: key-of-mine\r\n"
    keys += b"X-Other: " + SECRET + b"\r\nAccept-Encoding: gzip\r\n"
    async with serving(serve) as port, recording(file, TableJudge(allowed={HOST})) as out:
        asked = request("POST", f"http://{HOST}:{port}/?t=s3cret%2Ftoken%2Bof%20ours", b"the body " + SECRET, more=keys)
        live = await out.say(asked)
    assert b"key-of-mine" in heard[0]
    assert body_of(live).count(SECRET) == 2
    lying = file.read_bytes()
    for secret in (SECRET, b"s3cret%2Ftoken", b"key-of-mine", b"cookie-of-mine", b"cookie-of-theirs"):
        assert secret not in lying
    assert b"Set-Cookie" in lying
    async with replaying(file, TableJudge(allowed={HOST})) as out:
        answer = await out.say(asked)
    assert body_of(answer) == b"the body " + b"*" * 2 * len(SECRET) + b" end"
    assert b"Set-Cookie: id=scrubbed; Path=/; HttpOnly\r\n" in answer


async def test_what_cannot_be_played_again_is_named(tmp_path: Path) -> None:
    heard, file = Heard(), tmp_path / FILE
    judge = TableJudge(allowed={HOST}, scheme="tcp")

    async def large(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 600000\r\n\r\n" + bytes(range(256)) * 3000)
        await writer.drain()

    socket = b"Upgrade: websocket\r\nSec-WebSocket-Key: x\r\n"
    async with (
        serving(heard.echo) as port,
        serving(heard.answer) as site,
        serving(large) as big,
        recording(file, judge, recorder={"limit": 100_000}) as out,
    ):
        connection = await out.end.open()
        tunnel = f"CONNECT {HOST}:{port} HTTP/1.1\r\nHost: {HOST}:{port}\r\n\r\n".encode()
        await connection.send(tunnel)
        await connection.until(b"\r\n\r\n")
        await connection.send(b"bytes")
        await connection.until(b"bytes")
        await connection.leave()
        wanted = request("GET", f"http://{HOST}:{site}/ws", more=socket).replace(b": close", b": Upgrade")
        connection = await out.end.open()
        await connection.send(wanted)
        await connection.until(b"answer 2")
        await connection.leave()
        asked = request("GET", f"http://{HOST}:{big}/")
        assert len(body_of(await out.say(asked))) == 600_000
    with Recording(file) as found:
        assert found.exchanges == []
        assert found.missed == {
            f"CONNECT tcp://{HOST}:{port}": "a tunnel whose bytes were not looked into",
            f"GET ws://{HOST}:{site}/ws": "a WebSocket, which has no one answer",
            f"GET http://{HOST}:{big}/": "the recording has its 0 MiB",
        }
    judge = TableJudge(allowed={HOST}, scheme="tcp")
    async with replaying(file, judge) as out:
        answers = [await out.say(each) for each in (tunnel, wanted, asked)]
    assert [each[9:12] for each in answers] == [b"502"] * 3
    said = [outcome.failure for _, outcome in judge.over]
    assert said[0].endswith("was not recorded (a tunnel whose bytes were not looked into)")
    assert said[1].endswith("was not recorded (a WebSocket, which has no one answer)")


async def test_what_broke_off_or_failed_does_so_again(tmp_path: Path) -> None:
    file = tmp_path / FILE

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    async with serving(serve) as gone:
        pass
    async with serving(serve) as port, recording(file, TableJudge(allowed={HOST})) as out:
        asked = [request("GET", f"http://{HOST}:{each}/") for each in (port, gone)]
        live = [await out.say(each) for each in asked]
    assert live[0].endswith(b"\r\n\r\nhalf")
    judge = TableJudge(allowed={HOST})
    async with replaying(file, judge) as out:
        broken, failed = [await out.say(each) for each in asked]
    assert broken == live[0]
    assert failed[9:12] == b"502"
    assert b"cannot be reached" in failed
    assert b"(as it was recorded)" in failed
    assert [bool(outcome.failure) for _, outcome in judge.over] == [True, True]


async def test_a_large_body_is_never_in_memory(tmp_path: Path) -> None:
    file, size = tmp_path / FILE, 64 << 20
    recorder = Recorder(file, session="s", secrets=(SECRET,))
    asked = Request(host=HOST, port=80, scheme="http", method="PUT", path="/")
    tracemalloc.start()
    try:
        take = recorder.begin(asked, [])
        take.reached(ip_address("192.0.2.1"))
        for number in range(size >> 16):
            take.sent(number.to_bytes(4, "big") * (1 << 14))
        take.all_sent()
        take.answered(200, [], b"OK")
        for number in range(size >> 16):
            take.received(number.to_bytes(4, "little") * (1 << 14))
        take.close()
        recorder.close()
        with Recording(file) as found:
            (one,) = found.exchanges
            assert sum(map(len, one.pieces())) == size == one.size
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * PIECE


@contextmanager
def damaged(file: Path, text: bytes, by: bytes) -> Iterator[None]:
    data = file.read_bytes()
    assert data.count(text) >= 1
    file.write_bytes(data.replace(text, by, 1))
    yield
    file.write_bytes(data)


async def test_a_damaged_recording_never_passes_for_a_whole_one(tmp_path: Path) -> None:
    heard, file = Heard(), tmp_path / FILE
    async with serving(heard.answer) as port, recording(file, TableJudge(allowed={HOST})) as out:
        asked = request("GET", f"http://{HOST}:{port}/")
        for _ in range(2):
            await out.say(asked)
    pool = Pool(tmp_path / "pool", sessions=tmp_path)
    assert check_stores(tmp_path, pool=pool).damages == []
    judge = TableJudge(allowed={HOST})
    with damaged(file, b"answer 1", b"answer 7"):
        async with replaying(file, judge) as out:
            assert b"answer 7" not in await out.say(asked)
        (damage,) = check_stores(tmp_path, pool=pool).damages
    assert "is damaged" in judge.over[0][1].failure
    assert damage.paths == (f"GET http://{HOST}:{port}/",)
    with damaged(file, b'"type":"exchange"', b'"type":"exchangE"'), pytest.raises(StoreError, match="damaged"):
        Recording(file)
    other = tmp_path / "other"
    with Store(other, writable=True) as store:
        store.note({"type": "recording", "version": 2, "id": "x", "session": "s"})
    with pytest.raises(StoreError, match="of version 2; this program reads 1"):
        Recording(other)
    with pytest.raises(StoreError, match="of version 2; this program reads 1"):
        Recorder(other, session="s")


def test_a_recording_of_version_1_is_read(tmp_path: Path) -> None:
    """And written as it lies there."""
    with Recording(GOLDEN) as found:
        assert (found.id, found.session) == ("an-id", "a-session")
        assert found.missed == {"GET wss://a.example:443/live": "a WebSocket, which has no one answer"}
        first, second = found.exchanges
        assert (first.request, first.status, first.whole) == ("POST https://a.example:443/x?y", 200, True)
        assert first.headers == [(b"Set-Cookie", b"id=scrubbed; Path=/"), (b"Content-Length", b"6")]
        assert (str(first.address), b"".join(first.pieces())) == ("192.0.2.1", b"answer")
        assert (second.request, second.why) == ("GET https://b.example:443/", "b.example:443 cannot be reached: no")
    write_golden(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == GOLDEN.read_bytes()
    shutil.copy(GOLDEN, tmp_path / "more")
    Recorder(tmp_path / "more", session="a-session").close()
    assert (tmp_path / "more").read_bytes() == GOLDEN.read_bytes()


def write_golden(file: Path) -> None:
    recorder = Recorder(file, session="a-session", clock=lambda: 1.5, identity="an-id")
    asked = Request(host=HOST, port=443, scheme="https", method="POST", path="/x?y")
    take = recorder.begin(asked, [(b"Content-Length", b"2"), (b"Authorization", b"x")])
    take.reached(ip_address("192.0.2.1"))
    take.sent(b"hi")
    take.all_sent()
    take.answered(200, [(b"Set-Cookie", b"id=7; Path=/"), (b"Content-Length", b"6")], b"OK")
    take.received(b"answer")
    take.close()
    take = recorder.begin(Request(host="b.example", port=443, scheme="https", method="GET", path="/"), [])
    take.close(failure="b.example:443 cannot be reached: no")
    socket = Request(host=HOST, port=443, scheme="wss", method="GET", path="/live")
    recorder.missed(socket, "a WebSocket, which has no one answer")
    recorder.close()
    assert (recorder.kept, recorder.lost) == (2, 1)


if __name__ == "__main__":
    write_golden(GOLDEN)
