"""Line charts as inline SVG, coloured by the page's style sheet."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

WIDTH, HEIGHT = 320, 200
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 34


class Series(NamedTuple):
    """One line; `style` is a class of the style sheet."""

    name: str
    style: str
    points: Sequence[tuple[float, float]]


def line_chart(
    title: str,
    series: Sequence[Series],
    x_label: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
) -> Markup:
    """A chart of WIDTH x HEIGHT units with axes; by default the data sets the ranges.

    The plot itself spans LEFT..WIDTH-RIGHT and TOP..HEIGHT-BOTTOM. Points that are not finite are
    left out.
    """
    points = [p for line in series for p in line.points if math.isfinite(p[1])]
    x_low, x_high = x_range or _range([x for x, _ in points])
    y_low, y_high = y_range or _range([y for _, y in points])

    def place(x: float, y: float) -> tuple[float, float]:
        right = LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        down = TOP + (y_high - y) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return round(right, 2), round(down, 2)

    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">'
    ]
    for tick in _ticks(y_low, y_high):
        _, y = place(x_low, tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 5}" y="{y + 3.5}">{tick:.4g}</text>')
    for tick in _ticks(x_low, x_high):
        x, _ = place(tick, y_low)
        bottom = HEIGHT - BOTTOM
        parts.append(f'<text class="tick-x" x="{x}" y="{bottom + 14}">{tick:.5g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{HEIGHT - 4}">{escape(x_label)}</text>')
    for line in series:
        places = (place(x, y) for x, y in line.points if math.isfinite(y))
        path = " ".join(f"{x},{y}" for x, y in places)
        parts.append(
            f'<polyline class="line {escape(line.style)}" points="{path}">'
            f"<title>{escape(line.name)}</title></polyline>"
        )
    parts.append("</svg>")
    return Markup("".join(parts))


def interval_chart(rows: Sequence[tuple[str, dict]]) -> Markup:
    """Scores in [0, 1] with their intervals, one below the other; rows are (name, score)."""
    label_width, row_height = 120, 30
    width, height = 480, row_height * len(rows) + 24

    def place(value: float) -> float:
        return round(label_width + value * (width - label_width - 12), 2)

    bottom = row_height * len(rows)
    parts = [
        f'<svg class="intervals" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape("; ".join(f"{name} {_text(score)}" for name, score in rows))}">'
    ]
    for tenth in range(0, 11, 2):
        x = place(tenth / 10)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="0" y2="{bottom}"/>')
        parts.append(f'<text class="tick-x" x="{x}" y="{bottom + 15}">{tenth / 10:g}</text>')
    for index, (name, score) in enumerate(rows):
        y = row_height * (index + 0.5)
        parts.append(f'<text class="name" x="0" y="{y + 4}">{escape(name)}</text>')
        if score["low"] is not None and score["high"] is not None:
            low, high = place(score["low"]), place(score["high"])
            parts.append(
                f'<line class="whisker s{index}" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>'
            )
        if score["value"] is not None:
            x = place(score["value"])
            parts.append(f'<circle class="dot s{index}" cx="{x}" cy="{y}" r="6"/>')
    parts.append("</svg>")
    return Markup("".join(parts))


def _text(score: dict) -> str:
    return "not defined" if score["value"] is None else f"{score['value']:.3f}"


def _range(values: Sequence[float]) -> tuple[float, float]:
    """From 0 or the lowest value to the highest; never empty."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    low = min(low, 0.0)
    return (low, high) if high > low else (low, low + 1.0)


def _ticks(low: float, high: float) -> list[float]:
    """About four to six round numbers in a range."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]
