"""Changing one cell of a notebook in its JSON text: every byte outside what changes stays as it was. Pure.

Source: the notebook format, version 4 (cells with `source`, `outputs`, `execution_count`; ids from 4.5 on).
"""

from __future__ import annotations

import json
import re
from typing import Any

from runner.dataclass import dataclass

_WHITESPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()
_ESCAPED = re.compile(r"\\u(?!00[01])")
_NUMBERED = re.compile(r"cell-(\d{1,6})")


class NotebookError(ValueError):
    """The notebook, or the cell that was named, cannot be changed; the message is for the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A JSON value and where it stands in the text."""

    start: int
    end: int
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Notebook:
    """The text, its cells, and how it is laid out. `indent`: one step, "" for one line."""

    text: str
    cells: tuple[Span, ...]
    array: Span
    language: str
    has_ids: bool
    indent: str
    ascii_only: bool


def parse(text: str) -> Notebook:
    """Raises NotebookError for what is no notebook of format 4."""
    try:
        members = _members(text, _skip(text, 0))
        array = members["cells"]
        cells = tuple(_elements(text, array.start))
    except (ValueError, RecursionError, KeyError, IndexError) as error:
        raise NotebookError("The file is not a notebook of format 4: it has no list of cells.") from error
    if not all(isinstance(cell.value, dict) for cell in cells):
        raise NotebookError("The notebook holds a cell that is not an object.")
    major, minor = (_number(members, key) for key in ("nbformat", "nbformat_minor"))
    found = re.match(r"\{\r?\n([ \t]+)", text[_skip(text, 0) :])
    return Notebook(
        text=text,
        cells=cells,
        array=array,
        language=_language(members),
        has_ids=(major, minor) >= (4, 5),
        indent=found[1] if found else "",
        ascii_only=text.isascii() and _ESCAPED.search(text) is not None,
    )


def find(notebook: Notebook, cell_id: str) -> int:
    """The number of a cell, by its id or as `cell-N`. Raises NotebookError."""
    for number, cell in enumerate(notebook.cells):
        if cell.value.get("id") == cell_id:
            return number
    numbered = _NUMBERED.fullmatch(cell_id)
    if numbered and int(numbered[1]) < len(notebook.cells):
        return int(numbered[1])
    raise NotebookError(f"The notebook has no cell with ID {cell_id!r}.")


def source_of(cell: Span) -> str:
    """A cell's text, which may be kept as a list of lines."""
    source = cell.value.get("source", "")
    return "".join(map(str, source)) if isinstance(source, list) else str(source)


def replaced(notebook: Notebook, number: int, source: str, cell_type: str) -> str:
    """The text with another source in a cell. A code cell loses its outputs, which belonged to the old source."""
    cell = notebook.cells[number]
    old = cell.value
    if cell_type != old.get("cell_type"):
        kept = {key: value for key, value in old.items() if key not in {"outputs", "execution_count", "attachments"}}
        fresh = kept | {"cell_type": cell_type, "source": _source_like(old, source)} | _code_parts(cell_type)
        return _spliced(notebook.text, [(cell.start, cell.end, _dumped(notebook, fresh, depth=2))])
    values: dict[str, Any] = {"source": _source_like(old, source), **_code_parts(cell_type)}
    members = _members(notebook.text, cell.start)
    if not values.keys() <= members.keys():
        return _spliced(notebook.text, [(cell.start, cell.end, _dumped(notebook, old | values, depth=2))])
    changes = [
        (members[key].start, members[key].end, _dumped(notebook, value, depth=3))
        for key, value in values.items()
        if members[key].value != value
    ]
    return _spliced(notebook.text, sorted(changes))


def inserted(notebook: Notebook, number: int, source: str, cell_type: str, new_id: str) -> str:
    """The text with a new cell as number `number`."""
    model = notebook.cells[max(number - 1, 0)].value if notebook.cells else {"source": []}
    cell: dict[str, Any] = {"cell_type": cell_type}
    if cell_type == "code":
        cell["execution_count"] = None
    if notebook.has_ids:
        cell["id"] = new_id
    cell["metadata"] = {}
    if cell_type == "code":
        cell["outputs"] = []
    cell["source"] = _source_like(model, source)
    dumped = _dumped(notebook, cell, depth=2)
    pad, close = _break(notebook, 2), _break(notebook, 1)
    text, cells = notebook.text, notebook.cells
    if not cells:
        return _spliced(text, [(notebook.array.start, notebook.array.end, f"[{pad}{dumped}{close}]")])
    separator = "," + (pad or " ")
    if number:
        at = cells[number - 1].end
        return _spliced(text, [(at, at, separator + dumped)])
    at = cells[0].start
    return _spliced(text, [(at, at, dumped + separator)])


def deleted(notebook: Notebook, number: int) -> str:
    """The text without a cell."""
    cells, array = notebook.cells, notebook.array
    if len(cells) == 1:
        return _spliced(notebook.text, [(array.start, array.end, "[]")])
    if number:
        return _spliced(notebook.text, [(cells[number - 1].end, cells[number].end, "")])
    return _spliced(notebook.text, [(cells[0].start, cells[1].start, "")])


def _skip(text: str, at: int) -> int:
    found = _WHITESPACE.match(text, at)
    return found.end() if found else at


def _value(text: str, at: int) -> Span:
    value, end = _DECODER.raw_decode(text, at)
    return Span(start=at, end=end, value=value)


def _members(text: str, at: int) -> dict[str, Span]:
    """The members of the object that begins at `at`, with their places. Raises ValueError."""
    members: dict[str, Span] = {}
    if text[at] != "{":
        raise ValueError("no object")
    at = _skip(text, at + 1)
    while text[at] != "}":
        key = _value(text, at)
        at = _skip(text, key.end)
        if not isinstance(key.value, str) or text[at] != ":":
            raise ValueError("no member")
        member = _value(text, _skip(text, at + 1))
        members[key.value] = member
        at = _after_comma(text, member.end)
    return members


def _elements(text: str, at: int) -> list[Span]:
    """The elements of the array that begins at `at`."""
    elements: list[Span] = []
    if text[at] != "[":
        raise ValueError("no array")
    at = _skip(text, at + 1)
    while text[at] != "]":
        elements.append(_value(text, at))
        at = _after_comma(text, elements[-1].end)
    return elements


def _after_comma(text: str, at: int) -> int:
    at = _skip(text, at)
    return _skip(text, at + 1) if text[at] == "," else at


def _number(members: dict[str, Span], key: str) -> int:
    value = members[key].value if key in members else 0
    return value if isinstance(value, int) else 0


def _language(members: dict[str, Span]) -> str:
    metadata = members["metadata"].value if "metadata" in members else {}
    for key, inner in (("language_info", "name"), ("kernelspec", "language")):
        place = metadata.get(key) if isinstance(metadata, dict) else None
        if isinstance(place, dict) and isinstance(place.get(inner), str):
            return str(place[inner])
    return "python"


def _code_parts(cell_type: str) -> dict[str, Any]:
    return {"execution_count": None, "outputs": []} if cell_type == "code" else {}


def _source_like(cell: dict[str, Any], source: str) -> str | list[str]:
    """In the form that this notebook keeps its sources in."""
    return source if isinstance(cell.get("source"), str) else source.splitlines(keepends=True)


def _break(notebook: Notebook, depth: int) -> str:
    """A new line at a depth; nothing in a notebook of one line."""
    end = "\r\n" if "\r\n" in notebook.text else "\n"
    return end + notebook.indent * depth if notebook.indent else ""


def _dumped(notebook: Notebook, value: Any, *, depth: int) -> str:
    """A value laid out as the notebook is, standing at a depth."""
    dumped = json.dumps(value, ensure_ascii=notebook.ascii_only, indent=notebook.indent or None)
    return dumped.replace("\n", _break(notebook, depth)) if notebook.indent else dumped


def _spliced(text: str, changes: list[tuple[int, int, str]]) -> str:
    pieces, at = [], 0
    for start, end, put in changes:
        pieces += [text[at:start], put]
        at = end
    return "".join([*pieces, text[at:]])
