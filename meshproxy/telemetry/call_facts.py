"""What live pages say of a finished exchange, in one word for each subject: `meshproxy stat` groups by these, and `tap`
and `stat` filter by them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.refusal import GrpcStatus, grpc_status_name
from meshproxy.telemetry.metrics import OTHER
from meshproxy.telemetry.model_labels import LATEST, NONE
from meshproxy.telemetry.request_metrics import ACCESS_REASONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.identity.caller import Caller
    from meshproxy.inference.call import ModelRef
    from meshproxy.proxy.exchange import Exchange

CHARACTERS = 256
"""Of each word: callers choose them."""
MOST_MODELS = 4
"""Models of one call that are named."""

_DENIED_GRPC = (GrpcStatus.PERMISSION_DENIED, GrpcStatus.UNAUTHENTICATED)
_DENIED_HTTP = (401, 403)


def models_of(exchange: Exchange) -> tuple[ModelRef, ...]:
    """The models of the call as it was forwarded, or else as it was made."""
    call = exchange.forwarded or exchange.asked
    return call.models if call is not None else ()


def any_model(exchange: Exchange, matches: Callable[[ModelRef], bool]) -> bool:
    """It holds for one of the models of the call, as it was made or as it was forwarded. A loop: a generator costs
    0.3 us more."""
    forwarded, asked = exchange.forwarded, exchange.asked
    for call in (forwarded, asked) if asked is not forwarded else (asked,):
        if call is not None:
            for model in call.models:
                if matches(model):
                    return True
    return False


def model(exchange: Exchange) -> str:
    """Their names; `_none` if the request names no model, or was refused before that was known."""
    models = models_of(exchange)
    if len(models) == 1:
        return models[0].name[:CHARACTERS]
    if not models:
        return NONE
    more = ",..." if len(models) > MOST_MODELS else ""
    return (",".join([each.name for each in models[:MOST_MODELS]]) + more)[:CHARACTERS]


def version(exchange: Exchange) -> str:
    """The version or label that was asked of the model server, or else that which its answer names; `latest` if neither
    is known, `_other` if there are several models."""
    models = models_of(exchange)
    if not models:
        return NONE
    return (models[0].named_version or exchange.effective_version or LATEST)[:CHARACTERS] if len(models) == 1 else OTHER


def verb(exchange: Exchange) -> str:
    call = exchange.forwarded or exchange.asked
    return call.verb.value if call is not None else NONE


def caller(exchange: Exchange) -> str:
    """The SPIFFE id, and issuer and subject of the token: `spiffe://... (corp:alice)`."""
    return str(exchange.caller)[:CHARACTERS]


def caller_names(caller: Caller) -> list[str]:
    """All that a caller is known by: what a filter is compared with."""
    names = []
    if (workload := caller.workload) is not None:
        names.append(workload.spiffe_id)
        if workload.service_account is not None:
            names.append(f"{workload.namespace}/{workload.service_account}")
    if (token := caller.token) is not None:
        names += [token.subject, f"{token.issuer}:{token.subject}"]
        if token.iam_role is not None:
            names.append(token.iam_role)
    return names or ["anonymous"]


def code(exchange: Exchange) -> str:
    """The name of the gRPC status, or the HTTP status; `0` if the client left before there was one."""
    if exchange.is_grpc and exchange.grpc_status is not None:
        return grpc_status_name(exchange.grpc_status)
    return str(exchange.status)


def is_denied(exchange: Exchange) -> bool:
    """A sidecar answered it, as the caller may not make it. Of the other one only the status is known."""
    if exchange.refusal is not None:
        return exchange.refusal.reason in ACCESS_REASONS
    if not exchange.is_refused_remotely:
        return False
    return exchange.grpc_status in _DENIED_GRPC if exchange.is_grpc else exchange.status in _DENIED_HTTP


def route(exchange: Exchange) -> str:
    return exchange.route or NONE


def server(exchange: Exchange) -> str:
    return exchange.server or NONE


def endpoint(exchange: Exchange) -> str:
    return exchange.upstream or NONE


def direction(exchange: Exchange) -> str:
    return exchange.connection.direction


def protocol(exchange: Exchange) -> str:
    """`gRPC` or `REST`."""
    return "gRPC" if exchange.is_grpc else "REST"


GROUPS = {
    "model": model,
    "version": version,
    "verb": verb,
    "caller": caller,
    "route": route,
    "server": server,
    "endpoint": endpoint,
    "code": code,
    "protocol": protocol,
}
"""What calls may be grouped by."""
