"""The remote approver over a real HTTP server on this machine: only a signed yes in time is a yes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from runner.errors import UsageError
from runner.events import ApprovalAsked, ApprovalGiven
from runner.remote_approval import HEADER, MAX_REPLY, RemoteApprover, read_secret, sign

SECRET = b"a shared secret of some length"
ASKED = ApprovalAsked(call="c1", tool="Bash", input={"command": "git push"}, reason="it leaves the box")

Answer = Callable[[dict[str, Any]], tuple[int, bytes, str]]


class Office:
    """Who answers. `answer` makes status, body and signature from a request; `heard` is what came."""

    def __init__(self) -> None:
        self.heard: list[tuple[dict[str, Any], str, bytes]] = []
        self.answer: Answer = lambda asked: signed({"call": asked["call"], "nonce": asked["nonce"], "allowed": True})
        self.delay = 0.0
        self.gate = threading.Event()


def signed(value: Any, secret: bytes = SECRET, status: int = 200) -> tuple[int, bytes, str]:
    body = json.dumps(value).encode()
    return status, body, sign(secret, body)


@pytest.fixture
def office() -> Iterator[tuple[Office, str]]:
    made = Office()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            asked = json.loads(body)
            made.heard.append((asked, self.headers[HEADER], body))
            if made.delay:
                made.gate.wait(made.delay)
            status, reply, signature = made.answer(asked)
            try:
                self.send_response(status)
                self.send_header(HEADER, signature)
                self.send_header("content-length", str(len(reply)))
                if status == 302:
                    self.send_header("location", "http://127.0.0.1:9/")
                self.end_headers()
                self.wfile.write(reply)
            except OSError:
                pass  # who asked has gone

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield made, f"http://127.0.0.1:{server.server_address[1]}/ask"
    made.gate.set()
    server.shutdown()
    thread.join()
    server.server_close()


def approver(url: str, deadline: float = 20) -> RemoteApprover:
    return RemoteApprover(url=url, secret=SECRET, deadline=deadline, session="s1", clock=lambda: 1000.0)


async def test_a_signed_yes_is_a_yes_and_the_question_is_whole_and_signed(office: tuple[Office, str]) -> None:
    made, url = office
    given = await approver(url).ask(ASKED)
    assert (given.call, given.allowed, given.by) == ("c1", True, "remote")
    (asked, signature, body), *more = made.heard
    assert not more
    assert signature == sign(SECRET, body)
    assert asked.pop("nonce")
    assert asked == {
        "version": 1,
        "session": "s1",
        "call": "c1",
        "tool": "Bash",
        "input": {"command": "git push"},
        "reason": "it leaves the box",
        "at": 1000.0,
        "deadline": 20,
    }
    assert SECRET not in body


async def test_a_no_is_a_no_with_its_reason(office: tuple[Office, str]) -> None:
    made, url = office
    made.answer = lambda q: signed({"call": q["call"], "nonce": q["nonce"], "allowed": False, "reason": "not today"})
    given = await approver(url).ask(ASKED)
    assert (given.allowed, given.by, given.reason) == (False, "remote", "not today")


WRONG: dict[str, Answer] = {
    "another secret": lambda q: signed(
        {"call": "c1", "nonce": q["nonce"], "allowed": True}, b"another secret, as long"
    ),
    "no signature": lambda q: (200, json.dumps({"call": "c1", "nonce": q["nonce"], "allowed": True}).encode(), ""),
    "another call": lambda q: signed({"call": "c2", "nonce": q["nonce"], "allowed": True}),
    "an old nonce": lambda _: signed({"call": "c1", "nonce": "0" * 32, "allowed": True}),
    "a word": lambda q: signed({"call": "c1", "nonce": q["nonce"], "allowed": "yes"}),
    "one": lambda q: signed({"call": "c1", "nonce": q["nonce"], "allowed": 1}),
    "nothing": lambda q: signed({"call": "c1", "nonce": q["nonce"]}),
    "a list": lambda _: signed([True]),
    "no JSON": lambda _: (200, b"yes", sign(SECRET, b"yes")),
    "another status": lambda q: signed({"call": "c1", "nonce": q["nonce"], "allowed": True}, status=201),
    "a failure": lambda _: (500, b"", ""),
    "a redirection": lambda _: (302, b"", ""),
    "too much": lambda _: (200, b" " * (MAX_REPLY + 1), sign(SECRET, b" " * (MAX_REPLY + 1))),
}


@pytest.mark.parametrize("name", WRONG)
async def test_everything_else_is_a_no(office: tuple[Office, str], name: str) -> None:
    made, url = office
    made.answer = WRONG[name]
    given = await approver(url).ask(ASKED)
    assert not given.allowed
    assert given.reason or name in ("a word", "one", "nothing"), given


async def test_no_answer_in_time_is_a_no(office: tuple[Office, str]) -> None:
    made, url = office
    made.delay = 60
    given = await approver(url, deadline=0.3).ask(ASKED)
    assert (given.allowed, given.by) == (False, "nobody")
    assert "within 0.3 seconds" in given.reason


async def test_nobody_there_is_a_no() -> None:
    given = await approver("http://127.0.0.1:9/").ask(ASKED)
    assert (given.allowed, given.by) == (False, "nobody")
    assert "cannot be asked" in given.reason


async def test_two_questions_have_two_nonces(office: tuple[Office, str]) -> None:
    made, url = office
    for _ in range(2):
        await approver(url).ask(ASKED)
    assert len({asked["nonce"] for asked, _, _ in made.heard}) == 2


def test_the_secret_comes_from_a_file_or_a_variable_and_is_long_enough(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(SECRET + b"\n")
    assert read_secret({"secretFile": str(file)}, {}) == SECRET
    assert read_secret({"secretEnv": "S"}, {"S": SECRET.decode()}) == SECRET
    for wanted, environ in (
        ({"secretEnv": "S"}, {}),
        ({"secretEnv": "S"}, {"S": "short"}),
        ({}, {}),
        ({"secretFile": str(tmp_path / "no")}, {}),
    ):
        with pytest.raises(UsageError):
            read_secret(wanted, environ)


def test_the_answer_never_comes_from_a_client_of_the_session() -> None:

    assert not approver("http://127.0.0.1:9/").answer(ApprovalGiven(call="c1", allowed=True, by="client"))
