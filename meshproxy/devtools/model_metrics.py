"""The metrics page of the development model server, with what TensorFlow Serving counts of requests.

Names, labels and buckets are those of `servables/tensorflow/util.cc`, and the text that of
`util/prometheus_exporter.cc`, traps included: times are in microseconds, sums have six significant digits
(`absl::StrCat` of a double), line feeds in labels are not escaped, and neither MultiInference nor metadata nor status
has a latency.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from itertools import accumulate

BOUNDS = tuple(10 * 1.8**step for step in range(33))
"""Microseconds, up to twenty minutes."""
MEASURED = frozenset({"Predict", "Classify", "Regress"})


class ModelMetrics:
    """What was counted since the server started."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        """By model and status word."""
        self._latencies: dict[tuple[str, str, str], _Latency] = {}

    def record(self, model: str, status: str, api: str, entrypoint: str, seconds: float) -> None:
        """Count one request. `api`: by its gRPC name; `entrypoint`: GRPC or REST."""
        self.requests[model, status] += 1
        if status == "OK" and api in MEASURED:
            self._latencies.setdefault((model, api, entrypoint), _Latency()).observe(int(seconds * 1e6))

    def page(self) -> str:
        """The page, in the text format."""
        lines = ["# TYPE :tensorflow:serving:request_count counter"]
        for (model, status), count in sorted(self.requests.items()):
            lines.append(
                f':tensorflow:serving:request_count{{model_name="{_escape(model)}",status="{status}"}} {count}'
            )
        name = ":tensorflow:serving:request_latency"
        if self._latencies:
            lines.append(f"# TYPE {name} histogram")
        for (model, api, entrypoint), latency in sorted(self._latencies.items()):
            labels = f'model_name="{_escape(model)}",API="{api}",entrypoint="{entrypoint}"'
            bounds = (*(f"{bound:.6g}" for bound in BOUNDS), "+Inf")
            for bound, count in zip(bounds, accumulate(latency.counts), strict=True):
                lines.append(f'{name}_bucket{{{labels},le="{bound}"}} {count}')
            lines.append(f"{name}_sum{{{labels}}} {latency.sum:.6g}")
            lines.append(f"{name}_count{{{labels}}} {sum(latency.counts)}")
        return "\n".join(lines) + "\n"


class _Latency:
    """One histogram."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0

    def observe(self, microseconds: int) -> None:
        self.counts[bisect_left(BOUNDS, microseconds)] += 1
        self.sum += microseconds


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')
