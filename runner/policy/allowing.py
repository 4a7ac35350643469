"""What allow rules let pass, in the narrowest reading: every command of a line, every file that it touches."""

from __future__ import annotations

from dataclasses import field
from pathlib import PurePosixPath
from typing import TypeVar

from runner.dataclass import dataclass
from runner.effects import ConnectHost, Decision, Effect, Mode, Place, ReadPath, RunCommand, Verdict, WritePath
from runner.policy.commands import NOWHERE, Seen, seen
from runner.policy.index import RuleIndex, covering
from runner.policy.modes import editable, readable, refused, verdict
from runner.policy.patterns import CommandPattern
from runner.policy.places import absolute
from runner.policy.rules import NETWORK, SHELLS, Rule
from runner.policy.runs import BROAD
from runner.policy.shell import parse
from runner.policy.tree import SAFE_VARIABLES
from runner.policy.words import Redirect, Script, Simple, Word

E = TypeVar("E", ReadPath, WritePath)


@dataclass(slots=True, kw_only=True)
class Allowing:
    """One call. `used` fills with the rules that let something of it pass."""

    index: RuleIndex
    mode: Mode
    tool: str
    place: Place
    effects: tuple[Effect, ...]
    used: dict[Rule, None] = field(default_factory=dict)

    def rule(self, effect: Effect | None) -> Rule | None:
        """The rule that allows an effect that is no command."""
        found = self._bare()
        if self.mode is Mode.PLAN and isinstance(effect, WritePath):
            return None
        if found is None and isinstance(effect, ReadPath | WritePath):
            found = covering(self.index, effect, self.tool)
        if found is None and isinstance(effect, ConnectHost) and self.tool in {"WebFetch", NETWORK}:
            fitting = self.index.covering(effect)
            fitting += self.index.on_host(effect.host) if self.tool == "WebFetch" else ()
            found = min(fitting, key=lambda rule: rule.order, default=None)
        return self._use(found)

    def _use(self, rule: Rule | None) -> Rule | None:
        if rule is not None:
            self.used[rule] = None
        return rule

    def _bare(self) -> Rule | None:
        """A rule on every use of the tool; of those that say too much modes auto and plan take no notice."""
        if self.mode in _CAREFUL and self.tool in {*SHELLS, "Agent"}:
            return None
        return min(self.index.bare(self.tool), key=lambda rule: rule.order, default=None)

    def command(self, effect: RunCommand) -> Verdict:
        """What rules, the read-only list and the mode make of a command."""
        if (rule := self._bare() or self._exact(effect.command)) is not None:
            return self._by(rule)
        script = parse(effect.command)
        if script.opaque or not (script.simples or script.redirects):
            return refused(self.mode, effect, f"no rule allows it as a whole, and {script.opaque or 'it is empty'}")
        rules: list[Rule] = []
        why = next(filter(None, (self._why_not(one, script, effect, rules) for one in seen(effect.command))), "")
        for redirect in () if why else script.redirects:
            if not self._opens(redirect, effect.cwd):
                why = f"no rule allows what it opens, {_short(redirect.word.source)}"
        if why:
            return refused(self.mode, effect, why)
        if rules:
            return self._by(min(rules, key=lambda rule: rule.order))
        return verdict(Decision.ALLOW, self.mode, "read-only, or an edit that the mode allows")

    def _why_not(self, one: Seen, script: Script, effect: RunCommand, rules: list[Rule]) -> str:
        """Why one command of the line may not run; "" when it may, by the rule that is added to `rules` or without."""
        if (found := self._covered(one.clear)) is not None:
            rules.append(found)
            return ""
        if self._harmless(one, script, effect):
            return ""
        why = f" exactly, and {one.clear.opaque}" if one.clear.opaque else ""
        return f"no rule allows `{_short(one.simple.text)}`{why}"

    def _by(self, rule: Rule) -> Verdict:
        self.used[rule] = None
        return Verdict(
            decision=Decision.ALLOW,
            source=rule.source.layer,
            rule=rule.text,
            file=rule.source.file,
            line=rule.source.line,
            reason=f"allowed by rule {rule.text}",
        )

    def _exact(self, command: str) -> Rule | None:
        """A rule without `*` that is the whole line, understood or not."""
        text = " ".join(command.split())
        found = (rule for rule in self._commands(text) if not _wild(rule))
        return min(found, key=lambda rule: rule.order, default=None)

    def _commands(self, text: str) -> list[Rule]:
        if self.tool not in SHELLS:
            return []
        return [rule for rule in self.index.commands(text) if not (self.mode in _CAREFUL and _broad(rule))]

    def _covered(self, simple: Simple) -> Rule | None:
        """The rule for one command; where its text does not tell what runs, only one that is exactly that text."""
        if not simple.words or not all(name in SAFE_VARIABLES for name, _ in simple.assigns):
            return None
        found = [
            rule
            for rule in self._commands(" ".join(simple.text.split()))
            if not (simple.opaque if _wild(rule) else simple.appended)
        ]
        return self._use(min(found, key=lambda rule: rule.order, default=None))

    def _harmless(self, one: Seen, script: Script, effect: RunCommand) -> bool:
        """Of the read-only set, and reads where the mode reads; or of the editing set in a mode that edits."""
        simple = one.clear
        if not simple.words:
            return True
        paths = one.reads
        # A bare `cat` hands on what it is given: `git commit -m "$(cat <<'E' …)"`.
        quiet = simple.words[0].value in _QUIET or [word.value for word in simple.words] == ["cat"]
        if paths is not None and (script.plain or quiet):
            return not effect.background and all(self._readable(path, simple.moves, effect.cwd) for path in paths)
        paths = one.edits if script.plain else None
        return paths is not None and all(self._writable(path, simple.moves, effect.cwd) for path in paths)

    def _opens(self, redirect: Redirect, cwd: PurePosixPath) -> bool:
        value = redirect.word.value
        if value in NOWHERE:
            return True
        if not value or redirect.word.glob or (value.startswith("~") and not redirect.word.source.startswith("~")):
            return False
        touches = self._writable if redirect.writes else self._readable
        return touches(value, redirect.moves, cwd)

    def _readable(self, text: str, moves: tuple[Word, ...], cwd: PurePosixPath) -> bool:
        paths = absolute(text, cwd, self.place.home, moves)
        effects = [self._resolved(ReadPath(path=path)) for path in paths]
        return bool(paths) and all(
            readable(e, self.place) or self._use(covering(self.index, e, "Read")) is not None for e in effects
        )

    def _writable(self, text: str, moves: tuple[Word, ...], cwd: PurePosixPath) -> bool:
        paths = absolute(text, cwd, self.place.home, moves)
        effects = [self._resolved(WritePath(path=path)) for path in paths]
        if self.mode is Mode.PLAN:
            return False
        return bool(paths) and all(
            editable(self.mode, e, self.place) or self._use(covering(self.index, e, "Edit")) is not None
            for e in effects
        )

    def _resolved(self, effect: E) -> E:
        """The effect as the gate resolved it."""
        for known in self.effects:
            if type(known) is type(effect) and known.path == effect.path:
                return known
        return effect


_CAREFUL = frozenset({Mode.AUTO, Mode.PLAN})
_QUIET = frozenset({"cd", "true", "false", ":", "exit", "return", "break", "continue", "shift", "wait"})


def _wild(rule: Rule) -> bool:
    return isinstance(rule.pattern, CommandPattern) and rule.pattern.wild


def _broad(rule: Rule) -> bool:
    """Whether a rule on commands lets anything be run: an interpreter, a package's scripts, any first word."""
    pattern = rule.pattern
    if not isinstance(pattern, CommandPattern) or not pattern.wild:
        return False
    return not pattern.key or BROAD.match(" ".join(pattern.pieces[0].split()) + " ") is not None


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}…"
