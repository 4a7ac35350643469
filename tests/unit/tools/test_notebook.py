"""NotebookEdit changes one cell and no other byte."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.tools import notebook
from runner.tools.notebookedit import NotebookEdit
from tests.support.toolbench import ToolBench, text_of

CELLS = st.lists(
    st.fixed_dictionaries(
        {
            "cell_type": st.sampled_from(["code", "markdown"]),
            "metadata": st.dictionaries(st.text(max_size=3), st.floats(allow_nan=False), max_size=2),
            "source": st.one_of(st.text(max_size=20), st.text(max_size=20).map(lambda t: t.splitlines(keepends=True))),
        }
    ),
    max_size=5,
)
INDENTS = st.sampled_from([None, 1, 2, 4, "\t"])


def book_of(cells: list[dict[str, Any]], minor: int = 5) -> dict[str, Any]:
    for number, cell in enumerate(cells):
        cell["id"] = f"id{number}"
        if cell["cell_type"] == "code":
            cell |= {"execution_count": number, "outputs": [{"output_type": "stream", "name": "stdout", "text": "x"}]}
    return {"cells": cells, "metadata": {"a": [1.0, 1e5]}, "nbformat": 4, "nbformat_minor": minor}


@given(cells=CELLS, indent=INDENTS, ascii_only=st.booleans(), source=st.text(max_size=20), data=st.data())
def test_each_edit_is_the_same_as_editing_the_object(
    cells: list[dict[str, Any]], indent: int | str | None, ascii_only: bool, source: str, data: st.DataObject
) -> None:
    book = book_of(cells)
    text = json.dumps(book, indent=indent, ensure_ascii=ascii_only) + "\n"
    parsed = notebook.parse(text)
    in_its_form = text == json.dumps(book, indent=indent, ensure_ascii=parsed.ascii_only) + "\n"
    mode = data.draw(st.sampled_from(["insert", "replace", "delete"] if cells else ["insert"]))
    number = data.draw(st.integers(0, len(cells) - (mode != "insert")))
    if mode == "insert":
        done = notebook.inserted(parsed, number, source, "code", "fresh")
        cell = json.loads(done)["cells"][number]
        assert (cell["id"], "".join(cell["source"])) == ("fresh", source)
        assert cell["outputs"] == []
        book["cells"].insert(number, cell)
    elif mode == "delete":
        done = notebook.deleted(parsed, number)
        del book["cells"][number]
    else:
        kind = cells[number]["cell_type"]
        done = notebook.replaced(parsed, number, source, kind)
        old = cells[number]["source"]
        cells[number]["source"] = source if isinstance(old, str) else source.splitlines(keepends=True)
        if kind == "code":
            cells[number] |= {"execution_count": None, "outputs": []}
    assert json.loads(done) == book
    if in_its_form:
        assert done == json.dumps(book, indent=indent, ensure_ascii=parsed.ascii_only) + "\n"


def test_odd_layout_outside_the_cell_stays_byte_for_byte() -> None:
    text = (
        '{ "z":1.50,\r\n"cells" :[ {"source":"a" ,"cell_type":"raw"},{"cell_type":"markdown","source":[]}]  , "q":1e2}'
    )
    parsed = notebook.parse(text)
    assert notebook.replaced(parsed, 0, "b", "raw") == text.replace('"a"', '"b"')
    assert notebook.deleted(parsed, 1) == text.replace(',{"cell_type":"markdown","source":[]}', "")


async def read_first(bench: ToolBench, file: Path) -> None:
    path = PurePosixPath(file)
    bench.state.seen[path] = await bench.box.stat(path)


async def test_a_cell_is_replaced_by_its_id(bench: ToolBench, root: Path) -> None:
    file = root / "n.ipynb"
    cells = [{"cell_type": "code", "metadata": {}, "source": ["old\n", "code"]}]
    text = json.dumps(book_of(cells), indent=1) + "\n"
    file.write_text(text)
    await read_first(bench, file)
    result = await bench.use(NotebookEdit(), notebook_path=str(file), cell_id="id0", new_source="new\ncode")
    assert json.loads(file.read_text())["cells"][0]["source"] == ["new\n", "code"]
    assert result.for_user == {
        "new_source": "new\ncode",
        "old_source": "old\ncode",
        "cell_id": "id0",
        "cell_type": "code",
        "language": "python",
        "edit_mode": "replace",
        "error": "",
        "notebook_path": str(file),
        "original_file": text,
        "updated_file": file.read_text(),
    }


async def test_old_notebooks_name_their_cells_by_number(bench: ToolBench, root: Path) -> None:
    file = root / "n.ipynb"
    book = {"cells": [{"cell_type": "markdown", "metadata": {}, "source": "a"}], "nbformat": 4, "nbformat_minor": 2}
    file.write_text(json.dumps(book))
    await read_first(bench, file)
    arguments = {"notebook_path": str(file), "new_source": "b", "edit_mode": "insert", "cell_type": "code"}
    result = await bench.use(NotebookEdit(), cell_id="cell-0", **arguments)
    assert result.for_user["cell_id"] == "cell-1"
    assert "id" not in json.loads(file.read_text())["cells"][1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"cell_id": "nope"}, "no cell with ID 'nope'"),
        ({}, "name it with cell_id"),
        ({"edit_mode": "insert"}, "say its cell_type"),
        ({"cell_id": "cell-7", "edit_mode": "delete"}, "no cell with ID"),
    ],
)
async def test_what_cannot_be_edited_is_explained(
    bench: ToolBench, root: Path, arguments: dict[str, str], said: str
) -> None:
    file = root / "n.ipynb"
    file.write_text(json.dumps(book_of([])))
    await read_first(bench, file)
    result = await bench.use(NotebookEdit(), notebook_path=str(file), new_source="x", **arguments)
    assert said in text_of(result)


async def test_a_notebook_must_be_read_and_be_one(bench: ToolBench, root: Path) -> None:
    file = root / "n.ipynb"
    file.write_text("{}")
    edit = {"notebook_path": str(file), "new_source": "x", "cell_id": "a"}
    assert "not been read" in text_of(await bench.use(NotebookEdit(), **edit))
    await read_first(bench, file)
    assert "not a notebook" in text_of(await bench.use(NotebookEdit(), **edit))
    assert "not a notebook" in text_of(await bench.use(NotebookEdit(), **edit | {"notebook_path": "a.py"}))
