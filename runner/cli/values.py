"""Reading what users type: sizes, rule lists, variadic flags, prompts from files and pipes."""

from __future__ import annotations

import os
import re
import select
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from runner.errors import UsageError

PROMPT_LIMIT = 10 << 20
STDIN_WAIT = 3.0
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_RULE = re.compile(r"(?:[A-Z]\w*|mcp__[\w*-]+)(?:\(.*\))?(?:[,\s].*)?", re.DOTALL)


def parse_size(text: str) -> int:
    """Bytes of `512m`, `2g`, `1.5GiB`, `1048576`. Raises UsageError."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{text!r} is not a size (512m, 2g, 1.5g)")
    return int(float(found[1]) * _UNITS[found[2].lower()])


def split_rules(values: Iterable[str]) -> tuple[str, ...]:
    """Rules or tool names, split at commas and white space that stand outside parentheses."""
    rules: list[str] = []
    for value in values:
        depth, start = 0, 0
        for index, letter in enumerate(value):
            depth += (letter == "(") - (letter == ")")
            if depth <= 0 and (letter == "," or letter.isspace()):
                rules.append(value[start:index])
                start = index + 1
        rules.append(value[start:])
    return tuple(rule.strip() for rule in rules if rule.strip())


def repeat_variadic(arguments: list[str]) -> list[str]:
    """`--allowedTools A B` as `--allowedTools A --allowedTools B`, as existing scripts write it. Only
    what looks like a rule (or, for --add-dir, a path) is taken, so that a prompt behind it stays one.
    """
    looks = {
        "--allowedTools": _is_rule,
        "--allowed-tools": _is_rule,
        "--disallowedTools": _is_rule,
        "--disallowed-tools": _is_rule,
        "--tools": _is_rule,
        "--add-dir": _is_path,
    }
    result: list[str] = []
    flag = ""
    valued = False
    for index, argument in enumerate(arguments):
        if argument == "--":
            return result + arguments[index:]
        if argument in looks:
            flag, valued = argument, False
        elif argument.startswith("-"):
            flag = ""
        elif flag and valued and looks[flag](argument):
            result.append(flag)
        elif flag and not valued:
            valued = True
        else:
            flag = ""
        result.append(argument)
    return result


def read_prompt(words: Iterable[str], file: Path | None) -> str:
    """The prompt: the words, the file (`-` is standard input), and what is piped in, in this order.
    Raises UsageError when there is none, or it is too long or no UTF-8.
    """
    text = " ".join(words)
    parts = [text] if text.strip() else []
    piped = file is not None and str(file) == "-"
    if file is not None and not piped:
        parts.append(_read_file(file))
    if piped or _has_input(sys.stdin.buffer, wait=STDIN_WAIT if parts else None):
        parts.append(_decode(sys.stdin.buffer.read(PROMPT_LIMIT + 1), "standard input"))
    prompt = "\n\n".join(part for part in parts if part.strip())
    if not prompt:
        raise UsageError('there is no prompt: fumehood "what to do" (see fumehood --help)')
    return prompt


def _read_file(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return _decode(opened.read(PROMPT_LIMIT + 1), str(file))
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error


def _decode(data: bytes, name: str) -> str:
    if len(data) > PROMPT_LIMIT:
        raise UsageError(f"{name} is longer than {PROMPT_LIMIT >> 20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is not UTF-8 text") from error


def _has_input(stream: BinaryIO, *, wait: float | None) -> bool:
    """Whether something is piped in. With a prompt given already, an open pipe that stays silent
    (a script's own standard input) is waited for at most `wait` seconds.
    """
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (OSError, ValueError):
        return False
    if stat.S_ISREG(mode):
        return True
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return False
    return bool(select.select([stream], [], [], wait)[0])


def _is_rule(text: str) -> bool:
    return _RULE.fullmatch(text) is not None


def _is_path(text: str) -> bool:
    return text.startswith(("/", "./", "../", "~")) or Path(text).is_dir()
