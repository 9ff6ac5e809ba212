"""The boards for Grafana: `python -m meshproxy.monitoring.boards deploy/grafana` writes a file for each.

From the whole to its parts: the mesh, one model, one sidecar; and the versions of a model side by side. docs/boards.md
shows them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from meshproxy.monitoring.panels import Board, Panel, Variable, areas, lines, number
from meshproxy.monitoring.queries import NAMED, failure_share, quantile, requests, selected, total

WINDOW = "$__rate_interval"
NAMESPACE = 'namespace=~"$namespace"'
INBOUND = 'direction="inbound"'
DIRECTION = 'direction="$direction"'
MODEL = 'model=~"$model"'
INSTANCE = 'instance=~"$instance"'

DURATION = "meshproxy_request_duration_seconds"
IN_FLIGHT_TIME = "meshproxy_requests_in_flight_seconds_total"
EXPIRY = "meshproxy_identity_cert_expiration_timestamp_seconds"
START = "meshproxy_identity_cert_not_before_timestamp_seconds"

LOST = (
    ("audit records", "meshproxy_audit_dropped_total"),
    ("lines of the access log", "meshproxy_access_log_dropped_total"),
    ("spans", "meshproxy_spans_dropped_total"),
)

NAMESPACES = Variable("namespace", "Namespace", "label_values(meshproxy_build_info, namespace)")
INSTANCES = Variable("instance", "Instance", f"label_values(meshproxy_build_info{{{NAMESPACE}}}, instance)")
DIRECTIONS = Variable(
    "direction", "Direction", f"label_values(meshproxy_requests_total{{{NAMESPACE}}}, direction)", many=False
)
MODELS = f'label_values(meshproxy_requests_total{{{NAMESPACE},model!~"_.*"}}, model)'


def counted(metric: str, by: str, *matchers: str) -> str:
    """Events a second."""
    return total(metric, WINDOW, by, *matchers)


def _quantiles(title: str, unit: str, metric: str, *matchers: str, note: str = "") -> Panel:
    shares = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    queries = ((name, quantile(share, metric, WINDOW, "", *matchers)) for name, share in shares)
    return lines(title, unit, *queries, note=note)


def _life(*matchers: str) -> str:
    """The share of its life that a certificate has left."""
    end, start = selected(EXPIRY, *matchers), selected(START, *matchers)
    return f"({end} - time()) / ({end} - {start})"


def mesh() -> Board:
    """All of it, for somebody who asks whether all is well."""
    here, named = (NAMESPACE, INBOUND), (NAMESPACE, INBOUND, NAMED)
    in_sync = selected("meshproxy_config_in_sync", NAMESPACE)
    opened = counted("meshproxy_connections_total", "direction", *here)
    mtls = counted("meshproxy_connections_total", "direction", *here, 'security="mtls"')
    denied = counted("meshproxy_authz_decisions_total", "policy, reason", *here, 'decision="deny"')
    refused = counted("meshproxy_refusals_total", "direction, reason", NAMESPACE)
    handshakes = counted("meshproxy_tls_handshakes_total", "result, reason", *here)
    now = (
        number("Requests", "reqps", requests(WINDOW, "direction", *named)),
        number(
            "Failed",
            "percentunit",
            failure_share(WINDOW, "direction", *named),
            "Statuses 5xx, and statuses of gRPC that are the server's fault.",
        ),
        number("Processes", "short", f"count({in_sync})", "Sidecars, or workers of sidecars."),
        number("With old documents", "short", f"count({in_sync} == 0) or vector(0)"),
        number(
            "Least life of a certificate",
            "percentunit",
            f"min({_life(NAMESPACE)})",
            "Of all sidecars, the one that has the smallest share left. They are renewed long before 20 %.",
        ),
        number(
            "Connections over mTLS",
            "percentunit",
            f"{mtls} / ({opened} > 0)",
            "Of those that were opened in this time; empty if none was.",
        ),
    )
    models = (
        areas("Requests", "reqps", ("{{model}}", requests(WINDOW, "model", *named))),
        lines("Failed", "percentunit", ("{{model}}", failure_share(WINDOW, "model", *named))),
        lines(
            "Latency, p95",
            "s",
            ("{{model}}", quantile(0.95, DURATION, WINDOW, "model", *named)),
            note="Of the model server, as its sidecar sees it.",
        ),
        lines(
            "Concurrency",
            "short",
            ("{{model}}", counted(IN_FLIGHT_TIME, "model", *named)),
            note="The mean number of requests in flight, with those in a queue.",
        ),
    )
    access = (
        lines("Denied", "reqps", ("{{policy}} {{reason}}", denied)),
        lines(
            "Answered by sidecars",
            "reqps",
            ("{{direction}} {{reason}}", f"{refused} > 0"),
            note="Refusals, timeouts and failed connections, by the reason in x-meshproxy-refusal.",
        ),
        lines("TLS handshakes", "cps", ("{{result}} {{reason}}", handshakes)),
    )
    control = (
        lines(
            "Sidecars, by the documents that they have",
            "short",
            ("{{state}}", "max by (state) (meshproxy_control_sidecars)"),
            note="As the control plane knows them. Empty without one.",
        ),
        lines(
            "Certificates, issued or refused",
            "cps",
            ("{{result}} {{reason}}", counted("meshproxy_control_issuances_total", "result, reason")),
        ),
    )
    return Board(
        "mesh",
        "meshproxy / mesh",
        "All models and sidecars of the chosen namespaces. Requests are counted where they arrive, by the sidecar of "
        "the model server.",
        (NAMESPACES,),
        (("Now", now), ("Models", models[:2]), ("", models[2:]), ("Access", access), ("Control plane", control)),
    )


def model() -> Board:
    """One model: what its callers get, and what it has to do."""
    here = (NAMESPACE, DIRECTION, MODEL)
    limit = f"sum by (model) ({selected('meshproxy_concurrency_limit', *here)})"
    queue = f"sum by (model) ({selected('meshproxy_queue_depth', *here)})"
    saturation = f"max by (model) ({selected('meshproxy_scaling_saturation', NAMESPACE, MODEL)})"
    breakers = f"max by (server, endpoint, model) ({selected('meshproxy_circuit_state', NAMESPACE)})"
    traffic = (
        areas("Requests by version", "reqps", ("{{version}} {{verb}}", requests(WINDOW, "version, verb", *here))),
        areas(
            "Requests by status", "reqps", ("{{code}} {{grpc_status}}", requests(WINDOW, "code, grpc_status", *here))
        ),
    )
    quality = (
        _quantiles("Latency", "s", DURATION, *here, note="Interpolated within buckets."),
        lines("Failed", "percentunit", ("{{version}}", failure_share(WINDOW, "version", *here))),
    )
    load = (
        lines(
            "Concurrency",
            "short",
            ("{{model}} in flight", counted(IN_FLIGHT_TIME, "model", *here)),
            ("{{model}} limit", limit),
            note="The mean number in flight, and the concurrency limits of all sidecars, where there are any.",
        ),
        lines(
            "Queue",
            "short",
            ("{{model}}", queue),
            note="Requests that wait for the concurrency limit. Empty without one.",
        ),
        lines(
            "Saturation",
            "percentunit",
            ("{{model}}", saturation),
            note="Of the sidecar that is worst off: above 100 %, requests wait. Empty without a limit.",
        ),
    )
    sizes = (
        _quantiles("Size of requests", "bytes", "meshproxy_request_size_bytes", *here),
        _quantiles("Size of responses", "bytes", "meshproxy_response_size_bytes", *here),
    )
    time = (
        areas(
            "Where the time of a call goes",
            "percentunit",
            ("{{part}}", f"avg by (part) ({selected('meshproxy_call_time_ratio', NAMESPACE, MODEL)})"),
            note="In front of model servers; needs telemetry.modelServer in the MeshConfig.",
            most=1,
        ),
        lines(
            "Hop lag",
            "s",
            ("{{model}}", f"max by (model) ({selected('meshproxy_hop_lag_seconds', NAMESPACE, MODEL)})"),
            (
                "{{model}} expected",
                f"max by (model) ({selected('meshproxy_hop_lag_expected_seconds', NAMESPACE, MODEL)})",
            ),
            note="Of the pod where it is longest: what calls take beyond what the model server says that they took.",
        ),
    )
    # Control planes are in another namespace than models.
    by, of = "model, version, signal", (DIRECTION, MODEL)
    level, expected = (selected(f"meshproxy_control_drift_{each}", *of) for each in ("level", "expected"))
    mixes = selected("meshproxy_control_drift_level", *of, 'signal=~"classes|scores"')
    changed = (
        lines(
            "Is it as it was?",
            "short",
            ("{{version}} {{signal}}", f"max by ({by}) ({selected('meshproxy_control_drift_alarm', *of)})"),
            note="1 while it is not as in the last hours and yesterday (docs/drift.md). From control planes.",
            most=1,
        ),
        lines(
            "Against what is expected",
            "short",
            (
                "{{version}} {{signal}}",
                f"max by ({by}) ({level} / ({expected} > 0))",
            ),
            note="1 is as before. Of failures where some are expected, and of latencies.",
        ),
        lines(
            "How far answers are from what they were",
            "short",
            ("{{version}} {{signal}}", f"max by ({by}) ({mixes})"),
            note="Where answers are read: the population stability index of their classes and scores. Below 0.1 it is "
            "chance, above 0.25 much.",
        ),
    )
    hidden = (
        lines("Retries", "reqps", ("{{reason}}", counted("meshproxy_retries_total", "reason", *here))),
        lines(
            "Not retried",
            "reqps",
            ("{{reason}}: {{skip}}", counted("meshproxy_retries_skipped_total", "reason, skip", *here)),
        ),
        lines(
            "Breakers that are not closed",
            "short",
            ("{{server}} {{endpoint}} {{model}}", f"{breakers} > 0"),
            note="1 half-open, 2 open. Of all models.",
            most=2,
        ),
    )
    return Board(
        "model",
        "meshproxy / model",
        "One model. inbound: as sidecars of model servers see it. outbound: as sidecars of its callers do, whose "
        "latency has the network in it.",
        (NAMESPACES, DIRECTIONS, Variable("model", "Model", MODELS)),
        (
            ("What callers get", traffic),
            ("", quality),
            ("Load", load),
            ("", sizes),
            ("Model, network or proxy?", time),
            ("Drift", changed),
            ("Failures that callers may not have seen", hidden),
        ),
    )


def sidecar() -> Board:
    """Single processes: what they cost, and what they complain of."""
    here = (NAMESPACE, INSTANCE)
    connections = f"sum by (instance, direction, protocol) ({selected('meshproxy_open_connections', *here)})"
    errors = counted("meshproxy_http2_stream_errors_total", "side, kind", *here)
    connects = counted("meshproxy_connect_failures_total", "server, reason", *here)
    express = counted("meshproxy_express_requests_total", "result", *here)
    cost = (
        lines(
            "Processor",
            "short",
            ("{{instance}}", counted("process_cpu_seconds_total", "instance", *here)),
            note="Cores.",
        ),
        lines("Memory", "bytes", ("{{instance}}", selected("process_resident_memory_bytes", *here))),
        _quantiles(
            "Overhead",
            "s",
            "meshproxy_proxy_overhead_seconds",
            *here,
            note="What sidecars add to a request, without the waits for the network and the model server.",
        ),
    )
    traffic = (
        lines("Requests", "reqps", ("{{instance}} {{direction}}", requests(WINDOW, "instance, direction", *here))),
        lines("Connections of clients", "short", ("{{instance}} {{direction}} {{protocol}}", connections)),
        lines(
            "Express lane",
            "reqps",
            ("{{result}}", express),
            note="Requests of connections that have one: carried by it, or by the ordinary way.",
        ),
        lines(
            "Endpoints",
            "short",
            ("{{server}} {{state}}", f"sum by (server, state) ({selected('meshproxy_endpoints', *here)}) > 0"),
            note="Of model servers, added up over the chosen sidecars: known, and of these ejected, unhealthy, open.",
        ),
    )
    trouble = (
        lines(
            "Limits exceeded",
            "cps",
            ("{{direction}} {{limit}}", counted("meshproxy_limits_exceeded_total", "direction, limit", *here)),
        ),
        lines("HTTP/2 stream errors", "cps", ("{{side}} {{kind}}", f"{errors} > 0")),
        lines("Connections that could not be opened", "cps", ("{{server}} {{reason}}", connects)),
    )
    state = (
        lines("Life of the certificate left", "percentunit", ("{{instance}}", _life(*here)), most=1),
        lines(
            "In sync",
            "short",
            ("documents", f"min({selected('meshproxy_config_in_sync', *here)})"),
            ("identity", f"min({selected('meshproxy_identity_in_sync', *here)})"),
            ("control plane", f"min({selected('meshproxy_control_plane_connected', *here)})"),
            note="Of the chosen sidecar that is worst off. 0: what is newer was rejected, or no stream from the "
            "control plane is open.",
            most=1,
        ),
        lines(
            "Lost",
            "cps",
            *((name, f"sum(rate({selected(metric, *here)}[{WINDOW}]))") for name, metric in LOST),
            note="Records that outputs and collectors did not take.",
        ),
        lines(
            "Audit trail cannot be written",
            "short",
            ("{{instance}}", f"{selected('meshproxy_audit_failing', *here)} > 0"),
            note="1: calls of admin verbs are refused meanwhile, unless adminWithoutTrail says otherwise.",
            most=1,
        ),
    )
    return Board(
        "sidecar",
        "meshproxy / sidecar",
        "Single sidecars. With several workers each of them is an instance.",
        (NAMESPACES, INSTANCES),
        (
            ("Cost", cost),
            ("Traffic", traffic[:2]),
            ("", traffic[2:]),
            ("Trouble", trouble),
            ("Identity, documents, telemetry", state[:2]),
            ("", state[2:]),
        ),
    )


def rollout() -> Board:
    """The versions of a model beside each other."""
    here = (NAMESPACE, DIRECTION, 'model="$model"')
    asked = requests(WINDOW, "version", *here)
    share = (
        areas(
            "Share of requests",
            "percentunit",
            ("{{version}}", f"{asked} / on () group_left () sum({asked})"),
            most=1,
        ),
        lines("Requests", "reqps", ("{{version}}", asked)),
    )
    quality = (
        lines("Failed", "percentunit", ("{{version}}", failure_share(WINDOW, "version", *here))),
        lines("Latency, p50", "s", ("{{version}}", quantile(0.5, DURATION, WINDOW, "version", *here))),
        lines("Latency, p95", "s", ("{{version}}", quantile(0.95, DURATION, WINDOW, "version", *here))),
    )
    beside = (
        lines(
            "Mirrored requests, by what came of them",
            "reqps",
            ("{{route}} {{result}}", counted("meshproxy_mirrored_total", "route, result", NAMESPACE)),
            note="With `compare`: agrees, differs. Of all models.",
        ),
        lines(
            "Fallbacks",
            "reqps",
            ("{{route}}", counted("meshproxy_fallbacks_total", "route", NAMESPACE)),
            note="Requests that went to the `fallback` server of their route. Of all models.",
        ),
    )
    return Board(
        "rollout",
        "meshproxy / rollout",
        "The versions of one model side by side: the arms of a split by version or label. Arms that are servers are "
        "told apart by the access log alone (upstream_cluster).",
        (NAMESPACES, DIRECTIONS, Variable("model", "Model", MODELS, many=False)),
        (("Share of the traffic", share), ("Is the new one as good?", quality), ("Beside the split", beside)),
    )


BOARDS = (mesh(), model(), sidecar(), rollout())


def text(board: Board) -> str:
    """The file of a board."""
    return json.dumps(board.document(), indent=1, ensure_ascii=False) + "\n"


def main(folder: Path) -> None:
    """Write the files."""
    for board in BOARDS:
        (folder / f"{board.name}.json").write_text(text(board))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
