"""The audit log: one JSON line for each exchange whose caller was denied, or that an audit binding matched. Who, what,
when, from where, the outcome, the rule and the reason; a gap in the sequence numbers shows that lines are missing.

`AuditLog.format` is the table of fields: a field is one line there, its name beside how it is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.inference.call import ModelRef
from meshproxy.proxy.exchange import Exchange
from meshproxy.telemetry.json_lines import format_caller
from meshproxy.telemetry.line_writer import LineWriter
from meshproxy.telemetry.log_encoding import NULL, UtcClock, quote
from meshproxy.telemetry.metrics import Counter
from meshproxy.telemetry.request_metrics import ACCESS_REASONS, read_audits

if TYPE_CHECKING:
    from meshproxy.telemetry.observer import Sink

MAX_CONDITION = 1_024
"""Characters of one condition."""
MAX_MODELS = 16
"""The most models of one call that are listed; a message can name thousands."""


class AuditLog:
    """Writes the exchanges that belong in the audit log as lines.

    Args:
        writer: takes the lines; flushing and closing it is up to the caller.
        clock: converts the times of an exchange to wall clock times.
        events: counts the records by `type`.
    """

    def __init__(self, writer: LineWriter, clock: UtcClock, events: Counter) -> None:
        self._writer = writer
        self._clock = clock
        self._denied = events.labels("denied")
        self._audited = events.labels("audited")
        self._sequence = 0

    def __call__(self, exchange: Exchange) -> None:
        """Write the record of one exchange, if it belongs in the audit log."""
        refusal = exchange.refusal
        if refusal is not None and refusal.reason in ACCESS_REASONS:
            self._denied.value += 1
            self._write(exchange, "denied")
        elif read_audits(exchange):
            self._audited.value += 1
            self._write(exchange, "audited")

    def repeat(self, exchange: Exchange) -> Sink | None:
        """A sink for exchanges that repeat this one (`Observer.repeat`)."""
        return None if exchange.refusal is None and not exchange.permit_audits else self

    def _write(self, exchange: Exchange, kind: str) -> None:
        self._sequence += 1
        self._writer.write(self.format(exchange, kind))

    def format(self, exchange: Exchange, kind: str) -> bytes:
        """The record, with its line feed. `kind`: `denied` or `audited`."""
        call = exchange.asked
        forwarded = exchange.forwarded if exchange.forwarded is not call else None
        refusal = exchange.refusal
        connection = exchange.connection
        trace = exchange.trace
        models = call.models if call is not None else ()
        return (
            f'{{"sequence":{self._sequence},'
            f'"time":"{self._clock.format(exchange.started)}",'
            f'"type":"{kind}",'
            f'"reason":{quote(refusal.reason.label if refusal is not None else None)},'
            f'"details":{quote(refusal.message if refusal is not None else None)},'
            f'"policy":{quote((refusal.rule if refusal is not None else None) or exchange.rule or None)},'
            f'"policy_audits":[{",".join([quote(rule) for rule in read_audits(exchange)])}],'
            f'"policy_conditions":[{",".join(_quoted_conditions(exchange))}],'
            f"{format_caller(exchange.caller)},"
            f'"verb":{quote(call.verb.value if call is not None else None)},'
            f'"models":[{",".join([_format_model(model) for model in models[:MAX_MODELS]])}],'
            f'"model_count":{len(models)},'
            f'"forwarded_as":{NULL if forwarded is None else _format_model(forwarded.models[0])},'
            f'"direction":{quote(connection.direction)},'
            f'"downstream_remote_address":{quote(connection.remote)},'
            f'"method":{quote(exchange.head.method)},'
            f'"path":{quote(exchange.head.target.partition(b"?")[0])},'
            f'"response_code":{exchange.status},'
            f'"grpc_status":{NULL if exchange.grpc_status is None else exchange.grpc_status},'
            f'"trace_id":{quote(trace.trace_id if trace is not None else None)}}}\n'
        ).encode("ascii")


def _quoted_conditions(exchange: Exchange) -> list[str]:
    """The conditions on address and headers that made the difference."""
    refusal = exchange.refusal
    conditions = exchange.conditions if refusal is None or refusal.rule is None else refusal.conditions
    return [quote(condition, limit=MAX_CONDITION) for condition in conditions]


def _format_model(model: ModelRef) -> str:
    return (
        f'{{"name":{quote(model.name)},'
        f'"version":{quote(model.version)},'
        f'"label":{quote(model.label)},'
        f'"signature":{quote(model.signature)}}}'
    )
