"""Four kinds of pictures as SVG, written by hand: enough for a README, and no plotting library to install.

They follow the reader's light or dark setting, and every number in them is in `latest.txt` too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 860
COLOURS = {
    "meshproxy": "#2f7ed8",
    "envoy": "#c0392b",
    "direct": "#7f8c8d",
    "aiohttp": "#27ae60",
    "grpc.aio": "#8e44ad",
}
OTHERS = ("#d68910", "#16a085", "#8e44ad", "#c0392b", "#7f8c8d")
STYLE = """
text { font: 13px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: #24292f }
.title { font-size: 16px; font-weight: 600 }
.small { font-size: 12px; fill: #57606a }
.grid { stroke: #d0d7de; stroke-width: 1 }
.whisker { stroke: #24292f; stroke-width: 1.5 }
.page { fill: #ffffff }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .small { fill: #9198a1 } .grid { stroke: #3d444d } .whisker { stroke: #e6edf3 }
  .page { fill: #0d1117 }
}
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One value and the range of its rounds."""

    name: str
    value: float
    low: float
    high: float


def colour(name: str, position: int = 0) -> str:
    """The colour of a peer, the same in every picture."""
    return COLOURS.get(name, OTHERS[position % len(OTHERS)])


def bars(title: str, groups: Mapping[str, Sequence[Bar]], caption: str) -> str:
    """Horizontal bars in groups, from zero, with the values written out."""
    left, right, row, gap = 110, 130, 24, 40
    longest = max((bar.high for group in groups.values() for bar in group), default=1.0) or 1.0
    scale = (WIDTH - left - right) / longest
    parts: list[str] = []
    top = 58.0
    for name, group in groups.items():
        parts.append(_text(16, top + 4, name, "small"))
        top += 14
        for position, bar in enumerate(group):
            middle = top + row / 2
            width = bar.value * scale
            parts.append(_text(left - 8, middle + 4, bar.name, anchor="end"))
            parts.append(
                f'<rect x="{left}" y="{top + 3:.1f}" width="{width:.1f}" height="{row - 6}" rx="2" '
                f'fill="{colour(bar.name, position)}"/>'
            )
            low, high = left + bar.low * scale, left + bar.high * scale
            parts.append(f'<line class="whisker" x1="{low:.1f}" y1="{middle:.1f}" x2="{high:.1f}" y2="{middle:.1f}"/>')
            parts.append(_text(max(left + width, high) + 8, middle + 4, f"{bar.value:.0f} µs"))
            top += row
        top += gap - 14
    return _page(title, caption, top + 6, parts)


def curves(title: str, lines: Mapping[str, Sequence[tuple[float, float]]], caption: str) -> str:
    """Latency by percentile: x is the share of requests beyond, on a logarithmic axis (50 %, 90 %, 99 %, ...), y is
    milliseconds, logarithmic too. Lines that end early have too few requests to say more."""
    left, right, top, height = 70, 120, 60, 330
    width = WIDTH - left - right
    values = [value for line in lines.values() for _, value in line if value > 0]
    lowest, highest = (min(values), max(values)) if values else (0.1, 1.0)
    bottom_exponent, top_exponent = math.floor(math.log10(lowest) * 3) / 3, math.ceil(math.log10(highest) * 3) / 3
    if top_exponent <= bottom_exponent:
        top_exponent = bottom_exponent + 1
    last = max((share for line in lines.values() for share, _ in line), default=99.0)
    nines = _nines(last) or 1.0

    def x(share: float) -> float:
        return left + _nines(share) / nines * width

    def y(value: float) -> float:
        return top + height * (1 - (math.log10(value) - bottom_exponent) / (top_exponent - bottom_exponent))

    parts = []
    for share in (0.0, 50.0, 90.0, 99.0, 99.9, 99.99):
        if share <= last:
            parts.append(_line(x(share), top, x(share), top + height))
            parts.append(_text(x(share), top + height + 18, f"p{share:g}" if share else "min", "small", "middle"))
    for tick in _ticks(bottom_exponent, top_exponent):
        parts.append(_line(left, y(tick), left + width, y(tick)))
        parts.append(_text(left - 8, y(tick) + 4, f"{tick:g} ms", "small", "end"))
    labels: list[float] = []
    ends = sorted(lines.items(), key=lambda item: item[1][-1][1] if item[1] else 0.0)
    for position, (name, line) in enumerate(ends):
        points = [(x(share), y(value)) for share, value in line if value > 0]
        if not points:
            continue
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        shade = colour(name, position)
        parts.append(f'<polyline fill="none" stroke="{shade}" stroke-width="2.5" points="{path}"/>')
        at = points[-1][1] + 4
        # Names of lines that end close together are set apart, upwards.
        while any(abs(at - other) < 15 for other in labels):
            at -= 15
        labels.append(at)
        parts.append(f'<text x="{points[-1][0] + 8:.1f}" y="{at:.1f}" style="fill:{shade}">{escape(name)}</text>')
    return _page(title, caption, top + height + 34, parts)


def over_time(
    title: str,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    marked: Mapping[str, tuple[float, float]],
    caption: str,
) -> str:
    """Milliseconds over the hours of a day, from zero. `marked`: spans of hours by name, from when to when."""
    left, right, top, height = 70, 120, 60, 260
    width = WIDTH - left - right
    first = min(at for line in lines.values() for at, _ in line)
    last = max(at for line in lines.values() for at, _ in line)
    highest = max(value for line in lines.values() for _, value in line) * 1.05

    def x(at: float) -> float:
        return left + (at - first) / (last - first) * width

    def y(value: float) -> float:
        return top + height * (1 - value / highest)

    parts = []
    for position, (name, (start, end)) in enumerate(marked.items()):
        shade = OTHERS[position % len(OTHERS)]
        parts.append(
            f'<rect x="{x(start):.1f}" y="{top}" width="{max(1.0, x(end) - x(start)):.1f}" height="{height}" '
            f'fill="{shade}" opacity="0.25"/>'
        )
        height_of = top + 14 + 16 * position
        right_of = max(x(each) for _, each in marked.values()) + 6
        parts.append(f'<text x="{right_of:.1f}" y="{height_of}" style="fill:{shade}">{escape(name)}</text>')
    step = max(1, math.ceil((last - first) / 12))
    for hour in range(math.ceil(first / step) * step, math.floor(last) + 1, step):
        parts.append(_line(x(hour), top, x(hour), top + height))
        parts.append(_text(x(hour), top + height + 18, f"{hour % 24}:00", "small", "middle"))
    for part in range(5):
        value = highest * part / 5
        parts.append(_line(left, y(value), left + width, y(value)))
        parts.append(_text(left - 8, y(value) + 4, f"{value:.2g} ms", "small", "end"))
    for position, (name, line) in enumerate(lines.items()):
        shade = tuple(COLOURS.values())[position]
        path = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in line)
        parts.append(f'<polyline fill="none" stroke="{shade}" stroke-width="1.5" points="{path}"/>')
        at = y(line[-1][1]) + 4 - 16 * position
        parts.append(f'<text x="{x(last) + 8:.1f}" y="{at:.1f}" style="fill:{shade}">{escape(name)}</text>')
    return _page(title, caption, top + height + 34, parts)


def shares(title: str, lines: Mapping[str, Sequence[tuple[float, float]]], unit: str, caption: str) -> str:
    """Shares from 0 to 100 % over a number in some unit."""
    left, right, top, height = 70, 150, 60, 280
    width = WIDTH - left - right
    numbers = sorted({at for line in lines.values() for at, _ in line})
    first, last = numbers[0], numbers[-1]

    def x(at: float) -> float:
        return left + (at - first) / (last - first) * width

    def y(share: float) -> float:
        return top + height * (1 - share)

    parts = []
    for at in numbers:
        parts.append(_line(x(at), top, x(at), top + height))
        parts.append(_text(x(at), top + height + 18, f"{at:.3g}", "small", "middle"))
    parts.append(_text(left + width + 8, top + height + 18, unit, "small"))
    for part in range(5):
        parts.append(_line(left, y(part / 4), left + width, y(part / 4)))
        parts.append(_text(left - 8, y(part / 4) + 4, f"{part * 25} %", "small", "end"))
    labels: list[float] = []
    for position, (name, line) in enumerate(sorted(lines.items(), key=lambda item: item[1][-1][1])):
        shade = colour(name, position)
        path = " ".join(f"{x(at):.1f},{y(share):.1f}" for at, share in line)
        parts.append(f'<polyline fill="none" stroke="{shade}" stroke-width="2.5" points="{path}"/>')
        at = y(line[-1][1]) + 4
        while any(abs(at - other) < 15 for other in labels):
            at -= 15
        labels.append(at)
        parts.append(f'<text x="{x(line[-1][0]) + 8:.1f}" y="{at:.1f}" style="fill:{shade}">{escape(name)}</text>')
    return _page(title, caption, top + height + 34, parts)


def _nines(share: float) -> float:
    """0 for p0, 1 for p90, 2 for p99, ..."""
    return -math.log10(max(1e-9, 1 - share / 100))


def _ticks(bottom: float, top: float) -> list[float]:
    """1, 2 and 5 times powers of ten within a range of exponents."""
    found = []
    for exponent in range(math.floor(bottom), math.ceil(top) + 1):
        for factor in (1, 2, 5):
            value = factor * 10.0**exponent
            if bottom - 1e-9 <= math.log10(value) <= top + 1e-9:
                found.append(value)
    return found


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="grid" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text{style} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _page(title: str, caption: str, height: float, parts: Sequence[str]) -> str:
    size = f"{WIDTH} {height + 24:.0f}"
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" role="img" aria-label="{escape(title)}">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            '<rect class="page" width="100%" height="100%" rx="6"/>',
            _text(16, 28, title, "title"),
            *parts,
            _text(16, height + 10, caption, "small"),
            "</svg>\n",
        )
    )
