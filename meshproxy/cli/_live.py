"""What `tap`, `stat` and `top` share: their filters, and the lines that a sidecar sends, of all its workers."""

from __future__ import annotations

import json
import queue
import socket
import sys
import threading
import time
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import click

from meshproxy.cli import _control_planes, _options
from meshproxy.cli._local_page import MOST_CHARACTERS, failure, printable, read_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from meshproxy.cli._call_rows import Row, Window

MOST_BYTES = 4 << 20
"""Of a line, or of the answer of whoever listens there."""
WAITING_LINES = 1_000
"""Read and not shown yet. Beyond that the sidecar is not read, and counts what it drops."""

SHORTEST, LONGEST = 1.0, 3_600.0
"""Seconds; a sidecar ends a page after an hour."""

Fields = list[tuple[str, str]]


def read_fields(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Check the values of a filter as the sidecar does. Raises BadParameter."""
    from meshproxy.telemetry.call_filter import CallFilter

    name = str(parameter.name)
    try:
        CallFilter((name, value) for value in values)
    except ValueError as error:
        raise click.BadParameter(str(error).removeprefix(f"{name}: ")) from None
    return values


def _filter(name: str, metavar: str, text: str) -> Callable[[Any], Any]:
    return click.option(f"--{name}", multiple=True, metavar=metavar, callback=read_fields, help=text)


def read_seconds(context: click.Context, parameter: click.Parameter, value: str) -> float:
    """A duration of one second to one hour. Raises BadParameter."""
    from meshproxy.telemetry.call_filter import read_time

    try:
        seconds = read_time(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if not SHORTEST <= seconds <= LONGEST:
        raise click.BadParameter(f"expected 1s to 1h, got {value}")
    return seconds


def time_window(text: str) -> Callable[[Any], Any]:
    """`--time-window`, with this help."""
    return click.option(
        "-t",
        "--time-window",
        "window",
        default="10s",
        show_default=True,
        callback=read_seconds,
        metavar="TIME",
        help=text,
    )


GROUPS = ["model", "version", "verb", "caller", "route", "server", "endpoint", "code", "protocol"]

by = click.option(
    "--by",
    multiple=True,
    default=("model", "version"),
    type=click.Choice(GROUPS),
    help="What the calls of one row have in common; may be repeated.  [default: model, version]",
)

FILTERS = ("model", "version", "verb", "caller", "code", "outcome", "direction", "route", "server", "slower")

options = _options.together(
    _options.admin,
    _filter("model", "GLOB", "Calls of these models, as asked or as forwarded."),
    _filter("version", "GLOB", 'Calls of these versions or labels; "latest" if none is named.'),
    _filter("verb", "VERB", "A verb, as in a ModelRole: predict, classify, ..."),
    _filter("caller", "GLOB", 'A SPIFFE ID, NAMESPACE/ACCOUNT, a token\'s subject, an IAM role, or "anonymous".'),
    _filter("code", "CODE", "503, 5xx, 400-499, or the name of a gRPC status."),
    _filter("outcome", "WORD", "ok, failed, refused or denied."),
    _filter("direction", "WORD", "inbound or outbound."),
    _filter("route", "GLOB", "Calls of these ModelRoutes."),
    _filter("server", "GLOB", "Calls to these ModelServers."),
    _filter("slower", "TIME", "Calls that took this long or longer, such as 250ms."),
)
"""The sidecar, and the filters; an option may be repeated, and one of its values has to match."""

output = click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "wide", "json"]),
    help="The format of the output; json is one object per line.  [default: table on a terminal, otherwise json]",
)


def chosen(output: str | None) -> str:
    """The format of the output."""
    return output or ("table" if sys.stdout.isatty() else "json")


def filter_fields(filters: Mapping[str, tuple[str, ...]]) -> Fields:
    """The query of the filters that are given."""
    return [(name, value) for name in FILTERS for value in filters[name]]


class Ended(click.ClickException):
    """A page has ended, or there is none. The text says why."""


class Lines:
    """The lines of a live page, of each worker as they come.

    Args:
        addresses: of the sidecar, or of the supervisor of several workers; or of control planes.
        target: path and query of the page.
        timeout: seconds for the first answer.
        headers: of the request to control planes; None: sidecars are asked.

    Attributes:
        sources: the addresses that are read.
    """

    def __init__(
        self, addresses: Sequence[tuple[str, int]], target: str, timeout: float, headers: dict[str, str] | None = None
    ) -> None:
        """Raises Ended: nobody answers, or it refuses."""
        self._headers = headers
        self._queue: queue.Queue[tuple[str, bytes | None]] = queue.Queue(WAITING_LINES)
        self._reading: list[tuple[socket.socket, threading.Thread]] = []
        self._is_closed = threading.Event()
        self.sources: list[str] = []
        for address in addresses:
            for worker in self._open(address, target, timeout):
                self._open(read_address(worker, "--admin", _options.DEFAULT_ADMIN), target, timeout)

    def _open(self, address: tuple[str, int], target: str, timeout: float) -> list[str]:
        """Begin to read; the addresses of the workers if these have to be asked instead."""
        where = "{}:{}".format(*address)
        connection = HTTPConnection(*address, timeout=timeout)
        try:
            connection.connect()
            sock = connection.sock
            connection.request("GET", target, headers=self._headers or {})
            response = connection.getresponse()
            if response.status != 200:
                with closing(connection):
                    return _refused(where, response.status, response.read(MOST_BYTES))
        except (OSError, HTTPException) as error:
            connection.close()
            if self._headers is not None:
                raise Ended(_control_planes.no_answer(where, failure(error, timeout))) from None
            raise Ended(
                f"no sidecar answers at {where}: {failure(error, timeout)}. Is it running, with this "
                "spec.admin.listen? (--admin HOST:PORT)"
            ) from None
        sock.settimeout(None)
        thread = threading.Thread(target=self._read, args=(where, connection, response), daemon=True)
        self._reading.append((sock, thread))
        self.sources.append(where)
        thread.start()
        return []

    def _read(self, where: str, connection: HTTPConnection, response: HTTPResponse) -> None:
        with closing(connection), closing(response):
            try:
                while line := response.readline(MOST_BYTES):
                    self._put((where, line))
            except (OSError, HTTPException):
                pass  # the sidecar has ended, or it was closed here
        self._put((where, None))

    def _put(self, item: tuple[str, bytes | None]) -> None:
        while not self._is_closed.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def next(self, timeout: float | None = None) -> tuple[str, dict[str, Any] | None] | None:
        """The next line, and where it comes from; None for the end of that page. Returns None if none comes in time.

        Raises:
            Ended: it is no line of a sidecar.
        """
        try:
            where, line = self._queue.get(timeout=timeout)
        except queue.Empty:
            return None
        if line is None:
            self.sources.remove(where)
            return where, None
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise _not_ours(where)
        return where, found

    def close(self) -> None:
        """Read no more."""
        self._is_closed.set()
        for sock, thread in self._reading:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # its thread is reading
            thread.join(1.0)


def _not_ours(where: str) -> Ended:
    return Ended(f"{where} has sent a line that cannot be read: it is of another version")


def ended(where: str) -> Ended:
    """The error for a page that has ended, of a sidecar or of the last of its workers."""
    return Ended(f"{where} sends no more: it has ended, or has dismissed this reader (its log says why)")


def _refused(where: str, status: int, body: bytes) -> list[str]:
    """The workers to ask. Raises Ended."""
    text = body.decode(errors="replace").strip()
    if status == 421 and text.startswith("{"):
        try:
            found = json.loads(text).get("workers")
        except (ValueError, RecursionError):
            raise _not_ours(where) from None
        if not found:
            raise Ended(f"the workers of the sidecar at {where} have not started: try again")
        return list(found)
    if status in (404, 421):
        raise Ended(f"{where} has no such page: it is no port of a sidecar, or control plane, of this version")
    raise Ended(f"{where} refuses: {printable(text[:MOST_CHARACTERS])}")


@contextmanager
def opened(address: str, path: str, fields: Sequence[tuple[str, str]], timeout: float) -> Iterator[Lines]:
    """The lines of a live page. Raises Ended."""
    where = read_address(address, "--admin", _options.DEFAULT_ADMIN)
    with closing(Lines([where], f"{path}?{urlencode(fields)}" if fields else path, timeout)) as lines:
        yield lines


def collect(lines: Lines, seen: Window, until: float, enough: float | None = None) -> None:
    """Add what comes until then (`time.monotonic()`), or until `seen` is so many seconds long. Raises Ended."""
    from msgspec import ValidationError, convert

    from meshproxy.telemetry.call_stats import Interval

    while (left := until - time.monotonic()) > 0:
        found = lines.next(left)
        if found is None:
            return
        where, line = found
        if line is not None:
            try:
                seen.add(where, convert(line, Interval, strict=False))
            except ValidationError:
                raise _not_ours(where) from None
        else:
            seen.forget(where)
            if not lines.sources:
                raise ended(where)
        if enough is not None and seen.spans(lines.sources, enough):
            return


def document(seen: Window, rows: Sequence[Row]) -> dict[str, object]:
    """One line of `-o json`."""
    from meshproxy.control.status import API_VERSION

    return {
        "apiVersion": API_VERSION,
        "kind": "CallStats",
        "seconds": round(seen.seconds, 3),
        "groups": [row.document() for row in rows],
    }


def show(seen: Window, by: Sequence[str], output: str, nothing: str) -> None:
    """Print the groups of calls as a table (`wide` or not) or as JSON.

    Args:
        nothing: is said where there are no calls.
    """
    from meshproxy.cli._live_text import print_table, table

    rows = seen.rows()
    if output == "json":
        click.echo(json.dumps(document(seen, rows)))
    elif rows:
        print_table(table(rows, by, wide=output == "wide"), wide=output == "wide")
    else:
        click.echo(nothing, err=True)
