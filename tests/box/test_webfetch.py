"""WebFetch against a server in the box itself: pages become Markdown there, and hostile ones stay bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import PurePosixPath

import pytest

from runner.effects import ConnectHost, RunCommand
from runner.tools.webfetch import WebFetch
from runner.tools.websearch import Endpoint, WebSearch
from sandbox.box import ContainerBox
from sandbox.engine import Engine, ImageInfo
from sandbox.spec import Command, Stdout
from sandbox.toolbox import Toolbox
from tests.box.test_tools import box_spec
from tests.support.toolbench import ToolBench, text_of

pytestmark = pytest.mark.box

SERVER = r"""
import gzip, http.server, itertools, json, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        getattr(self, "on" + self.path.split("?")[0].replace("/", "_"), self.missing)()
    def say(self, body=b"", code=200, **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
    def missing(self):
        self.say(b"no such <b>page</b>", 404, Content_Type="text/html")
    def on_page(self):
        print("page", flush=True)
        body = "<html><head><title>T</title><style>p{}</style><script>steal()</script></head><body>"
        body += "<h1>Heading</h1><p>Some <b>bold</b> text, \u00e4\u00f6 and <a href='/x'>a link</a></p>"
        body += "<ul><li>one<li>two</ul><pre>x = 1\n  y</pre></body></html>"
        self.say(body.encode(), Content_Type="text/html; charset=utf-8")
    def on_latin(self):
        self.say("<p>caf\u00e9</p>".encode("latin-1"), Content_Type="text/html; charset=iso-8859-1")
    def on_json(self):
        self.say(b'{"a": [1, 2]}', Content_Type="application/json")
    def on_same(self):
        self.say(code=302, Location="/page")
    def on_away(self):
        self.say(code=302, Location="http://elsewhere.example/\x1b[31m?secret=1")
    def on_loop(self):
        self.say(code=302, Location="/loop")
    def on_binary(self):
        self.say(b"\x00" * 100, Content_Type="application/octet-stream")
    def on_bomb(self):
        self.say(gzip.compress(b"<p>a</p>" * 8_000_000, 9), Content_Type="text/plain", Content_Encoding="gzip")
    def on_brotli(self):
        self.say(b"x", Content_Type="text/plain", Content_Encoding="br")
    def on_endless(self):
        self.send_response(200); self.send_header("Content-Type", "text/plain"); self.end_headers()
        for _ in itertools.count():
            self.wfile.write(b"endless " * 8192)
    def on_header(self):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: " + b"a" * (100 << 20))
    def on_short(self):
        self.say(b"half", Content_Type="text/plain", Content_Length="1000")
    def on_search(self):
        print(self.path, flush=True)
        rows = [{"title": "A \u2028 title", "url": f"https://{host}/x", "content": "about it"} for host in
                ("docs.example", "a.docs.example", "evil.example", "notdocs.example")]
        self.say(json.dumps({"results": rows + [{"url": 3}, "x"]}).encode(), Content_Type="application/json")
    def on_nested(self):
        self.say(b"<div><ul><table>" * 300_000, Content_Type="text/html")
    def log_message(self, *_): pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 8123), Handler)
print("up", flush=True)
server.serve_forever()
"""
AT = "http://127.0.0.1:8123"


@pytest.fixture
async def bench(engine: Engine, base_image: ImageInfo, toolbox: Toolbox) -> AsyncIterator[ToolBench]:
    async with ContainerBox(box_spec(base_image, toolbox), engine) as box:
        bench = ToolBench(box=box, root=PurePosixPath("/tmp"))
        await box.write(PurePosixPath("/tmp/server.py"), SERVER.encode())
        process = await box.exec(Command(argv=("python3", "/tmp/server.py"), cwd=PurePosixPath("/tmp"), merge=True))
        up = asyncio.Event()

        async def hear() -> None:
            async for item in process:
                if isinstance(item, Stdout):
                    bench.heard.append(item.data)
                    up.set()

        hearing = asyncio.create_task(hear())
        async with asyncio.timeout(20):
            await up.wait()
        yield bench
        await process.kill()
        await hearing


async def fetched(bench: ToolBench, path: str, **more: object) -> str:
    return text_of(await bench.use(WebFetch(), url=AT + path, prompt="what is it?", **more))


async def test_a_page_is_markdown(bench: ToolBench) -> None:
    text = await fetched(bench, "/page")
    for part in ("# Heading", "**bold**", "äö", "[a link](/x)", "* one", "x = 1"):
        assert part in text
    assert "steal" not in text
    assert isinstance(bench.effects[0], RunCommand)
    assert "café" in await fetched(bench, "/latin")
    assert await fetched(bench, "/json") == '{"a": [1, 2]}'


async def test_a_page_is_kept_and_a_question_about_it_costs_no_second_fetch(bench: ToolBench) -> None:
    asked: list[str] = []

    async def consult(prompt: str) -> str:
        asked.append(prompt)
        return f"answer {len(asked)}"

    bench.consult = consult
    assert await fetched(bench, "/page") == "answer 1"
    assert await fetched(bench, "/page") == "answer 2"
    assert b"".join(bench.heard).count(b"page") == 1
    assert "# Heading" in asked[0]
    assert "what is it?" in asked[0]


async def test_where_no_model_answers_the_page_itself_is_the_answer(bench: ToolBench) -> None:
    async def consult(_: str) -> str:
        raise RuntimeError("overloaded")

    bench.consult = consult
    text = await fetched(bench, "/page")
    assert "# Heading" in text
    assert "No model could be asked" in text


async def test_redirects_are_followed_within_the_host_only(bench: ToolBench) -> None:
    assert "# Heading" in await fetched(bench, "/same")
    text = await fetched(bench, "/away")
    assert "http://elsewhere.example/" in text
    assert "not followed" in text
    assert "more than 10 redirects" in await fetched(bench, "/loop")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/binary", "no text"),
        ("/brotli", "compresses in a way"),
        ("/nothing", "status 404"),
        ("/header", "cannot be fetched"),
    ],
)
async def test_what_is_no_page_is_said(bench: ToolBench, path: str, said: str) -> None:
    result = await bench.use(WebFetch(), url=AT + path, prompt="?")
    assert result.is_error
    assert said in text_of(result)


@pytest.mark.parametrize("path", ["/bomb", "/endless", "/short"])
async def test_what_does_not_end_is_cut(bench: ToolBench, path: str) -> None:
    result = await bench.use(WebFetch(), url=AT + path, prompt="?")
    assert not result.is_error
    assert result.truncated
    assert len(text_of(result)) <= 31_000
    assert result.for_user["bytes"] <= 10 << 20


@pytest.mark.slow
async def test_html_that_is_made_to_hurt_ends(bench: ToolBench) -> None:
    text = await fetched(bench, "/nested")
    assert len(text) < 31_000
    await bench.box.resolve((PurePosixPath("/tmp"),))


async def test_outside_is_an_effect_on_a_host_and_without_a_way_out_an_error(bench: ToolBench) -> None:
    result = await bench.use(WebFetch(), url="http://Example.test./a?b", prompt="?")
    assert bench.effects == (ConnectHost(host="example.test", port=443, scheme="https", method="GET", path="/a"),)
    assert result.is_error


@pytest.mark.parametrize(
    "url",
    [
        "example.test",
        "file:///etc/passwd",
        "ftp://x/",
        "https://",
        "https://u:p@x/",
        "https://x/\n",
        "https://x:99999/",
    ],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="url"):
        WebFetch.args.model_validate({"url": url, "prompt": "?"})


async def test_a_search_gives_titles_addresses_and_snippets(bench: ToolBench) -> None:
    tool = WebSearch(Endpoint.of({"kind": "searxng", "url": f"{AT}/search"}))
    result = await bench.use(tool, query="what & why?", allowed_domains=["docs.example"])
    assert b"/search?q=what+%26+why%3F&format=json" in b"".join(bench.heard)
    [found] = result.for_user["results"]
    assert [row["url"] for row in found["content"]] == ["https://docs.example/x", "https://a.docs.example/x"]
    assert "about it" in text_of(result)
    assert bench.effects == (ConnectHost(host="127.0.0.1", port=8123, scheme="http", method="GET", path="/search"),)
    result = await bench.use(tool, query="what", blocked_domains=["*.docs.example", "evil.example"])
    assert [row["url"] for row in result.for_user["results"][0]["content"]] == ["https://notdocs.example/x"]


@pytest.mark.parametrize("path", ["/page", "/json", "/nothing", "/away"])
async def test_a_service_that_answers_otherwise_is_an_error(bench: ToolBench, path: str) -> None:
    tool = WebSearch(Endpoint.of({"kind": "json", "url": AT + path + "?q={query}", "results": "a.b"}))
    result = await bench.use(tool, query="what")
    assert result.is_error
    assert "the search service" in text_of(result)


def test_each_kind_of_service_is_asked_in_its_way() -> None:
    brave = Endpoint.of({"kind": "brave", "url": "https://search.example/res?count=5"})
    assert brave.address("a b") == "https://search.example/res?count=5&q=a+b"
    rows = brave.read('{"web": {"results": [{"title": "T", "url": "https://x/", "description": "D"}]}}')
    assert list(rows) == [{"title": "T", "snippet": "D", "url": "https://x/"}]
    own = Endpoint.of({"kind": "json", "url": "https://x/{query}/find", "fields": {"title": "name"}})
    assert own.address("a/b") == "https://x/a%2Fb/find"
    assert list(own.read('[{"name": "N", "url": "u"}]')) == [{"title": "N", "snippet": "", "url": "u"}]
