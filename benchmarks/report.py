"""What a person sees of a run: a table per work, ratios where the rounds allow them, and the reasons where not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.devtools.load.figures import Noisy, Ratio, ratio, spread, verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.runner import Measured

BASE = "envoy"
UNITS = {
    "cpu_us": "CPU µs/req",
    "per_second": "req/s",
    "load_us": "load µs/req",
    "server_us": "server µs/req",
    "rss_mb": "RSS MB",
    "proxy_busy": "core busy",
    "proxy_waited": "core waited for",
    "mb_per_second": "MB/s",
    "mb_per_cpu_second": "MB/CPU s",
    "per_cpu_second": "per CPU s",
    "held_per_second": "held req/s",
    "peak_rss_mb": "peak RSS MB",
    "kb_per_connection": "KB/connection",
    "held": "held",
    "largest_mib": "largest MiB",
    "other_cpu_us": "CPU µs/req, other tool",
    "other_per_second": "req/s, other tool",
}
BESIDE = ("proxy_busy", "proxy_waited", "load_us", "server_us", "rss_mb")
"""Figures that stand at the right of a table where they were taken: what load and model server cost, and the like."""
COMPARED = ("cpu_us", "per_second", "mb_per_second", "mb_per_cpu_second", "per_cpu_second", "held_per_second")
"""Figures that are divided by Envoy's. Latencies are not: what a hop adds is a difference."""


def title(figure: str) -> str:
    """The heading of a column."""
    if figure in UNITS:
        return UNITS[figure]
    name, _, unit = figure.rpartition("_")
    return f"{name.replace('_', ' ')} {unit}"


def number(value: float) -> str:
    """Three digits that matter."""
    if value >= 1000:
        return f"{value:,.0f}"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cell(values: list[float]) -> str:
    """Median, and the range of the rounds."""
    if not values:
        return "-"
    found = spread(values)
    if found.rounds == 1:
        return number(found.median)
    return f"{number(found.median)} ({number(found.low)}-{number(found.high)})"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns, indented."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def compared(measured: Measured, peer: str, figure: str) -> str:
    """`0.61 (0.59-0.64)` or `noisy`. Empty where there is nothing to divide by."""
    found = against_base(measured, peer, figure)
    if found is None:
        return ""
    return "noisy" if isinstance(found, Noisy) else f"{found.value:.2f} ({found.low:.2f}-{found.high:.2f})"


def against_base(measured: Measured, peer: str, figure: str) -> Ratio | Noisy | None:
    """This peer's figure over Envoy's; None where there is nothing to divide or to divide by."""
    ours, theirs = measured.series(peer, figure), measured.series(BASE, figure)
    if peer in (BASE, "direct") or not ours or not theirs:
        return None
    return ratio(ours, theirs)


def added(measured: Measured, peer: str, figure: str) -> list[float]:
    """What the hop added to a latency, round by round: this peer's less that of `direct`."""
    direct = measured.series("direct", figure)
    ours = measured.series(peer, figure)
    if peer == "direct" or len(direct) != len(ours):
        return []
    return [our - bare for our, bare in zip(ours, direct, strict=True)]


def hop_verdict(measured: Measured, peer: str) -> str | None:
    """What this peer's hop costs, in a sentence; None where it was not measured beside `direct`."""
    disturbance = measured.disturbance()
    p50, p99 = added(measured, peer, "p50_ms"), added(measured, peer, "p99_ms")
    if not p50 or not p99:
        return None
    if disturbance is not None:
        return f"no verdict: {disturbance}"
    return verdict(spread(p50).median / 1e3, spread(p99).median / 1e3)


def table(measured: Measured) -> str:
    """One work as lines of text."""
    if measured.not_run is not None:
        return f"{measured.work}: {measured.question}\n  not run: {measured.not_run}"
    is_latency = {"p50_ms", "p99_ms"} <= set(measured.headline)
    columns = list(measured.headline)
    ratios = [figure for figure in columns if figure in COMPARED and _is_compared(measured, figure)]
    others = [figure for figure in BESIDE if figure not in columns and _is_measured(measured, figure)]
    head = ["", *(title(figure) for figure in columns)]
    if is_latency:
        head += [f"added {title(figure)}" for figure in ("p50_ms", "p99_ms")]
    head += [f"{title(figure)} / {BASE}'s" for figure in ratios] + [title(figure) for figure in others]
    rows = [head]
    for peer in measured.figures:
        row = [peer, *(cell(measured.series(peer, figure)) for figure in columns)]
        if is_latency:
            row += [cell(added(measured, peer, figure)) for figure in ("p50_ms", "p99_ms")]
        row += [compared(measured, peer, figure) for figure in ratios]
        row += [cell_short(measured.series(peer, figure)) for figure in others]
        rows.append(row)
    lines = [f"{measured.work}: {measured.question}", *aligned(rows)]
    for peer in measured.figures:
        for figure in ratios:
            found = against_base(measured, peer, figure)
            if isinstance(found, Noisy):
                lines.append(f"  {peer}, {title(figure)}: noisy, no ratio: {found.reason}")
    if is_latency:
        lines += [f"  {peer}: {sentence}" for peer in measured.figures if (sentence := hop_verdict(measured, peer))]
    lines += [f"  {peer}: no figure: {reason}" for peer, reason in measured.failures.items()]
    busy, foreign, steal = (measured.of_machine(share) for share in ("busy", "others", "steal"))
    if busy is not None and foreign is not None and steal is not None:
        lines.append(f"  machine: {busy:.0%} busy, {foreign:.0%} with other processes, {steal:.1%} stolen")
    return "\n".join(lines)


def _is_measured(measured: Measured, figure: str) -> bool:
    return any(measured.series(peer, figure) for peer in measured.figures)


def _is_compared(measured: Measured, figure: str) -> bool:
    return any(against_base(measured, peer, figure) is not None for peer in measured.figures)


def cell_short(values: list[float]) -> str:
    return number(spread(values).median) if values else "-"
