"""The last refusals, for people who look into one sidecar. Only a refused request costs anything here."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from meshproxy.refusal import GrpcStatus
from meshproxy.telemetry.timestamps import timestamp

if TYPE_CHECKING:
    from meshproxy.identity.caller import Caller
    from meshproxy.inference.call import Call
    from meshproxy.proxy.exchange import Exchange
    from meshproxy.refusal import Refusal

KEPT = 32
CHARACTERS = 256
"""Of each text: messages and names come from callers. All together they are below 64 KB."""


class LastRefusals:
    """A ring of the last `KEPT` refusals. What is kept holds neither the request's head nor the caller's claims."""

    def __init__(self) -> None:
        self._kept: deque[tuple[float, str, Refusal, str, str, str, int, int | None]] = deque(maxlen=KEPT)

    def add(self, exchange: Exchange, refusal: Refusal) -> None:
        """Keep one."""
        connection = exchange.connection
        self._kept.append(
            (
                exchange.finished,
                connection.direction,
                refusal,
                _called(exchange.asked),
                _calling(exchange.caller),
                connection.remote,
                exchange.status,
                exchange.grpc_status,
            )
        )

    def rows(self, offset: float) -> list[dict[str, object]]:
        """The refusals, the last one first. `offset`: from the times of exchanges to seconds since the epoch."""
        return [
            {
                "at": timestamp(finished + offset),
                "direction": direction,
                "reason": refusal.reason.label,
                "message": refusal.message[:CHARACTERS],
                "call": called or None,
                "caller": calling or None,
                "remote": remote,
                "policy": refusal.rule,
                "code": status,
                "grpcStatus": GrpcStatus(grpc_status).name if grpc_status is not None else None,
            }
            for finished, direction, refusal, called, calling, remote, status, grpc_status in reversed(self._kept)
        ]


def _called(call: Call | None) -> str:
    """Verb and model."""
    if call is None:
        return ""
    models = [model.name for model in call.models[:4]]
    more = ", ..." if len(call.models) > len(models) else ""
    return f"{call.verb.value} {', '.join(models)}{more}".rstrip()[:CHARACTERS]


def _calling(caller: Caller) -> str:
    """Workload, and issuer and subject of the token."""
    workload = caller.workload.spiffe_id if caller.workload is not None else ""
    token = f"{caller.token.issuer}: {caller.token.subject}" if caller.token is not None else ""
    return ", ".join(filter(None, (workload, token)))[:CHARACTERS]
