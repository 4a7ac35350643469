"""The few signs that the interface draws with, and their ASCII form for other locales."""

from __future__ import annotations

from runner.dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Glyphs:
    """One sign per meaning; `spin` is played in order."""

    begun: str
    done: str
    failed: str
    denied: str
    bar: str
    dot: str
    retry: str
    warn: str
    spin: tuple[str, ...]


UNICODE = Glyphs(
    begun="▸",
    done="✓",
    failed="✗",
    denied="⊘",
    bar="│",
    dot=" · ",
    retry="↻",
    warn="!",
    spin=("⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"),
)
ASCII = Glyphs(
    begun=">",
    done="+",
    failed="x",
    denied="-",
    bar="|",
    dot=" - ",
    retry="~",
    warn="!",
    spin=("|", "/", "-", "\\"),
)


def glyphs_for(encoding: str | None) -> Glyphs:
    """The signs that an output's encoding can hold."""
    return UNICODE if (encoding or "ascii").lower().replace("-", "").startswith("utf") else ASCII
