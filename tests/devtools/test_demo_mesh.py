from __future__ import annotations

from pathlib import Path

import jwt
import pytest

from meshproxy.config.load import load
from meshproxy.devtools.child import ChildFailed
from meshproxy.devtools.demo_mesh import REPLICAS, TRUST_DOMAIN, demo_mesh, documents_directory, write_documents


def test_the_documents_of_the_demo_load_once_addresses_are_put_in(tmp_path: Path) -> None:
    directory = write_documents(
        tmp_path / "documents",
        ISSUER="https://login.example",
        KEYS="http://127.0.0.1:1/keys",
        REST="127.0.0.1:2",
        GRPC="127.0.0.1:3",
        CERTIFICATES="/certificates",
        ACCESS_LOG="/tmp/access.log",
    )
    documents = load([str(directory)])
    assert documents.mesh.spec.trust_domain == TRUST_DOMAIN
    assert {binding.metadata.name for binding in documents.bindings} == {"finance-team", "batch-stays-stable"}


def test_the_documents_of_its_application_load_too(tmp_path: Path) -> None:
    directory = write_documents(
        tmp_path / "documents",
        documents_directory() / "application",
        CERTIFICATES="/certificates",
        REPLICA_1="127.0.0.1:1",
        REPLICA_2="127.0.0.1:2",
        REPLICA_3="127.0.0.1:3",
    )
    documents = load([str(directory)])
    assert documents.mesh.spec.trust_domain == TRUST_DOMAIN
    assert [len(server.spec.endpoints) for server in documents.servers] == [REPLICAS]
    assert {route.metadata.name for route in documents.routes} == {"canary", "shadow"}


def test_the_policy_of_the_demo_names_no_environment() -> None:
    assert "$" not in (documents_directory() / "policy.yaml").read_text()


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_everything_starts_and_nothing_is_left(tmp_path: Path) -> None:
    async with demo_mesh(tmp_path, ["m=1"], {"app": ("a", "b")}) as mesh:
        children = [mesh.issuer, mesh.application.child]
        children += [child for replica in mesh.replicas for child in replica.children]
        assert len(children) == 2 + 2 * REPLICAS
        assert all(child.returncode is None for child in children)
        claims = jwt.decode(await mesh.token("app"), options={"verify_signature": False})
        assert (claims["groups"], claims["aud"]) == (["a", "b"], "models")
        elsewhere = jwt.decode(await mesh.token("app", "elsewhere"), options={"verify_signature": False})
        assert elsewhere["aud"] == "elsewhere"
        addresses = {mesh.sidecar.inbound, mesh.sidecar.admin, mesh.rest, mesh.grpc}
        assert len(addresses | {mesh.application.outbound, mesh.application.admin}) == 6
        await mesh.replicas[2].kill()
    assert sorted(child.returncode or 0 for child in children) == [-9, -9, 0, 0, 0, 0, 0, 0]


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_a_part_that_cannot_start_says_why_and_the_others_are_stopped(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match="expected NAME or NAME=1,2"):
        async with demo_mesh(tmp_path, ["m=none"], {"app": ()}):
            pytest.fail("it must not start")
