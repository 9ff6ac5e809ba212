"""Warnings about settings that are written and change nothing: another one has to be there, or leaves them out.

Only what is written is told, not what a default says, and nothing that is there to switch something off (`percent: 0`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.config.codes import Code
from meshproxy.config.globs import compile_glob
from meshproxy.config.places import directions_of, find, items
from meshproxy.config.telemetry import is_collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from meshproxy.config.check import Placed
    from meshproxy.config.problems import Problem
    from meshproxy.config.routes import Match

Idle = tuple[str, str]
"""The path of a setting below `spec`, and why it changes nothing."""


def warn_of_idle_settings(placed: Sequence[Placed], *, is_partial: bool) -> Iterator[Problem]:
    """Everything of this sort. Only documents without problems are looked at.

    Args:
        is_partial: what they need may be in other documents.
    """
    whole = [each for each in placed if each.document is not None]
    for each in whole:
        idle_of = _OF_KIND.get(each.kind)
        for path, why in idle_of(each) if idle_of is not None else ():
            yield _at(each, path, f"changes nothing: {why}")
    yield from _never_reached([each for each in whole if each.kind == "ModelRoute"])
    if not is_partial and len(whole) == len(placed):
        yield from _of_the_set(whole)


def _at(each: Placed, path: str, message: str) -> Problem:
    node = find(each.node, "spec", *path.split(".")) or each.node
    return each.at(node, f"spec.{path}", message, Code.IDLE)


def _written(each: Placed, path: str, *names: str) -> Iterator[str]:
    """Those of the fields below a path that are written."""
    for name in names:
        if find(each.node, "spec", *path.split("."), name) is not None:
            yield f"{path}.{name}"


# One document


def _of_mesh(mesh: Placed) -> Iterator[Idle]:
    if mesh.document.spec.telemetry.access_log.ratio == 1:
        for path in _written(mesh, "telemetry.accessLog", "keep"):
            yield path, 'every request has a line as it is: write "ratio: 0" for a log of those of "keep" alone'


def _of_server(server: Placed) -> Iterator[Idle]:
    spec = server.document.spec
    if spec.balancing.policy != "ring-hash":
        for path in _written(server, "balancing", "key"):
            yield path, f'{spec.balancing.policy} goes by no key: write "policy: ring-hash"'
    if spec.breaker.success_rate is None:
        for path in _written(server, "breaker", "window", "minRequests"):
            yield path, 'it is about "successRate", which is left out: only failures in a row open the breaker'
    most, least = len(spec.endpoints), max(2, spec.ejection.min_endpoints)
    if spec.ejection.enabled and 0 < most < least and find(server.node, "spec", "ejection") is not None:
        yield "ejection", f"it takes {least} endpoints to compare them, and there {'is' if most == 1 else 'are'} {most}"
    if spec.health is not None and spec.health.enabled:
        if spec.health.check != "http":
            for path in _written(server, "health", "path"):
                yield path, f'{spec.health.check} asks no path: write "check: http"'
        if spec.health.check in ("tcp", "http", "answer"):
            for path in _written(server, "health", "models"):
                yield path, f'{spec.health.check} asks for no models: write "check: model-status" or "check: grpc"'


def _of_route(route: Placed) -> Iterator[Idle]:
    spec = route.document.spec
    if spec.sticky is not None and sum(bool(share.weight) for share in spec.split) < 2:
        yield "sticky", 'there is no "split" of several shares, so all calls have one destination'
    if spec.concurrency is None:
        if find(route.node, "spec", "priority") is not None:
            yield "priority", 'it is of calls in the queue of "concurrency", which is left out'
    elif spec.concurrency.limit is not None:
        for path in _written(route, "concurrency", "initial", "min", "max"):
            yield path, 'it is of the adaptive limit, and "limit" is a fixed one'
    if spec.concurrency is not None and not spec.concurrency.queue:
        for path in _written(route, "concurrency", "queueTimeout"):
            yield path, '"queue" is 0, so nothing waits'
    if spec.retries is not None and spec.try_timeout is None and "timeout" in spec.retries.reasons:
        yield "retries.reasons", '"timeout" is that of an attempt: there is no "tryTimeout"'


def _of_rollout(rollout: Placed) -> Iterator[Idle]:
    analysis = rollout.document.spec.analysis
    if analysis.step_weights:
        for path in _written(rollout, "analysis", "stepWeight", "maxWeight"):
            yield path, 'the steps are those of "stepWeights"'
    if analysis.mode != "sequential":
        for path in _written(rollout, "analysis", "falseAlarm"):
            yield path, f'it is of "mode: sequential", and the mode is {analysis.mode}'


def _of_sidecar(sidecar: Placed) -> Iterator[Idle]:
    spec = sidecar.document.spec
    written = list(_written(sidecar, "audit", "signingKey", "fsync", "rotateBytes", "keepFiles"))
    if spec.audit_log == "off":
        yield from ((path, 'no audit trail is written: write "auditLog", which is off') for path in written)
    elif spec.audit_log == "stdout" or is_collector(spec.audit_log):
        of_files = (path for path in written if path != "audit.signingKey")
        yield from ((path, f'it is of a file, and "auditLog" is {spec.audit_log}') for path in of_files)
    if spec.workers == 1:
        for path in _written(sidecar, "admin", "firstWorkerPort"):
            yield path, 'there is one worker, which has the port of "listen"'


_OF_KIND: dict[str, Callable[[Placed], Iterable[Idle]]] = {
    "MeshConfig": _of_mesh,
    "ModelServer": _of_server,
    "ModelRoute": _of_route,
    "ModelRollout": _of_rollout,
    "Sidecar": _of_sidecar,
}


# Several documents


def _never_reached(routes: Sequence[Placed]) -> Iterator[Problem]:
    """Routes whose calls all have an earlier one: those of a pattern are asked in the order of documents."""
    before: dict[tuple[str, str], list[Placed]] = {}
    for route in (route for route in routes if route.document.spec.match):
        spec = route.document.spec
        places = [(pattern, direction) for pattern in spec.models for direction in directions_of(route)]
        takers = [_taker(spec.match, before.get(place, ())) for place in places]
        if takers and all(takers) and (first := takers[0]) is not None:
            message = f"never applies: all of these calls have {first.label} at {first.place}, which comes first"
            yield _at(route, "match", message)
        for place in places:
            before.setdefault(place, []).append(route)


def _taker(matches: Sequence[Match], earlier: Sequence[Placed]) -> Placed | None:
    """The route among the earlier ones that takes whatever meets one of the matches."""
    for other in earlier:
        if all(any(_covers(wide, match) for wide in other.document.spec.match) for match in matches):
            return other
    return None


def _covers(wide: Match, match: Match) -> bool:
    """Whether a match demands nothing that another one does not demand, too."""
    return wide.caller in (None, match.caller) and wide.headers.items() <= match.headers.items()


def _of_the_set(placed: Sequence[Placed]) -> Iterator[Problem]:
    """What needs another document of the set."""
    sidecars = [each for each in placed if each.kind == "Sidecar"]
    compared = [
        compile_glob(pattern)
        for each in placed
        if each.kind == "ModelRoute"
        and (mirror := each.document.spec.mirror) is not None
        and mirror.compare is not None
        for pattern in each.document.spec.models
    ]
    for each in (each for each in placed if each.kind == "ModelRollout"):
        if alone := next((sidecar for sidecar in sidecars if sidecar.document.spec.control_plane is None), None):
            message = f'{alone.label} has no "controlPlane", which moves the weight: the stable version has all calls'
            yield each.at(each.node, "", message, Code.IDLE)
        for index, node in enumerate(items(find(each.node, "spec", "analysis", "metrics"))):
            metric = each.document.spec.analysis.metrics[index]
            if metric.name == "shadow-disagreement" and not any(fits(each.document.spec.model) for fits in compared):
                message = 'nothing is compared: no route of the model has a "mirror" with "compare"'
                yield each.at(node, f"spec.analysis.metrics[{index}]", message, Code.IDLE)
