"""The pages of several processes as the page of one: what a scrape of a sidecar with several workers gets.

Counters and histograms add up, and never fall: Prometheus takes a counter that falls for one that began anew at zero,
and counts all that is left of it as new (`rate`, `increase`). So what a worker has counted stays in the sum when it
dies, or does not answer in time, as it was last seen. What a gauge becomes stands in `GAUGES`.

Pure: text goes in and comes out. Sums are exact, since a sum of floats depends on the order of its parts, and one that
is smaller by its last bit is a counter that falls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction

from meshproxy.telemetry.exposition import PIECE_LINES, format_header, format_number
from meshproxy.telemetry.metrics import MAX_LINES

Number = int | float | Fraction
"""Whole numbers as they are, finite ones exactly; what is left are infinities and NaN."""


class Rule(Enum):
    """What becomes of a gauge that several processes have."""

    SUM = "sum"
    MIN = "min"
    MAX = "max"


GAUGES = {
    "meshproxy_requests_in_flight": Rule.SUM,
    "meshproxy_open_connections": Rule.SUM,
    "meshproxy_queue_depth": Rule.SUM,
    # Each worker lets so many in: together they let in the sum.
    "meshproxy_concurrency_limit": Rule.SUM,
    # Every worker has found the same endpoints, and learned for itself which of them fail.
    "meshproxy_endpoints": Rule.MAX,
    "meshproxy_circuit_state": Rule.MAX,
    "meshproxy_jwks_age_seconds": Rule.MAX,
    # Of these the worker that is worst off counts: it serves as many clients as the others.
    "meshproxy_identity_cert_expiration_timestamp_seconds": Rule.MIN,
    "meshproxy_identity_in_sync": Rule.MIN,
    "meshproxy_config_in_sync": Rule.MIN,
    "meshproxy_config_last_reload_success_timestamp_seconds": Rule.MIN,
    # The bound on a page's lines holds for each worker.
    "meshproxy_metric_lines": Rule.MAX,
    "meshproxy_build_info": Rule.MAX,
    "process_resident_memory_bytes": Rule.SUM,
    "process_virtual_memory_bytes": Rule.SUM,
    "process_open_fds": Rule.SUM,
    "process_max_fds": Rule.SUM,
    "process_start_time_seconds": Rule.MIN,
}
"""Every gauge of ours; a test holds it against the catalogue."""


@dataclass(slots=True)
class FamilyLines:
    """One metric of a page: its kind, its help (escaped), and its numbers by what stands before them in their lines."""

    kind: str
    help: str
    samples: dict[str, Number] = field(default_factory=dict)


Page = dict[str, FamilyLines]


def read_page(text: str) -> Page:
    """A page in the text format 0.0.4 as `exposition.render` writes it: help, type, samples without timestamps.

    Raises:
        ValueError: it is something else.
    """
    page: Page = {}
    samples: dict[str, Number] | None = None
    help_name = help_text = ""
    # Labels may hold whatever else `splitlines` would split at.
    for line in text.split("\n"):
        if line.startswith("# HELP "):
            help_name, _, help_text = line[7:].partition(" ")
        elif line.startswith("# TYPE "):
            name, _, kind = line[7:].partition(" ")
            if name != help_name or name in page:
                raise ValueError(f"{name} has no help of its own, or stands twice")
            samples = (page.setdefault(name, FamilyLines(kind, help_text))).samples
        elif line:
            key, _, value = line.rpartition(" ")
            if samples is None or not key or line[0] == "#":
                raise ValueError(f"not a sample: {line[:80]!r}")
            samples[key] = _read_number(value)
    return page


def merge(pages: Iterable[Page]) -> Page:
    """The families of all pages, in the order in which they come."""
    merged: Page = {}
    for page in pages:
        for name, family in page.items():
            into = merged.get(name)
            if into is None:
                merged[name] = FamilyLines(family.kind, family.help, dict(family.samples))
                continue
            rule = GAUGES.get(name, Rule.SUM) if family.kind == "gauge" else Rule.SUM
            samples = into.samples
            for key, value in family.samples.items():
                before = samples.get(key)
                if before is None:
                    samples[key] = value
                elif rule is Rule.SUM:
                    samples[key] = before + value
                else:
                    samples[key] = min(before, value) if rule is Rule.MIN else max(before, value)
    return merged


def write_page(page: Page, *, openmetrics: bool = False) -> Iterator[bytes]:
    """The text of a page, in pieces as `exposition.render` makes them."""
    piece: list[str] = []
    for name, family in page.items():
        piece.append(format_header(name, family.kind, family.help, openmetrics))
        for key, value in family.samples.items():
            piece.append(f"{key} {_format(value)}\n")
            if len(piece) >= PIECE_LINES:
                yield "".join(piece).encode()
                piece.clear()
    if openmetrics:
        piece.append("# EOF\n")
    if piece:  # an empty chunk would end the answer
        yield "".join(piece).encode()


class Ledger:
    """What each worker counted when it was last seen, and what those that died had counted: sums that never fall."""

    def __init__(self, max_lines: int = MAX_LINES) -> None:
        self._seen: dict[int, Page] = {}
        self._retired: Page = {}
        self._lines = 0
        self._max_lines = max_lines

    def answered(self, number: int, page: Page) -> None:
        """A worker that lives shows this now."""
        self._seen[number] = page

    def died(self, number: int) -> None:
        """The next worker of this number begins at zero. Beyond as many lines as a process has at most, the counts of
        what no dead worker had before are given up, a whole metric's at a time."""
        for name, family in _growing(self._seen.pop(number, {})).items():
            into = self._retired.setdefault(name, FamilyLines(family.kind, family.help)).samples
            new = family.samples.keys() - into.keys()
            has_room = self._lines + len(new) <= self._max_lines
            for key, value in family.samples.items():
                if key in into:
                    into[key] += value
                elif has_room:
                    into[key] = value
            if has_room:
                self._lines += len(new)

    def merged(self, own: Page, present: Iterable[int]) -> Page:
        """One page: `own`, what the workers of the numbers in `present` showed last, and what others have counted."""
        there = set(present)
        seen = [page if number in there else _growing(page) for number, page in sorted(self._seen.items())]
        return merge([own, *seen, self._retired])


def _growing(page: Page) -> Page:
    """A page without its gauges."""
    return {name: family for name, family in page.items() if family.kind != "gauge"}


def _read_number(text: str) -> Number:
    if text.isdigit():
        return int(text)
    value = float(text)
    try:
        return Fraction(value)
    except (OverflowError, ValueError):
        return value


def _format(value: Number) -> str:
    return format_number(float(value) if isinstance(value, Fraction) else value)
