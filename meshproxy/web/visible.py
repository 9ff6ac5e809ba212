"""What a viewer may see of the mesh: the rest is taken out before anything is written.

Where callers may not be seen by name, each has a pseudonym instead: a hash with a key of this process, so that nobody
finds out whose it is by trying names. Names of bindings go with callers, reasons of denials with denials.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING

import msgspec

from meshproxy.view.graph import CallRow, Graph, GraphEdge, Node, NodeKind, Traffic, edge_id, node_id
from meshproxy.web.permissions import Permission
from meshproxy.web.shapes import Model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshproxy.web.shapes import Denial, Rollout, Rule
    from meshproxy.web.source import Source

IN_GRAPH = frozenset({Permission.CALLERS, Permission.DENIALS})
"""What changes a graph."""
HIDDEN = "a caller"
"""Who was denied, where callers may not be seen."""


class View:
    """The mesh, as a viewer may see it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._key = secrets.token_bytes(32)
        self._made: dict[tuple[int, frozenset[Permission]], tuple[Graph, Graph]] = {}
        """What was made last, with what it was made of."""

    def graph(self, seconds: int, sees: frozenset[Permission]) -> Graph:
        """The graph of the last seconds; the same object as before if it is as new as it can be."""
        graph = self._source.graph(seconds)
        if sees >= IN_GRAPH:
            return graph
        key = seconds, sees & IN_GRAPH
        whole, made = self._made.get(key, (None, graph))
        if whole is not graph:
            cut = _Cut(sees, self._key)
            made = msgspec.structs.replace(
                graph,
                nodes=sorted((cut.node(node) for node in graph.nodes), key=lambda node: node.id),
                edges=sorted((cut.edge(edge) for edge in graph.edges), key=lambda edge: edge.id),
                rows=sorted((cut.row(row) for row in graph.rows), key=_order),
            )
            self._made[key] = graph, made
        return made

    def model(self, name: str, seconds: int, sees: frozenset[Permission]) -> Model | None:
        """One model; None: nobody has called it, and no document names it."""
        graph = self.graph(seconds, sees)
        own = node_id(NodeKind.MODEL, name)
        nodes = {node.id: node for node in graph.nodes}
        if own not in nodes:
            return None
        calls = [edge for edge in graph.edges if edge.target == own]
        shares = [edge for edge in graph.edges if edge.source == own]
        model = nodes[own]
        rules = self._source.rules(name) if Permission.CALLERS in sees else None
        return Model(
            now=graph.now,
            seconds=graph.seconds,
            model=model,
            versions=[nodes[edge.target] for edge in shares],
            shares=shares,
            callers=[nodes[edge.source] for edge in calls],
            calls=calls,
            rows=[row for row in graph.rows if row.model == name],
            rules=_with_use(rules, model.traffic) if rules is not None else None,
            denials=tuple(each for each in self.denials(sees) if name in _models(each))
            if Permission.DENIALS in sees
            else None,
            rollout=_with_shares(self._source.rollout(name), shares, nodes, sees),
            changes=self._source.changes(name),
        )

    def denials(self, sees: frozenset[Permission]) -> tuple[Denial, ...]:
        """For viewers who may see denials; who was denied, only for those who may see callers."""
        denials = self._source.denials()
        if Permission.CALLERS in sees:
            return denials
        return tuple(
            msgspec.structs.replace(each, caller=HIDDEN, message="", binding="", sidecar="") for each in denials
        )


def _order(row: CallRow) -> tuple[str, str, str]:
    """Not that of the names, which would tell something of them."""
    return row.model, row.version, row.caller


class _Cut:
    """Takes out of a graph what may not be seen."""

    def __init__(self, sees: frozenset[Permission], key: bytes) -> None:
        self._hides_callers = Permission.CALLERS not in sees
        self._hides_denials = Permission.DENIALS not in sees
        self._key = key

    def node(self, node: Node) -> Node:
        traffic = self._traffic(node.traffic)
        if node.kind is not NodeKind.CALLER or not self._hides_callers:
            return msgspec.structs.replace(node, traffic=traffic)
        name = self._pseudonym(node.name)
        return Node(id=node_id(NodeKind.CALLER, name), kind=NodeKind.CALLER, name=name, traffic=traffic)

    def edge(self, edge: GraphEdge) -> GraphEdge:
        source = self._source(edge.source)
        traffic = self._traffic(edge.traffic)
        return msgspec.structs.replace(edge, id=edge_id(source, edge.target), source=source, traffic=traffic)

    def row(self, row: CallRow) -> CallRow:
        traffic = self._traffic(row.traffic)
        if not self._hides_callers:
            return msgspec.structs.replace(row, traffic=traffic)
        name = self._pseudonym(row.caller)
        return msgspec.structs.replace(
            row, caller=name, workload="", token="", role="", address="", server="", traffic=traffic
        )

    def _source(self, node: str) -> str:
        prefix = node_id(NodeKind.CALLER, "")
        if not self._hides_callers or not node.startswith(prefix):
            return node
        return node_id(NodeKind.CALLER, self._pseudonym(node.removeprefix(prefix)))

    def _pseudonym(self, name: str) -> str:
        return f"caller {hashlib.blake2b(name.encode(errors='replace'), key=self._key, digest_size=4).hexdigest()}"

    def _traffic(self, traffic: Traffic) -> Traffic:
        return msgspec.structs.replace(
            traffic,
            allowed_by={} if self._hides_callers else traffic.allowed_by,
            denied_by={} if self._hides_callers or self._hides_denials else traffic.denied_by,
        )


def _with_shares(
    rollout: Rollout | None, shares: list[GraphEdge], nodes: Mapping[str, Node], sees: frozenset[Permission]
) -> Rollout | None:
    """What happened names sidecars and operators: only for viewers who may see configuration."""
    if rollout is None:
        return None
    if Permission.CONFIGURATION not in sees:
        rollout = msgspec.structs.replace(rollout, events=())
    observed = {nodes[edge.target].name: edge.share for edge in shares}
    arms = tuple(msgspec.structs.replace(arm, share=observed.get(arm.version)) for arm in rollout.arms)
    return msgspec.structs.replace(rollout, arms=arms)


def _models(denial: Denial) -> list[str]:
    """Of a call such as `predict fraud, spam`."""
    return denial.call.partition(" ")[2].split(", ")


def _with_use(rules: tuple[Rule, ...], traffic: Traffic) -> tuple[Rule, ...]:
    denied: dict[str, int] = {}
    for why, count in traffic.denied_by.items():
        binding = why.rpartition(": ")[0]
        denied[binding] = denied.get(binding, 0) + count
    return tuple(
        msgspec.structs.replace(rule, used=traffic.allowed_by.get(rule.binding, 0) + denied.get(rule.binding, 0))
        for rule in rules
    )
