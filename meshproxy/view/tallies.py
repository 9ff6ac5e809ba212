"""Calls added up: what the ring keeps for each edge of the mesh."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from meshproxy.control_api import ReportedCaller, ReportedCalls
from meshproxy.telemetry.metrics import OTHER

EDGE_BYTES = 500
"""Of an edge and its tally, without names and latencies."""
BUCKET_BYTES = 80
"""Of a bucket of latencies: its entry in a table, and its count."""
MOST_KEYS = 64
"""Of each table of a tally; what is beyond is counted under `_other`."""


class Edge(NamedTuple):
    """What calls have in common."""

    reporter: str
    """The SPIFFE id of the sidecar that has reported them: inbound the server's, outbound the caller's."""
    direction: str
    caller: ReportedCaller
    security: str
    model: str
    version: str
    verb: str

    @classmethod
    def of(cls, reporter: str, calls: ReportedCalls) -> Edge:
        """The edge of a reported row. An outbound call is the reporter's own, whatever it says."""
        caller = calls.caller if calls.direction == "inbound" else ReportedCaller(workload=reporter)
        return cls(reporter, calls.direction, caller, calls.security, calls.model, calls.version, calls.verb)

    @property
    def size(self) -> int:
        """About how many bytes it takes where it is kept."""
        caller = self.caller
        names = (caller.workload, caller.token, caller.role, caller.address, self.security, self.model, self.version)
        return EDGE_BYTES + len(self.verb) + sum(map(len, names))

    def folded(self) -> Edge:
        """The edge that stands for all of a direction that there is no room for."""
        return Edge(OTHER, self.direction, ReportedCaller(workload=OTHER), OTHER, OTHER, OTHER, OTHER)


class Tally(msgspec.Struct, array_like=True):
    """The sums. The members of `control_api.ReportedCalls` of the same names say what each is."""

    codes: dict[str, int] = {}
    failed: int = 0
    allowed: dict[str, int] = {}
    denied: dict[str, int] = {}
    refused: dict[str, int] = {}
    attempts: int = 0
    retries: int = 0
    total: dict[int, int] = {}
    upstream: dict[int, int] = {}
    proxy: dict[int, int] = {}

    @property
    def calls(self) -> int:
        return sum(self.codes.values())

    def add(self, other: Tally | ReportedCalls) -> int:
        """Add what another interval, process or edge has counted. Returns about how many bytes are new: names and
        buckets."""
        self.failed += other.failed
        self.attempts += other.attempts
        self.retries += other.retries
        buckets = _add(self.total, other.total) + _add(self.upstream, other.upstream) + _add(self.proxy, other.proxy)
        grown = buckets * BUCKET_BYTES
        grown += _add_names(self.codes, other.codes) + _add_names(self.allowed, other.allowed)
        return grown + _add_names(self.denied, other.denied) + _add_names(self.refused, other.refused)

    def report(self, edge: Edge) -> ReportedCalls:
        """As a row of a report."""
        names = (edge.direction, edge.caller, edge.security, edge.model, edge.version, edge.verb)
        return ReportedCalls(*names, **{name: getattr(self, name) for name in self.__struct_fields__})


def new_tally() -> Tally:
    """Nothing."""
    return Tally({}, 0, {}, {}, {}, 0, 0, {}, {}, {})


def _add(to: dict[int, int], counts: dict[int, int]) -> int:
    before = len(to)
    for key, count in counts.items():
        to[key] = to.get(key, 0) + count
    return len(to) - before


def _add_names(to: dict[str, int], counts: dict[str, int]) -> int:
    grown = 0
    for key, count in counts.items():
        name = key if key in to or len(to) < MOST_KEYS else OTHER
        if name not in to:
            grown += len(name)
        to[name] = to.get(name, 0) + count
    return grown
