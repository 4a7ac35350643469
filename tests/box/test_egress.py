"""A box has no way out but its proxy, whose every request is decided on the host. Servers are on this machine only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from sandbox.box import ContainerBox
from sandbox.egress import Egress
from sandbox.leaving import Way
from sandbox.pipe import Grant
from tests.support.boxes import Boxes, run
from tests.support.outlet import Heard, TableJudge, serving

pytestmark = [pytest.mark.box, pytest.mark.network]


@asynccontextmanager
async def connected(boxes: Boxes, judge: TableJudge, uid: int = 1000) -> AsyncIterator[ContainerBox]:
    faults: list[Exception] = []
    egress = Egress(Way(judge), fault=faults.append)
    async with boxes.box(uid, grants={"tcp": Grant(limit=16, accept=egress.accept)}) as box:
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
