"""The tables of `stat` and `top`, and the lines of `tap`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.text import Text

from meshproxy.cli._local_page import printable
from meshproxy.cli._status_text import new_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rich.table import Table

    from meshproxy.cli._call_rows import Row

WAYS = {"inbound": "in", "outbound": "out"}
MOST_COLUMNS = 1_000
SHORTEST_NAME = 8
"""Characters to which names are cut where there is no room."""
FEWEST_NUMBERS = 2
"""Columns: success and rate."""
GOOD, POOR = 0.999, 0.99
"""Shares of success below which a number is yellow, and red."""


def short_caller(text: str) -> str:
    """`spiffe://domain/ns/NAMESPACE/sa/ACCOUNT (issuer:subject)` with NAMESPACE/ACCOUNT."""
    from meshproxy.control.fleet import short_identity

    workload, space, token = text.partition(" ")
    return short_identity(workload) + space + token


def span(seconds: float | None) -> str:
    """A duration with three digits: `1.25ms`, `12.5s`."""
    if seconds is None:
        return "-"
    return f"{seconds * 1_000:.3g}ms" if seconds < 0.999_5 else f"{seconds:.3g}s"


def rate(number: float) -> str:
    return f"{number:,.1f}" if number < 1_000 else f"{number:,.0f}"


def share(number: float | None) -> Text:
    """In percent; a hundred only if it is all of them."""
    if number is None:
        return Text("-")
    text = "100%" if number == 1 else f"{min(100 * number, 99.99):.2f}%"
    return Text(text, style="green" if number >= GOOD else "yellow" if number >= POOR else "red")


def size(number: float) -> str:
    """Bytes."""
    for unit in ("B", "KiB", "MiB"):
        if number < 1_000:
            return f"{number:.3g}{unit}"
        number /= 1_024
    return f"{number:.3g}GiB"


def _denied(row: Row) -> Text:
    denied = row.group.denied
    return Text(f"{denied:,}", style="red" if denied else "")


def _per_second(number: int, row: Row) -> Text:
    return Text(f"{size(number / row.span if row.span else 0)}/s")


_NUMBERS: tuple[tuple[str, Callable[[Row], Text]], ...] = (
    ("SUCCESS", lambda row: share(row.success)),
    ("RPS", lambda row: Text(rate(row.rate))),
    ("P50", lambda row: Text(span(row.quantile(0.5)))),
    ("P95", lambda row: Text(span(row.quantile(0.95)))),
    ("P99", lambda row: Text(span(row.quantile(0.99)))),
    ("RETRIES", lambda row: Text(f"{row.group.retries:,}")),
    ("DENIED", _denied),
)
_MORE_NUMBERS: tuple[tuple[str, Callable[[Row], Text]], ...] = (
    ("REFUSED", lambda row: Text(f"{row.group.refused:,}")),
    ("FAILED", lambda row: Text(f"{row.group.failed:,}")),
    ("CALLS", lambda row: Text(f"{row.group.calls:,}")),
    ("MEAN", lambda row: Text(span(row.mean))),
    ("IN", lambda row: _per_second(row.group.received, row)),
    ("OUT", lambda row: _per_second(row.group.sent, row)),
)


def table(rows: Sequence[Row], by: Iterable[str], *, wide: bool) -> Table:
    """A line for each group of calls."""
    lines = _names(rows, list(by), wide=wide)
    return _table(lines, rows, (*_NUMBERS, *_MORE_NUMBERS) if wide else _NUMBERS)


def fitting_table(rows: Sequence[Row], by: Iterable[str], *, wide: bool, width: int) -> Table:
    """The same with as many columns as there is room for, and names that are cut if need be."""
    lines = _names(rows, list(by), wide=wide)
    numbers = (*_NUMBERS, *_MORE_NUMBERS) if wide else _NUMBERS
    while (excess := _width(found := _table(lines, rows, numbers)) - width) > 0 and len(numbers) > FEWEST_NUMBERS:
        if len(numbers) <= len(_NUMBERS) and (cut := _cut_names(lines, excess)) is not None:
            return _table(cut, rows, numbers)
        numbers = numbers[:-1]
    return found


def _cut_names(lines: list[list[str]], excess: int) -> list[list[str]] | None:
    """Shorter by so many characters in all, the longest first; None if there are not so many."""
    limits = [max(map(len, column)) for column in zip(*lines, strict=True)]
    while excess > 0:
        longest = max(limits)
        if longest <= SHORTEST_NAME:
            return None
        limits[limits.index(longest)] -= 1
        excess -= 1
    return [[_cut(word, limit) for word, limit in zip(line, limits, strict=True)] for line in lines]


def _names(rows: Sequence[Row], by: list[str], *, wide: bool) -> list[list[str]]:
    """The headings of the columns before the numbers, and their words in each row."""
    has_direction = wide or len({row.names["direction"] for row in rows}) > 1
    lines = [["DIR"] * has_direction + [name.upper() for name in by]]
    for row in rows:
        names = [short_caller(row.names[name]) if name == "caller" else row.names[name] for name in by]
        lines.append([WAYS.get(row.names["direction"], "-")] * has_direction + [printable(name) for name in names])
    return lines


def _table(
    lines: Sequence[Sequence[str]], rows: Sequence[Row], numbers: Sequence[tuple[str, Callable[[Row], Text]]]
) -> Table:
    headings, *words = lines
    found = new_table(*headings, *(f">{heading}" for heading, _ in numbers))
    for line, row in zip(words, rows, strict=True):
        found.add_row(*line, *(cell(row) for _, cell in numbers))
    return found


def _width(table: Table) -> int:
    """Of a table that nothing is folded in."""
    return Console(width=MOST_COLUMNS).measure(table).maximum


def print_table(table: Table, *, wide: bool) -> None:
    """A wide table is as wide as it needs to be, as those of kubectl are."""
    console = Console(highlight=False)
    if wide or not console.is_terminal:
        console.width = max(console.width, _width(table))
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


# Taps

_BEGIN = 30
"""Columns of a line before the model."""
_RESULT = 17
"""Columns of the result, at least: `permission-denied`."""


class TapLines:
    """Lines of calls for a terminal that is so wide; a wide line is as long as it needs to be.

    Args:
        width: of the terminal.
        wide: more of what is known of a call.
        is_mesh: calls are of several sidecars, which are named first.
    """

    def __init__(self, width: int, *, wide: bool, is_mesh: bool = False) -> None:
        self._sidecar = _SIDECAR if is_mesh else 0
        width -= self._sidecar
        names = max(width - _BEGIN - _RESULT - 2, 20)
        self._model = 32 if wide else (names + 1) // 2
        self._caller = 40 if wide else names // 2
        self._width = width
        self._wide = wide

    def heading(self) -> Text:
        """The names of the columns."""
        sidecar = f"{'SIDECAR':<{self._sidecar}}" if self._sidecar else ""
        text = f"{'TIME':<12} {'TOOK':>7} {'VERB':<8} {'MODEL':<{self._model}} {'CALLER':<{self._caller}} RESULT"
        if self._wide:
            text = f"{text:<{_BEGIN + self._model + self._caller + 39}}{_MORE.format(*_MORE_NAMES)}"
        return Text(sidecar + text)

    def line(self, event: dict[str, Any]) -> Text:
        """One call; `event` is a line of the access log."""
        began, took = (event.get("start_time") or "")[11:23], event.get("duration")
        sidecar = _cut(short_caller(str(event.get("sidecar") or "-")), _SIDECAR - 1) if self._sidecar else ""
        line = Text(
            f"{sidecar:<{self._sidecar}}{_cut(began, 12):<12} {span(took / 1_000 if took is not None else None):>7} "
            f"{_cut(event.get('verb') or '-', 8):<8} {_cut(_model(event), self._model):<{self._model}} "
            f"{_cut(_caller(event), self._caller):<{self._caller}} "
        )
        result, style = _result(event, wide=self._wide)
        if not self._wide:
            return line.append(_cut(result, max(self._width + self._sidecar - len(line), _RESULT)), style)
        line.append(f"{printable(result):<36} ", style)
        more = (
            WAYS.get(event.get("direction") or "", "-"),
            printable(event.get("upstream_host") or "-"),
            printable(event.get("route_name") or "-"),
            event.get("attempts") or 0,
            size(event.get("bytes_received") or 0),
            size(event.get("bytes_sent") or 0),
            printable(event.get("trace_id") or "-"),
        )
        return line.append(_MORE.format(*more))


_SIDECAR = 24
"""Characters of the name of a sidecar, and a space."""
_MORE = "{:<3} {:<21} {:<16} {:>3} {:>8} {:>8} {}"
_MORE_NAMES = ("DIR", "ENDPOINT", "ROUTE", "TRY", "IN", "OUT", "TRACE")


def _cut(text: str, width: int) -> str:
    text = printable(text)
    return text if len(text) <= width else text[: width - 1] + "…"


def _model(event: dict[str, Any]) -> str:
    """Model and version as asked, and as forwarded if that differs: `resnet→@2`."""
    asked = _with_version(event.get("model") or "-", event.get("model_version"))
    forwarded = _with_version(event.get("forwarded_model") or "", event.get("forwarded_version"))
    return f"{asked}→{forwarded}" if forwarded else asked


def _with_version(model: str, version: str | None) -> str:
    return f"{model}@{version}" if version else model


def _caller(event: dict[str, Any]) -> str:
    """Workload and token; the address of a caller that has neither."""
    workload, subject = event.get("peer_spiffe_id"), event.get("jwt_sub")
    words = [short_caller(workload)] if workload else []
    if subject:
        words.append(f"{event.get('jwt_issuer')}:{subject}")
    return " ".join(words) or (event.get("downstream_remote_address") or "-")


def _result(event: dict[str, Any], *, wide: bool) -> tuple[str, str]:
    """The status, or why it was refused, and what went wrong; and a colour."""
    grpc = event.get("grpc_status")
    code = int(event.get("response_code") or 0)
    refusal, flags = event.get("refusal"), event.get("response_flags")
    words = [grpc or str(code)] if wide or not refusal else []
    words += [word for word in (refusal, flags) if word not in (None, "-")]
    good = grpc == "OK" if grpc else 200 <= code < 400
    mild = grpc in _MILD if grpc else 400 <= code < 500
    return " ".join(words), "green" if good else "yellow" if mild else "red"


_MILD = frozenset(
    {"CANCELLED", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
     "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNAUTHENTICATED"}
)  # fmt: skip
"""gRPC statuses that are no errors of the server, as 4xx are none."""
