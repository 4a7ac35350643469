"""How long WebFetch keeps a page, and how often WebSearch asks. The helper is a script that counts its runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from runner.tools.helpers import Helpers
from runner.tools.webfetch import WebFetch
from runner.tools.websearch import Endpoint, WebSearch
from tests.support.toolbench import ToolBench, text_of

ENDPOINT = Endpoint.of({"kind": "searxng", "url": "https://search.example/"})


@pytest.fixture
def helpers(tmp_path: Path) -> Helpers:
    """One that gives the page `{"results": []}`, with status 500 for queries of `bad`."""
    script = tmp_path / "helper.py"
    script.write_text(
        "import json, sys\n"
        f"open({str(tmp_path / 'runs')!r}, 'a').write('x')\n"
        "code = 500 if 'bad' in sys.argv[-1] else 200\n"
        f"print(json.dumps({{'url': sys.argv[-1], 'code': code, 'text': {json.dumps(json.dumps({'results': []}))}}}))\n"
    )
    return Helpers(helper=(sys.executable, "-I", str(script)))


@pytest.mark.parametrize(("milliseconds", "runs"), [("", 1), ("600000", 1), ("0", 2)])
async def test_a_page_is_kept_for_as_long_as_is_wanted(
    bench: ToolBench, tmp_path: Path, helpers: Helpers, milliseconds: str, runs: int
) -> None:
    bench.environment["CLAUDE_CODE_WEBFETCH_CACHE_TTL_MS"] = milliseconds
    for _ in range(2):
        assert not (await bench.use(WebFetch(helpers), url="https://a.example/", prompt="what?")).is_error
    assert len((tmp_path / "runs").read_text()) == runs


async def test_a_session_makes_only_so_many_searches(bench: ToolBench, tmp_path: Path, helpers: Helpers) -> None:
    bench.environment["CLAUDE_CODE_MAX_WEB_SEARCHES_PER_SESSION"] = "2"
    tool = WebSearch(ENDPOINT, helpers)
    found = [await bench.use(tool, query=query) for query in ("one", "bad", "two", "three")]
    assert [result.is_error for result in found] == [False, True, False, True]
    assert "has made its 2 searches" in text_of(found[-1])
    assert len((tmp_path / "runs").read_text()) == 3
