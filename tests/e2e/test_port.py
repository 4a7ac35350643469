"""`fumehood port` on a server that runs in a real box, from another process than the box's owner."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest

from tests.e2e.conftest import Bench

pytestmark = [pytest.mark.box, pytest.mark.timeout(240)]


def test_a_server_in_the_box_is_seen_from_the_host(repository: Bench) -> None:
    repository.run("-p", "go", "--model", repository.script({"text": "done"}))
    serving = repository.start("shell", "-c", "exec python3 -u -m http.server 8123 --bind 127.0.0.1 2>&1")
    assert serving.stdout is not None
    assert "Serving HTTP" in serving.stdout.readline()  # it owns the session then, and is not in the way of another
    showing = repository.start("port", "8123")
    assert showing.stdout is not None
    address = showing.stdout.readline().strip()
    token = address.partition("=")[2]
    port = address.split(":")[2].partition("/")[0]

    with urllib.request.urlopen(address, timeout=20) as reply:
        cookie = reply.headers["Set-Cookie"].partition(";")[0]
    page = urllib.request.Request(f"http://127.0.0.1:{port}/calc.py", headers={"Cookie": cookie})
    with urllib.request.urlopen(page, timeout=20) as reply:
        assert reply.read() == (repository.place / "calc.py").read_bytes()
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/calc.py", timeout=20)

    showing.terminate()
    assert showing.wait(20) in (130, 143, -15)
    serving.terminate()
    serving.wait(20)
    session = repository.sessions()[0]["session"]
    assert token not in "".join(map(str, repository.records(session)))
