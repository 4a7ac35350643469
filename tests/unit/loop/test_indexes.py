"""Which files of which pages may be fetched: those that an index names, and nothing that anybody could have written."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from runner.effects import ConnectHost
from runner.loop.indexes import Indexes

HTML, JSON = "text/html; charset=utf-8", "application/vnd.pypi.simple.v1+json"


@dataclass(frozen=True)
class Tool:
    tool: str
    urls: tuple[str, ...]


TOOLS = (
    Tool("pip", ("https://index.example/simple",)),
    Tool("npm", ("https://npm.example/",)),
    Tool("cargo", ("https://crates.example/index/",)),
    Tool("go", ("https://go.example",)),
)


def get(url: str, method: str = "GET") -> ConnectHost:
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return ConnectHost(
        host=host, port=443 if scheme == "https" else 80, scheme=scheme, method=method, path=slash + path
    )


def told(url: str, kind: str, body: str) -> Indexes:
    indexes = Indexes(lambda: TOOLS)
    reader = indexes.reader(get(url))
    assert reader is not None
    reader(kind, body.encode())
    return indexes


PIP = """<a href="https://files.example/a/tiny-1.0.whl#sha256=00" data-core-metadata>tiny</a>
<a data-x='1' HREF='../../b/tiny-2.0.whl?x=1&amp;y=2'>tiny</a> <a href="http://files.example/plain">no TLS</a>
<a href="https://user@files.example/login">a login</a> <link href="https://files.example/style">"""


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("https://files.example/a/tiny-1.0.whl", True),
        ("https://files.example/a/tiny-1.0.whl.metadata", True),
        ("https://index.example/b/tiny-2.0.whl?x=1&y=2", True),
        ("https://files.example/a/tiny-1.0.whl?x", False),
        ("https://files.example/a/", False),
        ("https://files.example/plain", False),
        ("http://files.example/plain", False),
        ("https://files.example/login", False),
        ("https://files.example/style", False),
        ("https://other.example/a/tiny-1.0.whl", False),
    ],
)
def test_what_a_page_of_an_index_links_to_is_named(url: str, named: bool) -> None:
    indexes = told("https://index.example/simple/tiny/", HTML, PIP)
    page = "https://index.example/simple/tiny/" if named else ""
    assert (indexes.named(get(url)), indexes.named(get(url, "HEAD"))) == (page, page)
    assert indexes.named(get(url, "PUT")) == ""
    assert indexes.concerns("files.example", 443)
    assert not indexes.concerns("files.example", 80)


@pytest.mark.parametrize(
    "url",
    [
        "https://index.example/project/tiny/",
        "https://index.example/simple/../project/tiny/",
        "https://index.example/simple/%2e%2e/project/tiny/",
        "https://index.example/simple/tiny/?next=x",
        "http://index.example/simple/tiny/",
        "https://other.example/simple/tiny/",
        "https://crates.example/index/other.json",
        "https://go.example/example.com/tiny/@v/list",
    ],
)
def test_other_pages_name_nothing(url: str) -> None:
    assert Indexes(lambda: TOOLS).reader(get(url)) is None


def test_an_index_in_json_names_its_files() -> None:
    text = json.dumps({"files": [{"url": "https://files.example/f.whl"}], "description": "https://evil.example/x"})
    indexes = told("https://index.example/simple/tiny/", JSON, text)
    assert indexes.named(get("https://files.example/f.whl"))
    assert not indexes.concerns("evil.example", 443)


def test_of_an_npm_document_the_tarballs_count_and_not_what_its_author_wrote() -> None:
    version = {"dist": {"tarball": "https://tar.example/tiny.tgz"}, "homepage": "https://evil.example/"}
    text = json.dumps({"versions": {"1.0.0": version}, "readme": "https://evil.example/"})
    indexes = told("https://npm.example/tiny", "application/json", text)
    assert indexes.named(get("https://tar.example/tiny.tgz"))
    assert not indexes.concerns("evil.example", 443)


@pytest.mark.parametrize(
    ("dl", "url"),
    [
        ("https://static.example/crates", "https://static.example/crates/tiny/1.0.0+x/download"),
        ("https://static.example/{prefix}/{crate}-{version}.crate", "https://static.example/ti/ny/tiny-1.0.0.crate"),
    ],
)
def test_crates_are_where_the_index_says(dl: str, url: str) -> None:
    indexes = told("https://crates.example/index/config.json", "text/plain", json.dumps({"dl": dl}))
    assert indexes.named(get(url))
    assert not indexes.named(get(url + "/more"))
    assert not indexes.named(get("https://static.example/crates/x?y/1/download"))


@pytest.mark.parametrize("dl", ["https://{crate}.example/x", "no url", 7])
def test_crates_are_nowhere_where_the_host_is_not_clear(dl: object) -> None:
    indexes = told("https://crates.example/index/config.json", "text/plain", json.dumps({"dl": dl}))
    assert not indexes.named(get("https://x.example/x"))


@pytest.mark.parametrize("body", ["", "[" * 100_000, "null", '{"files": 3}', '{"files": [{}]}', "\x00"])
def test_what_is_no_index_names_nothing(body: str) -> None:
    indexes = told("https://index.example/simple/tiny/", JSON, body)
    assert not indexes.named(get("https://files.example/f.whl"))
