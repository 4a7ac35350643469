"""An audit sink for tests: a real HTTP server that checks what it is sent and signs it, or does what it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from runner.policy.signing import SecretKey, new_key
from runner.remote_approval import HEADER, sign
from runner.sessions.anchors import Statement, parse_statement, signed

SECRET = "a shared secret of some length"  # of this test
Answer = Callable[[Statement], tuple[int, bytes]]


class SinkServer:
    """`answer` makes status and body of a reply; `heard`: the statements that came rightly signed."""

    def __init__(self, key: SecretKey) -> None:
        self.key, self.url = key, ""
        self.heard: list[Statement] = []
        self.forged = 0
        self.answer: Answer = self.acknowledge
        self.open = threading.Event()
        self.open.set()

    def acknowledge(self, statement: Statement) -> tuple[int, bytes]:
        """The right reply."""
        return 200, json.dumps({"signature": signed(statement, self.key).signature}).encode()

    def setting(self, **more: Any) -> dict[str, Any]:
        """For `requiredAuditSink`."""
        line = self.key.public.text().splitlines()[1]
        return {"url": self.url, "publicKey": line, "secretEnv": "SINK_SECRET", **more}


@contextmanager
def serving_sink(key: SecretKey | None = None) -> Iterator[SinkServer]:
    """On this machine, until the end."""
    made = SinkServer(key or new_key())

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            statement = parse_statement(json.loads(body)["statement"])
            if statement is None or self.headers[HEADER] != sign(SECRET.encode(), body):
                made.forged += 1
                return
            made.open.wait(60)
            made.heard.append(statement)
            status, reply = made.answer(statement)
            try:
                self.send_response(status)
                self.send_header("content-length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)
            except OSError:
                pass  # who asked has gone

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_address[1]}/acknowledge"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield made
    finally:
        made.open.set()
        server.shutdown()
        thread.join()
        server.server_close()
