from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.models import prices
from runner.models.prices import cost_of, facts_of, resolve_alias, sizes_of

TABLE = json.loads((Path(prices.__file__).parent / "prices.json").read_text())


def test_every_row_of_the_table_is_whole_and_plausible() -> None:
    for name, row in TABLE["models"].items():
        facts = facts_of(name)
        assert facts is not None
        for rates in (facts.rates, facts.long):
            if rates is not None:
                assert 0 < rates.read < rates.input < rates.write < rates.write_1h < rates.output, name
        assert facts.max_output < facts.context
        assert (facts.long is None) == ("long" not in row)
    assert all(facts_of(name) for name in TABLE["aliases"].values())
    assert TABLE["version"] == 1
    assert TABLE["source"]
    assert TABLE["dated"]


@pytest.mark.parametrize(
    ("model", "usage", "cost"),
    [
        ("claude-opus-4-5-20251101", {"input_tokens": 1_000_000, "output_tokens": 100_000}, 7.5),
        ("anthropic:claude-sonnet-5-5", {"cache_read_input_tokens": 1_000_000, "output_tokens": 0}, 0.1),
        ("claude-haiku-4-5", {"cache_creation_input_tokens": 1_000_000}, 1.25),
        (
            "claude-haiku-4-5",
            {"cache_creation_input_tokens": 1_000_000, "cache_creation": {"ephemeral_1h_input_tokens": 400_000}},
            0.6 * 1.25 + 0.4 * 2,
        ),
        ("claude-haiku-5-5", {"input_tokens": 60_000, "cache_read_input_tokens": 40_000}, 0.0064),
        (
            "claude-haiku-5-5",
            {"input_tokens": 60_001, "cache_read_input_tokens": 40_000, "output_tokens": 10},
            0.0320255,
        ),
        ("claude-sonnet-5", {"input_tokens": 0, "server_tool_use": {"web_search_requests": 3}}, 0.03),
        ("claude-sonnet-5", {"input_tokens": None, "output_tokens": "x", "cache_creation": None}, 0.0),
        ("claude-unheard-of-7", {"input_tokens": 5}, None),
        ("scripted", {"input_tokens": 5}, None),
    ],
)
def test_a_reply_costs_what_its_usage_says(model: str, usage: dict[str, Any], cost: float | None) -> None:
    assert cost_of(model, usage) == (cost if cost is None else pytest.approx(cost))


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        ("claude-sonnet-4-5-20250929", (200_000, 64_000)),
        ("claude-sonnet-4-5[1m]", (1_000_000, 64_000)),
        ("claude-opus-4-0", (200_000, 32_000)),
        ("claude-3-7-sonnet-latest", (200_000, 64_000)),
        ("anthropic:claude-opus-5-5", (1_000_000, 128_000)),
        ("gpt-9", None),
    ],
)
def test_a_models_sizes_are_known_by_id_date_or_none(model: str, sizes: tuple[int, int] | None) -> None:
    assert sizes_of(model) == sizes


@pytest.mark.parametrize(
    ("name", "environ", "target"),
    [
        ("opus", {}, "claude-opus-5-5"),
        ("Sonnet[1m]", {}, "claude-sonnet-5-5[1m]"),
        ("haiku", {"ANTHROPIC_DEFAULT_HAIKU_MODEL": "my-haiku"}, "my-haiku"),
        ("", {}, "claude-sonnet-5-5"),
        ("", {"ANTHROPIC_MODEL": "opus", "ANTHROPIC_DEFAULT_MODEL": "haiku"}, "claude-opus-5-5"),
        ("", {"ANTHROPIC_DEFAULT_MODEL": "x"}, "x"),
        ("sonnet", {"ANTHROPIC_MODEL": "opus"}, "claude-sonnet-5-5"),
        ("claude-opus-4-1-20250805", {}, "claude-opus-4-1-20250805"),
    ],
)
def test_an_alias_stands_for_an_id(name: str, environ: dict[str, str], target: str) -> None:
    assert resolve_alias(name, environ) == target
