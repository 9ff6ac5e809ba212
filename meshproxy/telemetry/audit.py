"""The audit trail of access: one JSON line for each exchange that was refused for who asked, or that an auditing
binding watched. Who, what, when, from where, the outcome, the rule and the reason; a sequence number shows what is
missing.
"""

from __future__ import annotations

from meshproxy.inference.call import ModelRef
from meshproxy.proxy.exchange import Exchange
from meshproxy.telemetry.access_log import format_caller
from meshproxy.telemetry.line_writer import LineWriter
from meshproxy.telemetry.log_encoding import NULL, UtcClock, quote
from meshproxy.telemetry.metrics import Counter
from meshproxy.telemetry.request_metrics import ACCESS_REASONS, read_audits

MAX_MODELS = 16
"""Written out of one call; a message can name thousands."""

RECORD = (
    b'{"sequence":%d,"time":"%b","type":"%b","reason":%b,"details":%b,"policy":%b,"policy_audits":[%b],%b,'
    b'"verb":%b,"models":[%b],"model_count":%d,"direction":%b,"downstream_remote_address":%b,"method":%b,"path":%b,'
    b'"response_code":%d,"grpc_status":%b,"trace_id":%b}\n'
)
MODEL = b'{"name":%b,"version":%b,"label":%b,"signature":%b}'


class AuditLog:
    """Writes what the audit trail is about to a sink, and nothing else.

    Args:
        sink: where the lines go; its timer and its end are the caller's.
        clock: turns the times of an exchange into those of the wall.
        events: counts the records by `type`.
    """

    def __init__(self, sink: LineWriter, clock: UtcClock, events: Counter) -> None:
        self._sink = sink
        self._clock = clock
        self._denied = events.labels("denied")
        self._audited = events.labels("audited")
        self._sequence = 0

    def __call__(self, exchange: Exchange) -> None:
        """Write the record of one exchange, if it is one for the trail."""
        refusal = exchange.refusal
        if refusal is not None and refusal.reason in ACCESS_REASONS:
            self._denied.value += 1
            self._write(exchange, b"denied")
        elif read_audits(exchange):
            self._audited.value += 1
            self._write(exchange, b"audited")

    def _write(self, exchange: Exchange, kind: bytes) -> None:
        self._sequence += 1
        call = exchange.call
        refusal = exchange.refusal
        connection = exchange.connection
        models = call.models if call is not None else ()
        self._sink.write(
            RECORD
            % (
                self._sequence,
                self._clock.format(exchange.started),
                kind,
                quote(refusal.reason.label if refusal is not None else None),
                quote(refusal.message if refusal is not None else None),
                quote((refusal.rule if refusal is not None else None) or exchange.rule or None),
                b",".join([quote(rule) for rule in read_audits(exchange)]),
                format_caller(exchange.caller),
                quote(call.verb.value if call is not None else None),
                b",".join([_format_model(model) for model in models[:MAX_MODELS]]),
                len(models),
                quote(connection.direction),
                quote(connection.remote),
                quote(exchange.head.method),
                quote(exchange.head.target.partition(b"?")[0]),
                exchange.status,
                NULL if exchange.grpc_status is None else b"%d" % exchange.grpc_status,
                quote(exchange.trace.trace_id if exchange.trace is not None else None),
            )
        )


def _format_model(model: ModelRef) -> bytes:
    version = NULL if model.version is None else b"%d" % model.version
    return MODEL % (quote(model.name), version, quote(model.label), quote(model.signature))
