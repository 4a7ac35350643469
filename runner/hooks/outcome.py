"""What all hooks of one event come to together: the strictest word wins, and a failure of a strict one is a no."""

from __future__ import annotations

from typing import Any

from runner.dataclass import dataclass
from runner.effects import Decision, Source, Verdict
from runner.hooks.kinds import Handler
from runner.hooks.output import Said


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One hook and its word."""

    handler: Handler
    said: Said

    @property
    def refusal(self) -> str:
        """Why it stops what the event is about, "" where it does not."""
        if self.said.blocks:
            return self.said.reason or "a hook blocked it"
        if self.said.failed and self.handler.strict:
            return f"a hook that must not fail did ({self.where}): {self.said.failed}"
        return ""

    @property
    def where(self) -> str:
        """Where it stands in the settings."""
        source = self.handler.source
        return f"{source.file}:{source.line}" if source.file else source.layer.value

    def word(self) -> str:
        """What HookRan says of it."""
        if self.refusal:
            return "block"
        if self.said.stop is not None:
            return "stop"
        if self.said.answer is not None:
            return "allow" if self.said.answer else "deny"
        return "" if self.said.decision is None else self.said.decision.name.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A hook's answer to a question. `input`: what is to run instead, None for what was asked about."""

    allowed: bool
    reason: str
    input: dict[str, Any] | None = None
    interrupt: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Of all hooks of one event, in the order of their sources, the lowest first."""

    results: tuple[Result, ...] = ()

    @property
    def verdict(self) -> Verdict | None:
        """What the hooks make of a call: they only ever tighten, so an allow is none."""
        found = [self._verdict(result) for result in self.results]
        given = [verdict for verdict in found if verdict is not None]
        return max(given, key=lambda verdict: verdict.decision) if given else None

    @staticmethod
    def _verdict(result: Result) -> Verdict | None:
        handler, said = result.handler, result.said
        why = result.refusal or (said.reason or "a hook wants it asked" if said.decision is Decision.ASK else "")
        if not why:
            return None
        return Verdict(
            decision=Decision.DENY if result.refusal else Decision.ASK,
            source=Source.HOOK,
            rule=handler.text[:200],
            reason=why,
            file=handler.source.file,
            line=handler.source.line,
        )

    @property
    def input(self) -> dict[str, Any] | None:
        """What is to be the input instead; the highest source's where several replace it."""
        replaced = [result.said.input for result in self.results if result.said.input is not None]
        return replaced[-1] if replaced and not self.refusal else None

    @property
    def refusal(self) -> str:
        """The first reason to stop what the event is about."""
        return next((result.refusal for result in reversed(self.results) if result.refusal), "")

    @property
    def retry(self) -> bool:
        """Whether one says that the model may try again."""
        return any(result.said.retry for result in self.results)

    @property
    def contexts(self) -> tuple[str, ...]:
        """What the model is told."""
        return tuple(result.said.context for result in self.results if result.said.context)

    @property
    def stop(self) -> str | None:
        """Why everything ends here, None where it goes on."""
        return next((result.said.stop for result in reversed(self.results) if result.said.stop is not None), None)

    def answer(self, *, by_mode: bool) -> Answer | None:
        """To a question. Any may say no; a yes counts from a hook that ran on the host, placed there by managed
        settings, the user or the SDK, and only where the question was the mode's.
        """
        for result in reversed(self.results):
            if result.said.answer is False or (result.said.failed and result.handler.strict):
                why = result.said.reason or result.said.failed or "a hook said no"
                return Answer(allowed=False, reason=why, interrupt=result.said.interrupt)
        for result in reversed(self.results):
            if result.said.answer and by_mode and result.handler.trusted_answer:
                return Answer(allowed=True, reason=f"hook {result.where}", input=result.said.input)
        return None
