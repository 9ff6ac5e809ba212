"""Which documents concern a sidecar. Pure.

A sidecar decides the same with the documents in its scope as with all of them; where that could be in doubt, a document
is in the scope. Calls of an application are not authorised by its own sidecar, so without an inbound port no role and
no binding matters; model names are chosen by callers, so with one all of them do. An application may call any server,
except one that is beside another sidecar: on this sidecar's loopback there would be something else, or nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshproxy.config.schema import MeshConfig, ModelRole, ModelRoleBinding, ModelRoute, ModelServer
from meshproxy.config.sent import Total, digest, encode, key_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from meshproxy.config.sent import SentKind
    from meshproxy.control_api import Scope, SentDocument


_OWN_HOST = ("127.", "localhost:", "[::1]:", "unix:")


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A document of the mesh, and how it is sent. Compared by identity."""

    key: str
    document: SentKind
    sent: SentDocument
    digest: int

    @classmethod
    def of(cls, document: SentKind, order: str) -> Held:
        """`order`: see `SentDocument`."""
        sent = encode(document, order)
        return cls(key_of(document), document, sent, digest(sent))


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one document."""

    key: str
    before: Held | None
    """None: there was none."""
    after: Held | None
    """None: there is none any more."""


class Selection:
    """The documents in one scope. It follows changes, each at the cost of what has changed.

    Attributes:
        documents: by `Kind/name`.
        total: of them.
    """

    def __init__(self, scope: Scope | None, documents: Mapping[str, Held]) -> None:
        """`scope` None: everything is in it."""
        self._scope = scope
        self._routed: Counter[str] = Counter()
        """How many routes in the scope may send calls to each server."""
        self.documents: dict[str, Held] = {}
        self.total = Total()
        self.apply([Change(key, None, held) for key, held in documents.items()], documents)

    def apply(self, changes: Iterable[Change], documents: Mapping[str, Held]) -> frozenset[str]:
        """Follow changes. Returns what they have changed in the scope, by `Kind/name`.

        Args:
            documents: all of them, after the changes.
        """
        touched = set()
        for change in changes:
            touched.add(change.key)
            touched |= {f"ModelServer/{server}" for server in self._reroute(change)}
        return frozenset(key for key in touched if self._settle(key, documents.get(key)))

    def _reroute(self, change: Change) -> Iterator[str]:
        """Follow a change of a route. Gives the servers that are now the first time, or no longer, sent calls to."""
        for held, step in ((change.before, -1), (change.after, 1)):
            if held is not None and isinstance(held.document, ModelRoute) and self._concerns(held.document):
                for server in servers_of(held.document):
                    self._routed[server] += step
                    if self._routed[server] == max(step, 0):
                        yield server

    def _settle(self, key: str, held: Held | None) -> bool:
        """Take a document in or out. Returns whether that is a change."""
        if held is not None and not self._concerns(held.document):
            held = None
        before = self.documents.get(key)
        if held is before:
            return False
        if held is None:
            del self.documents[key]
        else:
            self.documents[key] = held
        self.total = self.total.changed(held.digest if held else 0, before.digest if before else 0)
        return True

    def _concerns(self, document: SentKind) -> bool:
        scope = self._scope
        if scope is None:
            return True
        match document:
            case MeshConfig():
                return True
            case ModelRole() | ModelRoleBinding():
                return bool(scope.server)
            case ModelRoute():
                directions = document.spec.directions
                return (bool(scope.server) and "inbound" in directions) or (scope.outbound and "outbound" in directions)
            case ModelServer():
                name = document.metadata.name
                if name in (scope.server, scope.outbound_server) or self._routed[name] > 0:
                    return True
                return scope.outbound and (scope.outbound_server is None or not _is_beside_its_sidecar(document))


def _is_beside_its_sidecar(server: ModelServer) -> bool:
    """It has no sidecar to call, and no address but on the loopback, or UNIX sockets, of whoever is told of it."""
    endpoints = server.spec.endpoints
    return bool(endpoints) and all(
        endpoint.sidecar is None
        and all(address.startswith(_OWN_HOST) for address in (endpoint.rest, endpoint.grpc) if address is not None)
        for endpoint in endpoints
    )


def servers_of(route: ModelRoute) -> set[str]:
    """The servers that a route names."""
    spec = route.spec
    named = [spec.server, *(target.server for target in spec.targets)]
    if isinstance(spec.fallback, str):
        named.append(spec.fallback)
    return {server for server in named if server is not None}
