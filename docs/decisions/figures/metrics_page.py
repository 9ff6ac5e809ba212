"""The figures of 0004 for a full page: CPU time of the longest piece, and of all of them.

`python docs/decisions/figures/metrics_page.py`: 10,000 lines of stored series of which the duration histogram has
exemplars, and 20,000 circuit breakers that are read at the scrape. The first page makes the texts of the lines.
"""
# ruff: noqa: T201

from __future__ import annotations

import gc
import time
from types import SimpleNamespace
from typing import Any

from meshproxy.telemetry.exposition import render
from meshproxy.telemetry.metrics import MAX_LINES, Exemplar
from meshproxy.telemetry.sidecar_metrics import SidecarMetrics
from meshproxy.telemetry.upstream_metrics import UpstreamMetrics
from meshproxy.upstream.breaker import State

ENDPOINTS, BREAKERS = 40, 500
PAGES = 9


def full() -> SidecarMetrics:
    metrics = SidecarMetrics()
    requests = metrics.requests
    requests.mention([f"model-{number}" for number in range(BREAKERS)])
    while metrics.registry.lines < MAX_LINES - 30:
        model = f"model-{metrics.registry.lines}"
        requests.total.labels("inbound", model, "1", "predict", "HTTP/2", "200", "OK").value = 12_345_678
        duration = requests.duration.labels("inbound", model, "1", "predict")
        for value in (0.0009, 0.002, 0.003, 0.02, 70.0):
            duration.observe(value)
            duration.exemplify(Exemplar(value, 1.7e9, b"4bf92f3577b34da6a3ce929d0e0e4736", b"53995c3f42cd8ad8"))
    states = [(f"model-{number}", State.CLOSED) for number in range(BREAKERS)]
    endpoint: Any = SimpleNamespace(
        name="10.0.0.1:8500", states=lambda: states, is_ejected=False, health=None, breaker=None
    )
    cluster: Any = SimpleNamespace(name="models", endpoints={str(number): endpoint for number in range(ENDPOINTS)})
    UpstreamMetrics(metrics.registry, requests.model_labels).watch(lambda: [cluster], {})
    return metrics


def measure(metrics: SidecarMetrics, openmetrics: bool) -> tuple[float, float, int, int]:
    """Milliseconds of the longest piece and of all; pieces; lines."""
    longest = total = 0.0
    pieces = lines = 0
    page = render(metrics.registry, openmetrics=openmetrics)
    while True:
        began = time.thread_time()
        piece = next(page, None)
        took = time.thread_time() - began
        if piece is None:
            return longest * 1e3, total * 1e3, pieces, lines
        longest, total = max(longest, took), total + took
        pieces, lines = pieces + 1, lines + piece.count(b"\n")


def main() -> None:
    gc.freeze()  # as in a sidecar that has started
    for openmetrics in (False, True):
        firsts, others = [], []
        for _ in range(PAGES):
            metrics = full()
            firsts.append(measure(metrics, openmetrics))
            others.append(measure(metrics, openmetrics))
        for name, runs in (("first page", firsts), ("other pages", others)):
            _, _, pieces, lines = runs[0]
            longest, total = min(run[0] for run in runs), min(run[1] for run in runs)
            print(
                f"{'OpenMetrics' if openmetrics else 'text':11}  {name:11}  {lines:,} lines in {pieces} pieces: "
                f"longest {longest:.2f} ms, all {total:.1f} ms"
            )


if __name__ == "__main__":
    main()
