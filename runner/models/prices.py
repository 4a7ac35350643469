"""What models cost and hold, and what their short names stand for: `prices.json`, read when first asked.

JSON and not YAML, whose import alone takes longer than all of this.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.dataclass import dataclass

_DATE = re.compile(r"-(20\d{6}|latest|0)$")  # claude-opus-4-20250514, claude-3-7-sonnet-latest, claude-opus-4-0
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """USD per million tokens. `write`: into the cache for five minutes; `write_1h`: for an hour."""

    input: float
    output: float
    read: float
    write: float
    write_1h: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """A model's rates and sizes in tokens. `long`: the rates of a request whose prompt, cached
    tokens included, has more than `long_above`.
    """

    rates: Rates
    context: int
    max_output: int
    long: Rates | None = None
    long_above: int = 0


@functools.cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads((Path(__file__).parent / "prices.json").read_text("utf-8"))
    return table


@functools.cache
def facts_of(model: str) -> ModelFacts | None:
    """By id, with or without provider, date and `[1m]`; None for a model that is not in the table."""
    name = model.rpartition(":")[2]
    bare = name.removesuffix("[1m]")
    row = _table()["models"].get(bare) or _table()["models"].get(_DATE.sub("", bare))
    if row is None:
        return None
    long = dict(row.get("long") or {})
    above = int(long.pop("above", 0))
    rates = Rates(**{key: float(row[key]) for key in Rates.__slots__})
    return ModelFacts(
        rates=rates,
        context=max(row["context"], _MILLION) if name.endswith("[1m]") else row["context"],
        max_output=row["max_output"],
        long=Rates(**{key: float(value) for key, value in long.items()}) if long else None,
        long_above=above,
    )


def sizes_of(model: str) -> tuple[int, int] | None:
    """Tokens that a request and its reply may have together, and the reply alone; None where it is not known."""
    facts = facts_of(model)
    return (facts.context, facts.max_output) if facts else None


def cost_of(model: str, usage: Mapping[str, Any]) -> float | None:
    """USD of one reply by its usage as the provider counts it; None where no price is known."""
    facts = facts_of(model)
    if facts is None:
        return None
    fresh, read = _count(usage, "input_tokens"), _count(usage, "cache_read_input_tokens")
    written = _count(usage, "cache_creation_input_tokens")
    split = usage.get("cache_creation")
    hour = min(written, _count(split, "ephemeral_1h_input_tokens")) if isinstance(split, Mapping) else 0
    long = facts.long is not None and fresh + read + written > facts.long_above
    rates = facts.long if long and facts.long is not None else facts.rates
    tokens = (
        fresh * rates.input
        + read * rates.read
        + (written - hour) * rates.write
        + hour * rates.write_1h
        + _count(usage, "output_tokens") * rates.output
    )
    tools = usage.get("server_tool_use")
    searches = _count(tools, "web_search_requests") if isinstance(tools, Mapping) else 0
    return tokens / _MILLION + searches * float(_table()["web_search"])


def _count(usage: Mapping[str, Any], key: str) -> int:
    value = usage.get(key)
    return value if isinstance(value, int) and value > 0 else 0


def resolve_alias(name: str, environ: Mapping[str, str]) -> str:
    """The id that a name stands for: "" means ANTHROPIC_MODEL, then ANTHROPIC_DEFAULT_MODEL, then the
    table's default; sonnet, opus, haiku and fable mean ANTHROPIC_DEFAULT_<FAMILY>_MODEL, then the
    table's; all else stands for itself. `[1m]` stays at the end.
    """
    name = name or environ.get("ANTHROPIC_MODEL") or environ.get("ANTHROPIC_DEFAULT_MODEL") or "default"
    bare, long = name.removesuffix("[1m]"), "[1m]" if name.endswith("[1m]") else ""
    family = bare.lower()
    aliases = _table()["aliases"]
    if family not in aliases:
        return name
    target = environ.get(f"ANTHROPIC_DEFAULT_{family.upper()}_MODEL") or str(aliases[family])
    return target if target.endswith("[1m]") else target + long
