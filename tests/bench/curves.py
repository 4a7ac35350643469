"""Curves as an SVG that a page can show in the light and in the dark: one line for each series, both axes
logarithmic. Written by hand, so that it needs no library.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 74, 24, 58, 62
# Told apart by people who see no red or green too; each once for a light and once for a dark page.
COLOURS = (("#0b5fb0", "#6db3ff"), ("#b84a00", "#ffa35c"), ("#6b3fa0", "#c5a3ff"), ("#5b6470", "#a9b4c0"))
DASHES = ("", "", "6 4", "2 4")


def draw(title: str, series: Mapping[str, Points], *, across: str, up: str) -> str:
    """The SVG's text. `across`, `up`: what the axes tell."""
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    x0, x1 = min(xs), max(xs)
    y0, y1 = 10 ** math.floor(math.log10(min(ys))), 10 ** math.ceil(math.log10(max(ys)))

    def at(x: float, y: float) -> tuple[float, float]:
        wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return LEFT + wide * _share(x, x0, x1), HEIGHT - BOTTOM - high * _share(y, y0, y1)

    rows = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(title)}</title>",
        _style(len(series)),
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
        f'<text class="title" x="{LEFT}" y="26">{escape(title)}</text>',
    ]
    for y in _ticks(y0, y1):
        left, height = at(x0, y)
        rows.append(f'<path class="grid" d="M{left:.1f} {height:.1f}H{WIDTH - RIGHT}"/>')
        rows.append(f'<text class="tick" x="{left - 8:.1f}" y="{height + 4:.1f}" text-anchor="end">{_number(y)}</text>')
    for x in _ticks(x0, x1):
        width, height = at(x, y0)
        rows.append(f'<path class="grid" d="M{width:.1f} {TOP}V{height:.1f}"/>')
        rows.append(
            f'<text class="tick" x="{width:.1f}" y="{height + 18:.1f}" text-anchor="middle">{_number(x)}</text>'
        )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    centre = (LEFT + WIDTH - RIGHT) / 2
    rows.append(f'<text class="axis" x="{centre}" y="{HEIGHT - 24}" text-anchor="middle">{across}</text>')
    rows.append(f'<text class="axis" transform="translate(18 {middle}) rotate(-90)" text-anchor="middle">{up}</text>')
    for number, (name, points) in enumerate(series.items()):
        places = [at(x, y) for x, y in points]
        line = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        rows.append(f'<path class="line c{number}" stroke-dasharray="{DASHES[number % 4]}" d="M{line}"/>')
        rows += [f'<circle class="dot d{number}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places]
        key = LEFT + number * (WIDTH - LEFT - RIGHT) / len(series)
        rows.append(f'<path class="line c{number}" stroke-dasharray="{DASHES[number % 4]}" d="M{key:.1f} 43h22"/>')
        rows.append(f'<text class="tick" x="{key + 28:.1f}" y="47">{escape(name)}</text>')
    return "\n".join([*rows, "</svg>", ""])


def _share(value: float, low: float, high: float) -> float:
    return math.log(value / low) / math.log(high / low) if high > low else 0.5


def _ticks(low: float, high: float) -> list[float]:
    powers = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    return [value for value in powers if low <= value <= high]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def _style(count: int) -> str:
    def rules(side: int) -> str:
        page, text, grid = (("#ffffff", "#1f2328", "#d8dee4"), ("#0d1117", "#e6edf3", "#30363d"))[side]
        own = [f".c{n}{{stroke:{COLOURS[n % 4][side]}}}.d{n}{{fill:{COLOURS[n % 4][side]}}}" for n in range(count)]
        return f".page{{fill:{page}}}text{{fill:{text}}}.grid{{stroke:{grid}}}{''.join(own)}"

    fixed = (
        "text{font:12px system-ui,sans-serif}.title{font-size:15px;font-weight:600}.axis{font-size:13px}"
        ".line{fill:none;stroke-width:2}.grid{stroke-width:1}"
    )
    return f"<style>{fixed}{rules(0)}@media(prefers-color-scheme:dark){{{rules(1)}}}</style>"
