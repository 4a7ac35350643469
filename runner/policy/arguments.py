"""Commands that run what stands among their arguments, in their environment, or on their input: programs with options
for it, as a table. For deny and ask rules only.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from itertools import pairwise

from runner.policy.words import Simple, names

# What of a program's words tells that others of them are commands.
_TELLING = {
    "git": r"-c|config|-x|--exec.*|foreach|filter-branch|difftool|-O.*|--open-files-in-pager.*|--upload-pack.*|"
    r"--receive-pack.*|--extcmd.*",
    "tar": r"--to-c.*|--checkpoint-a.*|-\w*[IF]|--use-c.*|--(?:info|new-volume)-script.*|--rsh.*",
    "rsync": r"-\w*e|--rsh.*|--rsync-path.*",
    "scp": r"-[oS].*",
    "sftp": r"-[oS].*",
    "zip": r"-TT|--unzip-command.*",
    "vi": r"-c|--cmd|-S|\+.*",
    "less": r"\+.*",
    "man": r"-[PH].*|--pager.*|--html.*",
    "gdb": r"-{1,2}(?:ex|eval-command|ix|x)\b.*",
    "make": r"-f|--eval.*|--file.*|[A-Z_]+=.*",
    "nix": r"--run|--command|-c",
    "deno": r"eval",
    "tsx": r"-[ep]|--eval|--print",
    "sort": r"--comp.*",
    "rg": r"--pre(?:=.*)?",
    "ag": r"--pager.*",
    "fzf": r"--preview.*|--bind.*",
    "psql": r"-c.*|--command.*",
    "mysql": r"-e.*|--execute.*",
    "sqlite3": r"\.(?:shell|system).*",
    "julia": r"-[eE]|--eval.*",
    "guile": r"-c",
    "emacs": r"-{1,2}(?:eval|execute).*",
    "pwsh": r"(?i:-c(?:ommand)?)",
    "split": r"--filter.*",
    "socat": r"(?i:exec|system|shell):.*",
    "nc": r"-[ec]|--sh-exec|--exec",
    "apt": r"-o.*",
    "expect": r"-\w*c",
    "capsh": r"-\w*c",
    "hyperfine": r".*",
    "nodemon": r"-x|--exec",
    "watchexec": r".*",
    "php": r"-[rRBE]|--run",
    "lua": r"-e",
    "busybox": r"-\w*c",
    "compgen": r"-C.*",
    "complete": r"-C.*",
    "mapfile": r"-C.*",
    "bind": r".*",
}
_SAME = {
    **dict.fromkeys(names("vim nvim view ex vimdiff gvim"), "vi"),
    **dict.fromkeys(names("gmake bmake"), "make"),
    **dict.fromkeys(names("nix-shell"), "nix"),
    **dict.fromkeys(names("ts-node bun node nodejs"), "tsx"),
    **dict.fromkeys(names("more most"), "less"),
    "readarray": "mapfile",
    **dict.fromkeys(names("ack bat"), "ag"),
    "mariadb": "mysql",
    "emacsclient": "emacs",
    "powershell": "pwsh",
    **dict.fromkeys(names("ncat netcat"), "nc"),
    **dict.fromkeys(names("apt-get dpkg aptitude"), "apt"),
    **dict.fromkeys(names("bsdtar gtar"), "tar"),
}
_PATTERNS = {name: re.compile(pattern, re.DOTALL) for name, pattern in _TELLING.items()}
_ALL = frozenset({*_TELLING, *_SAME, "env", "sed", "gsed"})
_BUILTINS = names("bind mapfile readarray complete compgen")
# They run what they read.
STDIN = names(
    "at batch crontab ed ex vi vim make sh bash dash zsh ksh mksh ash fish source . xargs parallel tclsh expect"
)
# Variables that programs take a command from.
_OBEYED = re.compile(
    r"\w*(?:EDITOR|PAGER|COMMAND|SSH|SHELL|ASKPASS|OPEN|EXEC|RSH|BROWSER|VISUAL|CMD)|BASH_ENV|ENV|PS[0-4]"
)
_BEFORE = re.compile(
    r"(?:-{1,2}[\w-]*[= ])?(?:[\w.-]+=)*(?:[\w.-]*:;|\\?[!:+|;@.-]+|(?i:exec|system|shell|spawn|command)[: ])*\s*"
)
_SED_RUNS = re.compile(r"(?:^|[;{}\n])[\d,$~!\s]*(?:/[^/]*/)?[,\s]*e\s+([^\n]+)", re.DOTALL)
_SED_REPLACES = re.compile(r"s(\W)(?:\\.|(?!\1).)*\1((?:\\.|(?!\1).)*)\1[\w]*e\w*", re.DOTALL)


def code_in(simple: Simple) -> Iterator[str]:
    """Text that the command itself, or what it calls, may run."""
    for name, word in simple.assigns:
        if word is not None and word.value and _OBEYED.fullmatch(name):
            yield word.value + " "  # a mere name is a command there
    if not simple.words:
        return
    name = posixpath.basename(simple.words[0].value or "")
    if name not in _ALL:
        return
    values = [word.value for word in simple.words[1:] if word.value]
    if name == "env":
        yield from (value[2:] for value in values if value.startswith("-S"))
    if name in {"sed", "gsed"}:
        for value in values:
            yield from _SED_RUNS.findall(value)
            yield from (found[1] for found in _SED_REPLACES.findall(value))
    pattern = _PATTERNS.get(_SAME.get(name, name))
    if pattern is None or not any(map(pattern.fullmatch, values)):
        return
    yield from _by_builtin(name, values) if name in _BUILTINS else _told(pattern, values)


def _told(pattern: re.Pattern[str], values: list[str]) -> Iterator[str]:
    """The words of a program that runs some of them; behind its option, or `=`, a mere name is a command too."""
    for before, value in pairwise(("", *values)):
        yield from (value, behind_signs(value))
        if pattern.fullmatch(before):
            yield value + " "
        if pattern.fullmatch(value) and "=" in value:
            yield value.partition("=")[2] + " "


def _by_builtin(name: str, values: list[str]) -> Iterator[str]:
    """Code that builtins of the shell keep for later: a mere name is a command there."""
    if name == "bind":  # `"\C-a": command`, or keys that are typed for the user
        yield from (value.partition(":")[2].strip(" \"'").replace("\\n", "\n") + " " for value in values)
    else:
        yield from (value.removeprefix("-C") + " " for value in values)


def behind_signs(text: str) -> str:
    """A command without what says that it is one: `!`, `alias.x=!`, `--to-command=`, `exec=`, `:!`."""
    before = _BEFORE.match(text)
    return text[before.end() :] if before is not None else text
