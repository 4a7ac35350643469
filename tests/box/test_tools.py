"""The tools in a real box: the shell, rg, the decoders of the toolbox."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import struct
import uuid
import zlib
from collections.abc import AsyncIterator
from pathlib import PurePosixPath
from typing import Any

import pytest

from runner.tools.bash import Bash
from runner.tools.edit import Edit
from runner.tools.glob import Glob
from runner.tools.grep import Grep
from runner.tools.helpers import TOOLBOX
from runner.tools.notebookedit import NotebookEdit
from runner.tools.read import Read
from runner.tools.taskstop import TaskStop
from runner.tools.write import Write
from sandbox.box import ContainerBox
from sandbox.engine import Engine, ImageInfo
from sandbox.spec import BoxSpec, Command, Owner, Stdout
from sandbox.toolbox import Toolbox
from tests.support.toolbench import ToolBench, text_of

pytestmark = pytest.mark.box
ROOT = PurePosixPath("/tmp/project")


def box_spec(image: ImageInfo, toolbox: Toolbox) -> BoxSpec:
    return BoxSpec(
        session=uuid.uuid4().hex,
        image=image.id,
        owner=Owner(uid=os.getuid() or 1000, gid=os.getgid() or 1000),
        cwd=PurePosixPath("/tmp"),
        mounts=(toolbox.mount,),
    )


@pytest.fixture
async def bench(engine: Engine, base_image: ImageInfo, toolbox: Toolbox) -> AsyncIterator[ToolBench]:
    async with ContainerBox(box_spec(base_image, toolbox), engine) as box:
        await box.write(ROOT / "README", b"read me\n")
        yield ToolBench(box=box, root=ROOT)


def png(width: int, height: int) -> bytes:
    """A valid image, made by hand."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = (b"\0" + b"\x20\x80\xc0" * width) * height
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def pdf(pages: int) -> bytes:
    """A valid document, made by hand."""
    kids = " ".join(f"{n + 3} 0 R" for n in range(pages))
    objects = ["<</Type/Catalog/Pages 2 0 R>>", f"<</Type/Pages/Count {pages}/Kids[{kids}]>>"]
    objects += ["<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]>>"] * pages
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += f"{number} 0 obj{body}endobj\n".encode()
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    start = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}".encode()
    return out + f"trailer<</Size {len(objects) + 1}/Root 1 0 R>>\nstartxref\n{start}\n%%EOF\n".encode()


async def put(bench: ToolBench, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        await bench.box.write(ROOT / name, data)


async def test_the_shell_tells_output_code_and_directory(bench: ToolBench) -> None:
    assert text_of(await bench.use(Bash(), command="echo hi; echo err >&2; exit 3")) == "hi\nerr\nExit code 3"
    await bench.use(Bash(), command="mkdir sub && cd sub")
    assert text_of(await bench.use(Bash(), command="pwd; id -un")) == f"{ROOT}/sub\nbox"
    assert text_of(await bench.use(Bash(), command="cd /usr")) == f"(no output)\nShell cwd was reset to {ROOT}"


async def test_long_output_is_kept_in_the_box_and_can_be_read_there(bench: ToolBench) -> None:
    result = await bench.use(Bash(), command="seq 1 100000")
    kept = result.for_user["persistedOutputPath"]
    assert text_of(result).startswith("1\n2\n")
    assert text_of(result).endswith("\n100000")
    assert kept in text_of(result)
    page = await bench.use(Read(), file_path=kept, offset=50_000, limit=1)
    assert page.for_model == " 50000\t50000"


async def test_a_command_over_its_time_dies_with_its_children(bench: ToolBench) -> None:
    command = "echo begun; (trap '' TERM; sleep 300) & setsid sleep 300 & sleep 300"
    result = await bench.use(Bash(), command=command, timeout=500)
    assert text_of(result).startswith("begun\nCommand timed out after 0.5 s")
    left = await bench.use(Bash(), command="ps -e -o pid,ppid,sid,stat,args | grep [s]leep")
    assert text_of(left) == "No matches found"


async def test_a_background_command_goes_on_and_is_stopped(bench: ToolBench) -> None:
    command = "echo first; sleep 300 & sleep 300"
    result = await bench.use(Bash(), command=command, run_in_background=True)
    task = bench.state.tasks[result.for_user["backgroundTaskId"]]
    assert text_of(await bench.use(Bash(), command=f"sleep 0.3; cat {task.output}; pgrep -c sleep")) == "first\n2"
    assert not (await bench.use(TaskStop(), task_id=task.id)).is_error
    await asyncio.wait_for(task.ended.wait(), 10)
    assert [record.state for record in bench.records] == ["running", "killed"]
    assert text_of(await bench.use(Bash(), command="pgrep -c sleep")).startswith("0")


async def test_a_silent_background_command_leaves_an_empty_file(bench: ToolBench) -> None:
    result = await bench.use(Bash(), command="true", run_in_background=True)
    task = bench.state.tasks[result.for_user["backgroundTaskId"]]
    await asyncio.wait_for(task.ended.wait(), 10)
    assert bench.records[-1].state == "completed"
    assert "empty" in text_of(await bench.use(Read(), file_path=str(task.output)))


async def test_files_are_read_written_and_edited(bench: ToolBench) -> None:
    assert (await bench.use(Read(), file_path=str(ROOT / "README"))).for_model == "     1\tread me"
    await bench.use(Write(), file_path=str(ROOT / "a/b.txt"), content="one\ntwo\n")
    await bench.use(Bash(), command="chmod 750 a/b.txt; ln -s b.txt a/link")
    await bench.use(Read(), file_path=str(ROOT / "a/b.txt"))
    result = await bench.use(Edit(), file_path=str(ROOT / "a/link"), old_string="two", new_string="2")
    assert not result.is_error
    shown = text_of(await bench.use(Bash(), command="cat a/b.txt; stat -c %a a/b.txt; readlink a/link"))
    assert shown == "one\n2\n750\nb.txt"
    assert "does not exist" in text_of(await bench.use(Read(), file_path="nothing"))
    assert "is a directory" in text_of(await bench.use(Read(), file_path="a"))


async def test_what_the_box_refuses_is_explained(bench: ToolBench) -> None:
    await bench.use(Bash(), command="mkfifo p; ln -s loop loop; echo x > secret; chmod 000 secret")
    assert "is a fifo" in text_of(await bench.use(Read(), file_path="p"))
    assert "is a device" in text_of(await bench.use(Read(), file_path="/dev/zero"))
    assert "permission denied" in text_of(await bench.use(Read(), file_path="secret"))
    assert "read-only" in text_of(await bench.use(Write(), file_path="/usr/new", content="x"))


async def test_a_large_file_is_paged_in_the_box(bench: ToolBench) -> None:
    await bench.use(Bash(), command="seq -f 'line %.0f' 1 3000000 > big")
    result = await bench.use(Read(), file_path="big", offset=2_999_999)
    assert result.for_model == "2999999\tline 2999999\n3000000\tline 3000000"
    assert result.for_user["file"]["totalLines"] == 3_000_000


async def test_images_are_verified_and_made_smaller_in_the_box(bench: ToolBench) -> None:
    small = png(20, 10)
    await put(bench, {"small.png": small, "large.png": png(3000, 1000), "bad.png": small[:60], "photo": small})
    result = await bench.use(Read(), file_path="small.png")
    assert result.for_model == [
        {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": base64.b64encode(small).decode()},
        }
    ]
    assert result.for_user["file"]["dimensions"] == {
        "originalWidth": 20,
        "originalHeight": 10,
        "displayWidth": 20,
        "displayHeight": 10,
    }
    large = await bench.use(Read(), file_path="large.png")
    assert large.for_user["file"]["dimensions"]["displayWidth"] == 1568
    assert text_of(large) == "<image>\n[3000x1000 pixels, shown as 1568x523]"
    assert "not an image that can be decoded" in text_of(await bench.use(Read(), file_path="bad.png"))
    assert text_of(await bench.use(Read(), file_path="photo")) == "<image>"


async def test_pdf_pages_are_taken_in_the_box(bench: ToolBench) -> None:
    await put(bench, {"short.pdf": pdf(3), "long.pdf": pdf(30), "broken.pdf": b"%PDF-1.4 nothing"})
    short = await bench.use(Read(), file_path="short.pdf")
    document = short.for_model[1]
    assert isinstance(document, dict)
    assert base64.b64decode(document["source"]["data"]) == pdf(3)
    assert "has 30 pages" in text_of(await bench.use(Read(), file_path="long.pdf"))
    part = await bench.use(Read(), file_path="long.pdf", pages="5-7")
    assert text_of(part) == f"PDF file read: {ROOT}/long.pdf, pages 5-7 of 30.\n<document>"
    assert base64.b64decode(part.for_user["file"]["base64"]).count(b"/Type /Page\n") <= 3
    assert "30 pages only" in text_of(await bench.use(Read(), file_path="long.pdf", pages="31"))
    assert (await bench.use(Read(), file_path="broken.pdf")).is_error


async def test_a_notebook_is_read_and_edited(bench: ToolBench) -> None:
    picture = base64.b64encode(png(2, 2)).decode()
    cell: dict[str, Any] = {"cell_type": "code", "id": "c1", "metadata": {}, "execution_count": 1, "source": ["1 + 1"]}
    cell["outputs"] = [{"output_type": "display_data", "data": {"image/png": picture, "text/plain": "<Figure>"}}]
    book = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    text = json.dumps(book, indent=1) + "\n"
    await put(bench, {"n.ipynb": text.encode()})
    shown = await bench.use(Read(), file_path="n.ipynb")
    assert text_of(shown) == '<cell id="c1">1 + 1</cell id="c1">\n<output>\n<Figure>\n</output>\n<image>'
    await bench.use(NotebookEdit(), notebook_path="n.ipynb", cell_id="c1", new_source="2 + 2")
    cell |= {"source": ["2 + 2"], "outputs": [], "execution_count": None}
    assert (await bench.box.read(ROOT / "n.ipynb")).data == (json.dumps(book, indent=1) + "\n").encode()


async def test_files_are_found_by_pattern_newest_first(bench: ToolBench) -> None:
    names = ["src/a.py", "src/deep/b.py", "src/c.ts", ".hidden/d.py", "ignored/e.py", ".git/f.py", "sp ace/g,{h}.py"]
    await put(bench, dict.fromkeys(names, b"x") | {".gitignore": b"ignored\n"})
    await bench.use(
        Bash(),
        command="git init -q; ln -s /usr/lib outside; ln -s a.py src/link.py; touch -h -d @600 src/link.py;"
        "n=600; for f in src/a.py src/deep/b.py .hidden/d.py ignored/e.py 'sp ace/g,{h}.py';"
        'do n=$((n-100)); touch -d @$n "$f"; done',
    )
    found = await bench.use(Glob(), pattern="**/*.py")
    assert found.for_user["filenames"] == [
        "src/link.py",
        "src/a.py",
        "src/deep/b.py",
        ".hidden/d.py",
        "ignored/e.py",
        "sp ace/g,{h}.py",
    ]
    assert found.for_user["totalMatches"] == 6
    one = await bench.use(Glob(), pattern="*.{ts,tsx}")
    assert one.for_model == "src/c.ts"
    assert (await bench.use(Glob(), pattern=f"{ROOT}/src/*.py")).for_user["numFiles"] == 2
    assert (await bench.use(Glob(), pattern="b.py", path="src")).for_model == "src/deep/b.py"
    assert (await bench.use(Glob(), pattern="*.nope")).for_model == "No files found"
    assert (await bench.use(Glob(), pattern="*", path="nowhere")).is_error
    bench.environment["CLAUDE_CODE_GLOB_NO_IGNORE"] = "0"
    assert "ignored/e.py" not in text_of(await bench.use(Glob(), pattern="**/*.py"))


async def test_glob_shows_a_hundred_of_many(bench: ToolBench) -> None:
    await bench.use(Bash(), command="for i in $(seq 150); do : > f$i.txt; done; touch -d '2100-01-01' f7.txt")
    result = await bench.use(Glob(), pattern="*.txt")
    assert result.for_user["numFiles"] == 100
    assert result.for_user["filenames"][0] == "f7.txt"
    assert "the 100 newest of 150" in text_of(result)


async def test_contents_are_searched(bench: ToolBench) -> None:
    await put(
        bench,
        {
            "src/a.py": b"import os\ndef foo():\n    return os\n",
            "src/b.ts": b"foo: number\nFOO\n",
            "sp ace/c:1.txt": b"foo\n",
            "ignored/d.txt": b"foo\n",
            ".env": b"foo=1\n",
            ".gitignore": b"ignored\n",
            "bin": b"foo\0\xff",
        },
    )
    await bench.use(Bash(), command="git init -q; touch -d @100 src/a.py; touch -d @300 src/b.ts; touch -d @200 .env")
    files = await bench.use(Grep(), pattern="foo")
    assert files.for_user["filenames"][1:] == ["src/b.ts", ".env", "src/a.py"]
    assert text_of(files).startswith("Found 4 files\nsp ace/c:1.txt\n")
    lines = await bench.use(Grep(), pattern=r"foo\(", output_mode="content", **{"-C": 1})
    assert lines.for_model == "src/a.py-1-import os\nsrc/a.py:2:def foo():\nsrc/a.py-3-    return os"
    count = await bench.use(Grep(), pattern="foo", output_mode="count", path="src", **{"-i": True})
    assert count.for_model == "src/a.py:1\nsrc/b.ts:2\nFound 3 matching lines in 2 files."
    one = await bench.use(Grep(), pattern="foo", output_mode="content", path="src/b.ts", **{"-n": False})
    assert one.for_model == "src/b.ts:foo: number"
    assert (await bench.use(Grep(), pattern="foo", glob="*.{py,ts} !b*")).for_user["filenames"] == ["src/a.py"]
    assert (await bench.use(Grep(), pattern="foo", type="py")).for_user["filenames"] == ["src/a.py"]
    assert (await bench.use(Grep(), pattern="import.*foo", multiline=True)).for_user["numFiles"] == 1
    assert (await bench.use(Grep(), pattern="zzz")).for_model == "No files found"
    assert (await bench.use(Grep(), pattern="-e foo")).for_model == "No files found"


async def test_names_that_are_no_text_are_shown_as_such(bench: ToolBench) -> None:
    await bench.use(Bash(), command=r"echo foo > $'caf\xe9.txt'; echo foo > $'two\nlines.txt'")
    found = await bench.use(Glob(), pattern="*.txt")
    assert sorted(found.for_user["filenames"]) == [r"caf\xe9.txt", "two\nlines.txt"]
    lines = await bench.use(Grep(), pattern="foo", output_mode="content", glob="*.txt")
    assert lines.for_model == "caf\\xe9.txt:1:foo\ntwo\\nlines.txt:1:foo"


async def test_a_link_that_was_not_judged_is_not_followed(bench: ToolBench) -> None:
    await put(bench, {"real.png": png(2, 2), "secret.ipynb": b"{}"})
    await bench.use(Bash(), command="mkdir d; ln -s ../real.png d/link.png; ln -s . here")
    assert text_of(await bench.use(Read(), file_path="d/link.png")) == "<image>"
    for path in ("d/link.png", "here/real.png"):
        argv = (*TOOLBOX.helper, "image", str(ROOT / path))
        process = await bench.box.exec(Command(argv=argv, cwd=ROOT))
        items = [item async for item in process]
        assert isinstance(items[0], Stdout)
        assert b"cannot be opened" in items[0].data


async def test_the_tools_work_in_an_image_with_nothing_but_busybox(
    engine: Engine, busybox_image: ImageInfo, toolbox: Toolbox
) -> None:
    async with ContainerBox(box_spec(busybox_image, toolbox), engine) as box:
        await box.write(ROOT / "README", b"read me\n")
        bench = ToolBench(box=box, root=ROOT)
        assert text_of(await bench.use(Bash(), command="mkdir a && cd a && echo hi | grep -c .")) == "1"
        assert bench.state.cwd == ROOT / "a"
        await put(bench, {"small.png": png(2, 2), "doc.pdf": pdf(2)})
        assert (await bench.use(Grep(), pattern="read", path="..")).for_user["filenames"] == [str(ROOT / "README")]
        assert text_of(await bench.use(Glob(), pattern="../*.png")) == str(ROOT / "small.png")
        assert text_of(await bench.use(Read(), file_path="../small.png")) == "<image>"
        assert text_of(await bench.use(Read(), file_path="../doc.pdf")).endswith("pages 1-2 of 2.\n<document>")


async def test_what_cannot_be_searched_is_explained(bench: ToolBench) -> None:
    assert "unclosed group" in text_of(await bench.use(Grep(), pattern="("))
    assert "nope" in text_of(await bench.use(Grep(), pattern="x", type="nope"))
    assert "cannot be searched" in text_of(await bench.use(Grep(), pattern="x", path="/nowhere"))


async def test_many_matches_are_paged(bench: ToolBench) -> None:
    await bench.use(Bash(), command="seq 1 1000 > n.txt")
    search = {"pattern": ".", "output_mode": "content", "path": "n.txt"}
    first = await bench.use(Grep(), **search)
    assert first.for_user["numLines"] == 250
    assert text_of(first).endswith("[Entries 1-250 of 1000; go on with offset 250]")
    last = await bench.use(Grep(), **search, head_limit=2, offset=998)
    assert last.for_model == "n.txt:999:999\nn.txt:1000:1000"
    assert "No entries at this offset" in text_of(await bench.use(Grep(), **search, offset=2000))
