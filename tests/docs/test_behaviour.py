"""docs/behaviour.md makes promises in tables: they are held against the code here."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import meshproxy
from meshproxy.codec.h1 import memo as h1_memo
from meshproxy.codec.h1 import write as h1_write
from meshproxy.codec.h2 import encoder, heads
from meshproxy.codec.problem import Malformed
from meshproxy.config import routes, schema, servers, sidecars
from meshproxy.config.values import read_duration, read_size
from meshproxy.control.check import check
from meshproxy.identity import peer, tokens
from meshproxy.inference import body_rewrite, body_scan, names, protobuf, surfaces, tfserving_parts, tfserving_rest
from meshproxy.inference.body_scan import DEFAULT_LIMITS, MESSAGE_BYTES
from meshproxy.inference.call import Verb
from meshproxy.inference.grpc_services import GRPC_SERVICES
from meshproxy.inference.surfaces import SURFACES
from meshproxy.inference.tfserving import TENSORFLOW_SERVING
from meshproxy.policy import decide
from meshproxy.proxy import admissions, client_side, headers, health_call, partial_answer, relay
from meshproxy.proxy.express import plan, shape
from meshproxy.proxy.held_body import CONNECTION_SHARE
from meshproxy.proxy.snapshot import BodyLimits
from meshproxy.refusal import GrpcStatus, Reason, Refusal
from meshproxy.routing import rate_limit
from meshproxy.routing import routes as model_routes
from meshproxy.routing import servers as routing_servers
from meshproxy.sidecar import clusters, configuration, live_pages
from meshproxy.telemetry import endpoint_labels, request_metrics, upstream_metrics
from meshproxy.transport.connect_failures import ConnectFailure
from meshproxy.transport.connection import BODY_BYTES, LEAST_READ, READ_BYTES, READ_SECONDS, Times
from meshproxy.transport.h2 import ANSWERS, MOST_PENDING, REQUESTS
from meshproxy.transport.handshake_failures import HandshakeFailure
from meshproxy.upstream import cluster, discovery, endpoint
from tests.control import statuses

PAGE = Path(__file__).parents[2] / "docs" / "behaviour.md"
PACKAGE = Path(meshproxy.__file__).parent
DATA_PLANE = [
    path for path in sorted(PACKAGE.rglob("*.py")) if path.relative_to(PACKAGE).parts[0] not in ("cli", "devtools")
]


def table(heading: str) -> list[list[str]]:
    """The rows of the table whose first cell of the head is `heading`; without head and dashes, without backticks."""
    lines = PAGE.read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().replace("`", "") for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


@pytest.fixture(scope="module", autouse=True)
def nodes_are_let_go() -> Iterator[None]:
    """400,000 objects, which every whole garbage collection would look at until the last test."""
    yield
    nodes.cache_clear()


@cache
def nodes() -> tuple[tuple[Path, ast.Call | ast.Attribute | ast.AnnAssign | ast.Assign], ...]:
    """Of all kinds that are asked for here, as parsing takes longer than all tests together."""
    return tuple(
        (path, node)
        for path in DATA_PLANE
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call | ast.Attribute | ast.AnnAssign | ast.Assign)
    )


def calls() -> list[ast.Call]:
    return [node for _, node in nodes() if isinstance(node, ast.Call)]


# What fails a handshake


def test_every_reason_of_a_failed_handshake() -> None:
    listed = [label for row in table("`reason`") for label in row[0].split(", ")]
    assert sorted(listed) == sorted(failure.label for failure in HandshakeFailure)


def test_every_reason_of_a_failed_connection() -> None:
    listed = [label for row in table("reason of a failed connection") for label in row[0].split(", ")]
    assert sorted(listed) == sorted(failure.value for failure in ConnectFailure)


# What refuses


def test_every_refusal_and_its_statuses() -> None:
    said = {row[0]: (int(row[1]), row[2]) for row in table("`x-meshproxy-refusal`")}
    assert said == {reason.label: (reason.http_status, reason.grpc_status.name) for reason in Reason}


def test_what_is_not_given_yet_is_not() -> None:
    silent = {row[0] for row in table("`x-meshproxy-refusal`") if row[3].startswith("not given yet")}
    named = {
        node.attr
        for path, node in nodes()
        if path.name != "refusal.py"
        and isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "Reason"
    }
    assert silent == {reason.label for reason in Reason if reason.name not in named}


def test_the_statuses_that_differ_from_their_reasons() -> None:
    given = {
        ast.literal_eval(keyword.value)
        for call in calls()
        if getattr(call.func, "id", "") == "Refusal"
        for keyword in call.keywords
        if keyword.arg == "http_status" and isinstance(keyword.value, ast.Constant)
    }
    # 405 is gRPC's over HTTP/1.1, which is answered as gRPC: the page says so instead of naming it.
    assert given == {404, 405}
    rows = {row[0]: row[3] for row in table("`x-meshproxy-refusal`")}
    assert "404 outside of /v1/" in rows["bad-request"]
    assert "always in the form of gRPC" in rows["unsupported-protocol"]
    assert GrpcStatus.UNIMPLEMENTED is Reason.UNSUPPORTED_PROTOCOL.grpc_status


def test_what_the_codecs_refuse_with() -> None:
    """Statuses that a codec answers with: those of `bad-request`, and one reason for each of the others."""
    rows = {row[0]: row[3] for row in table("`x-meshproxy-refusal`")}
    given = {
        call.args[0].value
        for call in calls()
        if getattr(call.func, "id", "") == "Unacceptable" and isinstance(call.args[0], ast.Constant)
    }
    ours = {status for status in given if isinstance(status, int)} | {Malformed("").status}
    others = {status: reason.label for status, reason in client_side._REASONS.items()}
    assert ours <= {400, 417, 501, 505} | others.keys()
    for status in ours - others.keys():
        assert str(status) in rows["bad-request"]
    assert others == {
        408: "request-timeout",
        413: "body-too-large",
        414: "headers-too-large",
        431: "headers-too-large",
    }
    assert "414" in rows["headers-too-large"]


# Limits


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def test_every_limit_and_its_default() -> None:
    said = {row[0]: row[1] for row in table("field of `MeshConfig` `limits`")}
    assert list(said) == [camel(name) for name in schema.MeshLimits.__struct_fields__]
    for name in schema.MeshLimits.__struct_fields__:
        default = getattr(schema.MeshLimits(), name)
        text = said[camel(name)]
        if default is None:
            assert text in ("none", "half of RLIMIT_NOFILE"), name
        elif isinstance(default, float) and text.endswith("s"):
            assert read_duration(text) == default, name
        else:
            assert (read_size(text) if "iB" in text else float(text)) == default, name


CONTROL_PORT = {"connection_rate", "identity_connections", "stranger_time"}
"""Limits of the control plane's port, which are counted by another metric and stand on the page in sentences."""


def labels_of_code() -> Iterator[str]:
    """Every name that is counted as a limit: an argument `limit`, or a text among the arguments of what takes one."""
    takers = {"Unacceptable", "ConnectionFault", "Rejected", "give_up_head", "on_limit", "limit"}
    takers |= {"_too_large", "FieldScanner", "_on_limit"}
    for call in calls():
        name = getattr(call.func, "attr", "") or getattr(call.func, "id", "")
        given = [keyword.value for keyword in call.keywords if keyword.arg == "limit"]
        given += call.args if name in takers else []
        for value in given:
            if (
                isinstance(value, ast.Constant)
                and isinstance(value.value, str)
                and re.fullmatch("[a-z_]+", value.value)
            ):
                yield value.value
    for _, node in nodes():
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "limit":
            default = getattr(node.value, "value", None)
            if isinstance(default, str):
                yield default
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Tuple)
            and isinstance(node.value, ast.Tuple)
        ):
            for target, value in zip(node.targets[0].elts, node.value.elts, strict=True):
                named = getattr(target, "id", "")
                if named in ("limit", "limit_name") and isinstance(value, ast.Constant) and value.value is not None:
                    yield str(value.value)


def test_every_limit_is_counted_by_the_name_on_the_page() -> None:
    rows = table("field of `MeshConfig` `limits`") + table("limit")
    rates = {f"rate_{what}" for what in re.findall(r'"(requests|bytes|examples)"', inspect.getsource(rate_limit))}
    assert len(rates) == 3
    code = set(labels_of_code()) | rates
    assert code >= CONTROL_PORT
    assert {row[2] for row in rows} - {""} == code - CONTROL_PORT
    assert all(f"`{name}`)" in PAGE.read_text() for name in CONTROL_PORT)


def test_a_limit_without_a_name_is_not_counted_and_one_with_a_name_has_that_of_its_field() -> None:
    for field, _, label, _ in table("field of `MeshConfig` `limits`"):
        if label:
            words = {
                "headTimeout": "head_time",
                "bodyStallTimeout": "body_stall_time",
                "resetsBurst": "resets_rate",
                "refusedFieldsBurst": "refused_fields_rate",
                "controlBurst": "control_rate",
            }
            assert camel(words.get(field, label)) == camel(label)
            assert field in words or field == camel(label)


def test_the_limits_that_are_fixed() -> None:
    said = {row[2]: row[1] for row in table("limit")}
    values = {name: text for name, text in said.items() if text[0].isdigit()}
    assert {name: read_size(text) if "iB" in text else int(text) for name, text in values.items()} == {
        "spec_bytes": DEFAULT_LIMITS.spec_bytes,
        "config_bytes": DEFAULT_LIMITS.config_bytes,
        "models": DEFAULT_LIMITS.models,
        "fields": protobuf.FIELDS,
        "message_bytes": MESSAGE_BYTES,
        "decided_models": DEFAULT_LIMITS.decided_models,
        "inflating_bodies": relay.INFLATING_BODIES,
        "max_pending": clusters.MAX_PENDING,
        "health_request": health_call.REQUEST_BYTES,
        "partial_answer_bytes": partial_answer.ANSWER_BYTES,
        "answer_parts": tfserving_parts.MOST_PARTS,
        "live_readers": live_pages.MOST_READERS,
    }
    assert (said["scan_buffer_connection_bytes"], CONNECTION_SHARE) == ("twice scanBufferBytes", 2)
    assert DEFAULT_LIMITS.unnamed_bytes == schema.MeshLimits().scan_buffer_bytes


def test_what_is_bounded_without_a_name() -> None:
    said = {row[0]: row[1].replace(",", "") for row in table("what is bounded")}
    assert int(said["endpoints of one looked-up server"]) == discovery.MOST_ENDPOINTS
    bounds = (endpoint.MODEL_BREAKERS, cluster.LATENCIES, admissions.MOST)
    (models,) = [value for name, value in said.items() if name.startswith("models of an endpoint")]
    assert {f"{bound} each" for bound in bounds} == {models}
    for whose, slices in (("client", REQUESTS), ("server", ANSWERS)):
        bound = said[f"HTTP/2 frames of one {whose} connection that are processed at once"]
        first = "" if slices.first == slices.most else f"{slices.first} at first and "
        assert bound.startswith(f"{slices.most}; {first}fewer")
        assert f" {slices.seconds * 1e3:.0f} ms " in bound
    assert f" {ANSWERS.turn * 1e3:.0f} ms in all" in bound
    reads = said["a read of HTTP/1.1, or of TLS"]
    assert reads.startswith(f"{READ_BYTES >> 10} KiB {BODY_BYTES >> 10} KiB ")
    assert f" {LEAST_READ >> 10} KiB " in reads
    assert f" {READ_SECONDS * 1e3:.0f} ms " in reads
    assert said["input of one HTTP/2 connection that waits for its turn"].startswith(f"{MOST_PENDING >> 10} KiB")
    shown = (endpoint_labels.MOST_ENDPOINTS, upstream_metrics.MOST_CIRCUITS)
    assert said["endpoints and breakers with their own metrics"] == "{} and {}".format(*shown)


MIB = 1 << 20
CACHES = {
    "verified tokens": (tokens.REMEMBERED_TOKENS, tokens.REMEMBERED_BYTES),
    "authorization decisions": (decide.MEMO_MODELS, decide.MEMO_TEXT, decide.MEMO_BYTES),
    "identities of client certificates": (peer.KEPT, peer.KEPT_BYTES // 1024, 8 * MIB),
    "header sections of requests": (headers.CACHED_BYTES // 1024, headers.CACHE_BYTES),
    "REST request lines": (surfaces.REST_MEMO, 4 * MIB),
    "REST request lines with another version": (tfserving_rest.MEMO_ENTRIES, 4 * MIB),
    "gRPC methods that are not": (surfaces.GRPC_MEMO, surfaces.PATH_BYTES, MIB),
    "what names the model in a message": (body_scan.MEMO_ENTRIES, 127, MIB),
    "the same with another version": (body_rewrite.MEMO_ENTRIES, 127, MIB),
    "calls": (body_scan.MEMO_ENTRIES, body_scan.MEMO_MODELS, 4 * MIB),
    "routes by model name": (model_routes.MEMO_ENTRIES, names.NAME_BYTES, 2 * MIB),
    "model servers by authority": (routing_servers.MEMO_ENTRIES, routing_servers.AUTHORITY_BYTES, MIB),
    "buckets of a rateLimits entry": (rate_limit.MAX_BUCKETS, 10 * MIB),
    "series of requests": (request_metrics.MEMO_ENTRIES, 4 * MIB),
    "field sections for HTTP/1.1": (h1_write.KEPT_BLOCKS, h1_write.KEPT_BLOCK_BYTES // 1024, 5 * MIB),
    "request lines for HTTP/1.1": (h1_write.KEPT_LINES, h1_write.KEPT_LINE_BYTES, MIB),
    "steps of Huffman codes": (256 * 256, 8 * MIB),
    "header sections received over HTTP/1.1": (2 * h1_memo._HEADS, h1_memo._BYTES // 1024, MIB // 4),
    "header sections received over HTTP/2": (heads.KEPT_HEADS, heads.KEPT_BLOCK_BYTES // 1024, heads.KEPT_BYTES),
    "header sections sent over HTTP/2": (encoder.KEPT_BLOCKS, encoder.KEPT_BLOCK_BYTES // 1024, 3 * MIB // 4),
    "Huffman-coded strings received": (64, 128, 32 * 1024),
}


def test_the_caches() -> None:
    rows = table("cache")
    assert len(rows) == len(CACHES)
    for name, _, bound, most in rows:
        values = [int(number.replace(",", "")) for number in re.findall(r"[0-9][0-9,]*", bound)]
        bounds = next(bounds for begin, bounds in reversed(CACHES.items()) if name.startswith(begin))
        assert (*values, read_size(most.removesuffix(" each").replace(" ", ""))) == bounds, name


# Timeouts

SERVER = servers.ServerSpec(endpoints=(servers.Endpoint(rest="127.0.0.1:8501"),))
TIMEOUTS = {
    "limits.handshakeTimeout": schema.MeshLimits().handshake_timeout,
    "limits.headTimeout": schema.MeshLimits().head_timeout,
    "limits.idleTimeout": schema.MeshLimits().idle_timeout,
    "limits.bodyStallTimeout": schema.MeshLimits().body_stall_timeout,
    "ModelServer connectTimeout": SERVER.connect_timeout,
    "ModelServer idleTimeout": SERVER.idle_timeout,
    "ModelServer health.timeout": servers.Health().timeout,
    "ModelRoute concurrency.queueTimeout": routes.Concurrency().queue_timeout,
    "ModelRoute mirror.timeout": routes.Mirror(server="a").timeout,
    "Sidecar drainTimeout": sidecars.SidecarSpec(inbound=sidecars.Inbound(server="a")).drain_timeout,
    "lingering": Times().linger,
}


def test_every_timeout_and_its_default() -> None:
    said = {row[0]: row[1] for row in table("timeout")}
    assert {name: read_duration(said[name]) for name in TIMEOUTS} == TIMEOUTS
    assert said.keys() - TIMEOUTS.keys() == {
        "grpc-timeout (gRPC), x-envoy-expected-rq-timeout-ms (REST)",
        "ModelRoute timeout, else limits.requestTimeout",
        "ModelRoute tryTimeout",
        "ModelRoute idleTimeout",
    }


def test_no_duration_of_the_documents_is_missing() -> None:
    page = " ".join(row[0] for row in table("timeout"))
    for struct in (schema.MeshLimits, servers.ServerSpec, routes.RouteSpec, sidecars.SidecarSpec):
        for name in struct.__struct_fields__:
            if name.endswith("timeout"):
                assert camel(name) in page


# What is called


@pytest.mark.parametrize("row", table("request"), ids=lambda row: str(row[0]))
def test_every_request_of_rest(row: list[str]) -> None:
    verb, _, rest = row[1].partition(", ")
    http_method, _, form = row[0].partition(" ")
    for place in ("", "/versions/3", "/labels/stable"):
        target = re.sub(r"\[.*\]", place, form.replace("NAME", "a"))
        call = SURFACES.find_rest(http_method.encode(), target.encode()).call
        assert call is not None
        assert call.verb.value == verb
        assert (not call.models) == (rest == "on the server as a whole")


def test_every_method_of_grpc() -> None:
    said = {row[0]: row for row in table("method")}
    methods = {**TENSORFLOW_SERVING.methods, **GRPC_SERVICES.methods}
    assert {name for name in said if name.startswith("/")} == {path.decode() for path in methods}
    for path, known in methods.items():
        _, verb, model = said[path.decode()]
        assert verb == known.verb.value
        assert (model == "the server as a whole") == (known.call is not None)
    assert SURFACES.find_grpc(b"/tensorflow.ProfilerService/Profile").verb is Verb.PROFILE
    assert SURFACES.find_grpc(b"/a.B/C").verb is Verb.UNLISTED
    for path in (b"/tensorflow.serving.SessionService/SessionRun", b"/Tensorflow.Serving.Any/Thing"):
        with pytest.raises(Refusal):
            SURFACES.find_grpc(path)


def test_the_verbs_of_administrators() -> None:
    section = PAGE.read_text().partition("\n## Authorization\n")[2].partition("\n## ")[0]
    sentence = section.partition("administrative verbs:")[2].partition(".")[0]
    assert set(re.findall(r"`([a-z]+)`", sentence)) == {verb.value for verb in Verb if verb.is_admin}


# Reload


def test_what_is_fixed_until_a_restart() -> None:
    row = next(row for row in table("changes") if row[1].startswith("refused"))
    fixed = re.findall(r'"(spec\.[A-Za-z.]+)"', inspect.getsource(configuration.check_fixed))
    assert sorted(row[0].split(", ")) == sorted(fixed)


def test_the_checks_of_a_mesh() -> None:
    section = PAGE.read_text().partition("### Looking at a mesh")[2].partition("\n## ")[0]
    documented = {check for row in re.findall(r"(?m)^\| ([^|]+) \|", section) for check in row.split("; ")}
    page = statuses.status(issues_until=statuses.ago(-86_400), records_used=0.0)
    two = [statuses.answer(page, address) for address in ("127.0.0.1:1", "127.0.0.1:2")]
    found = {finding.check.partition(" (")[0] for finding in check(two, "0.1.0")}
    assert documented - {"check"} == found


def test_fields_that_may_differ_on_the_express_lane() -> None:
    names = [re.sub(r",.*", "", row[0]).encode() for row in table("field that may differ")]
    assert names == [shape.LENGTH, shape.REQUEST_ID, shape.TRACE, shape.TIMEOUT, shape.DATE]
    assert plan.MOST_BODY == 16 << 10
    assert shape.MOST_HEAD == 4 << 10
    assert client_side.TIMER_SECONDS == 0.5
    assert BodyLimits().stall / client_side.LOOKS == 1.5
