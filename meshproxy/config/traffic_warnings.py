"""Warnings about routes and rollouts: weights and bounds that are not percentages, time limits that never apply,
browsers that are shut out; and about cookies, of model servers, too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.config.codes import Code
from meshproxy.config.places import find, items

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meshproxy.config.check import Placed
    from meshproxy.config.problems import Problem
    from meshproxy.config.servers import Key

WHOLE = 100


def warn_of_traffic(placed: Sequence[Placed]) -> Iterator[Problem]:
    """Everything that is suspicious about routes and rollouts. Only documents without problems are looked at."""
    meshes = [each.document.spec for each in placed if each.kind == "MeshConfig" and each.document is not None]
    is_strict = any(mesh.mtls == "strict" for mesh in meshes)
    request_timeout = meshes[0].limits.request_timeout if meshes else None
    issuers = meshes[0].issuers if meshes else ()
    of_tokens = {place.cookie: issuer.name for issuer in issuers if (place := issuer.token_from) is not None}
    for each in placed:
        if each.kind == "ModelServer" and each.document is not None:
            yield from _cookie(each, each.document.spec.balancing.key, "balancing.key", of_tokens)
        elif each.kind == "ModelRoute" and each.document is not None:
            yield from _cookie(each, each.document.spec.sticky, "sticky", of_tokens)
            yield from _weights(each)
            yield from _timeouts(each, request_timeout)
            yield from _not_tried_again(each)
            if is_strict and (cors := find(each.node, "spec", "cors")) is not None:
                message = "mtls is strict, and a browser presents no client certificate with a preflight"
                message += ": browsers can call only through a gateway that has one"
                yield each.at(cors, "spec.cors", message, Code.CORS)
        elif each.kind == "ModelRollout" and each.document is not None:
            yield from _success_rates(each)


def _cookie(each: Placed, key: Key | None, field: str, of_tokens: dict[str | None, str]) -> Iterator[Problem]:
    """`of_tokens`: the issuers of those in which tokens are."""
    if key is None or key.by != "cookie" or key.cookie is None or key.cookie.ttl is None:
        return  # none is set
    cookie, field = key.cookie, f"spec.{field}.cookie"
    node = find(each.node, *field.split(".")) or each.node
    if cookie.name in of_tokens:
        message = f'tokens of issuer "{of_tokens[cookie.name]}" are in the cookie "{cookie.name}": a client without '
        message += "one is given a random value, which is no token, and is refused from then on: use another name"
        yield each.at(node, field, message, Code.COOKIE)
    if cookie.name.startswith("__Host-") and cookie.path != "/":
        message = f'browsers refuse the cookie "{cookie.name}" with the path "{cookie.path}": use "/", or another name'
        yield each.at(node, field, message, Code.COOKIE)


def _weights(route: Placed) -> Iterator[Problem]:
    shares = items(find(route.node, "spec", "split"))
    if len(shares) < 2 or not any(find(share, "weight") for share in shares):
        return  # a single destination, or equal shares
    weights = [share.weight for share in route.document.spec.split]
    if sum(weights) != WHOLE:
        shown = ", ".join(f"{100 * weight / sum(weights):.3g} %" for weight in weights[:8])
        message = f"the weights add up to {sum(weights)}, not {WHOLE}: as shares of their sum they are {shown}"
        yield route.at(find(route.node, "spec", "split") or route.node, "spec.split", message, Code.WEIGHTS)


def _timeouts(route: Placed, request_timeout: float | None) -> Iterator[Problem]:
    spec = route.document.spec
    whole, called = spec.timeout, '"timeout"'
    if whole is None:
        whole, called = request_timeout, '"requestTimeout" of the MeshConfig'
    limits = [("tryTimeout", spec.try_timeout, whole, called), ("idleTimeout", spec.idle_timeout, whole, called)]
    if spec.concurrency is not None and find(route.node, "spec", "concurrency", "queueTimeout") is not None:
        limits.append(("concurrency.queueTimeout", spec.concurrency.queue_timeout, whole, called))
    if spec.retries is not None:
        limits.append(("retries.hedgeAfter", spec.retries.hedge_after, whole, called))
        if spec.try_timeout is not None and (whole is None or spec.try_timeout < whole):
            limits[-1] = ("retries.hedgeAfter", spec.retries.hedge_after, spec.try_timeout, '"tryTimeout"')
    for field, part, most, name in limits:
        if part is not None and most is not None and part > most:
            node = find(route.node, "spec", *field.split(".")) or route.node
            message = f"{part:g}s is beyond {name}, {most:g}s: it never applies"
            yield route.at(node, f"spec.{field}", message, Code.TIMEOUTS)


def _not_tried_again(route: Placed) -> Iterator[Problem]:
    """Elsewhere the limit of an attempt is a reason for another: Envoy's `5xx`, `gateway-error` and `reset`."""
    spec = route.document.spec
    retries = spec.retries
    if retries is None or retries.attempts == 1 or spec.try_timeout is None or "timeout" in retries.reasons:
        return
    node = find(route.node, "spec", "retries", "reasons") or find(route.node, "spec", "retries") or route.node
    message = 'leaves "timeout" out: an attempt that "tryTimeout" ends is not retried, and the call fails'
    yield route.at(node, "spec.retries.reasons", message, Code.NOT_TRIED_AGAIN)


def _success_rates(rollout: Placed) -> Iterator[Problem]:
    """A ratio, as Prometheus has it, is a bound that no version ever misses: of a thousand calls 990 may fail."""
    for number, node in enumerate(items(find(rollout.node, "spec", "analysis", "metrics"))):
        metric = rollout.document.spec.analysis.metrics[number]
        bounds = metric.threshold_range
        if metric.name != "request-success-rate" or bounds is None:
            continue
        field = f"spec.analysis.metrics[{number}].thresholdRange"
        if bounds.min is not None and 0 < bounds.min <= 1:
            message = f"{bounds.min:g} is in percent: write {WHOLE * bounds.min:g} if it is a ratio"
            yield rollout.at(find(node, "thresholdRange", "min") or node, f"{field}.min", message, Code.SUCCESS_RATE)
        if (bounds.min is not None and bounds.min > WHOLE) or (bounds.max is not None and bounds.max < WHOLE):
            message = "a version of which no call fails breaks it: its rate is 100"
            yield rollout.at(find(node, "thresholdRange") or node, field, message, Code.SUCCESS_RATE)
