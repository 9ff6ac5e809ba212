from __future__ import annotations

from pathlib import Path

import jwt
import pytest

from meshproxy.config.load import load
from meshproxy.devtools.local_mesh import TRUST_DOMAIN, documents_directory, local_mesh, write_documents


def test_the_documents_of_the_demo_load_once_addresses_are_put_in(tmp_path: Path) -> None:
    directory = write_documents(
        tmp_path / "documents",
        ISSUER="https://login.example",
        KEYS="http://127.0.0.1:1/keys",
        REST="127.0.0.1:2",
        GRPC="127.0.0.1:3",
        CERTIFICATES="/certificates",
    )
    documents = load([str(directory)])
    assert documents.mesh.spec.trust_domain == TRUST_DOMAIN
    assert {binding.metadata.name for binding in documents.bindings} == {"finance-team", "batch-stays-stable"}


def test_the_policy_of_the_demo_names_no_environment() -> None:
    assert "$" not in (documents_directory() / "policy.yaml").read_text()


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_everything_starts_and_nothing_is_left(tmp_path: Path) -> None:
    async with local_mesh(tmp_path, ["m=1"], {"app": ("a", "b")}) as mesh:
        children = [mesh.issuer, mesh.model_server, mesh.sidecar]
        assert all(child.returncode is None for child in children)
        claims = jwt.decode(await mesh.token("app"), options={"verify_signature": False})
        assert (claims["groups"], claims["aud"]) == (["a", "b"], "models")
        elsewhere = jwt.decode(await mesh.token("app", "elsewhere"), options={"verify_signature": False})
        assert elsewhere["aud"] == "elsewhere"
        certificate = mesh.workload("pricing", "quoter")
        assert certificate.key is not None
        assert certificate.key.stat().st_mode & 0o77 == 0
        assert mesh.stranger().certificate is None
    assert [child.returncode for child in children] == [0, 0, 0]
