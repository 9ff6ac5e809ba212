"""The figures that meshproxy is to reach, and whether a run has reached them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.peers.traces import ENVOY_TRACES, OWN_TRACES
from benchmarks.report import added, aligned, number
from meshproxy.devtools.load.figures import Noisy, ratio, spread

if TYPE_CHECKING:
    from benchmarks.runner import Measured

OURS, BASE = "meshproxy", "envoy"
TRACED = OWN_TRACES[0].name
FIELDS = "envoy-fields"
BASES = (
    "rules-rest-10",
    "rules-grpc-10",
    "resilience-rest-off",
    "resilience-grpc-off",
    "workers-rest-1",
    "workers-cpu-1",
)
"""Works that others are compared with."""
CPU_BOUNDS = {
    "cpu-rest": 0.5,
    "cpu-grpc": 0.45,
    "cpu-grpc-1": 0.8,
    "cpu-grpc-16c": 0.55,
    "cpu-grpc-100": 0.8,
    "cpu-grpc-64c": 0.45,
    "hops-rest": 0.6,
    "hops-grpc": 0.6,
}
"""CPU per request over Envoy's, by work."""

Results = Mapping[str, "Measured"]
Found = tuple[float | None, str]
"""The figure, and what there is to say: its range, or why there is none."""


@dataclass(frozen=True, slots=True)
class Target:
    """One figure of one work."""

    work: str
    what: str
    bound: float
    is_upper: bool
    figure: Callable[[Results, str], Found | None]
    """None: not measured in this run."""

    def is_met(self, value: float) -> bool:
        return value <= self.bound if self.is_upper else value >= self.bound


def against_envoy(figure: str) -> Callable[[Results, str], Found | None]:
    """Our figure over Envoy's."""

    def find(results: Results, work: str) -> Found | None:
        measured = results.get(work)
        if measured is None:
            return None
        return _ratio(measured.series(OURS, figure), measured.series(BASE, figure))

    return find


def against_work(other: str, figure: str) -> Callable[[Results, str], Found | None]:
    """Our figure over our own in another work."""

    def find(results: Results, work: str) -> Found | None:
        if work not in results or other not in results:
            return None
        return _ratio(results[work].series(OURS, figure), results[other].series(OURS, figure))

    return find


def beyond_work(other: str, figure: str) -> Callable[[Results, str], Found | None]:
    """How much our figure is above our own in another work."""

    def find(results: Results, work: str) -> Found | None:
        if work not in results or other not in results:
            return None
        ours, base = results[work].series(OURS, figure), results[other].series(OURS, figure)
        if not ours or not base:
            return None, "not measured"
        differences = sorted(one - two for one, two in zip(ours, base, strict=False))
        return differences[len(differences) // 2], f"{number(differences[0])} to {number(differences[-1])}"

    return find


def between(one: str, other: str, figure: str) -> Callable[[Results, str], Found | None]:
    """How much a figure of one peer is above that of another."""

    def find(results: Results, work: str) -> Found | None:
        measured = results.get(work)
        if measured is None:
            return None
        ones, others = measured.series(one, figure), measured.series(other, figure)
        if len(ones) != len(others):
            return None, "rounds are missing"
        return _range([here - there for here, there in zip(ones, others, strict=True)])

    return find


def over(one: str, other: str, figure: str) -> Callable[[Results, str], Found | None]:
    """A figure of one peer over that of another."""

    def find(results: Results, work: str) -> Found | None:
        measured = results.get(work)
        return _ratio(measured.series(one, figure), measured.series(other, figure)) if measured is not None else None

    return find


def plain(figure: str) -> Callable[[Results, str], Found | None]:
    """The figure itself."""

    def find(results: Results, work: str) -> Found | None:
        measured = results.get(work)
        return _range(measured.series(OURS, figure)) if measured is not None else None

    return find


def of_latency(find: Callable[[Measured], Found]) -> Callable[[Results, str], Found | None]:
    """What is made of the latencies of a work; nothing, if other processes had much of the machine."""

    def undisturbed(results: Results, work: str) -> Found | None:
        measured = results.get(work)
        if measured is None:
            return None
        disturbance = measured.disturbance()
        return (None, f"noisy: {disturbance}") if disturbance else find(measured)

    return undisturbed


def hop(figure: str) -> Callable[[Results, str], Found | None]:
    """What our hop adds to a latency."""
    return of_latency(lambda measured: _range(added(measured, OURS, figure)))


def hop_beyond_envoys(figure: str) -> Callable[[Results, str], Found | None]:
    """What our hop adds, less what Envoy's adds."""

    def find(measured: Measured) -> Found:
        ours, theirs = measured.series(OURS, figure), measured.series(BASE, figure)
        if len(ours) != len(theirs):
            return None, "rounds are missing"
        return _range([our - their for our, their in zip(ours, theirs, strict=True)])

    return of_latency(find)


def hop_over_envoys(figure: str) -> Callable[[Results, str], Found | None]:
    """What our hop adds, over what Envoy's adds."""
    return of_latency(lambda measured: _ratio(added(measured, OURS, figure), added(measured, BASE, figure)))


def _range(values: list[float]) -> Found:
    if not values:
        return None, "no figure"
    found = spread(values)
    return found.median, f"{number(found.low)} to {number(found.high)}" if found.rounds > 1 else "one round"


def _ratio(ours: list[float], theirs: list[float]) -> Found:
    found = ratio(ours, theirs)
    if isinstance(found, Noisy):
        return None, f"noisy: {found.reason}"
    return found.value, f"{found.low:.2f} to {found.high:.2f}"


def targets() -> Iterator[Target]:
    """All of them."""
    for work, bound in CPU_BOUNDS.items():
        yield Target(work, "CPU per request / Envoy's", bound, True, against_envoy("cpu_us"))
    yield Target("cpu-grpc", "CPU per request / envoy-fields'", 0.4, True, over(OURS, FIELDS, "cpu_us"))
    for work in ("latency-rest-500", "latency-grpc-500"):
        yield Target(work, "added at p50, ms", 0.25, True, hop("p50_ms"))
        yield Target(work, "added at p99, ms", 1.0, True, hop("p99_ms"))
        yield Target(work, "added at p50 / Envoy's", 0.6, True, hop_over_envoys("p50_ms"))
        yield Target(work, "added at p50 beyond Envoy's, ms", 0.0, True, hop_beyond_envoys("p50_ms"))
        yield Target(work, "added at p99 beyond Envoy's, ms", 0.0, True, hop_beyond_envoys("p99_ms"))
    for work in ("bytes-rest-1m", "bytes-rest-16m", "bytes-grpc-1m", "bytes-grpc-16m"):
        yield Target(work, "bytes per second / Envoy's", 0.8, False, against_envoy("mb_per_second"))
        bound = 0.95 if "rest" in work else 0.85
        yield Target(work, "bytes per CPU second / Envoy's", bound, False, against_envoy("mb_per_cpu_second"))
    for work in ("peak-rest-1m", "peak-rest-16m", "peak-grpc-1m", "peak-grpc-16m"):
        yield Target(work, "peak RSS with 32 in flight, MB", 80.0, True, plain("peak_rss_mb"))
    yield Target("start", "CPU until it takes connections, ms", 350.0, True, plain("start_cpu_ms"))
    yield Target("rss", "RSS after 100,000 requests, MB", 47.0, True, plain("rss_mb"))
    for protocol in ("rest", "grpc"):
        work = f"rules-{protocol}-10000"
        yield Target(
            work, "CPU per request / with ten rules", 1.1, True, against_work(f"rules-{protocol}-10", "cpu_us")
        )
    for work in ("idle-rest", "idle-grpc"):
        yield Target(work, "idle connections held", 5_000.0, False, plain("held"))
        yield Target(work, "KB per idle connection", 44.0, True, plain("kb_per_connection"))
    for protocol in ("rest", "grpc"):
        yield Target(
            f"resilience-{protocol}-on",
            "CPU per request above without resilience, us",
            15.0,
            True,
            beyond_work(f"resilience-{protocol}-off", "cpu_us"),
        )
    for work in ("telemetry-rest", "telemetry-grpc"):
        yield Target(
            work, "CPU per request / Envoy's, both with traces", 0.9, True, over(TRACED, ENVOY_TRACES.name, "cpu_us")
        )
        for what, peer, bound in (
            ("traces of 1 %", TRACED, 3.0),
            ("traces of all", f"{TRACED}-all", 25.0),
            ("traces, silent collector", f"{TRACED}-silent", 3.0),
            ("traces, no collector", f"{TRACED}-dead", 3.0),
        ):
            yield Target(work, f"{what}, us above metrics and log", bound, True, between(peer, OURS, "cpu_us"))
    yield Target("handshakes", "handshakes per CPU second / Envoy's", 0.55, False, against_envoy("per_cpu_second"))
    yield Target("workers-rest-2", "req/s / of one worker", 1.8, False, against_work("workers-rest-1", "per_second"))
    yield Target(
        "workers-cpu-2", "CPU per request / of one worker", 1.05, True, against_work("workers-cpu-1", "cpu_us")
    )


def needed_works() -> list[str]:
    """Names of the works that tell whether the targets are met."""
    return [*dict.fromkeys(target.work for target in targets()), *BASES]


def needed_peers() -> list[str]:
    """Names of the peers that tell it."""
    return ["direct", BASE, FIELDS, OURS, ENVOY_TRACES.name, *(peer.name for peer in OWN_TRACES)]


def verdicts(results: list[Measured]) -> str:
    """A line for every target whose work was run with meshproxy; empty if there is none."""
    by_name = {measured.work: measured for measured in results if OURS in measured.figures or OURS in measured.failures}
    rows = []
    for target in targets():
        found = target.figure(by_name, target.work)
        if found is None:
            continue
        value, note = found
        state = "?" if value is None else "met" if target.is_met(value) else "MISSED"
        bound = f"{'<=' if target.is_upper else '>='} {number(target.bound)}"
        rows.append((state, target.work, target.what, bound, "-" if value is None else number(value), note))
    return "\n".join(["targets of meshproxy", *aligned(rows)]) if rows else ""
