"""The demo, first part: real calls through a real sidecar, each with its expected result.

`ROWS` lists the calls and what is expected of each; `run` makes them one after another against a `DemoMesh`, finds the
line of each in the access log, and measures what the hop adds by making permitted calls to the model server directly
too. The second part, `demo_outbound.py`, is about an application and its replicas.
"""

from __future__ import annotations

import asyncio
import json
import statistics
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from meshproxy.devtools import messages
from meshproxy.devtools.clients import Answer, Certificate, GrpcClient, RestClient
from meshproxy.devtools.demo_mesh import DemoMesh
from meshproxy.devtools.model_rest import METRICS_PATH
from meshproxy.devtools.models import predict_request

MODELS = ("half_plus_two=1,2", "half_plus_three=1,2", "finance-prod=1,2", "payroll=1")
CLIENTS = {"finance-app": ("finance", "quants"), "marketing-app": ("marketing",)}
"""Clients of the token issuer, and the groups that their tokens name."""
SECRET_MODEL = "payroll"
"""No caller of the demo may call it, so the model server must never be asked for it."""

PREDICT = "/tensorflow.serving.PredictionService/Predict"
RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
TENSOR = bytes(16 << 20)

LOG_PATIENCE = 5.0
"""Seconds within which a line must be in the access log."""


@dataclass(frozen=True)
class Caller:
    """The certificate and the token that a call carries."""

    title: str
    workload: tuple[str, str] | None = None
    client: str | None = None
    """The client of the issuer that the token is for; None: no token."""
    audience: str | None = None
    """The audience of the token, if it is not that of the models."""


@dataclass(frozen=True)
class Rest:
    """A REST call."""

    path: str
    content: Any = None
    method: str = "POST"
    protocol = "REST"


@dataclass(frozen=True)
class Grpc:
    """A unary gRPC call with these bytes as its message."""

    message: bytes = field(repr=False)
    path: str = PREDICT
    protocol = "gRPC"


@dataclass(frozen=True)
class Row:
    """One call and its expected result."""

    caller: Caller
    what: str
    call: Rest | Grpc
    statuses: tuple[str, ...]
    """The expected statuses, HTTP or gRPC. Empty: the connection must fail."""
    refusals: tuple[str, ...] = ()
    """The expected refusal reasons. Empty: the answer must be the model server's own."""
    rule: str | None = None
    """The binding that must have decided, if one does."""

    @property
    def is_permitted(self) -> bool:
        return bool(self.statuses) and not self.refusals


@dataclass(frozen=True)
class Result:
    """The result of a row.

    Attributes:
        problem: why it is not as expected; empty if it is.
        log: the line it wrote to the access log; empty if the handshake failed, before there was a request.
        added: milliseconds that the sidecar adds, a difference of medians; None where nothing reached the model server.
    """

    row: Row
    answer: Answer
    log: Mapping[str, Any]
    added: float | None
    problem: str

    @property
    def verdict(self) -> str:
        if self.is_connection_refused:
            return "no handshake"
        return "allowed" if self.answer.refusal is None else "refused"

    @property
    def status(self) -> str:
        """The status, marked if it is an error of the model server."""
        if self.is_connection_refused:
            return "closed"
        own = self.answer.refusal is None and self.answer.status not in ("200", "OK")
        return f"{self.answer.status} (the server's)" if own else self.answer.status

    @property
    def rule(self) -> str:
        """What decided: a binding, `default-deny` if none allows the call, or the check that refused it before."""
        if self.is_connection_refused:
            return "mTLS"
        return str(self.log.get("policy") or self.log.get("refusal") or "")

    @property
    def is_connection_refused(self) -> bool:
        return not self.row.statuses and not self.answer.status.isdigit()


def _message(*args: Any, **kwargs: Any) -> bytes:
    return bytes(predict_request(*args, **kwargs).SerializeToString())


# Appended to a PredictRequest it is a second occurrence of model_spec: protobuf merges them, and the last name wins.
_ANOTHER_NAME = bytes(messages.PredictRequest(model_spec={"name": SECRET_MODEL}).SerializeToString())
_RELOAD_NOTHING = bytes(messages.ReloadConfigRequest(config={"model_config_list": {}}).SerializeToString())

QUOTER = Caller("quoter + finance token", ("pricing", "quoter"), "finance-app")
MARKETING = Caller("quoter + marketing token", ("pricing", "quoter"), "marketing-app")
MISLED = Caller("quoter + payments token", ("pricing", "quoter"), "finance-app", audience="payments")
TOKENLESS = Caller("quoter, no token", ("pricing", "quoter"))
NIGHTLY = Caller("nightly, no token", ("batch", "nightly"))
STRANGER = Caller("no certificate", None, "finance-app")

DENIED = ("permission-denied",)

ROWS = (
    Row(
        QUOTER,
        "half_plus_two",
        Rest("/v1/models/half_plus_two:predict", {"instances": [1.0, 2.0, 5.0]}),
        ("200",),
        rule="finance-team",
    ),
    Row(QUOTER, "finance-prod", Grpc(_message("finance-prod", [1.0])), ("OK",), rule="finance-team"),
    Row(
        NIGHTLY,
        "finance-prod, label stable",
        Grpc(_message("finance-prod", [1.0], label="stable")),
        ("OK",),
        rule="finance-team",
    ),
    Row(
        QUOTER,
        "half_plus_two, 16 MiB",
        Grpc(_message("half_plus_two", TENSOR, signature="size")),
        ("OK",),
        rule="finance-team",
    ),
    Row(
        QUOTER,
        "half_plus_two, version 99",
        Grpc(_message("half_plus_two", [1.0], version=99)),
        ("NOT_FOUND",),
        rule="finance-team",
    ),
    Row(
        NIGHTLY,
        "finance-prod, label canary",
        Rest("/v1/models/finance-prod/labels/canary:predict", {"instances": [1.0]}),
        ("403",),
        DENIED,
        rule="batch-stays-stable",
    ),
    Row(
        MARKETING,
        "finance-prod",
        Rest("/v1/models/finance-prod:predict", {"instances": [1.0]}),
        ("403",),
        DENIED,
    ),
    Row(QUOTER, "payroll", Grpc(_message(SECRET_MODEL, [1.0])), ("PERMISSION_DENIED",), DENIED),
    Row(
        QUOTER,
        "half_plus_two, then payroll",
        Grpc(_message("half_plus_two", [1.0]) + _ANOTHER_NAME),
        ("PERMISSION_DENIED",),
        DENIED,
    ),
    Row(
        QUOTER,
        "the same, 16 MiB between",
        Grpc(_message("half_plus_two", TENSOR, signature="size") + _ANOTHER_NAME),
        ("PERMISSION_DENIED",),
        DENIED,
    ),
    Row(QUOTER, "reload the model server", Grpc(_RELOAD_NOTHING, RELOAD), ("PERMISSION_DENIED",), DENIED),
    Row(
        TOKENLESS,
        "finance-prod",
        Rest("/v1/models/finance-prod:predict", {"instances": [1.0]}),
        ("401",),
        ("unauthenticated",),
    ),
    Row(
        MISLED,
        "finance-prod",
        Grpc(_message("finance-prod", [1.0])),
        ("UNAUTHENTICATED",),
        ("unauthenticated",),
    ),
    Row(STRANGER, "finance-prod", Rest("/v1/models/finance-prod:predict", {"instances": [1.0]}), ()),
)


async def run(mesh: DemoMesh, rows: tuple[Row, ...] = ROWS, rounds: int = 30) -> AsyncIterator[Result]:
    """Makes the calls, one after another, and repeats those that are permitted `rounds` times to measure them."""
    for number, row in enumerate(rows, 1):
        yield await _run_row(mesh, row, f"demo-{number}", rounds)


async def _run_row(mesh: DemoMesh, row: Row, request_id: str, rounds: int) -> Result:
    certificate = mesh.local.certificate(*row.caller.workload) if row.caller.workload else mesh.local.no_certificate()
    token = await token_of(mesh, row.caller)
    async with _client(row, mesh.sidecar.inbound, certificate, token) as client:
        answer = await _call(client, row, {"x-request-id": request_id})
        log = await find_line(mesh, request_id) if row.statuses else {}
        added = None
        if row.is_permitted and answer.refusal is None:
            async with _client(row, mesh.rest if row.call.protocol == "REST" else mesh.grpc, None, None) as direct:
                added = await _measure(client, direct, row, rounds)
    return Result(row, answer, log, added, problem_of(row, answer, log))


async def token_of(mesh: DemoMesh, caller: Caller) -> str | None:
    """A new token from the issuer, if the caller has one."""
    return None if caller.client is None else await mesh.token(caller.client, caller.audience)


def _client(row: Row, address: str, certificate: Certificate | None, token: str | None) -> RestClient | GrpcClient:
    kind = RestClient if row.call.protocol == "REST" else GrpcClient
    return kind(address, certificate, token)


async def _call(client: RestClient | GrpcClient, row: Row, headers: Mapping[str, str]) -> Answer:
    if isinstance(client, RestClient):
        assert isinstance(row.call, Rest)
        return await client.call(row.call.method, row.call.path, row.call.content, headers)
    assert isinstance(row.call, Grpc)
    return await client.call(row.call.path, row.call.message, headers)


async def _measure(client: RestClient | GrpcClient, direct: RestClient | GrpcClient, row: Row, rounds: int) -> float:
    """Milliseconds between the medians of alternating calls, through the sidecar and directly, on warm connections."""
    if isinstance(row.call, Grpc) and len(row.call.message) > 1 << 20:
        rounds = min(rounds, 5)
    through, past = [], []
    await _call(direct, row, {})
    for _ in range(rounds):
        through.append((await _call(client, row, {})).seconds)
        past.append((await _call(direct, row, {})).seconds)
    return (statistics.median(through) - statistics.median(past)) * 1e3


async def find_line(mesh: DemoMesh, request_id: str) -> Mapping[str, Any]:
    """The access-log line of a request; empty if there is none within `LOG_PATIENCE` seconds."""
    for _ in range(int(LOG_PATIENCE / 0.05)):
        for text in mesh.access_log.read_text().splitlines() if mesh.access_log.exists() else ():
            if f'"{request_id}"' in text:
                found: dict[str, Any] = json.loads(text)
                return found
        await asyncio.sleep(0.05)
    return {}


def problem_of(row: Row, answer: Answer, log: Mapping[str, Any]) -> str:
    """How this differs from what the row expects; empty if it does not."""
    if not row.statuses:
        return (
            ""
            if not answer.status.isdigit()
            else f"it was answered {answer.status}, but the handshake should have failed"
        )
    if answer.status not in row.statuses:
        return f"status {answer.status} ({answer.body!r:.200}), expected {' or '.join(row.statuses)}"
    if (answer.refusal is None) != (not row.refusals) or (answer.refusal and answer.refusal not in row.refusals):
        return f"refusal {answer.refusal}, expected {' or '.join(row.refusals) or 'none'}"
    if not log:
        return f"no line in the access log after {LOG_PATIENCE:g} s"
    if row.rule is not None and log.get("policy") != row.rule:
        return f"decided by {log.get('policy')}, expected {row.rule}"
    return ""


async def requested_models(rest: str) -> dict[str, int]:
    """Which models the model server at this address has been asked for, and how often: from its own metrics page."""
    requested: dict[str, int] = {}
    for line in await fetch_lines(rest, METRICS_PATH):
        name, _, rest = line.partition('{model_name="')
        if name == ":tensorflow:serving:request_count":
            model = rest.partition('"')[0]
            requested[model] = requested.get(model, 0) + int(rest.rpartition(" ")[2])
    return requested


async def metric_lines(mesh: DemoMesh) -> list[str]:
    """What the sidecar's metrics say of the demo's calls: the counters that are not 0."""
    wanted = ("meshproxy_requests_total{", "meshproxy_authz_decisions_total{", "meshproxy_tls_handshakes_total{")
    lines = await fetch_lines(mesh.sidecar.admin, "/metrics")
    return [line for line in lines if line.startswith(wanted) and not line.endswith((" 0", " 0.0"))]


def log_excerpt(log: Mapping[str, Any]) -> str:
    """A line of the access log, without the fields that the demo does not show."""
    fields = ("path", "peer_spiffe_id", "jwt_sub", "model", "model_version", "verb", "policy", "refusal")
    return json.dumps(
        {name: log[name] for name in (*fields, "response_code", "grpc_status", "duration") if log.get(name)}
    )


async def fetch_lines(address: str, path: str) -> list[str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}{path}") as response:
        response.raise_for_status()
        return (await response.text()).splitlines()
