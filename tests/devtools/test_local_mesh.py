from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from meshproxy.config.load import load
from meshproxy.devtools.ca import IssuedCertificate
from meshproxy.devtools.child import ChildFailed
from meshproxy.devtools.clients import REFUSAL_HEADER, Certificate, GrpcClient, RestClient
from meshproxy.devtools.load.predict import predict_over_grpc, predict_over_rest
from meshproxy.devtools.local_mesh import (
    LocalMesh,
    document,
    environment,
    local_mesh,
    local_sidecar,
    permissive_documents,
    server_of,
)
from meshproxy.devtools.models import predict_request
from meshproxy.identity.peer import read_peer

PATH = "/v1/models/half_plus_two:predict"
CONTENT = {"instances": [1.0]}
PREDICT = "/tensorflow.serving.PredictionService/Predict"
REQUEST = predict_request("half_plus_two", [1.0]).SerializeToString()


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_calls_of_the_application_arrive_and_what_was_killed_is_no_surprise(tmp_path: Path) -> None:
    async with local_mesh(tmp_path / "mesh") as mesh:
        replica, other = await mesh.replica(), await mesh.bare("--failure-rate=1")
        application = await mesh.application(
            [server_of([replica]), server_of([other], "other", workload={"namespace": "a", "serviceAccount": "b"})]
        )
        async with RestClient(application.outbound, None) as rest, GrpcClient(application.outbound, None) as grpc:
            assert (await rest.call("POST", PATH, CONTENT, {"host": "models"})).body == {"predictions": [3.5]}
            assert (await grpc.call(PREDICT, REQUEST, {"x-model-server": "models"})).status == "OK"
            assert (await grpc.call(PREDICT, REQUEST, {"x-model-server": "other"})).status == "UNAVAILABLE"
            assert (await rest.call("POST", PATH, CONTENT, {"host": "third"})).status == "404"
            assert (await replica.request_count(), await replica.request_count("UNAVAILABLE")) == (2, 0)
            assert await other.request_count("UNAVAILABLE") == await other.request_count() > 0

            await application.reload([server_of([replica], "third")])
            assert (await rest.call("POST", PATH, CONTENT, {"host": "third"})).status == "200"
            assert await application.total("meshproxy_config_reloads_total", 'result="ok"') == 1
            with pytest.raises(ChildFailed, match="nobody"):
                await application.reload([document("ModelRoute", {"models": ["*"], "server": "nobody"})])
            assert (await rest.call("POST", PATH, CONTENT, {"host": "third"})).status == "200"

        runs = (
            await predict_over_rest(application.outbound, 200, 0.1, name="third", connections=4),
            await predict_over_grpc(application.outbound, 200, 0.1, REQUEST, name="third", streams=4),
            await predict_over_rest(application.outbound, 200, 0.1, name="third", model="unknown", connections=20),
        )
        assert [(run.done, run.errors.total(), run.unanswered) for run in runs] == [(20, 0, 0), (20, 0, 0), (0, 20, 0)]
        await replica.kill()
        assert [child.returncode for child in replica.children] == [-9, -9]
    assert [child.returncode for child in (application.child, other.model_server)] == [0, 0]


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_a_part_that_cannot_start_says_why_and_the_others_are_stopped(tmp_path: Path) -> None:
    async with local_mesh(tmp_path / "mesh") as mesh:
        replica = await mesh.bare()
        route = document("ModelRoute", {"models": ["*"], "timeOut": "1s"})
        with pytest.raises(ChildFailed, match="timeOut"):
            await mesh.application([server_of([replica]), route])
    assert replica.model_server.returncode == 0


def test_its_certificates_name_workloads_of_its_domain_and_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    mesh = LocalMesh(tmp_path, "a.example", client=("shop", "checkout"))
    made = mesh.certificate("pricing", "quoter")
    assert made.certificate == tmp_path / "pricing-quoter.pem"
    for certificate, account in ((mesh.client, "checkout"), (made, "quoter")):
        assert certificate.certificate is not None
        assert certificate.key is not None
        assert certificate.key.stat().st_mode & 0o77 == 0
        issued = IssuedCertificate(certificate.certificate.read_bytes(), b"")
        assert read_peer(issued.der, "a.example", time.time()).service_account == account
    assert mesh.no_certificate() == Certificate(tmp_path / "ca.pem")


@pytest.mark.parametrize("mtls", ["strict", "permissive", "disabled"])
def test_its_documents_load(mtls: str, tmp_path: Path) -> None:
    path = tmp_path / "documents.yaml"
    made = environment("127.0.0.1:1", mtls=mtls, sidecar={"drainTimeout": "1s"})  # type: ignore[arg-type]
    path.write_text(yaml.safe_dump_all(made + permissive_documents()))
    documents = load([str(path)])
    assert documents.mesh.spec.mtls == mtls
    assert documents.sidecar.spec.drain_timeout == 1.0
    assert (documents.sidecar.spec.identity is None) == (mtls == "disabled")


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_the_client_may_do_everything_and_others_nothing(tmp_path: Path) -> None:
    documents = environment("127.0.0.1:1", "127.0.0.1:1", sidecar={"drainTimeout": "1s"}) + permissive_documents()
    async with local_sidecar(tmp_path, documents) as running:
        async with RestClient(running.inbound, running.client) as client:
            answer = await client.call("GET", "/v1/models/m")
            assert (answer.status, answer.refusal) == ("503", "connect-failed")
        async with GrpcClient(running.inbound, running.mesh.certificate("tests", "other")) as other:
            answer = await other.call("/any.Service/Method", b"")
            assert (answer.status, answer.refusal) == ("PERMISSION_DENIED", "permission-denied")
        async with RestClient(running.admin, None) as admin:
            assert (await admin.call("GET", "/readyz")).status == "200"
    assert REFUSAL_HEADER == "x-meshproxy-refusal"


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_documents_with_problems_say_so(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match="drainTimeOut"):
        async with local_sidecar(tmp_path, environment("127.0.0.1:1", sidecar={"drainTimeOut": "1s"})):
            pytest.fail("it must not start")
