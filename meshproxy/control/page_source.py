"""What the page of the mesh shows, from what the control plane has: reports of sidecars, its status, its documents."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from meshproxy.config import schema
from meshproxy.config.fields import claims_of
from meshproxy.config.globs import compile_glob
from meshproxy.control import fleet
from meshproxy.control.status import SidecarState, moment
from meshproxy.policy.conditions import claim_in_words, in_words
from meshproxy.rollout import drift_watch
from meshproxy.rollout.steps import Phase
from meshproxy.telemetry.timestamps import timestamp
from meshproxy.view.findings import named_models
from meshproxy.view.graph import caller_name
from meshproxy.web.shapes import (
    Arm,
    Certificate,
    Certificates,
    Change,
    Configuration,
    Denial,
    Grade,
    Member,
    Rollout,
    Rule,
    Sync,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from meshproxy.config import fields, rollouts
    from meshproxy.config.sent import SentKind
    from meshproxy.control.documents import MeshDocuments
    from meshproxy.control.rollouts import Shown
    from meshproxy.control.status import ControlStatus
    from meshproxy.view.graph import Graph
    from meshproxy.view.mesh import Mesh

LEAST_AGE = 1.0
"""Seconds that a graph is used at least."""
COST_SHARE = 0.05
"""Of the time of one core that graphs take at most, however large the mesh is: a graph that took a second to make is
used for twenty."""

_GRADES = {fleet.Level.WELL: Grade.WELL, fleet.Level.WARNING: Grade.WARNING, fleet.Level.ERROR: Grade.ERROR}


class PageSource:
    """A `web.source.Source`."""

    def __init__(
        self,
        mesh: Mesh,
        status: Callable[[], Awaitable[ControlStatus]],
        documents: MeshDocuments | None,
        rollouts: Callable[[], Iterable[Shown]] = tuple,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            mesh: what was reported.
            status: what the control plane says about itself and its sidecars.
            documents: of the mesh; None: sidecars have their own.
            rollouts: those that this control plane steers.
            clock: seconds; never set back.
        """
        self._mesh = mesh
        self._status = status
        self._documents = documents
        self._rollouts = rollouts
        self._clock = clock
        self._made: dict[int, tuple[Graph, float]] = {}
        """By the length of their time; and when the next one may be made."""

    def graph(self, seconds: int) -> Graph:
        """The graph of the last seconds."""
        began = self._clock()
        if seconds in self._made and began < self._made[seconds][1]:
            return self._made[seconds][0]
        graph = self._mesh.graph(seconds, time.time(), self._models())
        ended = self._clock()
        self._made[seconds] = graph, ended + max(LEAST_AGE, (ended - began) / COST_SHARE)
        return graph

    def denials(self) -> tuple[Denial, ...]:
        """The last ones, the newest first."""
        return tuple(
            Denial(
                at=moment(each.denial.at),
                caller=caller_name(each.denial.caller),
                call=each.denial.call,
                reason=each.denial.reason,
                message=each.denial.message,
                binding=each.denial.binding,
                sidecar=each.reporter,
            )
            for each in reversed(self._mesh.denials)
        )

    def rules(self, model: str) -> tuple[Rule, ...] | None:
        """Bindings for a model, those that deny first."""
        if self._documents is None:
            return None
        held = self._held()
        roles = {document.metadata.name: document for document in held if isinstance(document, schema.ModelRole)}
        found = []
        for document in held:
            if not isinstance(document, schema.ModelRoleBinding):
                continue
            role = roles.get(document.spec.role)
            covering = [rule for rule in role.spec.rules if _covers(rule, model)] if role is not None else []
            if covering:
                found.append(
                    Rule(
                        binding=document.metadata.name,
                        role=document.spec.role,
                        action=document.spec.action,
                        subjects=tuple(", ".join(_words(subject)) for subject in document.spec.subjects),
                        verbs=tuple(dict.fromkeys(verb for rule in covering for verb in rule.verbs)),
                    )
                )
        order = ("deny", "allow", "audit")
        return tuple(sorted(found, key=lambda rule: (order.index(rule.action), rule.binding)))

    def rollout(self, model: str) -> Rollout | None:
        """As its document and the controller have it; None: there is none."""
        for document in self._held():
            if isinstance(document, schema.ModelRollout) and document.spec.model == model:
                steered = {shown.name: shown for shown in self._rollouts()}
                return _rollout(document, steered.get(document.metadata.name))
        return None

    def changes(self, model: str) -> tuple[Change, ...]:
        """By the detectors of drift."""
        return tuple(
            Change(since=moment(each.found.since), words=drift_watch.in_words(each))
            for each in self._mesh.drift.raised(time.time(), model)
        )

    async def certificates(self) -> Certificates:
        """Of the control plane and of its sidecars."""
        status = await self._status()
        own = fleet.renewal(status.certificate_issued, status.certificate_expires, status.now)
        found = [
            Certificate(
                identity=status.spiffe_id,
                holder="this control plane",
                issued=status.certificate_issued,
                expires=status.certificate_expires,
                grade=_GRADES[own[0]],
                problem=own[1],
            )
        ]
        for member in fleet.members({"": status}):
            entry = member.entry
            wrong = [each for each in member.troubles if each.concern is fleet.Concern.CERTIFICATE]
            found.append(
                Certificate(
                    identity=entry.spiffe_id,
                    holder=" on ".join(filter(None, (entry.sidecar, entry.host or entry.peer))),
                    issued=entry.certificate_issued,
                    expires=entry.certificate_expires,
                    grade=_GRADES[max((each.level for each in wrong), default=fleet.Level.WELL)],
                    problem="; ".join(each.text for each in wrong),
                )
            )
        order = (Grade.ERROR, Grade.WARNING, Grade.WELL)
        found.sort(key=lambda each: order.index(each.grade))
        return Certificates(
            now=status.now,
            trust_domain=status.trust_domain,
            authority=status.authority,
            authority_expires=status.authority_expires,
            rotation=status.rotation_step,
            certificates=tuple(found),
        )

    async def configuration(self) -> Configuration:
        """Sidecars and the documents."""
        status = await self._status()
        documents = status.documents
        problems = (*documents.problems, documents.source_problem) if documents is not None else ()
        return Configuration(
            now=status.now,
            version=documents.version if documents is not None else "",
            problems=tuple(filter(None, problems)),
            sidecars=tuple(_member(member) for member in fleet.members({"": status})),
            forgotten=status.forgotten,
        )

    def _held(self) -> list[SentKind]:
        """The documents in force."""
        return self._documents.documents if self._documents is not None else []

    def _models(self) -> Iterable[str]:
        """That documents name: they are shown even if nobody calls them."""
        return named_models(self._held())


def _rollout(document: schema.ModelRollout, shown: Shown | None) -> Rollout:
    """Of the windows, `meshproxy rollout status` tells more."""
    spec = document.spec
    arms = Arm(name="stable", version=_version(spec.stable)), Arm(name="candidate", version=_version(spec.candidate))
    if shown is None:
        return Rollout(name=document.metadata.name, phase="paused" if spec.paused else "", arms=arms)
    status = shown.status
    weights = 1 - status.weight / 100, status.weight / 100
    step = []
    if status.phase is Phase.PROGRESSING:
        step.append(f"step {status.step + 1} of {len(shown.weights)}")
    if status.gate is not None and status.is_active:
        step.append(f"waits for the webhooks of {status.gate.value}")
    if status.stalled and status.is_active:
        step.append("stalled")
    events = [f"{timestamp(each.at)} {each.reason}: {each.message}" for each in reversed(status.notices)]
    if status.verdict is not None and status.is_active:
        events.insert(0, "; ".join((f"Last window: {status.verdict.outcome.value}", *status.verdict.reasons)))
    return Rollout(
        name=shown.name,
        phase="paused" if shown.paused and status.is_active else status.phase.value,
        step=", ".join(step),
        arms=tuple(msgspec.structs.replace(arm, weight=weight) for arm, weight in zip(arms, weights, strict=True)),
        events=tuple(events),
    )


def _version(arm: rollouts.Arm) -> str:
    return arm.version or arm.label or arm.model or arm.server or ""


def _covers(rule: schema.Rule, model: str) -> bool:
    return any(compile_glob(pattern)(model) for pattern in rule.models)


def _words(subject: fields.BindingSubject) -> Iterator[str]:
    """Whom a subject means: all of these."""
    if (workload := subject.workload) is not None:
        parts = {
            "namespace": workload.namespace,
            "account": workload.service_account,
            "trust domain": workload.trust_domain,
        }
        yield workload.spiffe_id or " ".join(f"{name} {value}" for name, value in parts.items() if value)
    if (token := subject.token) is not None:
        claims = [claim_in_words(*each) for each in claims_of(token.claims, token.claim_paths)]
        yield f"token of {token.issuer}" + (f" with {', '.join(claims)}" if claims else "")
    if subject.iam_role is not None:
        yield f"role {subject.iam_role}"
    if subject.ip_blocks:
        yield f"from {', '.join(map(str, subject.ip_blocks))}"
    if subject.not_ip_blocks:
        yield f"not from {', '.join(map(str, subject.not_ip_blocks))}"
    for name, wanted in subject.headers.items():
        yield f"header {name}: {in_words(wanted)}"


def _member(member: fleet.Member) -> Member:
    entry = member.entry
    wrong = [each for each in member.troubles if each.concern is not fleet.Concern.CERTIFICATE]
    level = max((each.level for each in wrong), default=fleet.Level.WELL)
    if level is fleet.Level.WELL and entry.state is not SidecarState.IN_SYNC:
        level = fleet.Level.WARNING
    return Member(
        sidecar=entry.sidecar,
        host=entry.host,
        state=Sync(entry.state.value),
        since=entry.since,
        version=entry.version,
        wanted=entry.wanted,
        software=entry.software,
        grade=_GRADES[level],
        problems=tuple(each.text for each in wrong),
    )
