"""A board as a picture: what Grafana would show, drawn from the answers of Prometheus as SVG. Pure.

It follows the reader's light or dark setting.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from meshproxy.monitoring.panels import COLUMNS, Board, Kind, Panel

WIDTH = 1200
GAP = 8
HEIGHTS = {Kind.LINES: 232, Kind.AREAS: 232, Kind.NUMBER: 84}
HEADING = 34
LEGEND_ROW = 15
MOST_NAMES = 5
"""In the legend of one panel: the largest series; the others are drawn without a name."""
COLOURS = (
    *("#3b82c4", "#d97706", "#2f9e63", "#c2410c", "#8b5cf6", "#0d9488", "#be185d", "#64748b"),
    *("#a16207", "#4d7c0f", "#6366f1", "#e11d48"),
)
STYLE = """
text { font: 12px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: #24292f }
.title { font-size: 13px; font-weight: 600 } .board { font-size: 17px; font-weight: 600 }
.small { font-size: 11px; fill: #57606a } .large { font-size: 26px; font-weight: 600 }
.grid { stroke: #d8dee4; stroke-width: 1 } .panel { fill: #ffffff; stroke: #d8dee4 } .page { fill: #f6f8fa }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .small { fill: #9198a1 } .grid { stroke: #30363d }
  .panel { fill: #0d1117; stroke: #30363d } .page { fill: #161b22 }
}
"""


@dataclass(frozen=True, slots=True)
class Series:
    """One line: (seconds since the beginning, value)."""

    name: str
    points: tuple[tuple[float, float], ...]

    @property
    def most(self) -> float:
        return max((value for _, value in self.points), default=0.0)


Answers = Mapping[str, Sequence[Mapping[str, Any]]]
"""What Prometheus answers to a range query (`result`), by expression."""


def draw(board: Board, answers: Answers, begin: float, end: float) -> str:
    """One page. `begin` and `end` are the ends of the time axis, in seconds since the epoch."""
    parts: list[str] = []
    top = 44.0
    for heading, row in board.rows:
        if heading:
            parts.append(_text(GAP, top + 20, heading, "title"))
            top += HEADING
        height = max(HEIGHTS[panel.kind] for panel in row)
        columns = COLUMNS // len(row)
        for place, panel in enumerate(row):
            left = GAP + place * columns * (WIDTH - GAP) / COLUMNS
            width = columns * (WIDTH - GAP) / COLUMNS - GAP
            series = [each for name, expr in panel.queries for each in _series(name, answers[expr], begin)]
            parts.append(f'<g transform="translate({left:.1f},{top:.1f})">')
            parts += _panel(panel, series, width, height, end - begin)
            parts.append("</g>")
        top += height + GAP
    size = f"0 0 {WIDTH} {top:.0f}"
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" role="img" aria-label="{escape(board.title)}">',
            f"<title>{escape(board.title)}</title><style>{STYLE}</style>",
            '<rect class="page" width="100%" height="100%"/>',
            _text(GAP, 28, board.title, "board"),
            *parts,
            "</svg>\n",
        )
    )


def _series(legend: str, result: Sequence[Mapping[str, Any]], begin: float) -> list[Series]:
    found = []
    for each in result:
        name = legend
        for label, value in each["metric"].items():
            name = name.replace("{{%s}}" % label, value)  # noqa: UP031 - braces
        name = " ".join(word for word in name.split() if "{{" not in word)
        points = tuple((float(at) - begin, float(value)) for at, value in each["values"] if value != "NaN")
        if points:
            found.append(Series(name, points))
    return sorted(found, key=lambda series: -series.most)


def _panel(panel: Panel, series: Sequence[Series], width: float, height: float, seconds: float) -> list[str]:
    parts = [
        f'<rect class="panel" width="{width:.1f}" height="{height:.1f}" rx="3"/>',
        _text(10, 19, panel.title, "title"),
    ]
    if not series:
        return [*parts, _text(width / 2, height / 2 + 4, "no data", "small", "middle")]
    if panel.kind is Kind.NUMBER:
        return [*parts, _text(10, 62, shown(series[0].points[-1][1], panel.unit), "large")]
    lines = _stacked(series) if panel.kind is Kind.AREAS else series
    # By name, as Grafana does: the same version has the same colour in all panels.
    names = sorted({each.name for each in series})
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}
    named = min(len(series), MOST_NAMES)
    left, right, top, bottom = 58.0, width - 12, 32.0, height - 30 - LEGEND_ROW * named
    most = nice(panel.most or max(line.most for line in lines), 1_024.0 if panel.unit == "bytes" else 1.0)

    def x(at: float) -> float:
        return left + at / seconds * (right - left)

    def y(value: float) -> float:
        return bottom - value / most * (bottom - top)

    for step in range(5):
        value = most * step / 4
        parts.append(f'<line class="grid" x1="{left}" y1="{y(value):.1f}" x2="{right:.1f}" y2="{y(value):.1f}"/>')
        parts.append(_text(left - 6, y(value) + 4, shown(value, panel.unit), "small", "end"))
    for share in range(4):
        at = seconds * share / 3
        parts.append(
            _text(
                x(at), bottom + 15, f"{at:.0f} s", "small", "middle" if 0 < share < 3 else ("start", "end")[share > 0]
            )
        )
    for each, line in reversed(list(zip(series, lines, strict=True))):
        colour = colours[each.name]
        path = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in line.points)
        if panel.kind is Kind.AREAS:
            ends = f"{x(line.points[-1][0]):.1f},{bottom:.1f} {x(line.points[0][0]):.1f},{bottom:.1f}"
            parts.append(f'<polygon fill="{colour}" points="{path} {ends}"/>')
        else:
            parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{path}"/>')
    for place, each in enumerate(series[:named]):
        at = bottom + 31 + LEGEND_ROW * place
        parts.append(f'<rect x="{left}" y="{at - 8:.1f}" width="10" height="4" fill="{colours[each.name]}"/>')
        more = f" (and {len(series) - named} more)" if place == named - 1 and len(series) > named else ""
        parts.append(_text(left + 16, at, f"{each.name or panel.title}{more}", "small"))
        parts.append(_text(right, at, shown(each.points[-1][1], panel.unit), "small", "end"))
    return parts


def _stacked(series: Sequence[Series]) -> list[Series]:
    """Each with those below it: the largest is at the bottom, and what is on top is drawn first."""
    below: dict[float, float] = {}
    found = []
    for each in series:
        for at, value in each.points:
            below[at] = below.get(at, 0.0) + value
        found.append(Series(each.name, tuple((at, below[at]) for at, _ in each.points)))
    return found


def nice(most: float, base: float) -> float:
    """The end of an axis that is divided into four: a round number of powers of `base`."""
    if most <= 0.0:
        return 1.0
    scale = base ** math.floor(math.log(most, base)) if base > 1.0 and most >= base else 1.0
    power = 10.0 ** math.floor(math.log10(most / scale))
    factors = (1, 1.2, 1.6, 2, 3, 4, 6, 8, 10)
    return scale * next(factor * power for factor in factors if factor * power * scale >= most * 0.999)


def shown(value: float, unit: str) -> str:
    """A number with its unit, as short as can be."""
    if not value:
        return "0"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s":
        return f"{value * 1e6:.3g} µs" if value < 1e-3 else f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"
    if unit == "bytes":
        for suffix, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
            if value >= size:
                return f"{value / size:.3g} {suffix}"
        return f"{value:.3g} B"
    return f"{value:.3g}{'/s' if unit in ('reqps', 'cps') else ''}"


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text{style} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
