"""What a parsed command runs: wrappers taken off, code in arguments read too. Tables, and the walk over them.

Two directions. `readings` gives deny rules everything that might be run, by any way of unwrapping; `shown`
gives allow rules the one command that certainly is run, or the reason why that cannot be told.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache

from runner.dataclass import dataclass
from runner.policy.arguments import STDIN, behind_signs, code_in
from runner.policy.becoming import Values
from runner.policy.shell import parse
from runner.policy.words import Redirect, Simple, Word, names

_DEEPEST = 4
_MOST_WORDS = 120
_MOST_SIMPLES = 400


SHELLS = names("sh bash dash zsh ksh mksh ash fish csh tcsh rbash")
# They run the words that follow them, after options of their own.
_RUNNERS = names(
    "watch setsid ionice flock xargs env sudo doas su parallel strace ltrace script chroot unshare nsenter busybox "
    "toybox chrt taskset numactl prlimit setpriv runuser pkexec systemd-run dbus-run-session gdb valgrind perf "
    "firejail bwrap fakeroot proot unbuffer expect entr setarch linux32 linux64 daemonize start-stop-daemon sg newgrp "
    "exec coproc torify torsocks proxychains catchsegv cgexec time nice nohup stdbuf timeout command builtin noglob "
    "nocorrect trickle cpulimit watchexec faketime sshpass capsh screen tmux hyperfine chpst softlimit setuidgid gosu "
    "su-exec tini dumb-init sem ld.so ld-linux.so.2 ld-linux-x86-64.so.2 ld-linux-aarch64.so.1 just"
)
# The same, behind certain words of theirs (none named: anywhere).
_TOOLS: dict[str, frozenset[str]] = {
    "docker": names("exec run"),
    "podman": names("exec run"),
    "nerdctl": names("exec run"),
    "kubectl": names("exec run"),
    "devbox": names("run"),
    "direnv": names("exec"),
    "mise": names("exec x"),
    "asdf": names("exec"),
    "nix": names("run shell develop"),
    "npx": frozenset(),
    "bunx": frozenset(),
    "pnpx": frozenset(),
    "uvx": frozenset(),
    "pipx": names("run"),
    "uv": names("run"),
    "poetry": names("run"),
    "pipenv": names("run"),
    "hatch": names("run"),
    "rye": names("run"),
    "bundle": names("exec"),
    "npm": names("exec x"),
    "pnpm": names("exec dlx"),
    "yarn": names("exec dlx"),
    "find": names("-exec -execdir -ok -okdir"),
    "fd": names("-x -X --exec --exec-batch"),
    "ssh": frozenset(),
    "git": names("bisect"),
}
# Programs whose first word that is no option says what they do.
_WITH_COMMANDS = names(
    "git docker podman nerdctl kubectl helm npm pnpm yarn bun cargo go gh glab aws gcloud az terraform tofu systemctl "
    "apt apt-get pip pip3 uv poetry hg svn flyctl heroku vercel netlify firebase"
)
_MOST_OPTIONS = 20
# A word of theirs may be a script.
_EVALUATORS = names(
    "eval trap alias source . ssh su watch script parallel flock runuser env xargs at batch screen tmux"
)
_CALLED = _EVALUATORS - names(". source at batch alias trap")  # behind a wrapper these words are seldom commands
# What they do to the shell itself changes what comes after them, or their words are code.
_CHANGERS = names(
    "eval . source exec alias unalias trap set shopt enable let bind complete compgen hash fc history mapfile "
    "readarray read declare typeset local readonly export unset getopts coproc command builtin ulimit umask disown "
    "jobs bg fg kill dirs pushd popd suspend logout"
)
# Names of variables may hold subscripts, and these substitutions: `printf -v 'a[$(x)]' y`.
_ASSIGNERS = {"printf": re.compile(r"-v.*", re.DOTALL), **dict.fromkeys(("test", "["), re.compile(r"-[vR]"))}
_ASSIGNERS["wait"] = re.compile(r"-\w*p.*", re.DOTALL)
_QUIET_SET = re.compile(r"[-+][eufx]+|[-+][euf]*o|pipefail|errexit|nounset|xtrace")
_ACTIONS = re.compile(r"-(?:exec|execdir|ok|okdir|delete|fls|fprint0?|fprintf|files0-from)\b")
# Interpreters: letters of the options behind which code stands, and long ones.
_INLINE: dict[str, tuple[str, tuple[str, ...]]] = {
    "python": ("c", ()),
    "pypy": ("c", ()),
    "node": ("ep", ("--eval", "--print", "--import", "--require")),
    "nodejs": ("ep", ("--eval", "--print", "--import", "--require")),
    "bun": ("e", ("--eval", "--print")),
    "perl": ("eE", ()),
    "ruby": ("e", ()),
    "php": ("rRBE", ("--run",)),
    "lua": ("e", ()),
    "Rscript": ("e", ()),
    "osascript": ("e", ()),
}
_INTERPRETER = re.compile(r"(python|pypy|lua|ruby|perl|php|node|nodejs|bun|Rscript|osascript)(?:[\d.]*)")
# Beginnings of rules that let nearly anything be run.
BROAD = re.compile(
    r"(?:(?:\S*/)?(?:sh|bash|dash|zsh|ksh|fish|python[\d.]*|pypy\d?|node|nodejs|bun|deno|perl|ruby|php|lua|Rscript|awk|eval|"
    r"sudo|env|xargs|ssh|npx|bunx|pnpx|uvx|pipx|make|just|docker|podman) |"
    r"(?:npm|pnpm|yarn|bun|uv|poetry|pipenv|hatch|cargo|go) (?:run|exec|dlx|x) )"
)
_ASKS = names("--version --help -V -h")
_STREAMS = ("/dev/", "/proc/")
_AWKS = names("awk gawk mawk nawk")
_PLAIN_NAME = re.compile(r"[\w./+-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Everything that a command might run. `texts`: for rules on commands; `simples`: their words, but for
    what another tool (docker exec, find -exec) runs elsewhere or for each file; `whole`: all
    of it is understood, so that nothing else needs to be looked for in the text. `clear`: for each command that
    `parse` finds in the text itself, what `shown` makes of it.
    """

    texts: tuple[str, ...]
    simples: tuple[Simple, ...]
    clear: tuple[Simple, ...]
    redirects: tuple[Redirect, ...]
    whole: bool


@lru_cache(maxsize=256)
def readings(command: str) -> Reading:
    """Never raises."""
    found = _Found()
    found.script(command, 0)
    found.resolve()
    return Reading(
        texts=tuple(found.texts),
        simples=tuple(found.simples),
        clear=tuple(found.clear),
        redirects=tuple(found.redirects),
        whole=found.whole,
    )


class _Found:
    def __init__(self) -> None:
        self.texts: dict[str, None] = {}
        self.simples: list[Simple] = []
        self.clear: list[Simple] = []
        self.redirects: list[Redirect] = []
        self.whole = True
        self._values = Values()
        self._met: list[tuple[Simple, int]] = []

    def resolve(self) -> None:
        """Every command again, as it may read when it runs: by what the text itself says of its variables."""
        met: set[tuple[Word, ...]] = set()
        while self._met and len(met) < _MOST_SIMPLES:
            simple, depth = self._met.pop(0)
            for read in self._values.become(simple):
                if read.words not in met:
                    met.add(read.words)
                    self.whole = False
                    self.simple(read, depth, shown(read))
        self.redirects += [
            replace(redirect, word=word) for redirect in self.redirects for word in self._values.opened(redirect.word)
        ]

    def script(self, command: str, depth: int) -> None:
        script = parse(command)
        self._values.learn(script)
        self.whole = self.whole and not script.opaque
        self.redirects += script.redirects
        for simple in script.simples:
            clear = shown(simple)
            self.simple(self._moved(simple), depth, clear)
            if not depth:
                self.clear.append(clear)
        if (
            depth < _DEEPEST
            and len(script.simples) + len(script.strings) > 1
            and any(_reads_code(simple) or self._values.made(simple) for simple in script.simples)
        ):
            for code in self._values.fed(script):
                self.script(behind_signs(code), depth + 1)

    def simple(self, simple: Simple, depth: int, clear: Simple) -> None:
        """The command itself, what it wraps, and the code among its words; `clear`: what `shown` makes of it."""
        self._coded(code_in(simple), depth)
        if not simple.words:
            return
        self.whole = self.whole and not clear.opaque
        self._met.append((simple, depth))
        self._take(simple)
        words = simple.words
        if len(words) > _MOST_WORDS:
            words = words[: _MOST_WORDS // 2] + words[-_MOST_WORDS // 2 :]
        name = base(words[0])
        if name in _RUNNERS or name in SHELLS:
            for at in range(1, len(words)):
                self._take(replace(simple, words=words[at:]))
        elif _behind(name, words):
            for at in range(1, len(words)):
                self._texts(replace(simple, words=words[at:]))
        called = [base(word) for word in words]
        inner = called[1:] if name in _RUNNERS or _behind(name, words) else ()
        if name in _EVALUATORS or not SHELLS.isdisjoint(called) or not _CALLED.isdisjoint(inner):
            self.whole = False
            values = [word.value for word in words[1:] if word.value]
            self._coded((re.sub(r"^[\w.-]+=", "", value) for value in (*values, " ".join(values))), depth)

    def _moved(self, simple: Simple) -> Simple:
        """The command, in the directories that variables in a `cd` before it are known to name."""
        if all(move.value is not None for move in simple.moves):
            return simple
        moves = (
            move if move.value is not None else next(iter(self._values.opened(move)), move) for move in simple.moves
        )
        return replace(simple, moves=tuple(moves))

    def _coded(self, texts: Iterable[str], depth: int) -> None:
        """Text that may be run, but for a mere name."""
        for code in dict.fromkeys(texts):
            self.whole = False
            if depth < _DEEPEST and not _PLAIN_NAME.fullmatch(code):
                self.script(code, depth + 1)

    def _take(self, simple: Simple) -> None:
        self.simples.append(simple)
        self._texts(simple)

    def _texts(self, simple: Simple) -> None:
        if base(simple.words[0]) in _WITH_COMMANDS:
            for at in _behind_options(simple.words):
                self._texts(replace(simple, words=(simple.words[0], *simple.words[at:])))
        written, spaced = [w.source for w in simple.words], [_spaced(w) for w in simple.words]
        for texts in (written,) if written == spaced else (written, spaced):
            text = " ".join(" ".join(texts).split())
            self.texts[text] = None
            name, space, tail = text.partition(" ")
            if "/" in name and not name.endswith("/"):
                self.texts[posixpath.basename(name) + space + tail] = None


def _behind_options(words: tuple[Word, ...]) -> Iterator[int]:
    """Where the command of a program may begin behind options of the program's own: `git -C x push`."""
    for at in range(2, min(len(words), _MOST_OPTIONS)):
        option, before = words[at - 1].source.startswith("-"), words[at - 2].source.startswith("-")
        if words[at - 1].value == "--" or (not option and not (before and at > 2)):
            return
        if not words[at].source.startswith("-"):
            yield at


def _spaced(word: Word) -> str:
    """What the word is, or may become: `{rm,-rf}` and `rm$IFS-rf` become words of their own."""
    if word.value is not None:
        return word.value
    return re.sub(r"[{},\"']|\$\{?IFS\}?", " ", word.source)


def base(word: Word) -> str:
    """The name of the program that a word in command position calls."""
    return (word.value or "").rpartition("/")[2]


def _reads_code(simple: Simple) -> bool:
    return bool(simple.words) and base(simple.words[0]) in STDIN


def _behind(name: str, words: tuple[Word, ...]) -> bool:
    wanted = _TOOLS.get(name)
    return wanted is not None and (not wanted or any(word.value in wanted for word in words[1:]))


def shown(simple: Simple) -> Simple:
    """The command without the wrappers that change nothing about it: `timeout 5 nice make` is `make`. `opaque`
    is set where an allow rule with a wildcard, or the read-only list, cannot speak of it.
    """
    while not simple.opaque and simple.words:
        inner = _stripped(simple)
        if inner is None:
            break
        simple = replace(simple, words=inner, appended=simple.appended or base(simple.words[0]) == "xargs")
    if not simple.opaque and simple.words and (reason := obscure(simple)):
        return replace(simple, opaque=reason)
    return simple


# Wrappers whose own words are fully understood: options, then (of timeout) a duration, then the command.
_OPTIONS = {
    "timeout": r"(?:(?:-v|--verbose|--foreground|--preserve-status|-[sk] ?\w+|--(?:signal|kill-after)=\w+) )*"
    r"[\d.]+[smhd]? ",
    "time": r"(?:-p )?",
    "nice": r"(?:-n ?-?\d+ |-\d+ |--adjustment=-?\d+ )?",
    "nohup": r"",
    "stdbuf": r"(?:-[ioe] ?[L\d]\w* )+",
    "command": r"",
    "builtin": r"",
    "noglob": r"",
    "xargs": r"",
}
_PREFIXES = {name: re.compile(options + r"(?![-\s])") for name, options in _OPTIONS.items()}


def _stripped(simple: Simple) -> tuple[Word, ...] | None:
    """The words behind a wrapper of the table; None where there is none, or where it does more."""
    wrapper = _PREFIXES.get(simple.words[0].value or "")
    if wrapper is None or simple.words[0].source != simple.words[0].value:
        return None
    values: list[str] = []
    for word in simple.words[1:8]:
        if word.value is None or not word.value or " " in word.value:
            break
        values.append(word.value)
    text = " ".join(values) + " "
    found = wrapper.match(text)
    if found is None or found.end() >= len(text):
        return None
    return simple.words[1 + text[: found.end()].count(" ") :]


def obscure(simple: Simple) -> str:
    """Why the words of a command do not tell what it does: it runs some of them, or reads code."""
    name = base(simple.words[0])
    rest = simple.words[1:]
    if name == "set" and all(_QUIET_SET.fullmatch(word.value or "") for word in rest):
        return ""
    if name in _CHANGERS:
        return f"{name} changes what the shell does"
    if name in _RUNNERS:
        return f"{name} runs its arguments"
    if name in SHELLS:
        return _shell(name, rest)
    return _by_options(name, rest)


def _by_options(name: str, rest: tuple[Word, ...]) -> str:
    """The same of commands that do so only with certain options."""
    if name in _ASSIGNERS:
        if any(word.value is None or _ASSIGNERS[name].fullmatch(word.value) for word in rest[:1]):
            return f"{name} may read code from a variable's name"
    elif name == "find":
        if any(word.value is None or _ACTIONS.match(word.value) for word in rest):
            return "find may run or write what its arguments say"
    elif name in {"fd", "fdfind"}:
        if any(word.value is None or re.match(r"-\w*[xX]|--exec", word.value) for word in rest):
            return f"{name} may run what its arguments say"
    elif name in _AWKS:
        if any(word.value is None or re.search(r"system|getline|[|>]", word.value) for word in rest):
            return f"{name} may run or write what its arguments say"
    elif (found := _INTERPRETER.fullmatch(name)) is not None:
        return _inline(name, _INLINE[found[1]], rest)
    return ""


def _shell(name: str, rest: tuple[Word, ...]) -> str:
    """A shell is clear when it runs a script by its name."""
    for word in rest:
        if word.value is None:
            break
        if not word.value.startswith(("-", "+")):
            return "" if not word.value.startswith(_STREAMS) else f"{name} reads code"
        if not re.fullmatch(r"-[euxvn]+", word.value):
            break
    return f"{name} reads code"


def _inline(name: str, options: tuple[str, tuple[str, ...]], rest: tuple[Word, ...]) -> str:
    """An interpreter is clear when it runs a file or a module by its name."""
    letters, longs = options
    for word in rest:
        value = word.value
        if value is None:
            break
        if value.startswith(_STREAMS):
            break
        if value in _ASKS or value == "-m" or not value.startswith("-"):
            return ""
        if value == "-" or value.startswith(longs or "\0"):
            break
        if not value.startswith("--") and any(letter in value for letter in letters):
            break
    return f"{name} reads code"
