"""What a scrape gets: the Prometheus text format 0.0.4, or OpenMetrics 1.0 where the scraper asks for it.

Everything of a line but its number is kept from the first scrape on, and a histogram is one template that is filled by
one operation: 0.2 us a line where `prometheus_client` takes 14 (docs/decisions/0004-own-metrics-writer.md). The page
comes in pieces, so that requests are served between them.

Formats: https://prometheus.io/docs/instrumenting/exposition_formats/ and
https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import accumulate

from meshproxy.telemetry.metrics import AnyFamily, AnySeries, Counter, Histogram, HistogramSeries, Registry, printable

TEXT = b"text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = b"application/openmetrics-text; version=1.0.0; charset=utf-8"

PIECE_LINES = 200
"""Lines of one piece, about: 0.1 ms; half a millisecond on the first scrape, which makes the texts (2.5 us a line)."""

NOT_FINITE = {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}

logger = logging.getLogger(__name__)


def wants_openmetrics(accept: bytes | None) -> bool:
    """Whether an `accept` field names OpenMetrics 1.0. Prometheus names it first among others, with weights in falling
    order; who names it at all can read it."""
    return accept is not None and b"application/openmetrics-text" in accept.lower()


def render(registry: Registry, *, openmetrics: bool = False) -> Iterator[bytes]:
    """The page in pieces of about `PIECE_LINES` lines. Between two of them, others may count and add series: a series
    shows its numbers of one moment, the page as a whole does not."""
    for family in tuple(registry.families.values()):
        if family.source is not None:
            yield _read_source(family, openmetrics)
        else:
            yield from _render_series(family, openmetrics)
    if openmetrics:
        yield b"# EOF\n"


def _render_series(family: AnyFamily, openmetrics: bool) -> Iterator[bytes]:
    piece = [_header(family, openmetrics)]
    series_in_piece = max(1, PIECE_LINES // family.lines_per_series)
    all_series: tuple[AnySeries, ...] = tuple(family.series.values())
    for number, series in enumerate(all_series, 1):
        text = series.text or _prepare(family, series.labels)
        series.text = text
        if isinstance(series, HistogramSeries):
            cumulative = tuple(accumulate(series.counts))
            piece.append(text % (*cumulative, format_number(series.sum), cumulative[-1]))
        else:
            piece.append(f"{text}{format_number(series.value)}\n")
        if number % series_in_piece == 0:
            yield "".join(piece).encode()
            piece.clear()
    if piece:  # an empty chunk would end the answer
        yield "".join(piece).encode()


def _read_source(family: AnyFamily, openmetrics: bool) -> bytes:
    assert family.source is not None
    piece = [_header(family, openmetrics)]
    try:
        for labels, value in family.source():
            values = tuple(printable(label) for label in labels)
            piece.append(f"{_prepare(family, values)}{format_number(value)}\n")
    except Exception:
        # One broken source must not take the whole page with it.
        logger.exception("cannot read %s", family.name)
        return piece[0].encode()
    return "".join(piece).encode()


def _header(family: AnyFamily, openmetrics: bool) -> str:
    kind = "counter" if isinstance(family, Counter) else "histogram" if isinstance(family, Histogram) else "gauge"
    return format_header(family.name, kind, family.help.replace("\\", r"\\").replace("\n", r"\n"), openmetrics)


def format_header(name: str, kind: str, text: str, openmetrics: bool) -> str:
    """What stands above a family's samples. OpenMetrics names the family of a counter without the suffix that its
    samples have. `text` is escaped already."""
    if openmetrics and kind == "counter":
        name = name.removesuffix("_total")
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


def _prepare(family: AnyFamily, values: tuple[str, ...]) -> str:
    """All of a series' text that does not change. For a histogram a template of `%` formatting."""
    labels = ",".join(f'{name}="{_escape(value)}"' for name, value in zip(family.label_names, values, strict=True))
    if not isinstance(family, Histogram):
        return f"{family.name}{{{labels}}} " if labels else f"{family.name} "
    fixed = labels.replace("%", "%%")
    more = f"{fixed}," if fixed else ""
    lines = [f'{family.name}_bucket{{{more}le="{_bound(bound)}"}} %d\n' for bound in family.bounds]
    lines.append(f'{family.name}_bucket{{{more}le="+Inf"}} %d\n')
    own = f"{{{fixed}}}" if fixed else ""
    return "".join(lines) + f"{family.name}_sum{own} %s\n{family.name}_count{own} %d\n"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def format_number(value: float) -> str:
    """A sample's value."""
    text = repr(value)
    return NOT_FINITE.get(text, text)


def _bound(value: float) -> str:
    """A bucket's bound as Go writes it, so that `le` reads alike everywhere (OpenMetrics, "Canonical Numbers"): like
    Python's shortest form, but with an exponent from 10^6 on instead of 10^16."""
    text = repr(float(value))
    point = text.find(".")
    if point <= 6 or "e" in text:
        return text
    digits = f"{text[0]}.{text[1:point]}{text[point + 1 :]}".rstrip("0").removesuffix(".")
    return f"{digits}e+{point - 1:02d}"
