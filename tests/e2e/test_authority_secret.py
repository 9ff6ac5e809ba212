"""The authority in a Secret of a real API server."""

from __future__ import annotations

import asyncio
import base64
import time
from pathlib import Path

import pytest
from lightkube.resources.core_v1 import Secret

from meshproxy.control import authority_secret as module
from meshproxy.control.authority import Authority
from meshproxy.control.authority_secret import AuthoritySecret
from meshproxy.control.cluster import connect
from meshproxy.control.store import FolderStore, StoreError
from tests.background import running
from tests.e2e.conftest import TestNamespace
from tests.processes.waiting import until

NAME = "meshproxy-authority"


def signs(folder: Path) -> str:
    found = FolderStore(folder).find_authority()
    assert found is not None
    return found.id


def secret_of(namespace: TestNamespace, folder: Path) -> AuthoritySecret:
    client = connect(namespace.cluster.kubeconfig, namespace.name)
    return AuthoritySecret(client, NAME, FolderStore(folder), "m.example")


async def test_control_planes_that_start_at_once_have_one_authority(namespace: TestNamespace, tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in range(8)]
    secrets = [secret_of(namespace, folder) for folder in folders]
    await asyncio.gather(*(secret.bring(time.time()) for secret in secrets))
    assert len({signs(folder) for folder in folders}) == 1
    stored = await namespace.client.get(Secret, NAME, namespace=namespace.name)
    assert stored.type == "kubernetes.io/tls"
    await asyncio.gather(*(secret._client.close() for secret in secrets))


async def test_a_secret_that_is_written_anew(
    namespace: TestNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PERIOD", 0.05)
    secret = secret_of(namespace, tmp_path)
    await secret.bring(time.time())
    another = Authority.create("m.example", time.time())
    stored = await namespace.client.get(Secret, NAME, namespace=namespace.name)
    content = {"tls.crt": another.chain_pem, "tls.key": another.key_pem, "ca.crt": another.bundle_pem}
    stored.data = {name: base64.b64encode(text).decode() for name, text in content.items()}
    async with running(secret.follow()):
        await namespace.client.replace(stored)
        await until(lambda: signs(tmp_path) == another.id)
    await secret._client.close()


async def test_rights_that_are_missing(namespace: TestNamespace, tmp_path: Path) -> None:
    client = connect(await namespace.kubeconfig("control"))
    secret = AuthoritySecret(client, NAME, FolderStore(tmp_path), "m.example")
    with pytest.raises(StoreError, match="may not get and create it"):
        await secret.bring(time.time())
    await client.close()
