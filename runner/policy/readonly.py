"""The read-only commands, as data, and the few functions for those with a language of their own. Whatever an
option might do that is not known to be harmless makes a command unknown.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from runner.dataclass import dataclass
from runner.policy.tree import SAFE_VARIABLES
from runner.policy.words import Simple, Word, names


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """`letters`, `longs`: options that are refused, the long ones by any abbreviation too; `only`: letters of which
    all others are refused, long ones altogether. `paths` False: operands name no files; `most`: how many there may be.
    """

    letters: str = ""
    longs: tuple[str, ...] = ()
    only: str | None = None
    paths: bool = True
    most: int = 10_000


_FREE = Spec()
_TEXT = Spec(paths=False)
# The read-only set. Nothing here can write, run or reach the network with the options that are left.
_READ_ONLY: dict[str, Spec] = {
    **dict.fromkeys(
        names("cat head tail ls stat realpath readlink nl tac rev paste fold fmt cut expand unexpand"), _FREE
    ),
    **dict.fromkeys(names("comm cmp od join tsort sum cksum"), _FREE),
    **dict.fromkeys(
        names("basename dirname echo true false : id uname whoami which type pwd nproc arch groups"), _TEXT
    ),
    **dict.fromkeys(names("seq expr tty uptime free tr numfmt sleep"), _TEXT),
    **dict.fromkeys(names("exit return break continue shift wait"), _TEXT),
    **dict.fromkeys(
        names("md5sum sha1sum sha224sum sha256sum sha384sum sha512sum b2sum"), Spec(letters="c", longs=("check",))
    ),
    **dict.fromkeys(names("base64 base32 basenc"), Spec(only="diw0123456789")),
    **dict.fromkeys(names("printf test ["), Spec(letters="vR", paths=False)),
    "df": Spec(),
    "wc": Spec(longs=("files0-from",)),
    "du": Spec(letters="X", longs=("files0-from", "exclude-from")),
    "sort": Spec(
        letters="oT", longs=("output", "temporary-directory", "compress-program", "files0-from", "random-source")
    ),
    "uniq": Spec(most=1),
    "diff": Spec(letters="lXS", longs=("paginate", "exclude-from", "from-file", "to-file", "starting-file")),
    "file": Spec(only="bhiLNkp0"),
    "tree": Spec(only="aAdfLIPsughDCFprtinNqQJX0123456789"),
    "ps": Spec(only="AaefFlHjuxwTLopCtk", paths=False),
    "hostname": Spec(only="fsiIdA", paths=False, most=0),
}
_GREPS = names("grep egrep fgrep")
_GREP = Spec(letters="f", longs=("file", "exclude-from"))
_RG = Spec(only="nilcvwxSsFUHhNepgtTABCmoIPq0123456789")
_RG_LONG = names(
    "line-number no-line-number ignore-case smart-case case-sensitive files-with-matches files-without-match count "
    "count-matches invert-match word-regexp line-regexp fixed-strings multiline with-filename no-filename regexp glob "
    "iglob type type-not type-list after-context before-context context max-count only-matching hidden no-hidden "
    "no-ignore no-ignore-vcs files json stats sort sortr color colors heading no-heading column max-depth trim pcre2 "
    "quiet null version help no-messages no-config passthru replace text"
)
_FIND = names(
    "-name -iname -path -ipath -wholename -iwholename -regex -iregex -regextype -type -xtype -maxdepth -mindepth "
    "-depth -size -empty -mtime -mmin -atime -amin -ctime -cmin -newermt -perm -user -group -uid -gid -links -inum "
    "-readable -writable -executable -not -and -or -a -o -print -print0 -printf -prune -quit -true -false -mount "
    "-xdev -daystart -ls -P ! ( ) ,"
)
_SED_AT = r"(?:\d+|\$|/(?:[^/\\\n]|\\[^\n])*/)"
_SED_PRINTS = re.compile(rf"{_SED_AT}?(?:,{_SED_AT})?[pdq=]|s/(?:[^/\\\n]|\\[^\n])*/(?:[^/\\\n]|\\[^\n])*/[gpI0-9]*")
_PRINTS = names("cat head tail nl tac rev paste fold fmt cut expand unexpand od")  # a link to anywhere would be shown
_GLOB_IS_SAFE = names("ls wc du stat file realpath readlink basename dirname")
_GLOB = re.compile(r"[^/]*[*?\[]")


def reads(simple: Simple) -> tuple[str, ...] | None:
    """The paths, as written, that a command of the read-only set reads; None when it is not known only to read.
    `simple` is as `runs.shown` gives it.
    """
    if not is_clear(simple) or not all(name in SAFE_VARIABLES for name, _ in simple.assigns):
        return None
    name, words = simple.words[0].value or "", simple.words[1:]
    if simple.words[0].source != name or any(_escaped(word) for word in words):
        return None
    if (special := _SPECIAL.get(name)) is not None:
        return special(words)
    spec = _READ_ONLY.get(name)
    return _by_table(name, words, spec) if spec is not None else None


def _by_table(name: str, words: tuple[Word, ...], spec: Spec) -> tuple[str, ...] | None:
    operands = operands_of(words, spec)
    if operands is None or len(operands) > spec.most or any(word.glob and _shows(name, word) for word in operands):
        return None
    return paths_of(operands) if spec.paths else ()


def _shows(name: str, word: Word) -> bool:
    """Whether what a glob finds may be shown, or taken for an option."""
    return name in _PRINTS or (word.source[0] in "*?[" and name not in _GLOB_IS_SAFE)


def _date(words: tuple[Word, ...]) -> tuple[str, ...] | None:
    """It sets the clock, unless its operand is a format."""
    operands = operands_of(words, Spec(letters="sfr", longs=("set", "file", "reference")))
    return () if operands is not None and all((word.value or "").startswith("+") for word in operands) else None


def _cd(words: tuple[Word, ...]) -> tuple[str, ...] | None:
    operands = operands_of(words, Spec(only=""))
    return paths_of(operands) if operands and len(words) == 1 and not words[0].glob else None


def _escaped(word: Word) -> bool:
    """A backslash is where readings of a shell differ most: only those of `find` are believed here."""
    return "\\" in word.source and not re.fullmatch(r"\\[();!]", word.source) and not word.source.startswith("'")


def is_clear(simple: Simple) -> bool:
    """Whether every word is known and is what the command gets."""
    return (
        bool(simple.words)
        and not simple.opaque
        and not simple.appended
        and all(word.value is not None for word in simple.words)
    )


def paths_of(operands: list[Word]) -> tuple[str, ...]:
    """Of a glob, which cannot be resolved, the directory in front of it."""
    found = []
    for word in operands:
        value = word.value or ""
        value = (_GLOB.split(value, maxsplit=1)[0] or ".") if word.glob else value
        # A `~` that quotes keep from being expanded is a name like any other.
        found.append(value if word.source.startswith("~") or not value.startswith("~") else f"./{value}")
    return tuple(found)


def operands_of(words: tuple[Word, ...], spec: Spec) -> list[Word] | None:
    """The words that are no options; None when an option is refused."""
    found: list[Word] = []
    for at, word in enumerate(words):
        value = word.value or ""
        if value == "--":
            return found + list(words[at + 1 :])
        if not value.startswith("-") or value == "-":
            found.append(word)
        elif word.glob or _refused(value, spec):
            return None
    return [word for word in found if word.value != "-"]


def _refused(option: str, spec: Spec) -> bool:
    if option.startswith("--"):
        name = option[2:].partition("=")[0]
        return spec.only is not None or any(bad.startswith(name) for bad in spec.longs)
    letters = set(option[1:])
    return not (
        option.isascii() and letters.isdisjoint(spec.letters) and (spec.only is None or letters <= {*spec.only})
    )


def _grep(words: tuple[Word, ...]) -> tuple[str, ...] | None:
    return _searched(words, _GREP)


def _rg(words: tuple[Word, ...]) -> tuple[str, ...] | None:
    return _searched(words, _RG)


def _searched(words: tuple[Word, ...], spec: Spec) -> tuple[str, ...] | None:
    """Grep and rg: the first operand is the pattern, unless an option gives it."""
    longs = [w.value[2:].partition("=")[0] for w in words if w.value and w.value.startswith("--") and w.value != "--"]
    if spec.only is not None:
        if not _RG_LONG.issuperset(longs):
            return None
        words = tuple(w for w in words if not (w.value or "").startswith("--") or w.value == "--")
    operands = operands_of(words, spec)
    if operands is None:
        return None
    given = any(re.match(r"-[^-]*e", w.value or "") for w in words) or any("regexp".startswith(long) for long in longs)
    if spec is _RG and "files" in longs:
        given = True
    files = operands if given else operands[1:]
    if any(word.glob and (word.value or "")[0] in "*?[" for word in operands):
        return None
    return paths_of(files) or (".",)


def _find(words: tuple[Word, ...]) -> tuple[str, ...] | None:
    paths: list[Word] = []
    tests = False
    for word in words:
        value = word.value or ""
        if word.glob:
            return None
        if value.startswith("-") or value in {"!", "(", ")", ","}:
            if value not in _FIND and not re.fullmatch(r"-\d+", value):
                return None
            tests = True
        elif not tests:
            paths.append(word)
    return paths_of(paths) or (".",)


def _sed(words: tuple[Word, ...]) -> tuple[str, ...] | None:
    """Sed that prints: no option but -n, -E, -r and -s, and a script of the plainest commands."""
    operands = operands_of(words, Spec(only="nErs"))
    if not operands or operands[0].glob or not prints(operands[0].value or ""):
        return None
    if any(word.glob for word in operands):
        return None
    return paths_of(operands[1:])


def prints(script: str) -> bool:
    """Whether a sed script does nothing but print, delete and replace."""
    return all(_SED_PRINTS.fullmatch(part.strip()) for part in re.split(r";(?=[\s\d$,]*[pdq=]|\s*s/)", script))


_SPECIAL: dict[str, Callable[[tuple[Word, ...]], tuple[str, ...] | None]] = {
    **dict.fromkeys(_GREPS, _grep),
    "rg": _rg,
    "find": _find,
    "sed": _sed,
    "date": _date,
    "cd": _cd,
}
