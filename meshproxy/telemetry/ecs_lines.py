"""The access log as JSON in the Elastic Common Schema, version 9.4 (https://www.elastic.co/docs/reference/ecs).

What the schema has no field for is below `meshproxy`, named as in spans. Names are written with dots, as the loggers of
Elastic write them. A field that does not apply is left out, but for the values that differ from request to request:
those are null, which Elasticsearch takes as missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.proxy.exchange import NO_FLAGS
from meshproxy.telemetry.log_encoding import quote
from meshproxy.telemetry.log_lines import Lines, read_call, read_chosen, read_grpc_status, read_policy
from meshproxy.telemetry.sampling import has_failed

if TYPE_CHECKING:
    from meshproxy.proxy.exchange import Exchange

VERSION = "9.4.0"


class EcsLines(Lines):
    """One object for each exchange."""

    duration = b"%d"
    unit = 1e9

    def around(self, exchange: Exchange, agent: bytes | None) -> tuple[str, ...]:
        """As `Lines.around`."""
        head, info, refusal, flags = exchange.head, exchange.connection, exchange.refusal, exchange.flags
        workload, token = exchange.caller.workload, exchange.caller.token
        rule, audits, conditions = read_policy(exchange)
        model, version, verb = read_call(exchange.asked)
        forwarded_model, forwarded_version = read_chosen(exchange.asked, exchange.forwarded)
        has_trace = exchange.trace is not None
        client, client_port = _split(info.remote)
        server, server_port = _split(info.local)
        failed = refusal is not None or has_failed(exchange)
        details = _fields(
            ("http.version", info.protocol.removeprefix("HTTP/")),
            ("http.request.method", head.method),
            ("http.response.status_code", exchange.status or None),
            ("url.path", head.target.partition(b"?")[0]),
            ("url.domain", _split(head.authority.decode("utf-8", "backslashreplace"))[0]),
            ("user_agent.original", agent),
            ("network.protocol", "grpc" if exchange.is_grpc else "http"),
            ("network.direction", info.direction),
            ("client.address", client),
            ("client.port", client_port),
            ("server.address", server),
            ("server.port", server_port),
            ("tls.version", info.tls_version.removeprefix("TLSv")),
            ("tls.client.server_name", info.server_name),
            ("user.id", token.subject if token is not None else None),
            ("rule.name", rule),
            ("error.type", refusal.reason.label if refusal is not None else None),
            ("error.message", refusal.message if refusal is not None else None),
            ("meshproxy.grpc_status", read_grpc_status(exchange)),
            ("meshproxy.flags", str(flags) if flags is not NO_FLAGS else None),
            ("meshproxy.attempts", len(exchange.attempts)),
            ("meshproxy.server", exchange.server),
            ("meshproxy.route", exchange.route),
            ("meshproxy.caller.spiffe_id", workload.spiffe_id if workload is not None else None),
            ("meshproxy.caller.issuer", token.issuer if token is not None else None),
            ("meshproxy.caller.iam_role", token.iam_role if token is not None else None),
            ("meshproxy.verb", verb),
            ("meshproxy.model.name", model),
            ("meshproxy.model.version", version),
            ("meshproxy.forwarded.name", forwarded_model),
            ("meshproxy.forwarded.version", forwarded_version),
            ("meshproxy.effective_version", exchange.effective_version),
            ("meshproxy.audits", audits),
            ("meshproxy.conditions", conditions),
        )
        event = (
            f'","ecs.version":"{VERSION}","event.kind":"event","event.category":["web"],'
            f'"event.type":["access","{"denied" if refusal is not None and refusal.rule else "allowed"}"],'
            f'"event.dataset":"meshproxy.access","event.outcome":"{"failure" if failed else "success"}",'
            '"http.request.body.bytes":'
        )
        return (
            '{"@timestamp":"',
            event,
            ',"http.response.body.bytes":',
            ',"event.duration":',
            ',"meshproxy.time.upstream":',
            ',"meshproxy.forwarded_for":',
            ',"http.request.id":',
            ',"meshproxy.upstream.address":',
            f'{details},"meshproxy.time.read":',
            ',"meshproxy.time.decide":',
            ',"meshproxy.time.queue":',
            ',"meshproxy.time.retry":',
            ',"meshproxy.time.connect":',
            ',"meshproxy.time.body":',
            ',"meshproxy.time.write":',
            *((',"trace.id":"', '","span.id":"', '"}\n') if has_trace else ("}\n", "", "")),
        )


def _fields(*named: tuple[str, str | bytes | int | None]) -> str:
    """Those that apply, each after a comma."""
    texts = [(name, str(value) if isinstance(value, int) else quote(value)) for name, value in named if value]
    return "".join([f',"{name}":{text}' for name, text in texts])


def _split(address: str) -> tuple[str, int | None]:
    """Host and port of `host:port`."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or len(port) > 5:
        return address.strip("[]"), None
    return host.strip("[]"), int(port)
