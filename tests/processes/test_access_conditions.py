"""Bindings with conditions on address, headers and claims: a sidecar, grpcio, curl, and tokens of the development
issuer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from meshproxy.audit.lines import Kind, Record, read_line
from meshproxy.devtools.clients import SERVER_NAME, Certificate, GrpcClient, RestClient
from meshproxy.devtools.issuer import DevelopmentIssuer
from meshproxy.devtools.local_mesh import Document, LocalSidecar, document, environment, local_mesh
from meshproxy.devtools.models import predict_request
from tests.processes.calls import PATH, PREDICT
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

MESSAGE = predict_request("half_plus_two", [2.0]).SerializeToString()
ISSUER = DevelopmentIssuer(algorithm="ES256")
PREDICTOR = document("ModelRole", {"rules": [{"models": ["*"], "verbs": ["predict"]}]}, "predictor")


def bind(name: str, *subjects: Document, action: str = "allow") -> Document:
    return document("ModelRoleBinding", {"role": "predictor", "subjects": list(subjects), "action": action}, name)


@asynccontextmanager
async def running(
    tmp_path: Path,
    *bindings: Document,
    listen: str = "127.0.0.1:0",
    audiences: Sequence[str] = ("models",),
    **issuer: Any,
) -> AsyncIterator[LocalSidecar]:
    async with local_mesh(tmp_path / "mesh") as mesh:
        (mesh.directory / "jwks.json").write_text(json.dumps(ISSUER.jwks()))
        model_server = await mesh.model_server()
        corp = {"name": "corp", "issuer": ISSUER.issuer, "keys": {"file": "jwks.json"}, **issuer}
        if audiences:
            corp["audiences"] = list(audiences)
        documents = environment(
            model_server.listening["rest"],
            model_server.listening["grpc"],
            mesh={"issuers": [corp]},
            sidecar={"inbound": {"listen": listen, "server": "local"}, "auditLog": "./audit.log"},
        )
        yield await mesh.sidecar("the sidecar", [*documents, PREDICTOR, *bindings])


async def curl(running: LocalSidecar, address: str, *arguments: str, source: str = "") -> str:
    """The status of a call with curl to an address of this machine, from another one."""
    certificate = running.client
    target = f"[{address}]" if ":" in address else address
    process = await asyncio.create_subprocess_exec(
        *("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "20"),
        *("--cacert", str(certificate.bundle), "--cert", str(certificate.certificate), "--key", str(certificate.key)),
        *("--connect-to", f"{SERVER_NAME}:{running.port}:{target}:{running.port}"),
        *(("--interface", f"host!{source}") if source else ()),
        *arguments,
        *("-d", json.dumps({"instances": [2.0]}), f"https://{SERVER_NAME}:{running.port}{PATH}"),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    return out.decode()


async def grpc(running: LocalSidecar, headers: Mapping[str, str], token: str | None = None) -> str:
    async with GrpcClient(running.inbound, running.client, token) as client:
        return (await client.call(PREDICT, MESSAGE, headers)).status


async def audited(running: LocalSidecar, count: int) -> list[Record]:
    """So many records of calls in the audit trail."""
    path = running.mesh.directory / "audit.log"

    def records() -> list[Record]:
        lines = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        return [record for record in map(read_line, lines) if record.decision is not None]

    await until(lambda: len(records()) >= count)
    return records()


async def test_addresses_of_both_families(tmp_path: Path) -> None:
    """The sidecar listens on `[::]`, so IPv4 clients have IPv4-mapped addresses there."""
    bindings = [
        bind("loopback", {"ipBlocks": ["127.0.0.0/8", "::1"], "notIpBlocks": ["127.0.0.64/26"]}),
        bind("watched", {"workload": {"serviceAccount": "client"}, "ipBlocks": ["127.0.0.2"]}, action="audit"),
        bind("locked-out", {"ipBlocks": ["::ffff:127.0.0.128/121"]}, action="deny"),
    ]
    async with running(tmp_path, *bindings, listen="[::]:0") as sidecar:
        assert await curl(sidecar, "::1") == "200"
        statuses = {}
        for source in ("127.0.0.1", "127.0.0.2", "127.0.0.65", "127.0.0.129"):
            statuses[source] = await curl(sidecar, "127.0.0.1", source=source)
        assert statuses == {"127.0.0.1": "200", "127.0.0.2": "200", "127.0.0.65": "403", "127.0.0.129": "403"}
        # What a caller says of itself is no address.
        assert await curl(sidecar, "127.0.0.1", "-H", "x-forwarded-for: 127.0.0.1", source="127.0.0.65") == "403"
        seen, *denied = await audited(sidecar, 4)
        assert (seen.kind, seen.rule, seen.audits) == (Kind.AUDITED, "loopback", ("watched",))
        assert seen.remote is not None
        assert seen.remote.startswith("127.0.0.2:")
        allowed = "loopback: ipBlocks 127.0.0.0/8, ::1/128; notIpBlocks 127.0.0.64/26"
        assert seen.conditions == (allowed, "watched: ipBlocks 127.0.0.2/32")
        assert [(each.rule, each.conditions) for each in denied[:2]] == [
            ("default-deny", (f"{allowed} (does not hold)",)),
            ("locked-out", ("locked-out: ipBlocks 127.0.0.128/25",)),
        ]


async def test_headers(tmp_path: Path) -> None:
    bindings = [
        bind("teams", {"workload": {"namespace": "tests"}, "headers": {"x-tenant": {"prefix": "team-"}}}),
        bind("no-debug", {"headers": {"x-debug": {"regex": "[1-9]|true"}}}, action="deny"),
    ]
    async with running(tmp_path, *bindings) as sidecar:
        for _ in range(2):  # the second time from memory
            assert await grpc(sidecar, {"x-tenant": "team-a"}) == "OK"
            assert await grpc(sidecar, {"x-tenant": "other"}) == "PERMISSION_DENIED"
            assert await grpc(sidecar, {}) == "PERMISSION_DENIED"
            assert await grpc(sidecar, {"x-tenant": "team-a", "x-debug": "0"}) == "OK"
            assert await grpc(sidecar, {"x-tenant": "team-a", "x-debug": "true"}) == "PERMISSION_DENIED"
        good = ("-H", "X-Tenant: team-a")
        statuses = [
            await curl(sidecar, "127.0.0.1", *arguments)
            for arguments in (
                good,
                (*good, "-H", "x-debug: 0"),
                (*good, "-H", "x-debug: 0", "-H", "x-debug: 0"),  # cannot be evaluated: denies
                (*good, "-H", "x_debug: 0"),
                (*good, *good),  # cannot be evaluated: does not allow
            )
        ]
        assert statuses == ["200", "200", "403", "403", "403"]
        debug = 'no-debug: header x-debug: regex "[1-9]|true"'
        records = await audited(sidecar, 9)
        assert [each.conditions for each in records[-3:]] == [
            (f"{debug} (cannot be evaluated)",),
            (f"{debug} (cannot be evaluated)",),
            ('teams: header x-tenant: prefix "team-" (cannot be evaluated)',),
        ]


async def test_claims_by_prefix_presence_all_of_and_any_of(tmp_path: Path) -> None:
    def token(**claims: object) -> dict[str, object]:
        return {"token": {"issuer": "corp", "claims": claims}}

    bindings = [
        bind("teams", token(groups={"prefix": "team-"}), token(groups={"allOf": ["finance", "models"]})),
        bind("robots", token(scope={"anyOf": ["models.predict", {"prefix": "models:"}]})),
        bind("no-guests", token(guest={"present": True}), token(level={"prefix": "low"}), action="deny"),
    ]
    required = {"client_id": {"anyOf": ["app", {"suffix": ".apps.example"}]}}
    async with running(tmp_path, *bindings, requiredClaims=required) as sidecar:

        async def status(**claims: Any) -> str:
            sent = ISSUER.token("alice", **{"client_id": "a.apps.example", **claims})
            over_grpc = await grpc(sidecar, {}, sent)
            async with RestClient(sidecar.inbound, sidecar.client, sent) as client:
                answer = await client.call("POST", PATH, {"instances": [2.0]})
            assert (over_grpc, answer.status) in {
                ("OK", "200"),
                ("PERMISSION_DENIED", "403"),
                ("UNAUTHENTICATED", "401"),
            }
            return answer.status

        assert await status(groups=["x", "team-a"]) == "200"
        assert await status(groups=["teams"]) == "403"
        assert await status(groups=["models", "finance"]) == "200"
        assert await status(groups=["finance"]) == "403"
        assert await status(scope="openid models:read") == "200"
        assert await status(scope="openid models.predict") == "200"
        assert await status(scope="openid models") == "403"
        assert await status(groups="team-a", guest=False) == "403"
        assert await status(groups="team-a", guest=None) == "200"
        assert await status(groups="team-a", level=3) == "403"  # cannot be evaluated: denies
        assert await status(groups="team-a", level="high") == "200"
        assert await status(groups="team-a", client_id="other") == "401"
        assert await status(groups="team-a", client_id="app") == "200"


async def test_a_service_account_in_any_namespace(tmp_path: Path) -> None:
    bindings = [bind("quoters", {"workload": {"serviceAccount": "quoter"}}, {"workload": {"namespace": "team-*"}})]
    async with running(tmp_path, *bindings) as sidecar:
        mesh = sidecar.mesh
        expected = {
            ("a", "quoter"): "OK",
            ("b", "quoter"): "OK",
            ("team-1", "x"): "OK",
            ("team", "x"): "PERMISSION_DENIED",
        }
        for (namespace, account), status in expected.items():
            certificate: Certificate = mesh.certificate(namespace, account)
            async with GrpcClient(sidecar.inbound, certificate) as client:
                assert (await client.call(PREDICT, MESSAGE)).status == status


async def test_a_part_of_an_answer_over_both_versions_of_http(tmp_path: Path) -> None:
    rules = [
        {"models": ["finance-prod"], "verbs": ["status"], "versions": [1]},
        {"models": ["finance-prod"], "verbs": ["metadata"], "signatures": ["size"]},
    ]
    role = document("ModelRole", {"rules": rules}, "in-part")
    binding = document("ModelRoleBinding", {"role": "in-part", "subjects": [{"workload": {"namespace": "tests"}}]}, "x")
    async with running(tmp_path, role, binding) as sidecar:
        certificate = sidecar.client
        base = f"https://{SERVER_NAME}:{sidecar.port}/v1/models/finance-prod"
        for version in ("--http1.1", "--http2"):
            process = await asyncio.create_subprocess_exec(
                *("curl", "-s", "-w", "\n%{http_code}\n", "--max-time", "20", version, base, f"{base}/metadata"),
                *("--cacert", str(certificate.bundle), "--cert", str(certificate.certificate)),
                *("--key", str(certificate.key)),
                *("--connect-to", f"{SERVER_NAME}:{sidecar.port}:127.0.0.1:{sidecar.port}"),
                stdout=asyncio.subprocess.PIPE,
            )
            out, _ = await process.communicate()
            status, code, metadata, other_code = out.decode().splitlines()
            assert (code, other_code) == ("200", "200")
            assert [each["version"] for each in json.loads(status)["model_version_status"]] == ["1"]
            assert list(json.loads(metadata)["metadata"]["signature_def"]["signature_def"]) == ["size"]
