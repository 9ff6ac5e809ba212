"""The injector's port over TLS."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from meshproxy.config.values import Address
from meshproxy.control import webhook as module
from meshproxy.control.app import ControlPlane
from meshproxy.control.authority import Authority, SigningRequest, private_pem
from meshproxy.control.settings import Settings as ControlSettings
from meshproxy.control.webhook import Injector, Webhook
from meshproxy.identity.certificates import CertificateError, Credentials
from meshproxy.injection.admission import BYTES, Outcome
from meshproxy.injection.settings import Settings
from tests.injection.pods import SETTINGS
from tests.injection.reviews import review
from tests.processes.waiting import until

NAME = "meshproxy-injector.meshproxy.svc"


def credentials(authority: Authority, name: str = NAME) -> Credentials:
    key = ec.generate_private_key(ec.SECP256R1())
    request = SigningRequest(key.public_key(), ())
    own = f"spiffe://{authority.trust_domain}/ns/meshproxy/sa/control"
    issued = authority.issue(request, own, time.time(), 3_600.0, dns=[name])
    return Credentials(issued.certificate_pem, private_pem(key), authority.bundle_pem)


def sidecars(trust_bundle: str) -> Settings:
    return Settings(SETTINGS.image, trust_bundle, SETTINGS.control_plane, SETTINGS.control_plane_id)


async def ask(webhook: Webhook, bundle: str, body: bytes, path: str = "/inject?timeout=10s") -> Any:
    """The response to a review, asked as the API server does: by name, with the caBundle only."""
    context = ssl.create_default_context(cadata=bundle)
    headers = {"content-type": "application/json"}
    url = f"https://{webhook.address}{path}"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=io.BytesIO(body), ssl=context, server_hostname=NAME, headers=headers) as answer,
    ):
        assert (answer.status, answer.content_type) == (200, "application/json")
        return (await answer.json())["response"]


class Served:
    """A webhook that listens, and what it has counted."""

    def __init__(self) -> None:
        self.counted: Counter[Outcome] = Counter()
        self.exceeded: list[str] = []
        self.authority = Authority.create("m.example", time.time())
        self.webhook = Webhook(
            Injector(Address("127.0.0.1", 0), (NAME,), sidecars),
            lambda outcome: self.counted.update([outcome]),
            self.exceeded.append,
        )
        self.webhook.present(credentials(self.authority))

    async def ask(self, body: bytes, path: str = "/inject?timeout=10s", *, authority: Authority | None = None) -> Any:
        return await ask(self.webhook, (authority or self.authority).bundle_pem.decode(), body, path)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    served = Served()
    await served.webhook.start()
    yield served
    await served.webhook.close()


async def test_a_pod_is_reviewed(served: Served) -> None:
    assert (await served.ask(review()))["patchType"] == "JSONPatch"
    assert (await served.ask(review(namespace="kube-system")))["allowed"]
    assert served.counted == {Outcome.INJECTED: 1, Outcome.SKIPPED: 1}


@pytest.mark.parametrize("body", [b"", b"{", json.dumps("x" * BYTES).encode()], ids=["nothing", "half", "huge"])
async def test_whatever_comes_is_answered_with_a_review(served: Served, body: bytes) -> None:
    answer = await served.ask(body, "/")
    assert not answer["allowed"]
    assert answer["status"]["message"]
    assert served.counted == {Outcome.UNREADABLE: 1}


async def begin(served: Served, body: bytes, size: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A review of which only this much comes."""
    context = ssl.create_default_context(cadata=served.authority.bundle_pem.decode())
    host, _, port = served.webhook.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=NAME)
    writer.write(b"POST /inject HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (size, body))
    await writer.drain()
    return reader, writer


async def test_a_body_that_does_not_come_is_waited_for_a_while(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_SECONDS", 0.05)
    reader, writer = await begin(served, b"{", 2)
    assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
    writer.close()
    assert (served.exceeded, served.counted, served.webhook._bodies.total) == (["review_time"], {}, 0)


async def test_all_bodies_together_are_bounded(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "READ_BYTES", 100_000)
    slow, first = await begin(served, b" " * 60_000, 70_000)
    await until(lambda: served.webhook._bodies.total == 60_000)
    other, second = await begin(served, b" " * 60_000, 70_000)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await slow.readexactly(1)
    assert (served.exceeded, served.webhook._bodies.total) == (["review_bytes"], 60_000)
    second.write(b" " * 10_000)
    assert (await other.readline()).startswith(b"HTTP/1.1 200 ")
    assert served.webhook._bodies.total == 0
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    for writer in (first, second):
        writer.close()


async def test_a_new_authority_counts_for_those_that_connect_afterwards(served: Served) -> None:
    other = Authority.create("m.example", time.time())
    served.webhook.present(credentials(other))
    assert (await served.ask(review(), authority=other))["allowed"]
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await served.ask(review())
    answer = await served.ask(review(), authority=other)
    assert answer["patchType"] == "JSONPatch"


async def test_a_certificate_that_cannot_be_used_changes_nothing(served: Served) -> None:
    good = credentials(served.authority)
    with pytest.raises(CertificateError):
        served.webhook.present(Credentials(good.certificate_pem, b"", good.bundle_pem))
    assert (await served.ask(review()))["allowed"]


async def test_a_port_that_is_taken(served: Served) -> None:
    host, _, port = served.webhook.address.rpartition(":")
    other = Webhook(Injector(Address(host, int(port)), (NAME,), sidecars), lambda outcome: None, lambda name: None)
    other.present(credentials(served.authority))
    with pytest.raises(OSError):
        await other.start()
    await other.close()


async def test_the_control_plane_shows_a_certificate_for_its_name_which_is_renewed(tmp_path: Path) -> None:
    free = Address("127.0.0.1", 0)
    bundles: list[str] = []

    def told(bundle: str) -> Settings:
        bundles.append(bundle)
        return sidecars(bundle)

    own = "spiffe://m.example/ns/meshproxy/sa/control"
    control = ControlPlane(
        ControlSettings(
            tmp_path, "m.example", own, listen=free, web=free, lifetime=1.5, injector=Injector(free, (NAME,), told)
        )
    )
    running = asyncio.create_task(control.run())
    webhook = control.webhook
    assert webhook is not None
    await until(lambda: webhook.address)
    assert (await ask(webhook, bundles[0], review()))["patchType"] == "JSONPatch"
    await until(lambda: len(bundles) > 1)
    assert (await ask(webhook, bundles[0], review()))["patchType"] == "JSONPatch"
    assert control.metrics.injections.labels("injected").value == 2
    control._stopping.set()
    await running


async def test_a_certificate_of_somebody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is read again when it changes; the sidecars' trust bundle is that of the mesh."""
    monkeypatch.setattr("meshproxy.config.file_watch.PERIOD", 0.01)
    mesh, other = Authority.create("m.example", time.time()), Authority.create("other.example", time.time())
    files = tmp_path / "tls.crt", tmp_path / "tls.key"
    bundles: list[str] = []

    def told(bundle: str) -> Settings:
        bundles.append(bundle)
        return sidecars(bundle)

    def issue(authority: Authority) -> None:
        issued = credentials(authority)
        files[1].write_bytes(issued.key_pem)
        files[1].chmod(0o600)
        files[0].write_bytes(issued.certificate_pem)

    webhook = Webhook(
        Injector(Address("127.0.0.1", 0), (NAME,), told, files=files), lambda outcome: None, lambda name: None
    )
    with pytest.raises(CertificateError, match="No such file"):
        webhook.present(credentials(mesh))
    issue(other)
    webhook.present(credentials(mesh))
    await webhook.start()
    assert (await ask(webhook, other.bundle_pem.decode(), review()))["allowed"]
    assert bundles == [mesh.bundle_pem.decode()]
    caplog.set_level(logging.INFO)
    files[0].write_bytes(b"")
    await until(lambda: "keeping the previous one" in caplog.text)
    assert (await ask(webhook, other.bundle_pem.decode(), review()))["allowed"]
    third = Authority.create("third.example", time.time())
    monkeypatch.setattr("meshproxy.config.file_watch.AGAIN", 0.0)
    tries = []

    def fail(path: Path, what: str) -> Any:  # descriptors are short
        tries.append(path)
        raise CertificateError("unreadable", "Too many open files")

    with monkeypatch.context() as short:
        short.setattr(module, "read_file", fail)
        issue(third)
        await until(lambda: len(tries) > 3)
    await until(lambda: "certificate is new" in caplog.text)
    assert sum("keeping the previous one" in record.message for record in caplog.records) == 2  # empty; short
    assert (await ask(webhook, third.bundle_pem.decode(), review()))["allowed"]
    await webhook.close()
