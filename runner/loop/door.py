"""The gate's door for hooks: each is judged and recorded before it runs, and those of the box get it from here only.

Rules on commands, paths and hosts speak of hooks too; rules on tools do not, and no mode does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.effects import ConnectHost, Decision, RunCommand, Source, Verdict, effect_to_json, is_outside
from runner.events import Judged
from runner.journal import digest

if TYPE_CHECKING:
    from runner.hooks.kinds import Wanted
    from runner.loop.gate import Gate
    from sandbox.spec import Command, Process

TOOL = "Hook"


class HookDoor:
    """A `runner.hooks.kinds.Door` over the gate."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._admitted: set[tuple[str, str]] = set()

    def admit(self, wanted: Wanted) -> Verdict:
        """See Door. A deny rule always counts. An ask rule is a no, since nobody is asked for a hook, unless the hook
        carries its own allow; so is what leaves the box without an allow rule.
        """
        gate, effects = self._gate, wanted.effects
        # What a repository wants to send is judged as if the model did.
        fetches = not wanted.own and any(isinstance(effect, ConnectHost) for effect in effects)
        tool = "WebFetch" if fetches else TOOL
        found = gate.policy().judge(effects, tool=tool, place=gate.place, sent=wanted.sent)
        ruled = {match.decision for match in found.matches}
        source = wanted.source
        verdict = Verdict(
            decision=Decision.ALLOW,
            source=Source.HOOK,
            rule=f"hook {wanted.digest}",
            reason="the hook of " + (f"{source.file}:{source.line}" if source.file else source.layer.value),
            file=source.file,
            line=source.line,
        )
        if Decision.DENY in ruled:
            verdict = found
        elif not wanted.own:
            outside = any(is_outside(effect) for effect in effects)
            if Decision.ASK in ruled or (outside and found.decision is not Decision.ALLOW):
                verdict = Verdict(
                    decision=Decision.DENY,
                    source=found.source,
                    rule=found.rule,
                    reason=f"{found.reason}; nobody is asked for a hook",
                    file=found.file,
                    line=found.line,
                )
        body = Judged(
            call=wanted.call,
            tool=TOOL,
            digest=digest(wanted.sent),
            effects=[effect_to_json(effect) for effect in effects],
            verdict=verdict.to_json(),
        )
        gate.record(body, cause=wanted.cause)
        if verdict.decision is Decision.ALLOW and any(isinstance(effect, RunCommand) for effect in effects):
            self._admitted.add((wanted.call, digest(wanted.sent)))
        return verdict

    async def start(self, wanted: Wanted, command: Command) -> Process:
        """See Door."""
        key = (wanted.call, digest(wanted.sent))
        if key not in self._admitted:
            raise RuntimeError(f"hook {wanted.call} has no Judged for this input")
        self._admitted.discard(key)
        return await self._gate.for_hook(wanted.cause or wanted.call, lambda box: box.exec(command))
