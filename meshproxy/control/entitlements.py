"""What an identity may be given, and what its word counts for. It follows from the documents, not from what a sidecar
says of itself.

An application may be given what outbound calls take, which is the same for all. Roles, bindings and the rest of what
an inbound port takes are for workloads that are model servers:

- those that a `ModelServer` names as its `workload`;
- those in the namespace of the `service` of a `ModelServer` that names none.

A sidecar that calls a `ModelServer` its own must fit that one. A server that names neither, such as the `local` one of
all injected pods, is for every workload that another one names.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from meshproxy.config.globs import compile_glob
from meshproxy.config.schema import MeshConfig, ModelRole, ModelRoleBinding, ModelRollout, ModelServer
from meshproxy.policy.compile import compile_subject

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from meshproxy.control.scope import Change, Held
    from meshproxy.control_api import Scope
    from meshproxy.identity.caller import Workload
    from meshproxy.policy.rules import Subject


class _Allowed(NamedTuple):
    """The workloads that bindings allow calls of a model."""

    ids: frozenset[str]
    others: tuple[Subject, ...]
    """Subjects that are not one SPIFFE id."""


class Entitlements:
    """Who may have which documents.

    Args:
        documents: those in force, by `Kind/name`.
    """

    def __init__(self, documents: Mapping[str, Held]) -> None:
        self._documents = documents
        self._domain = ""
        self._owners: Counter[str] = Counter()
        """SPIFFE ids, and the namespaces of servers that name no workload, with how many servers name each."""
        self._callers: dict[str, _Allowed | None] = {}
        """Who may call which model, as far as that was asked; None: everybody."""
        self._begin()

    def _begin(self) -> None:
        meshes = (held.document for held in self._documents.values() if isinstance(held.document, MeshConfig))
        mesh = next(meshes, None)
        self._domain = mesh.spec.trust_domain if mesh is not None else ""
        self._owners = Counter(owner for held in self._documents.values() for owner in self._named(held))

    @property
    def are_known(self) -> bool:
        """Whether there are documents; until then nobody is refused for good."""
        return bool(self._documents)

    def follow(self, changes: Sequence[Change]) -> None:
        """The documents have changed. Before anybody else is told of it."""
        kinds = {change.key.partition("/")[0] for change in changes}
        if "MeshConfig" in kinds:
            self._begin()
        elif "ModelServer" in kinds:
            for change in changes:
                self._owners.subtract(self._named(change.before))
                self._owners.update(self._named(change.after))
            self._owners = +self._owners
        if not kinds.isdisjoint(("MeshConfig", "ModelRole", "ModelRoleBinding")):
            self._callers.clear()

    def _named(self, held: Held | None) -> Iterator[str]:
        """Whom a ModelServer stands for."""
        if held is not None and isinstance(held.document, ModelServer) and (owner := self._owner(held.document)):
            yield owner

    def _owner(self, server: ModelServer) -> str:
        """The SPIFFE id or namespace that a server names; empty if neither."""
        spec = server.spec
        if spec.workload is not None:
            return spec.workload.one_id(self._domain) or ""
        return spec.service.namespace if spec.service is not None else ""

    def is_server(self, workload: Workload) -> bool:
        """Whether the workload is a model server of the mesh."""
        return workload.spiffe_id in self._owners or (
            workload.trust_domain == self._domain
            and workload.namespace is not None
            and workload.namespace in self._owners
        )

    def refusal(self, workload: Workload, scope: Scope | None) -> str:
        """Why a sidecar may not have what it asks for, for people; empty if it may."""
        if scope is not None and not scope.server:
            return ""
        who = workload.spiffe_id
        if not self.is_server(workload):
            what = "all documents, as sidecars of its version do" if scope is None else f"those of {scope.server}"
            return (
                f"{who} asks for {what}, and is no model server: no ModelServer names it. Write its namespace and "
                "service account, or SPIFFE ID, as the workload of its ModelServer"
            )
        held = self._documents.get(f"ModelServer/{scope.server}") if scope is not None else None
        if held is None or not isinstance(held.document, ModelServer):
            return ""  # what it is given has no such server, and it says so itself
        owner = self._owner(held.document)
        if owner in ("", who) or (owner == workload.namespace and workload.trust_domain == self._domain):
            return ""
        return f"{who} says that ModelServer {held.document.metadata.name} is its own, which is that of {owner}"

    def may_report(self, workload: Workload, rollout: str) -> bool:
        """Whether the workload's word counts for a rollout: where sidecars of model servers choose the arm it must be
        one, and where those of callers do there must be a binding by which it may call the model."""
        held = self._documents.get(f"ModelRollout/{rollout}")
        if held is None or not isinstance(held.document, ModelRollout):
            return False
        if held.document.spec.chosen_by == "inbound":
            return self.is_server(workload)
        return self.may_call(workload, held.document.spec.model)

    def may_call(self, workload: Workload, model: str) -> bool:
        """Whether some binding allows this workload calls of the model, or could together with a token or a header.
        Without roles everybody may."""
        if model not in self._callers:
            self._callers[model] = self._allowed(model)
        allowed = self._callers[model]
        return (
            allowed is None
            or workload.spiffe_id in allowed.ids
            or any(subject.matches_workload(workload) for subject in allowed.others)
        )

    def _allowed(self, model: str) -> _Allowed | None:
        documents = [held.document for held in self._documents.values()]
        roles = [each for each in documents if isinstance(each, ModelRole)]
        if not roles:
            return None
        fitting = {
            role.metadata.name
            for role in roles
            if any(compile_glob(glob)(model) for rule in role.spec.rules for glob in rule.models)
        }
        subjects = [
            compile_subject(subject, self._domain)
            for each in documents
            if isinstance(each, ModelRoleBinding) and each.spec.action == "allow" and each.spec.role in fitting
            for subject in each.spec.subjects
        ]
        ids = frozenset(each.spiffe_id for each in subjects if each.spiffe_id is not None)
        return _Allowed(ids, tuple(each for each in subjects if each.spiffe_id is None))
