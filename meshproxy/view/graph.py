"""The graph of the mesh: callers, models and versions, and the calls between them. The shapes of `/api/graph`.

A call that goes through two sidecars is reported by both. It is shown as the server's sidecar saw it (`inbound`), which
has proven who calls; what the caller's sidecar alone knows is added: its attempts, and the calls that it answered
itself. Where no sidecar stands before the model server, its word is all there is.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, TypeVar

import msgspec

from meshproxy.telemetry.quantiles import quantiles
from meshproxy.telemetry.timestamps import timestamp
from meshproxy.view.reporters import ReportState
from meshproxy.view.tallies import Edge, Tally, new_tally

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from meshproxy.control_api import ReportedCaller
    from meshproxy.view.hop_times import ModelTime
    from meshproxy.view.reporters import Reporters
    from meshproxy.view.ring import Ring, Window

K = TypeVar("K")

API_VERSION = "meshproxy.dev/v1alpha1"
DEGRADED = 0.001
FAILING = 0.1
"""Shares of failed calls from which on something is not well."""
ANONYMOUS = "anonymous"
ELSEWHERE = "by the server's sidecar"
"""The reason of a refusal that the caller's sidecar was told of."""
OWN_ANSWER = "answered by the caller's sidecar"
"""In place of a code."""


class Health(Enum):
    """How it is, by the share of calls that failed."""

    WELL = "well"
    DEGRADED = "degraded"
    FAILING = "failing"
    IDLE = "idle"
    """Nothing is known: there were no calls that count."""


class NodeKind(Enum):
    CALLER = "caller"
    MODEL = "model"
    VERSION = "version"


class Shape(msgspec.Struct, rename="camel"):
    """A part of the JSON. Its members are in camel case; new ones have defaults."""


class Latency(Shape, kw_only=True):
    """Percentiles in seconds; None: nothing was measured."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None

    @classmethod
    def of(cls, buckets: Mapping[int, int]) -> Latency:
        """At most 10 % away from the exact ones (`telemetry.quantiles`)."""
        if not buckets:
            return cls()
        p50, p95, p99 = quantiles((0.5, 0.95, 0.99), buckets)
        return cls(p50=p50, p95=p95, p99=p99)


class Traffic(Shape, kw_only=True):
    """What calls come to."""

    calls: int = 0
    rate: float = 0.0
    """A second."""
    success: float | None = None
    """The share, of the calls that were not denied, that did not fail; None without such calls."""
    failed: int = 0
    denied: int = 0
    refused: int = 0
    """Answered by a sidecar, for another reason than access."""
    retries: int = 0
    attempts: int = 0
    codes: dict[str, int] = {}
    allowed_by: dict[str, int] = {}
    """By binding; calls for which no roles are in force are in none."""
    denied_by: dict[str, int] = {}
    """By `BINDING: REASON`, or the reason alone."""
    refused_by: dict[str, int] = {}
    mtls: float | None = None
    """The share of calls whose connection was authenticated on both sides."""
    latency: Latency = msgspec.field(default_factory=Latency)
    """From the request's head to the last byte, of calls that the model server answered."""
    upstream: Latency = msgspec.field(default_factory=Latency)
    """Of it, model server and network."""
    proxy: Latency = msgspec.field(default_factory=Latency)
    """Of it, the sidecar, for small bodies."""
    model_seconds: float | None = None
    """The mean of what the model server says that it took; None where its page is not read."""
    network_seconds: float | None = None
    """The mean of the rest of `upstream`: the hop lag."""
    network: Latency = msgspec.field(default_factory=Latency)
    """Percentiles of readings of it, which are means of 20 calls or more (`hop_times`)."""
    health: Health = Health.IDLE


class Node(Shape, kw_only=True):
    """A caller, model or version."""

    id: str
    """`caller:NAME`, `model:NAME` or `version:MODEL:NAME`, where ":" in the model is written "%3A", "%" as "%25"."""
    kind: NodeKind
    name: str
    model: str = ""
    """Of a version."""
    traffic: Traffic


class GraphEdge(Shape, kw_only=True):
    """Calls of a caller to a model, or of a model to one of its versions."""

    id: str
    source: str
    """The id of a node."""
    target: str
    share: float = 1.0
    """Of the model's calls, where this is one of its versions: a canary has two edges."""
    traffic: Traffic


class CallRow(Shape, kw_only=True):
    """Calls of one caller to one version of one model: a row of the table, and what `meshproxy edges` prints."""

    caller: str
    workload: str = ""
    token: str = ""
    role: str = ""
    address: str = ""
    server: str = ""
    """The SPIFFE id of the sidecar before the model server; empty if none reports."""
    model: str
    version: str
    verbs: list[str]
    security: list[str]
    """`mtls`, `tls`, `plaintext`."""
    traffic: Traffic


class Reports(Shape, kw_only=True):
    """Whether all of it has come."""

    processes: dict[str, int]
    """That report, by `reporters.ReportState`."""
    received: int
    lost: int
    late: int
    repeated: int
    malformed: int = 0
    """That could not be read: what they say is missing."""
    dropped: dict[str, int]
    """Calls that are not shown where they belong, by what has become of them (`ring.Ring.dropped`), and reports of
    processes that are too many to be watched (`unwatched`)."""

    @classmethod
    def of(cls, reporters: Reporters, ring: Ring, now: float) -> Reports:
        dropped = dict(ring.dropped)
        if reporters.forgotten:
            dropped["unwatched"] = reporters.forgotten
        return cls(
            processes={state.value: count for state, count in reporters.count(now).items()},
            received=reporters.received,
            lost=reporters.lost,
            late=reporters.late,
            repeated=reporters.repeated,
            malformed=reporters.malformed,
            dropped=dropped,
        )

    def problems(self) -> list[str]:
        """What may be missing, for people."""
        late, silent = self.processes[ReportState.LATE.value], self.processes[ReportState.SILENT.value]
        found = []
        if late:
            found.append(f"reports of {late} sidecar processes are late")
        if silent:
            found.append(f"{silent} sidecar processes have fallen silent: what they carry is missing")
        if self.lost:
            found.append(f"{self.lost} reports were lost")
        if self.malformed:
            found.append(
                f"{self.malformed} reports could not be read, and what they say is missing: "
                "are the sidecars and the control plane of the same version?"
            )
        for reason, calls in sorted(self.dropped.items()):
            found.append(f"{calls} calls are not shown where they belong ({reason})")
        return found

    @property
    def is_complete(self) -> bool:
        """Whether nothing may be missing."""
        return not self.problems()


class Graph(Shape, kw_only=True):
    """`/api/graph`."""

    api_version: str = API_VERSION
    kind: str = "MeshGraph"
    now: str
    """RFC 3339."""
    seconds: float
    """How long the time is that this is of, up to `now`."""
    nodes: list[Node]
    edges: list[GraphEdge]
    rows: list[CallRow]
    reports: Reports


class _Sum:
    """Tallies that are added up, with what their edges say."""

    def __init__(self) -> None:
        self.tally = new_tally()
        self.secured = 0
        self.verbs: set[str] = set()
        self.security: set[str] = set()

    def add(self, edge: Edge, tally: Tally) -> None:
        self.tally.add(tally)
        if edge.security == "mtls":
            self.secured += tally.calls
        self.verbs.add(edge.verb)
        self.security.add(edge.security)

    def traffic(self, seconds: float, time: ModelTime | None = None) -> Traffic:
        tally = self.tally
        calls, denied = tally.calls, sum(tally.denied.values())
        judged = calls - denied
        success = 1.0 - min(tally.failed / judged, 1.0) if judged > 0 else None
        return Traffic(
            calls=calls,
            rate=calls / seconds if seconds else 0.0,
            success=success,
            failed=tally.failed,
            denied=denied,
            refused=sum(tally.refused.values()),
            retries=tally.retries,
            attempts=tally.attempts,
            codes=tally.codes,
            allowed_by=tally.allowed,
            denied_by=tally.denied,
            refused_by=tally.refused,
            mtls=self.secured / calls if calls else None,
            latency=Latency.of(tally.total),
            upstream=Latency.of(tally.upstream),
            proxy=Latency.of(tally.proxy),
            model_seconds=time.model if time is not None else None,
            network_seconds=time.network if time is not None else None,
            network=Latency.of(time.lag if time is not None else {}),
            health=health(success),
        )


def health(success: float | None) -> Health:
    """By the share of success; None: there is none."""
    if success is None:
        return Health.IDLE
    if 1.0 - success >= FAILING:
        return Health.FAILING
    return Health.DEGRADED if 1.0 - success >= DEGRADED else Health.WELL


def caller_name(caller: ReportedCaller) -> str:
    """For people: `spiffe://... (corp:alice)`, or `anonymous (10.0.0.7)`."""
    who = caller.workload or ANONYMOUS
    more = caller.token or caller.address
    return f"{who} ({more})" if more else who


def node_id(kind: NodeKind, name: str, model: str = "") -> str:
    if kind is not NodeKind.VERSION:
        return f"{kind.value}:{name}"
    return f"version:{model.replace('%', '%25').replace(':', '%3A')}:{name}"


def edge_id(source: str, target: str) -> str:
    """From one node to another, by their ids. Names are any text: it is the id of no other edge, and of no node."""
    return f"edge:{source.replace('%', '%25').replace('>', '%3E')}>{target}"


def merge_views(tallies: Mapping[Edge, Tally]) -> Iterable[tuple[Edge, Tally]]:
    """Each call once: as the server's sidecar saw it, with what the caller's alone knows of it."""
    seen = {(edge.caller.workload, edge.model) for edge in tallies if edge.direction == "inbound"}
    for edge, tally in tallies.items():
        if edge.direction == "inbound":
            yield edge, tally
        elif (edge.caller.workload, edge.model) not in seen:
            yield edge._replace(reporter=""), tally
        else:
            part = _own_part(tally)
            if part.retries or part.codes:
                yield edge._replace(reporter=""), part


def _own_part(tally: Tally) -> Tally:
    """What only the caller's sidecar knows: further attempts, and calls that went no further than to itself.

    Which of its codes were theirs is not known: they are counted under `OWN_ANSWER`."""
    denied = {reason: count for reason, count in tally.denied.items() if reason != ELSEWHERE}
    refused = {reason: count for reason, count in tally.refused.items() if reason != ELSEWHERE}
    answered = sum(denied.values()) + sum(refused.values())
    codes = {OWN_ANSWER: answered} if answered else {}
    failed = min(sum(refused.values()), tally.failed)
    return Tally(codes, failed, {}, denied, refused, tally.retries, tally.retries, {}, {}, {})


def graph(
    window: Window, reports: Reports, times: Mapping[str, ModelTime], now: float, models: Iterable[str] = ()
) -> Graph:
    """The graph of a window.

    Args:
        window: of the ring.
        reports: how complete it is.
        times: by model, where model servers tell them.
        now: seconds since the epoch.
        models: those that are shown even if nobody calls them.
    """
    seconds = window.seconds
    rows: dict[tuple[ReportedCaller, str, str, str], _Sum] = {}
    callers: dict[str, _Sum] = {}
    served: dict[str, _Sum] = {name: _Sum() for name in models}
    versions: dict[tuple[str, str], _Sum] = {}
    calls: dict[tuple[str, str], _Sum] = {}
    for edge, tally in merge_views(window.tallies):
        name = caller_name(edge.caller)
        _of(rows, (edge.caller, edge.reporter, edge.model, edge.version)).add(edge, tally)
        _of(callers, name).add(edge, tally)
        _of(served, edge.model).add(edge, tally)
        _of(versions, (edge.model, edge.version)).add(edge, tally)
        _of(calls, (name, edge.model)).add(edge, tally)

    nodes = [_node(NodeKind.CALLER, name, each, seconds) for name, each in sorted(callers.items())]
    for name, each in sorted(served.items()):
        nodes.append(_node(NodeKind.MODEL, name, each, seconds, time=times.get(name)))
    for (model, name), each in sorted(versions.items()):
        nodes.append(_node(NodeKind.VERSION, name, each, seconds, model))
    edges = [
        _edge(node_id(NodeKind.CALLER, caller), node_id(NodeKind.MODEL, model), each, seconds)
        for (caller, model), each in sorted(calls.items())
    ]
    for (model, version), each in sorted(versions.items()):
        whole = served[model].tally.calls
        share = each.tally.calls / whole if whole else 0.0
        target = node_id(NodeKind.VERSION, version, model)
        edges.append(_edge(node_id(NodeKind.MODEL, model), target, each, seconds, share))
    return Graph(
        now=timestamp(now),
        seconds=round(seconds, 3),
        nodes=nodes,
        edges=edges,
        rows=[_row(*key, each, seconds) for key, each in sorted(rows.items(), key=lambda item: _order(item[0]))],
        reports=reports,
    )


def _of(sums: dict[K, _Sum], key: K) -> _Sum:
    found = sums.get(key)
    if found is None:
        found = sums[key] = _Sum()
    return found


def _order(key: tuple[ReportedCaller, str, str, str]) -> tuple[str, ...]:
    caller, server, model, version = key
    return model, version, caller_name(caller), server


def _node(
    kind: NodeKind, name: str, each: _Sum, seconds: float, model: str = "", time: ModelTime | None = None
) -> Node:
    traffic = each.traffic(seconds, time)
    return Node(id=node_id(kind, name, model), kind=kind, name=name, model=model, traffic=traffic)


def _edge(source: str, target: str, each: _Sum, seconds: float, share: float = 1.0) -> GraphEdge:
    traffic = each.traffic(seconds)
    return GraphEdge(id=edge_id(source, target), source=source, target=target, share=share, traffic=traffic)


def _row(caller: ReportedCaller, server: str, model: str, version: str, each: _Sum, seconds: float) -> CallRow:
    return CallRow(
        caller=caller_name(caller),
        workload=caller.workload,
        token=caller.token,
        role=caller.role,
        address=caller.address,
        server=server,
        model=model,
        version=version,
        verbs=sorted(each.verbs),
        security=sorted(each.security),
        traffic=each.traffic(seconds),
    )
