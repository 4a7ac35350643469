"""One measured figure beside its floor, and how a list of them is printed.

A figure is a median over several runs on a noisy machine; what is promised is nearly always the
ratio to a floor measured in the same run, never milliseconds.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """`value` and `floor` in `unit`; `wanted` bounds the ratio where there is a floor, else the value; `absolute`: the
    value although there is a floor. `at_least`: more is better."""

    name: str
    value: float
    unit: str
    wanted: float
    floor: float | None = None
    floor_name: str = ""
    at_least: bool = False
    absolute: bool = False
    others: str = ""

    @property
    def judged(self) -> float:
        """What is held against `wanted`."""
        return self.value if self.floor is None or self.absolute else self.value / self.floor

    @property
    def met(self) -> bool:
        """Whether the figure is as wanted in this run."""
        return self.judged >= self.wanted if self.at_least else self.judged <= self.wanted


def sample(run: Callable[[], object], times: int, warm: int = 1) -> list[float]:
    """Milliseconds of each of `times` runs, after `warm` that do not count."""
    for _ in range(warm):
        run()
    took = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        took.append((time.perf_counter() - began) * 1000)
    return took


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def show(figures: Sequence[Figure], *, to: Path | None = None, console: Console | None = None) -> None:
    """Print the table; write the same as JSON to `to`."""
    console = console or Console()
    table = Table("figure", "measured", "floor", "ratio", "wanted", "", title="fumehood bench", caption_justify="left")
    for f in figures:
        sign = "≥" if f.at_least else "≤"
        wanted = f"{sign} {f.wanted:.3g}" + (f" {f.unit}" if f.floor is None or f.absolute else " x")
        floor = "" if f.floor is None else f"{f.floor:.4g} {f.unit}: {f.floor_name}"
        ratio = "" if f.floor is None else f"{f.value / f.floor:.3g}"
        table.add_row(f.name, f"{f.value:.4g} {f.unit}", floor, ratio, wanted, "met" if f.met else "NOT MET")
    table.caption = "\n".join(f"{f.name}: others {f.others}" for f in figures if f.others)
    console.print(table)
    if to:
        rows = [asdict(f) | {"ratio": f.judged, "met": f.met} for f in figures]
        to.write_text(json.dumps({"version": 1, "figures": rows}, indent=1) + "\n")
        console.print(f"JSON: {to}")
