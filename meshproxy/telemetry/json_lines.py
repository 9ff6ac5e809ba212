"""The access log as JSON with the field names of Envoy and Istio, and further ones. Fields that do not apply are null,
so every line has the same fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.proxy.exchange import NO_FLAGS
from meshproxy.telemetry.log_encoding import quote
from meshproxy.telemetry.log_lines import Lines, read_call, read_chosen, read_details, read_grpc_status, read_policy

if TYPE_CHECKING:
    from meshproxy.identity.caller import Caller
    from meshproxy.proxy.exchange import Exchange


class JsonLines(Lines):
    """One object for each exchange."""

    def around(self, exchange: Exchange, agent: bytes | None) -> tuple[str, ...]:
        """As `Lines.around`."""
        head, info, refusal, flags = exchange.head, exchange.connection, exchange.refusal, exchange.flags
        rule, audits, conditions = read_policy(exchange)
        model, version, verb = read_call(exchange.asked)
        forwarded_model, forwarded_version = read_chosen(exchange.asked, exchange.forwarded)
        no_trace = ',"trace_id":null,"span_id":null}\n', "", ""
        end = (',"trace_id":"', '","span_id":"', '"}\n') if exchange.trace is not None else no_trace
        outcome = (
            f'","method":{quote(head.method or None)},'
            f'"path":{quote(head.target.partition(b"?")[0] or None)},'
            f'"authority":{quote(head.authority or None)},'
            f'"response_code":{exchange.status},'
            f'"response_flags":{quote(str(flags) if flags is not NO_FLAGS else "-")},'
            f'"response_code_details":{quote(read_details(exchange) if refusal is None else refusal.message)},'
            f'"refusal":{quote(refusal.reason.label if refusal is not None else None)},'
            f'"grpc_status":{quote(read_grpc_status(exchange))},'
            '"bytes_received":'
        )
        context = (
            f',"upstream_cluster":{quote(exchange.server or None)},'
            f'"route_name":{quote(exchange.route or None)},'
            f'"attempts":{len(exchange.attempts)},'
            f'"protocol":{quote(info.protocol)},'
            f'"direction":{quote(info.direction)},'
            f'"downstream_remote_address":{quote(info.remote)},'
            f'"downstream_local_address":{quote(info.local)},'
            f'"requested_server_name":{quote(info.server_name or None)},'
            f'"tls_version":{quote(info.tls_version or None)},'
            f"{format_caller(exchange.caller)},"
            f'"model":{quote(model)},'
            f'"model_version":{quote(version)},'
            f'"verb":{quote(verb)},'
            f'"forwarded_model":{quote(forwarded_model)},'
            f'"forwarded_version":{quote(forwarded_version)},'
            f'"effective_version":{quote(exchange.effective_version or None)},'
            f'"policy":{quote(rule or None)},'
            f'"policy_audits":{quote(audits or None)},'
            f'"policy_conditions":{quote(conditions or None)},'
            f'"user_agent":{quote(agent or None)},'
            '"read_time":'
        )
        return (
            '{"start_time":"',
            outcome,
            ',"bytes_sent":',
            ',"duration":',
            ',"upstream_service_time":',
            ',"x_forwarded_for":',
            ',"request_id":',
            ',"upstream_host":',
            context,
            ',"decide_time":',
            ',"queue_time":',
            ',"retry_time":',
            ',"connect_time":',
            ',"upstream_body_time":',
            ',"write_time":',
            *end,
        )


def format_caller(caller: Caller) -> str:
    """The fields that identify the caller."""
    workload, token = caller.workload, caller.token
    return (
        f'"peer_spiffe_id":{quote(workload.spiffe_id if workload is not None else None, limit=2_048)},'
        f'"jwt_issuer":{quote(token.issuer if token is not None else None)},'
        f'"jwt_sub":{quote(token.subject if token is not None else None)},'
        f'"iam_role":{quote(token.iam_role if token is not None else None)}'
    )
