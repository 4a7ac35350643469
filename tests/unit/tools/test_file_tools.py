"""Write, Edit and MultiEdit: what they refuse, what they keep, what they tell."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from runner.effects import ReadPath, WritePath
from runner.tools.edit import Edit
from runner.tools.multiedit import MultiEdit
from runner.tools.read import Read
from runner.tools.write import Write
from tests.support.toolbench import ToolBench, text_of


async def test_a_new_file_is_written_with_its_directories(bench: ToolBench, root: Path) -> None:
    result = await bench.use(Write(), file_path=str(root / "a/b/c.txt"), content="hello\n")
    assert (root / "a/b/c.txt").read_bytes() == b"hello\n"
    assert result.for_user == {
        "type": "create",
        "filePath": str(root / "a/b/c.txt"),
        "content": "hello\n",
        "structuredPatch": [],
        "originalFile": None,
    }
    assert {type(effect) for effect in bench.effects} == {ReadPath, WritePath}


async def test_a_file_that_was_not_read_is_not_overwritten(bench: ToolBench, root: Path) -> None:
    file = root / "a.txt"
    file.write_text("precious\n")
    result = await bench.use(Write(), file_path=str(file), content="new\n")
    assert result.is_error
    assert "has not been read yet" in text_of(result)
    assert file.read_text() == "precious\n"


async def test_a_file_that_was_read_is_overwritten_and_the_patch_told(bench: ToolBench, root: Path) -> None:
    file = root / "a.txt"
    file.write_text("one\ntwo\nthree\n")
    await bench.use(Read(), file_path=str(file))
    result = await bench.use(Write(), file_path=str(file), content="one\n2\nthree\n")
    assert file.read_text() == "one\n2\nthree\n"
    assert result.for_user["originalFile"] == "one\ntwo\nthree\n"
    assert result.for_user["structuredPatch"] == [
        {"oldStart": 1, "oldLines": 3, "newStart": 1, "newLines": 3, "lines": [" one", "-two", "+2", " three"]}
    ]
    again = await bench.use(Write(), file_path=str(file), content="x")
    assert not again.is_error


async def test_a_file_changed_since_it_was_read_is_not_overwritten(bench: ToolBench, root: Path) -> None:
    file = root / "a.txt"
    file.write_text("one\n")
    await bench.use(Read(), file_path=str(file))
    file.write_text("somebody else's\n")
    result = await bench.use(Write(), file_path=str(file), content="mine\n")
    assert "changed since it was read" in text_of(result)
    assert file.read_text() == "somebody else's\n"


async def test_a_file_of_which_a_part_was_read_is_edited_but_not_overwritten(bench: ToolBench, root: Path) -> None:
    file = root / "a.txt"
    file.write_text("one\ntwo\nthree\n")
    await bench.use(Read(), file_path=str(file), limit=1)
    result = await bench.use(Write(), file_path=str(file), content="mine\n")
    assert "Only a part" in text_of(result)
    result = await bench.use(Edit(), file_path=str(file), old_string="three", new_string="3")
    assert not result.is_error
    assert (await bench.use(Write(), file_path=str(file), content="mine\n")).is_error


@pytest.mark.parametrize(
    ("before", "content", "after"),
    [
        (b"a\r\nb\r\n", "c\nd\n", b"c\r\nd\r\n"),
        (b"a\r\nb\n", "c\nd\n", b"c\nd\n"),
        (b"\xef\xbb\xbfa\n", "b\n", b"\xef\xbb\xbfb\n"),
        ("é\n".encode("latin-1"), "ü\n", "ü\n".encode("latin-1")),
        ("é\n".encode("latin-1"), "€\n", "€\n".encode()),
        (b"\xff\xfe" + "a\r\n".encode("utf-16-le"), "ü\n", b"\xff\xfe" + "ü\r\n".encode("utf-16-le")),
    ],
    ids=["crlf", "mixed", "mark", "latin-1", "latin-1 outgrown", "utf-16"],
)
async def test_writing_keeps_the_form_of_the_file(
    bench: ToolBench, root: Path, before: bytes, content: str, after: bytes
) -> None:
    file = root / "a.txt"
    file.write_bytes(before)
    file.chmod(0o750)
    await bench.use(Read(), file_path=str(file))
    result = await bench.use(Write(), file_path=str(file), content=content)
    assert not result.is_error
    assert file.read_bytes() == after
    assert file.stat().st_mode & 0o7777 == 0o750


async def test_an_edit_changes_only_what_matches(bench: ToolBench, root: Path) -> None:
    file = root / "a.py"
    file.write_bytes(b"\xef\xbb\xbfone\r\ntwo\nthree\r\nfour")
    await bench.use(Read(), file_path=str(file))
    bench.box.requests.clear()  # type: ignore[attr-defined]
    result = await bench.use(Edit(), file_path=str(file), old_string="two\nthree", new_string="two\n3")
    assert file.read_bytes() == b"\xef\xbb\xbfone\r\ntwo\n3\r\nfour"
    assert bench.box.requests == ["read", "write"]  # type: ignore[attr-defined]
    assert result.for_user == {
        "filePath": str(file),
        "oldString": "two\nthree",
        "newString": "two\n3",
        "originalFile": "one\r\ntwo\nthree\r\nfour",
        "structuredPatch": [
            {
                "oldStart": 1,
                "oldLines": 4,
                "newStart": 1,
                "newLines": 4,
                "lines": [" one\r", " two", "-three\r", "+3\r", " four", "\\ No newline at end of file"],
            }
        ],
        "userModified": False,
        "replaceAll": False,
    }
    assert text_of(result) == f"The file {file} has been updated."


async def test_an_edit_needs_a_read_first(bench: ToolBench, root: Path) -> None:
    file = root / "a.txt"
    file.write_text("one\n")
    result = await bench.use(Edit(), file_path=str(file), old_string="one", new_string="two")
    assert "has not been read yet" in text_of(result)
    assert file.read_text() == "one\n"


async def test_a_changed_file_is_edited_where_the_match_is_still_unique(bench: ToolBench, root: Path) -> None:
    file = root / "a.txt"
    file.write_text("one\n")
    await bench.use(Read(), file_path=str(file))
    file.write_text("zero\none\n")
    assert (await bench.use(Edit(), file_path=str(file), old_string="one", new_string="1", replace_all=True)).is_error
    result = await bench.use(Edit(), file_path=str(file), old_string="one", new_string="1")
    assert not result.is_error
    assert file.read_text() == "zero\n1\n"
    assert (await bench.use(Write(), file_path=str(file), content="unseen line lost")).is_error


async def test_an_empty_old_string_creates_but_never_overwrites(bench: ToolBench, root: Path) -> None:
    file = root / "new.txt"
    assert not (await bench.use(Edit(), file_path=str(file), old_string="", new_string="hi\n")).is_error
    assert file.read_text() == "hi\n"
    result = await bench.use(Edit(), file_path=str(file), old_string="", new_string="no\n")
    assert "has content" in text_of(result)
    empty = root / "empty.txt"
    empty.touch()
    assert not (await bench.use(Edit(), file_path=str(empty), old_string="", new_string="yes\n")).is_error
    assert empty.read_text() == "yes\n"


async def test_replace_all_tells_how_many(bench: ToolBench, root: Path) -> None:
    file = root / "a.txt"
    file.write_text("a b a b a\n")
    await bench.use(Read(), file_path=str(file))
    result = await bench.use(Edit(), file_path=str(file), old_string="a", new_string="c", replace_all=True)
    assert file.read_text() == "c b c b c\n"
    assert "3 occurrences" in text_of(result)


@pytest.mark.parametrize(
    ("data", "mode", "said"),
    [
        (b"a\0one", 0o644, "binary"),
        (b"one", 0o444, "read-only (mode 0444)"),
        (b"one", 0o4755, "setuid"),
        (b"one", 0o2755, "setgid"),
    ],
)
async def test_what_may_not_be_edited_is_refused(
    bench: ToolBench, root: Path, data: bytes, mode: int, said: str
) -> None:
    file = root / "a.bin"
    file.write_bytes(data)
    file.chmod(mode)
    result = await bench.use(Edit(), file_path=str(file), old_string="one", new_string="two")
    assert said in text_of(result)
    assert file.read_bytes() == data


async def test_a_letter_that_the_encoding_lacks_is_refused(bench: ToolBench, root: Path) -> None:
    file = root / "a.txt"
    file.write_bytes("grün\n".encode("latin-1"))
    await bench.use(Read(), file_path=str(file))
    result = await bench.use(Edit(), file_path=str(file), old_string="grün", new_string="€")
    assert "latin-1, which has no '€'" in text_of(result)
    assert file.read_bytes() == "grün\n".encode("latin-1")


async def test_directories_links_and_missing_files_are_explained(bench: ToolBench, root: Path) -> None:
    (root / "real.txt").write_text("one\n")
    (root / "link.txt").symlink_to("real.txt")
    edit = {"old_string": "one", "new_string": "two"}
    assert "not a regular file" in text_of(await bench.use(Edit(), file_path=str(root), **edit))
    assert "does not exist" in text_of(await bench.use(Edit(), file_path=str(root / "no"), **edit))
    await bench.use(Read(), file_path=str(root / "real.txt"))
    result = await bench.use(Edit(), file_path=str(root / "link.txt"), **edit)
    assert not result.is_error
    assert (root / "link.txt").is_symlink()
    assert (root / "real.txt").read_text() == "two\n"


async def test_hard_links_stay_joined(bench: ToolBench, root: Path) -> None:
    (root / "a").write_text("one\n")
    os.link(root / "a", root / "b")
    await bench.use(Read(), file_path="a")
    await bench.use(Edit(), file_path="a", old_string="one", new_string="two")
    assert (root / "b").read_text() == "two\n"


async def test_multiedit_makes_all_edits_in_order(bench: ToolBench, root: Path) -> None:
    file = root / "a.txt"
    file.write_text("one two two\n")
    await bench.use(Read(), file_path=str(file))
    edits = [
        {"old_string": "one", "new_string": "three"},
        {"old_string": "three two", "new_string": "four"},
        {"old_string": "two", "new_string": "2", "replace_all": True},
    ]
    result = await bench.use(MultiEdit(), file_path=str(file), edits=edits)
    assert file.read_text() == "four 2\n"
    assert "3 edits" in text_of(result)


async def test_multiedit_makes_none_when_one_does_not_fit(bench: ToolBench, root: Path) -> None:
    file = root / "a.txt"
    file.write_text("one\n")
    await bench.use(Read(), file_path=str(file))
    edits = [{"old_string": "one", "new_string": "two"}, {"old_string": "missing", "new_string": "x"}]
    result = await bench.use(MultiEdit(), file_path=str(file), edits=edits)
    assert text_of(result).startswith("<tool_use_error>Edit 2 of 2: old_string was not found")
    assert file.read_text() == "one\n"


@pytest.mark.parametrize("arguments", [{"file_path": ""}, {"file_path": "a\0b"}, {"file_path": "\ud800"}, {"extra": 1}])
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Write.args.model_validate({"file_path": "a", "content": "b"} | arguments)
