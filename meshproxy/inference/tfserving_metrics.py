"""TensorFlow Serving's metrics page: how long its requests took, by model.

The page has one histogram for each model, API and entry point (`servables/tensorflow/util.cc`), in the text format
(`util/prometheus_exporter.cc`), in microseconds:

    :tensorflow:serving:request_latency_sum{model_name="m",API="Predict",entrypoint="GRPC"} 1.23457e+09
    :tensorflow:serving:request_latency_count{model_name="m",API="Predict",entrypoint="GRPC"} 250000

Counted are successful calls of Predict, Classify and Regress, from the parsed request to the response before it is
written. Some releases have a further label, `status`. Counts are exact. **Sums have six significant digits** (they are
written as `%g` does): after a million calls of 5 ms the page moves in steps of 10 ms, so `ServerTime.step` is part of
every sum.

The page comes from a process that is not ours, and callers choose the names in it, of which line feeds are not escaped:
a line that is not of this form makes the whole page unusable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import floor, log10
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_SERIES = 1_000
"""Histograms that are read: three for each of 333 models."""
MOST_LINES = 50_000
"""Of a page."""
MOST_LINE_BYTES = 2_048
DIGITS = 6
"""Of a sum (`absl::StrCat` of a double)."""
MICROSECONDS = 1e6

_SUM = b":tensorflow:serving:request_latency_sum{"
_COUNT = b":tensorflow:serving:request_latency_count{"
_NAME = rb"[a-zA-Z_][a-zA-Z0-9_]*+"
_VALUE = rb'(?:[^"\\\n]|\\[\\"])*+'
_LABELS = re.compile(rb'(%b)="(%b)"' % (_NAME, _VALUE))
_LINE = re.compile(
    rb':[a-z_:]+\{((?:%b="%b",?+)++)\} ([0-9]{1,19}(?:\.[0-9]{1,17})?(?:e\+?[0-9]{1,2})?)' % (_NAME, _VALUE)
)
_ESCAPED = re.compile(rb"\\(.)")


class PageError(Exception):
    """A metrics page cannot be used. The message says why, without quoting what callers may have chosen."""


@dataclass(frozen=True, slots=True)
class ServerTime:
    """The successful calls of one model since the server started."""

    calls: int = 0
    seconds: float = 0.0
    """What they took, all together."""
    step: float = 0.0
    """Seconds: the sum is rounded to a multiple of this, in each of its parts."""

    def __add__(self, other: ServerTime) -> ServerTime:
        return ServerTime(self.calls + other.calls, self.seconds + other.seconds, self.step + other.step)


NO_TIME = ServerTime()


class TimesReader:
    """Reads a page a few lines at a time, so that requests are served in between: 0.1 us a line, and 2 us one that
    matters."""

    def __init__(self) -> None:
        self._sums: dict[bytes, bytes] = {}
        self._counts: dict[bytes, bytes] = {}

    def feed(self, lines: Iterable[bytes]) -> None:
        """Read some lines, without their line feeds.

        Raises:
            PageError: one is not as TensorFlow Serving writes it, or there are more than `MOST_SERIES`.
        """
        for line in lines:
            if line.startswith(_SUM):
                self._add(self._sums, line)
            elif line.startswith(_COUNT):
                self._add(self._counts, line)

    def _add(self, found: dict[bytes, bytes], line: bytes) -> None:
        match = _LINE.fullmatch(line) if len(line) <= MOST_LINE_BYTES else None
        if match is None:
            raise PageError("a line of request_latency is malformed or too long")
        labels, number = match.groups()
        if labels in found:
            raise PageError("a series of request_latency is there twice")
        if len(found) >= MOST_SERIES:
            raise PageError(f"request_latency has more than {MOST_SERIES} series")
        found[labels] = number

    def times(self) -> dict[str, ServerTime]:
        """The times of each model by name, after the last line. Empty: the server has answered nothing yet.

        Raises:
            PageError: what was read does not fit together.
        """
        if self._sums.keys() != self._counts.keys():
            raise PageError("request_latency has a sum without a count, or a count without a sum")
        times: dict[str, ServerTime] = {}
        for labels, text in self._sums.items():
            count = self._counts[labels]
            if not count.isdigit():
                raise PageError("request_latency_count is not a whole number")
            named = dict(_LABELS.findall(labels))
            if named.get(b"status", b"OK") != b"OK":
                continue
            try:
                model = _ESCAPED.sub(rb"\1", named[b"model_name"]).decode()
            except (KeyError, UnicodeDecodeError):
                raise PageError("request_latency has no readable model_name") from None
            value = float(text)
            found = ServerTime(int(count), value / MICROSECONDS, _step(text, value) / MICROSECONDS)
            times[model] = times.get(model, NO_TIME) + found
        return times


def _step(text: bytes, value: float) -> float:
    """What a sum of whole microseconds was rounded to."""
    digits = text.partition(b"e")[0].replace(b".", b"").lstrip(b"0")
    if value < 10.0**DIGITS or len(digits) > DIGITS:
        return 0.0
    return float(10.0 ** (floor(log10(value)) + 1 - DIGITS))
