"""Read: text in all its forms; what is taken apart in the box; what is refused."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from runner.effects import ReadPath
from runner.tools.helpers import Helpers
from runner.tools.read import Read
from tests.support.toolbench import ToolBench, text_of

SERVER = Path(__file__).parents[3] / "sandbox/server"
HERE = Helpers(helper=(sys.executable, "-I", "-S", "-B", str(SERVER / "helper.py")))


@pytest.fixture
def read() -> Read:
    return Read(HERE)


async def test_text_comes_with_line_numbers_in_one_request(bench: ToolBench, root: Path, read: Read) -> None:
    (root / "a.txt").write_text("one\ntwo\n\nfour")
    result = await bench.use(read, file_path=str(root / "a.txt"))
    assert result.for_model == "     1\tone\n     2\ttwo\n     3\t\n     4\tfour"
    assert result.for_user == {
        "type": "text",
        "file": {
            "filePath": str(root / "a.txt"),
            "content": "one\ntwo\n\nfour",
            "numLines": 4,
            "startLine": 1,
            "totalLines": 4,
        },
    }
    assert bench.box.requests == ["read"]  # type: ignore[attr-defined]
    assert bench.effects == (ReadPath(path=bench.root / "a.txt"),)
    assert not result.truncated


async def test_a_part_is_read_by_offset_and_limit(bench: ToolBench, root: Path, read: Read) -> None:
    (root / "a.txt").write_text("".join(f"{n}\n" for n in range(1, 101)))
    result = await bench.use(read, file_path="a.txt", offset=50, limit=2)
    assert result.for_model == "    50\t50\n    51\t51"
    assert result.for_user["file"]["startLine"] == 50
    assert result.for_user["file"]["totalLines"] == 100
    assert bench.root / "a.txt" in bench.state.partial


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"a\r\nb\r\n", "     1\ta\n     2\tb"),
        (b"\xef\xbb\xbfa\n", "     1\ta"),
        (b"\xff\xfe" + "äb\nc".encode("utf-16-le"), "     1\täb\n     2\tc"),
        (b"\xfe\xff" + "äb".encode("utf-16-be"), "     1\täb"),
        ("naïve\n".encode("latin-1"), "     1\tnaïve"),
        ("größer ärger\n".encode() + b"\xfe\n", "     1\tgrößer ärger\n     2\t\N{REPLACEMENT CHARACTER}"),
        (b"\x0c\x1b[1m\n", "     1\t\x0c\x1b[1m"),
    ],
    ids=["crlf", "mark", "utf-16-le", "utf-16-be", "latin-1", "a few bad bytes", "controls"],
)
async def test_text_is_shown_whatever_its_form(
    bench: ToolBench, root: Path, read: Read, data: bytes, shown: str
) -> None:
    (root / "a.txt").write_bytes(data)
    assert text_of(await bench.use(read, file_path="a.txt")).split("\n<system-reminder>")[0] == shown


@pytest.mark.parametrize(
    ("data", "arguments", "note"),
    [
        (b"", {}, "exists but is empty"),
        (b"one\n", {"offset": 5}, "has 1 lines only"),
        (b"x\n" * 2500, {}, "PARTIAL view: lines 1-2000 of 2500. Read on with offset 2001"),
        (b"y" * 5000, {}, "longer than shown"),
        ("é".encode("latin-1"), {}, "encoded as latin-1"),
        ((b"z" * 99 + b"\n") * 1500, {}, "PARTIAL view: lines 1-934 of 1500"),
    ],
)
async def test_what_a_reader_should_know_is_noted(
    bench: ToolBench, root: Path, read: Read, *, data: bytes, arguments: dict[str, int], note: str
) -> None:
    (root / "a.txt").write_bytes(data)
    result = await bench.use(read, file_path="a.txt", **arguments)
    assert not result.is_error
    assert note in text_of(result)


async def test_too_much_asked_for_in_so_many_words_is_an_error(bench: ToolBench, root: Path, read: Read) -> None:
    (root / "a.txt").write_bytes((b"z" * 99 + b"\n") * 1500)
    result = await bench.use(read, file_path="a.txt", offset=1, limit=1500)
    assert result.is_error
    assert "more than 25000 tokens" in text_of(result)
    assert not (await bench.use(read, file_path="a.txt", offset=1, limit=1500, allow_large=True)).is_error
    assert not (await bench.use(read, file_path="a.txt", allow_large=True)).truncated
    bench.environment["CLAUDE_CODE_FILE_READ_MAX_OUTPUT_TOKENS"] = "100000"
    assert not (await bench.use(read, file_path="a.txt", offset=1, limit=1500)).is_error


async def test_a_large_file_is_paged_where_it_is(bench: ToolBench, root: Path, read: Read) -> None:
    (root / "big.log").write_text("".join(f"line {n}\n" for n in range(1, 300_001)))
    result = await bench.use(read, file_path="big.log", offset=299_999, limit=10)
    assert result.for_model == "299999\tline 299999\n300000\tline 300000"
    assert result.for_user["file"]["totalLines"] == 300_000
    assert bench.box.requests == ["read", "exec"]  # type: ignore[attr-defined]
    first = await bench.use(read, file_path="big.log")
    assert text_of(first).startswith("     1\tline 1\n")
    assert "lines 1-2000 of 300000" in text_of(first)


async def test_a_line_of_many_megabytes_does_no_harm(bench: ToolBench, root: Path, read: Read) -> None:
    (root / "min.js").write_bytes(b"first\n" + b"x" * (3 << 20) + b"\nlast")
    result = await bench.use(read, file_path="min.js")
    lines = text_of(result).split("\n")
    assert lines[1] == "     2\t" + "x" * 2000 + f"… [{(3 << 20) - 2000} more characters]"
    assert lines[2] == "     3\tlast"


async def test_a_large_utf_16_file_is_paged_too(bench: ToolBench, root: Path, read: Read) -> None:
    text = "".join(f"Zeile {n} ü\n" for n in range(1, 80_001))
    (root / "big.txt").write_bytes(b"\xff\xfe" + text.encode("utf-16-le"))
    result = await bench.use(read, file_path="big.txt", offset=79_999)
    assert text_of(result).startswith(" 79999\tZeile 79999 ü\n 80000\tZeile 80000 ü")


async def test_what_is_no_regular_text_is_refused_with_a_hint(bench: ToolBench, root: Path, read: Read) -> None:
    (root / "a.bin").write_bytes(b"\x7fELF\0\0")
    os.mkfifo(root / "fifo")
    assert "is a directory" in text_of(await bench.use(read, file_path=str(root)))
    assert "is a fifo" in text_of(await bench.use(read, file_path="fifo"))
    assert "binary file (6 bytes)" in text_of(await bench.use(read, file_path="a.bin"))
    assert "does not exist" in text_of(await bench.use(read, file_path="nothing"))


async def test_a_notebook_shows_its_cells_and_outputs(bench: ToolBench, root: Path, read: Read) -> None:
    book = {
        "cells": [
            {"cell_type": "markdown", "id": "intro", "metadata": {}, "source": ["# Title\n", "text"]},
            {
                "cell_type": "code",
                "id": "sum",
                "execution_count": 2,
                "metadata": {},
                "source": "1 + 1",
                "outputs": [
                    {"output_type": "stream", "name": "stdout", "text": ["a\n", "b\n"]},
                    {"output_type": "execute_result", "data": {"text/plain": "2"}, "execution_count": 2},
                    {"output_type": "error", "ename": "E", "evalue": "bad", "traceback": ["\x1b[31mline\x1b[0m"]},
                ],
            },
        ],
        "metadata": {"language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    (root / "n.ipynb").write_text(json.dumps(book))
    result = await bench.use(read, file_path="n.ipynb")
    assert text_of(result) == (
        '<cell id="intro"><cell_type>markdown</cell_type># Title\ntext</cell id="intro">\n'
        '<cell id="sum">1 + 1</cell id="sum">\n'
        "<output>\na\nb\n\n</output>\n<output>\n2\n</output>\n<output>\nE: bad\nline\n</output>"
    )
    assert [cell["cellType"] for cell in result.for_user["file"]["cells"]] == ["markdown", "code"]
    assert bench.root / "n.ipynb" in bench.state.seen


@pytest.mark.parametrize("data", [b"not json", b"[]", b'{"cells": 3}', b'{"cells": [3]}', b"[" * 100_000])
async def test_a_broken_notebook_is_refused(bench: ToolBench, root: Path, read: Read, data: bytes) -> None:
    (root / "n.ipynb").write_bytes(data)
    result = await bench.use(read, file_path="n.ipynb")
    assert result.is_error
    assert "notebook" in text_of(result)


@pytest.mark.parametrize("pages", ["0", "3-1", "one", "1-21", "-2"])
async def test_pages_that_are_no_range_are_refused(bench: ToolBench, root: Path, read: Read, pages: str) -> None:
    (root / "a.pdf").write_bytes(b"%PDF-1.4")
    result = await bench.use(read, file_path="a.pdf", pages=pages)
    assert result.is_error
    assert "pages" in text_of(result)
    assert bench.box.requests == []  # type: ignore[attr-defined]
