"""A shell command read without running it, by tree-sitter's grammar of bash: a convenience, never the boundary.

`parse` finds every simple command wherever it stands, what is redirected, and every reason why the
reading may not be what bash does. Where there is such a reason the command is opaque: no allow rule
with a wildcard and no read-only list takes it, and deny rules look at its text (`runner.policy.loose`).
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from importlib import import_module
from typing import Any

from runner.policy.signs import doubt_about
from runner.policy.tree import Reader
from runner.policy.words import Script

LONGEST = 10_000


@cache
def _parser() -> Any:
    # 30 ms to import: with the first command that is judged, not before.
    language = import_module("tree_sitter").Language(import_module("tree_sitter_bash").language())
    return import_module("tree_sitter").Parser(language)


@lru_cache(maxsize=256)
def parse(command: str) -> Script:
    """What the command would run. Never raises; of more than LONGEST characters nothing is read."""
    if len(command) > LONGEST:
        return Script(opaque="it is too long to be understood")
    try:
        source = command.encode()
    except UnicodeEncodeError:
        return Script(opaque="it is not text")
    if (odd := _ODD.search(command)) is not None:
        return Script(opaque=f"it holds the character {odd[0]!a}")
    if not command.isascii() and "{" in command and _WIDE.search(command, command.index("{")):
        return Script(opaque="it holds a letter behind a brace that ends the grammar's scanner")
    reader = Reader(source)
    root = _parser().parse(source).root_node
    if root.has_error:
        reader.doubt("it is not understood")
    try:
        reader.doubt(doubt_about(source, root))
        reader.read(root)
    except (IndexError, AttributeError):  # of what the grammar repairs, parts may be missing: then nothing is sure
        reader.doubt("it is not understood")
    return Script(
        simples=tuple(reader.simples),
        redirects=tuple(reader.redirects),
        opaque=reader.opaque,
        plain=reader.plain and not reader.opaque,
        assigned=tuple(reader.assigned),
        functions=tuple(reader.functions),
        strings=tuple(reader.strings),
    )


# tree-sitter-bash (0.25.1, its issue 337) looks such letters up in a table of 256 behind `{`: it reads beyond, or dies.
_WIDE = re.compile(r"[^\x00-\xff]")
# Control characters and white space of other kinds: bash and the grammar do not agree on them.
_ODD = re.compile(r"[^\S \t\n]|[\x00-\x08\x0b-\x1f\x7f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
