"""Which documents concern a sidecar. Pure.

A sidecar decides the same with the documents in its scope as with all of them; where that could be in doubt, a document
is in the scope. Calls of an application are not authorised by its own sidecar, so without an inbound port no role and
no binding matters. Model names are chosen by callers, so with one all of them do, unless its ModelServer lists its
models and the sidecar refuses others: then those matter that are about one of these. An application may call any
server, except one that is beside another sidecar: on this sidecar's loopback there would be something else, or nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshproxy.config.schema import MeshConfig, ModelRole, ModelRoleBinding, ModelRollout, ModelRoute, ModelServer
from meshproxy.config.sent import Total, digest, encode, key_of
from meshproxy.policy.served import concerns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from meshproxy.config.files import Written
    from meshproxy.config.sent import SentKind
    from meshproxy.control_api import Scope, SentDocument


_ROLE, _BINDING = "ModelRole/", "ModelRoleBinding/"
_OWN_HOST = ("127.", "localhost:", "[::1]:", "unix:")


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A document of the mesh, and how it is sent. Compared by identity."""

    key: str
    document: SentKind
    sent: SentDocument
    digest: int
    written: Written | None = None

    @classmethod
    def of(cls, document: SentKind, order: str, written: Written | None = None) -> Held:
        """`order`: see `SentDocument`."""
        sent = encode(document, order)
        return cls(key_of(document), document, sent, digest(sent), written)


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
        self._models: frozenset[str] | None = None
        """Those that the sidecar's own server lists; None: roles are not chosen by model."""
        self._roles: set[str] = set()
        """Names of the roles that are about one of these."""
        self._routed: Counter[str] = Counter()
        """How many routes and rollouts in the scope may send calls to each server."""
        self.documents: dict[str, Held] = {}
        self.total = Total()
        self.apply([Change(key, None, held) for key, held in documents.items()], documents)

    def apply(self, changes: Iterable[Change], documents: Mapping[str, Held]) -> frozenset[str]:
        """Follow changes. Returns what they have changed in the scope, by `Kind/name`.

        Args:
            documents: all of them, after the changes.
        """
        changes = list(changes)
        touched = self._narrow(changes, documents)
        for change in changes:
            touched.add(change.key)
            touched |= {f"ModelServer/{server}" for server in self._reroute(change)}
        return frozenset(key for key in touched if self._settle(key, documents.get(key)))

    def _narrow(self, changes: Sequence[Change], documents: Mapping[str, Held]) -> set[str]:
        """Follow what the server lists, and which roles are about that. Gives documents that this concerns."""
        before, roles = self._models, self._roles
        self._models = self._listed(documents)
        if self._models is None:
            self._roles = set()
        elif self._models != before:
            self._roles = {name for name in map(self._about_listed, documents.values()) if name}
        else:
            self._roles = roles - {change.key.removeprefix(_ROLE) for change in changes if change.key.startswith(_ROLE)}
            self._roles |= {name for name in (self._about_listed(change.after) for change in changes) if name}
        if self._models != before:
            return {key for key in documents if key.startswith((_ROLE, _BINDING))}
        moved = roles ^ self._roles
        if not moved:
            return set()
        return {
            key
            for key, held in documents.items()
            if isinstance(held.document, ModelRoleBinding) and held.document.spec.role in moved
        }

    def _listed(self, documents: Mapping[str, Held]) -> frozenset[str] | None:
        scope = self._scope
        if scope is None or not scope.server or not scope.models:
            return None
        held = documents.get(f"ModelServer/{scope.server}")
        if held is None or not isinstance(held.document, ModelServer):
            return None
        return frozenset(held.document.spec.models) or None

    def _about_listed(self, held: Held | None) -> str:
        """The name of a role that is about one of the listed models; empty for anything else."""
        if held is None or self._models is None or not isinstance(held.document, ModelRole):
            return ""
        return held.document.metadata.name if concerns(held.document, self._models) else ""

    def _reroute(self, change: Change) -> Iterator[str]:
        """Follow a change of a route or rollout. Gives the servers that calls are now first, or no longer, sent to."""
        for held, step in ((change.before, -1), (change.after, 1)):
            if (
                held is not None
                and isinstance(held.document, ModelRoute | ModelRollout)
                and self._concerns(held.document)
            ):
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
            case ModelRole():
                return bool(scope.server) and (self._models is None or document.metadata.name in self._roles)
            case ModelRoleBinding():
                return bool(scope.server) and (self._models is None or document.spec.role in self._roles)
            case ModelRoute():
                directions = document.spec.directions
                return (bool(scope.server) and "inbound" in directions) or (scope.outbound and "outbound" in directions)
            case ModelRollout():
                is_ours = bool(scope.server) if document.spec.chosen_by == "inbound" else scope.outbound
                return scope.rollouts and is_ours
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


def servers_of(route: ModelRoute | ModelRollout) -> set[str]:
    """The servers that a route or rollout names."""
    if isinstance(route, ModelRollout):
        arms = (route.spec.stable, route.spec.candidate)
        return {arm.server for arm in arms if arm.server is not None}
    spec = route.spec
    named = [spec.server, *(target.server for target in spec.targets)]
    if isinstance(spec.fallback, str):
        named.append(spec.fallback)
    return {server for server in named if server is not None}
