"""The page /metrics: the Prometheus text format 0.0.4, or OpenMetrics 1.0 if the scraper asks for it.

Lines are cached without their numbers from the first scrape on, and a histogram is one template that one operation
fills: 0.2 us a line where `prometheus_client` takes 14 (docs/decisions/0004-own-metrics-writer.md). The page is
generated in pieces, so that requests are served in between.

Formats: https://prometheus.io/docs/instrumenting/exposition_formats/ and
https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from meshproxy.telemetry.metrics import (
    AnyFamily,
    AnySeries,
    Exemplar,
    Histogram,
    HistogramSeries,
    Metric,
    Registry,
    Type,
    printable,
)

TEXT = b"text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = b"application/openmetrics-text; version=1.0.0; charset=utf-8"

PIECE_LINES = 200
"""Approximate lines of one piece: 0.1 ms; half a millisecond on the first scrape, which fills the cache (2.5 us a
line)."""

NOT_FINITE = {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}

logger = logging.getLogger(__name__)

_OPENMETRICS, _TEXT = b"application/openmetrics-text", b"text/plain"
_OLD = re.compile(rb'version="?0\.').match
_WEIGHT = re.compile(rb"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?").fullmatch


def wants_openmetrics(accept: bytes | None) -> bool:
    """Whether an `accept` field (RFC 9110 section 12.5.1) prefers OpenMetrics to text. Prometheus weighs them by the
    order of its `scrape_protocols`. Ranges such as `*/*` do not count, nor do versions of OpenMetrics before 1.0, as
    for `prometheus_client`; without a version any is meant."""
    weights = {_OPENMETRICS: 0.0, _TEXT: 0.0}
    for item in (accept or b"").lower().split(b","):
        kind, *parameters = map(bytes.strip, item.split(b";"))
        if kind in weights and not (kind == _OPENMETRICS and any(map(_OLD, parameters))):
            weights[kind] = max(weights[kind], min(map(_weight, parameters), default=1.0))
    return weights[_OPENMETRICS] > 0.0 and weights[_OPENMETRICS] >= weights[_TEXT]


def _weight(parameter: bytes) -> float:
    """Of a range of media types; 1 if the parameter is another, 0 if it is none that can be read."""
    if not parameter.startswith(b"q="):
        return 1.0
    return float(parameter[2:]) if _WEIGHT(parameter[2:]) else 0.0


def render(registry: Registry, *, openmetrics: bool = False, more: Iterable[bytes] = ()) -> Iterator[bytes]:
    """The page in pieces of about `PIECE_LINES` lines, and of none where a source pauses, with `more` at its end.
    Counting continues between pieces: a series is consistent in itself, the page as a whole is not a snapshot."""
    for family in tuple(registry.families.values()):
        if family.source is not None:
            yield from _read_source(family, openmetrics)
        else:
            yield from _render_series(family, openmetrics)
    yield from more
    if openmetrics:
        yield b"# EOF\n"


def _render_series(family: AnyFamily, openmetrics: bool) -> Iterator[bytes]:
    piece = [_header(family.metric, openmetrics)]
    series_in_piece = max(1, PIECE_LINES // family.lines_per_series)
    all_series: tuple[AnySeries, ...] = tuple(family.series.values())
    for number, series in enumerate(all_series, 1):
        text = series.text or _prepare(family, series.labels)
        series.text = text
        if isinstance(series, HistogramSeries):
            cumulative = tuple(accumulate(series.counts))
            filled = text % (*cumulative, _format_number(series.sum), cumulative[-1])
            piece.append(_add_exemplars(filled, series.exemplars) if openmetrics and series.exemplars else filled)
        else:
            piece.append(f"{text}{_format_number(series.value)}\n")
        if number % series_in_piece == 0:
            yield "".join(piece).encode()
            piece.clear()
    if piece:
        yield "".join(piece).encode()


def _read_source(family: AnyFamily, openmetrics: bool) -> Iterator[bytes]:
    assert family.source is not None
    piece = [_header(family.metric, openmetrics)]
    try:
        for row in family.source():
            if row is not None:
                labels, value = row
                values = tuple(printable(label) for label in labels)
                piece.append(f"{_prepare(family, values)}{_format_number(value)}\n")
            if row is None or len(piece) >= PIECE_LINES:
                yield "".join(piece).encode()
                piece.clear()
    except Exception:
        # One failing source must not fail the whole page.
        logger.exception("internal error in reading metric %s", family.metric.name)
    if piece:
        yield "".join(piece).encode()


def _header(metric: Metric, openmetrics: bool) -> str:
    """What precedes a family's samples. OpenMetrics names a counter's family without the suffix of its samples, and
    has the unit."""
    name = metric.name.removesuffix("_total") if openmetrics and metric.type is Type.COUNTER else metric.name
    text = metric.help.replace("\\", r"\\").replace("\n", r"\n")
    unit = f"# UNIT {name} {metric.unit}\n" if openmetrics and metric.unit else ""
    return f"# HELP {name} {text}\n# TYPE {name} {metric.type.value}\n{unit}"


def _prepare(family: AnyFamily, values: tuple[str, ...]) -> str:
    """The constant text of a series. For a histogram, a template for `%` formatting."""
    name = family.metric.name
    labels = ",".join(f'{key}="{_escape(value)}"' for key, value in zip(family.metric.labels, values, strict=True))
    if not isinstance(family, Histogram):
        return f"{name}{{{labels}}} " if labels else f"{name} "
    fixed = labels.replace("%", "%%")
    more = f"{fixed}," if fixed else ""
    lines = [f'{name}_bucket{{{more}le="{_bound(bound)}"}} %d\n' for bound in family.metric.buckets]
    lines.append(f'{name}_bucket{{{more}le="+Inf"}} %d\n')
    own = f"{{{fixed}}}" if fixed else ""
    return "".join(lines) + f"{name}_sum{own} %s\n{name}_count{own} %d\n"


def _add_exemplars(text: str, exemplars: Mapping[int, Exemplar]) -> str:
    """The lines of a histogram, in which the buckets come first, with the exemplars of these buckets. Names and values
    of an exemplar's labels have 63 characters; 128 are allowed."""
    lines = text.split("\n")
    for bucket, (value, timestamp, trace_id, span_id) in exemplars.items():
        labels = f'trace_id="{trace_id.decode()}",span_id="{span_id.decode()}"'
        lines[bucket] += f" # {{{labels}}} {_format_number(value)} {timestamp:.3f}"
    return "\n".join(lines)


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _format_number(value: float) -> str:
    text = repr(value)
    return NOT_FINITE.get(text, text)


def _bound(value: float) -> str:
    """A bucket's bound as Go formats it, so that `le` is the same everywhere (OpenMetrics, "Canonical Numbers"):
    Python's shortest form, but with an exponent from 10^6 on instead of 10^16."""
    text = repr(float(value))
    point = text.find(".")
    if point <= 6 or "e" in text:
        return text
    digits = f"{text[0]}.{text[1:point]}{text[point + 1 :]}".rstrip("0").removesuffix(".")
    return f"{digits}e+{point - 1:02d}"
