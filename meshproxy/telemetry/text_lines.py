"""The access log as text: Istio's default line (https://istio.io/latest/docs/tasks/observability/logs/access-log/), and
after it the further fields of the JSON format as `name=value`.

A value that does not apply is `-`. A value is quoted where Istio quotes it, and elsewhere if it has to be: quotes,
backslashes, controls and non-ASCII characters are escaped as in JSON, so a line has always the same fields, whoever
chose the values.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from meshproxy.proxy.exchange import NO_FLAGS
from meshproxy.telemetry.log_encoding import quote
from meshproxy.telemetry.log_lines import Lines, read_call, read_chosen, read_details, read_grpc_status, read_policy

if TYPE_CHECKING:
    from meshproxy.proxy.exchange import Exchange

_WORD = re.compile(r"[!#-\[\]-~]+")
"""What needs no quotes: it has no space, quote or backslash."""


class TextLines(Lines):
    """One line of text for each exchange."""

    null = b"-"
    nothing = b'"-"'

    def around(self, exchange: Exchange, agent: bytes | None) -> tuple[str, ...]:
        """As `Lines.around`."""
        head, info, refusal, flags = exchange.head, exchange.connection, exchange.refusal, exchange.flags
        workload, token = exchange.caller.workload, exchange.caller.token
        rule, audits, conditions = read_policy(exchange)
        model, version, verb = read_call(exchange.asked)
        forwarded_model, forwarded_version = read_chosen(exchange.asked, exchange.forwarded)
        end = (" trace_id=- span_id=-\n", "", "") if exchange.trace is None else (" trace_id=", " span_id=", "\n")
        outcome = (
            f'] "{_inside(head.method)} {_inside(head.target.partition(b"?")[0])} {_inside(info.protocol)}"'
            f" {exchange.status}"
            f" {str(flags) if flags is not NO_FLAGS else '-'}"
            f" {_word(read_details(exchange) if refusal is None else refusal.reason.label)}"
            " -"  # %CONNECTION_TERMINATION_DETAILS%
            f" {_quoted(refusal.message if refusal is not None else None)} "
        )
        context = (
            f" {_word(exchange.server)}"
            " -"  # %UPSTREAM_LOCAL_ADDRESS%
            f" {_word(info.local)} {_word(info.remote)} {_word(info.server_name)} {_word(exchange.route)}"
            f" grpc_status={_word(read_grpc_status(exchange))}"
            f" attempts={len(exchange.attempts)}"
            f" direction={_word(info.direction)}"
            f" tls_version={_word(info.tls_version)}"
            f" peer_spiffe_id={_word(workload.spiffe_id if workload is not None else None, limit=2_048)}"
            f" jwt_issuer={_word(token.issuer if token is not None else None)}"
            f" jwt_sub={_word(token.subject if token is not None else None)}"
            f" iam_role={_word(token.iam_role if token is not None else None)}"
            f" model={_word(model)}"
            f" model_version={_word(version)}"
            f" verb={_word(verb)}"
            f" forwarded_model={_word(forwarded_model)}"
            f" forwarded_version={_word(forwarded_version)}"
            f" effective_version={_word(exchange.effective_version)}"
            f" policy={_word(rule)}"
            f" policy_audits={_word(audits)}"
            f" policy_conditions={_word(conditions)}"
            " read_time="
        )
        return (
            "[",
            outcome,
            " ",
            " ",
            " ",
            " ",
            f" {_quoted(agent)} ",
            f" {_quoted(head.authority)} ",
            context,
            " decide_time=",
            " queue_time=",
            " retry_time=",
            " connect_time=",
            " upstream_body_time=",
            " write_time=",
            *end,
        )


def _quoted(value: str | bytes | None) -> str:
    """In quotes, as Istio writes it."""
    return quote(value or "-")


def _word(value: str | None, limit: int = 1_024) -> str:
    """In quotes only if it is not one word, or could be taken for what is not there."""
    text = quote(value or "-", limit=limit)
    return text[1:-1] if _WORD.fullmatch(text, 1, len(text) - 1) and value != "-" else text


def _inside(value: str | bytes) -> str:
    """A part of a quoted text whose parts are separated by spaces."""
    return quote(value or "-")[1:-1].replace(" ", "\\u0020")
