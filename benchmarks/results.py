"""What a run leaves behind: everything it measured as JSON, the tables, and two pictures."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.behind import behind
from benchmarks.plot import Bar, bars, curves
from benchmarks.report import table, title
from benchmarks.targets import verdicts
from meshproxy.devtools.load.figures import percentiles, spread

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.peers.peer import Peer
    from benchmarks.runner import Measured

SCHEMA = 1
CURVE = (0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99)
CPU_WORKS = ("cpu-rest", "cpu-grpc", "cpu-grpc-1", "cpu-grpc-100")
LATENCY_WORKS = ("latency-rest-500", "latency-grpc-500")


def document(
    machine: Mapping[str, Any], settings: Mapping[str, Any], peers: Mapping[str, Peer], results: Sequence[Measured]
) -> dict[str, Any]:
    """The result file. Figures are one list per peer with an entry per round; nothing is averaged away."""
    return {
        "schema": SCHEMA,
        "machine": dict(machine),
        "settings": dict(settings),
        "peers": {name: {"version": peer.version(), "checks": peer.checks} for name, peer in peers.items()},
        "works": [
            {
                "work": measured.work,
                "question": measured.question,
                "figures": measured.figures,
                "failures": measured.failures,
                "not_run": measured.not_run,
                "histograms": {peer: encoded(values) for peer, values in measured.latencies.items()},
            }
            for measured in results
        ],
    }


def encoded(latencies: array[float]) -> str | None:
    """An HdrHistogram of latencies (microseconds, 1 us to 60 s, 3 digits) in its compressed text form, which the tools
    of that family read and add up; None if the package hdrhistogram is not installed."""
    try:
        from hdrh.histogram import HdrHistogram
    except ImportError:
        return None
    histogram = HdrHistogram(1, 60_000_000, 3)
    for latency in latencies:
        histogram.record_value(max(1, round(latency * 1e6)))
    text: bytes = histogram.encode()
    return text.decode("ascii")


def heading(machine: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The lines above the tables."""
    changes = " with changes" if machine["has_changes"] else ""
    return (
        f"{machine['date']}, commit {machine['commit']}{changes}, {machine['processor']}, {machine['cores']} cores, "
        f"Linux {machine['kernel']}, Python {machine['python']}\n"
        f"{settings['rounds']} rounds of {settings['duration']:g} s; median (lowest-highest round); "
        f"{'requests differ from one another' if settings['varies'] else 'all requests are alike'}"
        f"{'; a busy neighbour on the core of the proxy' if settings['neighbour'] else ''}"
    )


def save(
    folder: Path,
    machine: Mapping[str, Any],
    settings: Mapping[str, Any],
    peers: Mapping[str, Peer],
    results: Sequence[Measured],
) -> list[Path]:
    """Writes `latest.json`, `latest.txt` and the pictures there is data for; returns what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    versions = "\n".join(f"{name} {peer.version()}: {peer.checks}" for name, peer in peers.items())
    said = [verdicts(list(results)), behind(results)]
    head = [heading(machine, settings), versions, *filter(None, said)]
    texts = {
        "latest.json": json.dumps(document(machine, settings, peers, results), indent=1) + "\n",
        "latest.txt": "\n\n".join([*head, *map(table, results)]) + "\n",
    }
    by_name = {measured.work: measured for measured in results}
    groups = {name: cpu_bars(by_name[name]) for name in CPU_WORKS if name in by_name}
    if any(groups.values()):
        captions = {name: by_name[name].question.partition(": ")[2] for name in groups}
        texts["cpu-per-request.svg"] = bars(
            "CPU per request of the proxy process",
            {captions[name]: found for name, found in groups.items()},
            f"{title('cpu_us')}, median of {settings['rounds']} rounds; lines show the lowest and the highest round",
        )
    for name in LATENCY_WORKS:
        if name in by_name and by_name[name].latencies:
            measured = by_name[name]
            lines = {peer: latency_curve(values) for peer, values in measured.latencies.items()}
            caption = "counted from the moment a request was due; all rounds together"
            texts[f"{name}.svg"] = curves(_capitalized(measured.question), lines, caption)
    written = []
    for name, text in texts.items():
        (folder / name).write_text(text)
        written.append(folder / name)
    return written


def cpu_bars(measured: Measured) -> list[Bar]:
    """One bar per proxy."""
    found = []
    for peer in measured.figures:
        values = measured.series(peer, "cpu_us")
        if values:
            over = spread(values)
            found.append(Bar(peer, over.median, over.low, over.high))
    return found


def latency_curve(latencies: Sequence[float]) -> list[tuple[float, float]]:
    """Points (percentile, milliseconds), up to where at least ten values lie beyond."""
    return [(share, value * 1e3) for share, value in percentiles(latencies, CURVE).items()]


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]
