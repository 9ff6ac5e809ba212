"""What no document can know by itself: that every name which is referred to exists, and that nothing stands twice.

Works on the nodes, not on the finished structs: a document with a wrong field still has its references looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshproxy.config.problems import Problem, closest
from meshproxy.config.values import shown

if TYPE_CHECKING:
    from meshproxy.config.nodes import Node


@dataclass(frozen=True, slots=True)
class Placed:
    """A document where it stands: its kind and name, its nodes, and the struct unless something is wrong with it."""

    kind: str
    name: str
    file: str
    node: Node
    document: Any = None

    @property
    def label(self) -> str:
        return f"{self.kind}/{self.name}"

    @property
    def place(self) -> str:
        return f"{self.file}:{self.node.line}"

    def at(self, node: Node, field: str, message: str) -> Problem:
        return Problem(self.file, node.line, self.label, field, message)


def check_set(placed: Sequence[Placed], *, is_whole: bool, where: str) -> Iterator[Problem]:
    """Problems of the set as a whole.

    Args:
        is_whole: every file could be read to its end. Otherwise what seems to be missing may stand in the rest, and is
        not
            reported.
        where: what to call the set in a problem that no file has.
    """
    names: dict[str, dict[str, Placed]] = {}
    for each in placed:
        alike = names.setdefault(each.kind, {})
        if each.kind in ("MeshConfig", "Sidecar") and alike:
            first = next(iter(alike.values()))
            yield each.at(each.node, "", f"a second {each.kind}; the first is {first.label} at {first.place}")
        elif each.name in alike:
            yield each.at(each.node, "metadata.name", f"taken: the first of this name is at {alike[each.name].place}")
        alike.setdefault(each.name, each)
    if is_whole:
        for kind in ("MeshConfig", "Sidecar"):
            if kind not in names:
                yield Problem(where, 0, "", "", f"no {kind} among the documents: exactly one is needed")
    yield from _references(placed, names, is_whole)
    yield from _routes(names.get("ModelRoute", {}))
    yield from _identity(names)


def _references(placed: Sequence[Placed], names: dict[str, dict[str, Placed]], is_whole: bool) -> Iterator[Problem]:
    def missing(each: Placed, node: Node | None, field: str, what: str, known: Collection[str]) -> Iterator[Problem]:
        if is_whole and node is not None and isinstance(node.value, str) and node.value not in known:
            yield each.at(node, field, f"no {what} is called {shown(node.value)}{closest(node.value, known)}")

    issuers = {
        name.value
        for mesh in names.get("MeshConfig", {}).values()
        for issuer in _items(_find(mesh.node, "spec", "issuers"))
        if (name := _find(issuer, "name")) is not None and isinstance(name.value, str)
    }
    roles, servers = names.get("ModelRole", {}), names.get("ModelServer", {})
    for each in placed:
        if each.kind == "ModelRoleBinding":
            yield from missing(each, _find(each.node, "spec", "role"), "spec.role", "ModelRole", roles)
            for index, subject in enumerate(_items(_find(each.node, "spec", "subjects"))):
                field = f"spec.subjects[{index}]"
                yield from missing(each, _find(subject, "token", "issuer"), f"{field}.token.issuer", "issuer", issuers)
                role = _find(subject, "iamRole")
                if role is not None and is_whole and not issuers:
                    yield each.at(
                        role, f"{field}.iamRole", "the MeshConfig has no issuer, so nobody can prove an IAM role"
                    )
        elif each.kind == "Sidecar":
            yield from missing(
                each, _find(each.node, "spec", "inbound", "server"), "spec.inbound.server", "ModelServer", servers
            )
        elif each.kind == "ModelRoute":
            yield from missing(each, _find(each.node, "spec", "server"), "spec.server", "ModelServer", servers)


def _routes(routes: dict[str, Placed]) -> Iterator[Problem]:
    taken: dict[str, Placed] = {}
    for route in routes.values():
        for index, pattern in enumerate(_items(_find(route.node, "spec", "models"))):
            if not isinstance(pattern.value, str):
                continue
            first = taken.setdefault(pattern.value, route)
            if first is not route:
                message = f"{shown(pattern.value)} has a route already, {first.label} at {first.place}"
                yield route.at(pattern, f"spec.models[{index}]", message)


def _identity(names: dict[str, dict[str, Placed]]) -> Iterator[Problem]:
    for mesh in names.get("MeshConfig", {}).values():
        mode = _find(mesh.node, "spec", "mtls")
        if mode is not None and mode.value == "disabled":
            continue
        for sidecar in names.get("Sidecar", {}).values():
            spec = _find(sidecar.node, "spec")
            if spec is not None and isinstance(spec.value, dict) and _find(spec, "identity") is None:
                word = shown(mode.value) if mode is not None else '"strict"'
                yield sidecar.at(
                    spec, "spec.identity", f"is missing: {mesh.label} says mtls {word}, which takes a certificate"
                )


def _find(node: Node, *names: str) -> Node | None:
    for name in names:
        found = node.value.get(name) if isinstance(node.value, dict) else None
        if found is None:
            return None
        node = found
    return node


def _items(node: Node | None) -> list[Node]:
    return node.value if node is not None and isinstance(node.value, list) else []
