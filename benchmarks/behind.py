"""Where Envoy is better: every figure of a run that is worse than Envoy's, so that no text can leave one out."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from benchmarks.report import added, aligned, number, title

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.runner import Measured

OURS, BASE = "meshproxy", "envoy"
MORE_IS_BETTER = frozenset(
    (
        "per_second",
        "mb_per_second",
        "mb_per_cpu_second",
        "per_cpu_second",
        "held_per_second",
        "held",
        "largest_mib",
        "goodput",
        "goodput_settled",
    )
)
MARGIN = 1.02
"""What is nearer than this is the same."""


def behind(results: Sequence[Measured]) -> str:
    """A line for every figure of a headline in which Envoy is better; empty if there is none."""
    rows = [row for measured in results for row in _rows(measured)]
    return "\n".join(["where envoy is better: work, figure, envoy, meshproxy", *aligned(rows)]) if rows else ""


def _rows(measured: Measured) -> Iterator[tuple[str, ...]]:
    for figure in measured.headline:
        theirs, ours = (_value(measured, peer, figure) for peer in (BASE, OURS))
        if theirs is None or ours is None:
            continue
        better, worse = (ours, theirs) if figure in MORE_IS_BETTER else (theirs, ours)
        if worse > better * MARGIN:
            yield measured.work, _title(measured, figure), number(theirs), number(ours)


def _value(measured: Measured, peer: str, figure: str) -> float | None:
    """The median of the rounds; of a latency, if it was measured beside `direct`, what the hop adds."""
    values = added(measured, peer, figure) if _is_added(measured, figure) else measured.series(peer, figure)
    return median(values) if values else None


def _title(measured: Measured, figure: str) -> str:
    return f"added {title(figure)}" if _is_added(measured, figure) else title(figure)


def _is_added(measured: Measured, figure: str) -> bool:
    return figure.endswith("_ms") and bool(measured.series("direct", figure))
