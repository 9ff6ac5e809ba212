from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from meshproxy.config.load import load
from meshproxy.devtools.child import ChildFailed
from meshproxy.devtools.clients import REFUSAL_HEADER, GrpcClient, RestClient
from meshproxy.devtools.local_sidecar import environment, everything_for_the_client, local_sidecar


@pytest.mark.parametrize("mtls", ["strict", "permissive", "disabled"])
def test_its_documents_load(mtls: str, tmp_path: Path) -> None:
    path = tmp_path / "documents.yaml"
    made = environment("127.0.0.1:1", mtls=mtls, sidecar={"drainTimeout": "1s"})  # type: ignore[arg-type]
    path.write_text(yaml.safe_dump_all(made + everything_for_the_client()))
    documents = load([str(path)])
    assert documents.mesh.spec.mtls == mtls
    assert documents.sidecar.spec.drain_timeout == 1.0
    assert (documents.sidecar.spec.identity is None) == (mtls == "disabled")


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_the_client_may_do_everything_and_others_nothing(tmp_path: Path) -> None:
    documents = environment("127.0.0.1:1", "127.0.0.1:1", sidecar={"drainTimeout": "1s"}) + everything_for_the_client()
    async with local_sidecar(tmp_path, documents) as running:
        async with RestClient(running.inbound, running.client) as client:
            answer = await client.call("GET", "/v1/models/m")
            assert (answer.status, answer.refusal) == ("503", "connect-failed")
        async with GrpcClient(running.inbound, running.workload("tests", "other")) as other:
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
