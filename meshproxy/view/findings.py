"""What an hour of calls says about documents: what nobody uses, and who is not authenticated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.config.globs import is_literal
from meshproxy.config.schema import ModelRole, ModelRoleBinding, ModelRoute
from meshproxy.rollout.drift_watch import in_words
from meshproxy.telemetry.metrics import OTHER
from meshproxy.telemetry.model_labels import NONE
from meshproxy.telemetry.timestamps import timestamp
from meshproxy.view.graph import API_VERSION, Shape, caller_name, merge_views

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from meshproxy.rollout.drift_watch import Drift
    from meshproxy.view.graph import Reports
    from meshproxy.view.ring import Window


class UnusedBinding(Shape, kw_only=True):
    """A permission that nobody has used."""

    binding: str
    role: str
    models: list[str]
    """Globs of the role."""


class OpenCaller(Shape, kw_only=True):
    """A caller whose connection does not authenticate it."""

    caller: str
    security: str
    """`tls` or `plaintext`."""
    models: list[str]
    calls: int


class ChangedModel(Shape, kw_only=True):
    """A model that is not as it was before."""

    model: str
    version: str
    direction: str
    signal: str
    """`errors`, `upstream` or `proxy` (`rollout.drift`)."""
    since: str
    """RFC 3339."""
    words: str


class Findings(Shape, kw_only=True):
    """`/findings`."""

    api_version: str = API_VERSION
    kind: str = "MeshFindings"
    seconds: float
    """Of which this is: what is used once a day is not seen in an hour."""
    is_complete: bool
    """Whether nothing that was to be reported may be missing. If something is, what seems unused may be used."""
    unused_models: list[str]
    """Models that documents name, and nobody has called."""
    unused_bindings: list[UnusedBinding]
    open_callers: list[OpenCaller]
    """The busiest first."""
    changed_models: tuple[ChangedModel, ...] = ()
    """That are another way than before, although nobody has rolled out anything."""


def findings(window: Window, reports: Reports, documents: Sequence[object], drifts: Iterable[Drift] = ()) -> Findings:
    """What the calls of a window say about the documents of the mesh, and which models have changed."""
    called: set[str] = set()
    used: set[str] = set()
    opened: dict[tuple[str, str], tuple[set[str], int]] = {}
    for edge, tally in merge_views(window.tallies):
        if tally.calls > sum(tally.denied.values()):
            called.add(edge.model)
        used.update(tally.allowed)
        # A denial by a binding is what that binding is for.
        used.update(reason.rpartition(": ")[0] for reason in tally.denied)
        if edge.security in ("tls", "plaintext") and edge.direction == "inbound":
            models, calls = opened.get((caller_name(edge.caller), edge.security), (set(), 0))
            models.add(edge.model)
            opened[caller_name(edge.caller), edge.security] = models, calls + tally.calls
    roles = {each.metadata.name: each for each in documents if isinstance(each, ModelRole)}
    bindings = [each for each in documents if isinstance(each, ModelRoleBinding)]
    unused = [
        UnusedBinding(
            binding=binding.metadata.name,
            role=binding.spec.role,
            models=_models([roles[binding.spec.role]]) if binding.spec.role in roles else [],
        )
        for binding in bindings
        if binding.spec.action != "audit" and binding.metadata.name not in used
    ]
    return Findings(
        seconds=round(window.seconds, 3),
        is_complete=reports.is_complete,
        unused_models=[model for model in named_models(documents) if model not in called],
        unused_bindings=sorted(unused, key=lambda each: each.binding),
        open_callers=[
            OpenCaller(caller=caller, security=security, models=sorted(models - {NONE, OTHER}), calls=calls)
            for (caller, security), (models, calls) in sorted(opened.items(), key=lambda item: (-item[1][1], item[0]))
        ],
        changed_models=tuple(
            ChangedModel(
                model=drift.watched.model,
                version=drift.watched.version,
                direction=drift.watched.direction,
                signal=drift.signal.value,
                since=timestamp(drift.found.since),
                words=in_words(drift),
            )
            for drift in drifts
        ),
    )


def named_models(documents: Iterable[object]) -> list[str]:
    """The models that roles and routes name; a glob names none."""
    roles = [each for each in documents if isinstance(each, ModelRole)]
    routes = [each for each in documents if isinstance(each, ModelRoute)]
    names = {*_models(roles), *(model for each in routes for model in each.spec.models)}
    return sorted(name for name in names if is_literal(name))


def _models(roles: Iterable[ModelRole]) -> list[str]:
    return sorted({model for role in roles for rule in role.spec.rules for model in rule.models})
