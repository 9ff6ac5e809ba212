"""Lines of a trail out of what a collector of OpenTelemetry has written: a line of JSON for each
`ExportLogsServiceRequest` (its file exporter; https://opentelemetry.io/docs/specs/otel/protocol/file-exporter/).

A collector may write a batch twice, and batches in another order: lines come out in the order of their numbers, each
once, as long as no line is later than `WINDOW` others of its chain.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import msgspec

from meshproxy.audit.chain import read_head

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BEGINNING = b'{"resourceLogs":'
SCOPE = "meshproxy.audit"
REQUEST_BYTES = 64 << 20
"""Of one request in the file."""
WINDOW = 10_000
"""Lines of a chain that are held back, so that those before them may still come."""


class _Body(msgspec.Struct, rename="camel"):
    string_value: str = ""


class _Record(msgspec.Struct):
    body: _Body | None = None


class _Scope(msgspec.Struct):
    name: str = ""


class _ScopeLogs(msgspec.Struct, rename="camel"):
    scope: _Scope | None = None
    log_records: list[_Record] = []


class _ResourceLogs(msgspec.Struct, rename="camel"):
    scope_logs: list[_ScopeLogs] = []


class _Request(msgspec.Struct, rename="camel"):
    resource_logs: list[_ResourceLogs] = []


_DECODER = msgspec.json.Decoder(_Request)


class _Chain:
    """Lines of one chain that are held back, by number."""

    def __init__(self) -> None:
        self.held: list[tuple[int, bytes]] = []
        self.last: tuple[int, bytes] = (0, b"")

    def release(self, most: int) -> Iterator[bytes]:
        """The first ones, until no more than `most` are held."""
        while len(self.held) > most:
            found = heapq.heappop(self.held)
            if found != self.last:  # the same line once more
                self.last = found
                yield found[1]


def collected(requests: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of the trail in what a collector has written, with their line feeds. What is no request, and a line
    that has no head, comes out as it is, for `verify` to find."""
    chains: dict[str, _Chain] = {}
    for request in requests:
        try:
            found = _DECODER.decode(request)
        except (msgspec.DecodeError, ValueError, RecursionError):
            yield request
            continue
        for logs in found.resource_logs:
            for scope in logs.scope_logs:
                if scope.scope is None or scope.scope.name != SCOPE:
                    continue
                for record in scope.log_records:
                    line = (record.body.string_value if record.body is not None else "").encode() + b"\n"
                    head = read_head(line)
                    if head is None:
                        yield line
                        continue
                    chain = chains.setdefault(head.chain, _Chain())
                    heapq.heappush(chain.held, (head.sequence, line))
                    yield from chain.release(WINDOW)
    for chain in chains.values():
        yield from chain.release(0)
