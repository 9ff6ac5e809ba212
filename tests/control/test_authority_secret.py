"""The authority in a Secret, of an API server that is made up; tests/e2e has a real one."""

from __future__ import annotations

import asyncio
import base64
import logging
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshproxy.control import authority_secret as module
from meshproxy.control.attestation import JoinToken
from meshproxy.control.authority import Authority
from meshproxy.control.authority_secret import AuthoritySecret
from meshproxy.control.cluster import connect
from meshproxy.control.root_rotation import RootRotation
from meshproxy.control.store import FolderStore, StoreError
from meshproxy.devtools.ca import DevelopmentCA
from tests.background import running
from tests.control.fake_api_server import NO_CREDENTIALS, FakeApiServer
from tests.processes.waiting import until

KEY = ("/api/v1/namespaces/mesh/secrets", "mesh", "authority")


class World:
    """A cluster, and the folders of control planes."""

    def __init__(self, server: FakeApiServer, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.client = connect(server.write_kubeconfig(folder, "mesh"))

    def store(self, name: str = "a") -> FolderStore:
        return FolderStore(self.folder / name)

    def secret(self, name: str = "a", trust_domain: str = "m.example") -> AuthoritySecret:
        """The Secret, as the control plane with this folder has it."""
        return AuthoritySecret(self.client, "authority", self.store(name), trust_domain)

    def signs(self, name: str = "a") -> str:
        found = self.store(name).find_authority()
        assert found is not None
        return found.id

    def put(self, certificate: bytes, key: bytes, roots: bytes) -> None:
        """Write the Secret."""
        content = {"tls.crt": certificate, "tls.key": key, "ca.crt": roots}
        data = {name: base64.b64encode(text).decode() for name, text in content.items() if text}
        self.server._put(KEY, {"kind": "Secret", "metadata": {}, "data": data}, "MODIFIED")


@pytest.fixture
async def world(fake: FakeApiServer, tmp_path: Path) -> AsyncIterator[World]:
    world = World(fake, tmp_path)
    yield world
    await world.client.close()


async def test_the_first_start_makes_it_and_others_take_it(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await asyncio.gather(*(world.secret(name).bring(time.time()) for name in "abc"))
    assert len({world.signs(name) for name in "abc"}) == 1
    assert [(record.message[:15], record.__dict__["fields"]["where"]) for record in caplog.records] == [
        ("made a new root", "the Secret mesh/authority")
    ]
    stored = world.server.objects[KEY]
    assert stored["type"] == "kubernetes.io/tls"
    assert base64.b64decode(stored["data"]["ca.crt"]) == world.store().authority("m.example", 0.0).bundle_pem
    copy = world.store().copy()
    assert copy is not None
    assert copy.secret == "mesh/authority"


async def test_the_authority_of_a_folder_moves_into_the_secret(world: World, caplog: pytest.LogCaptureFixture) -> None:
    made = world.store().authority("m.example", time.time())
    caplog.clear()
    await world.secret().bring(time.time())
    await world.secret("b").bring(time.time())
    assert world.signs("b") == made.id
    assert not caplog.records  # no new root


async def test_an_authority_below_a_root(world: World) -> None:
    root = DevelopmentCA.create("m.example")
    below = root.intermediate()
    below.write(world.folder)
    certificate, key = ((world.folder / name).read_bytes() for name in ("ca.pem", "ca-key.pem"))
    world.put(certificate, key, root.bundle_pem)
    await world.secret().bring(time.time())
    assert world.store().authority("m.example", 0.0).bundle_pem == root.bundle_pem


async def test_a_start_while_the_api_server_is_away(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await world.secret().bring(time.time())
    before = world.signs()
    world.server.status = 500
    await world.secret().bring(time.time())
    assert world.signs() == before
    assert "starting with the copy in the folder" in caplog.text
    with pytest.raises(StoreError, match="mesh/authority cannot be read: the API server answered 500"):
        await world.secret("new").bring(time.time())
    world.server.status = 403
    with pytest.raises(StoreError, match="may not get and create it"):
        await world.secret("new").bring(time.time())
    # What is in the folder is not the Secret's: nobody knows whether it may sign.
    world.store("own").authority("m.example", time.time())
    with pytest.raises(StoreError, match="cannot be read"):
        await world.secret("own").bring(time.time())


async def test_credentials_that_cannot_be_had(world: World, tmp_path: Path) -> None:
    await world.secret().bring(time.time())
    before = world.signs()
    client = connect(world.server.write_kubeconfig(tmp_path, "mesh", NO_CREDENTIALS))
    await AuthoritySecret(client, "authority", world.store(), "m.example").bring(time.time())
    assert world.signs() == before
    with pytest.raises(StoreError, match=r"cannot be read: no answer \(ConfigError\)"):
        await AuthoritySecret(client, "authority", world.store("new"), "m.example").bring(time.time())
    await client.close()


async def test_secrets_that_cannot_be_used(world: World) -> None:
    good, other = (Authority.create(name, time.time()) for name in ("m.example", "n.example"))
    for content, says in (
        ((good.chain_pem, good.key_pem, b""), "it has no ca.crt"),
        ((good.chain_pem, good.key_pem, b"none"), "its roots cannot be used: the trust bundle cannot be read"),
        ((good.chain_pem, other.key_pem, good.bundle_pem), "the key is not the key of the certificate"),
        ((b"none", good.key_pem, good.bundle_pem), "must be PEM"),
        ((other.chain_pem, other.key_pem, other.bundle_pem), r"of trust domain n\.example, not of m\.example"),
    ):
        world.put(*content)
        with pytest.raises(StoreError, match=says):
            await world.secret().bring(time.time())
    assert world.store().find_authority() is None


async def test_what_others_write_is_copied(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "PERIOD", 0.01)
    secret = world.secret()
    await secret.bring(time.time())
    before = world.signs()

    async def said(text: str) -> None:
        await until(lambda: any(text in str(record.__dict__.get("fields")) for record in caplog.records))

    async with running(secret.follow()):
        world.put(b"none", b"none", b"none")
        await said("is not an authority")
        world.server.objects.clear()
        await said("was deleted: create it again")
        assert world.signs() == before
        another = Authority.create("m.example", time.time())
        world.put(another.chain_pem, another.key_pem, another.bundle_pem)
        await until(lambda: world.signs() == another.id)
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 2  # each is said once


async def test_a_copy_that_is_lost_is_written_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PERIOD", 0.01)
    secret = world.secret()
    await secret.bring(time.time())
    before = world.signs()
    async with running(secret.follow()):
        shutil.rmtree(world.store().folder)
        await until(lambda: world.store().find_authority() is not None)
    assert world.signs() == before


async def test_a_copy_is_not_a_place_for_more(world: World) -> None:
    """Other control planes would not see it."""
    await world.secret().bring(time.time())
    store = world.store()
    with pytest.raises(StoreError, match=r"a join token would work with one control plane only.*mesh/authority"):
        store.add_token("0" * 64, JoinToken("spiffe://m.example/a", time.time() + 60.0), time.time())
    old = store.authority("m.example", time.time())
    with pytest.raises(StoreError, match=r"the root cannot be rotated here.*mesh/authority"):
        store.save_rotation(RootRotation.begin(old, Authority.create("m.example", time.time()), time.time()))
