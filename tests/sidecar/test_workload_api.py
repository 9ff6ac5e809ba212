"""The Workload API: its messages, and an agent of grpcio on a UNIX socket."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.config.sidecars import WorkloadApi
from meshproxy.devtools.ca import DevelopmentCA, IssuedCertificate
from meshproxy.identity.certificates import CertificateError, own_identity
from meshproxy.sidecar import reconnect
from meshproxy.sidecar import workload_api as module
from meshproxy.sidecar.workload_api import WorkloadApiIdentity, read_response

CA = DevelopmentCA.create("m.example")
THEIRS = DevelopmentCA.create("theirs.example")
ID = "spiffe://m.example/ns/models/sa/resnet"
OTHER = "spiffe://m.example/ns/models/sa/other"


def field(number: int, value: bytes) -> bytes:
    """A length-delimited field, as protobuf writes it."""
    size, length = len(value), bytearray()
    while size >= 0x80:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes((number * 8 + 2, *length, size)) + value


def der(pem: bytes) -> bytes:
    return b"".join(each.public_bytes(serialization.Encoding.DER) for each in x509.load_pem_x509_certificates(pem))


def svid(issued: IssuedCertificate, spiffe_id: str = ID, bundle: bytes = CA.bundle_pem) -> bytes:
    key = serialization.load_pem_private_key(issued.key_pem, None).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    members = (spiffe_id.encode(), der(issued.certificate_pem), key, der(bundle), b"a hint")
    return field(1, b"".join(field(number, member) for number, member in enumerate(members, 1)))


def federated(domain: str, bundle: bytes) -> bytes:
    return field(3, field(1, f"spiffe://{domain}".encode()) + field(2, der(bundle)))


# Messages


def test_a_response() -> None:
    issued, other = CA.issue(ID), CA.issue(OTHER)
    message = svid(issued) + svid(other, OTHER) + field(2, b"a CRL") + federated("theirs.example", THEIRS.bundle_pem)
    response = read_response(message)
    assert [each.spiffe_id for each in response.svids] == [ID, OTHER]
    assert der(response.federated["theirs.example"]) == der(THEIRS.bundle_pem)
    identity = own_identity(response.svids[0].credentials, "m.example", time.time())
    assert identity.workload.spiffe_id == ID


def test_an_intermediate_comes_with_the_leaf() -> None:
    issued = CA.intermediate().issue(ID)
    (found,) = read_response(svid(issued)).svids
    assert der(found.credentials.certificate_pem) == der(issued.certificate_pem)
    assert own_identity(found.credentials, "m.example", time.time()).workload.spiffe_id == ID


def test_an_empty_response() -> None:
    assert read_response(b"").svids == ()


SAMPLE = svid(CA.issue(ID))


@given(st.binary(max_size=80) | st.integers(0, len(SAMPLE) - 1).map(lambda size: SAMPLE[:size]))
def test_other_bytes_are_refused_and_nothing_else(message: bytes) -> None:
    try:
        read_response(message)
    except CertificateError as error:
        assert error.reason == "unreadable"  # noqa: PT017


# The stream


class Agent(grpc.GenericRpcHandler):
    """Sends what it is given, to whoever asks."""

    def __init__(self) -> None:
        self.responses: asyncio.Queue[bytes | grpc.StatusCode] = asyncio.Queue()
        self.metadata: list[dict[str, Any]] = []
        self.streams = 0

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        if details.method == module.FETCH.decode():
            return grpc.unary_stream_rpc_method_handler(self.fetch)
        return None

    async def fetch(self, request: bytes, context: Any) -> None:
        self.metadata.append(dict(context.invocation_metadata()))
        assert request == b""
        self.streams += 1
        try:
            while True:
                response = await self.responses.get()
                if isinstance(response, grpc.StatusCode):
                    await context.abort(response, "no identity issued")
                await context.write(response)
        finally:
            self.streams -= 1

    async def is_left(self) -> None:
        """Nobody is there who could take the next response."""
        async with asyncio.timeout(60):
            while self.streams:
                await asyncio.sleep(0.01)


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    agent = Agent()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((agent,))
    server.add_insecure_port(f"unix:{tmp_path}/agent.sock")
    await server.start()
    try:
        yield agent
    finally:
        await server.stop(None)


def source(tmp_path: Path, *domains: str, spiffe_id: str | None = None) -> WorkloadApiIdentity:
    settings = WorkloadApi(socket=str(tmp_path / "agent.sock"), spiffe_id=spiffe_id)
    return WorkloadApiIdentity(settings, {}, domains)


async def test_identities_are_delivered_and_rotated(agent: Agent, tmp_path: Path) -> None:
    it = source(tmp_path)
    first, second = CA.issue(ID), CA.issue(ID)
    agent.responses.put_nowait(svid(first))
    credentials = await it.load()
    assert der(credentials.certificate_pem) == der(first.certificate_pem)
    assert agent.metadata[0]["workload.spiffe.io"] == "true"
    changed = asyncio.Event()
    it.start(changed.set)
    agent.responses.put_nowait(svid(second))
    async with asyncio.timeout(60):
        await changed.wait()
    assert der((await it.load()).certificate_pem) == der(second.certificate_pem)
    assert len(agent.metadata) == 1  # on one stream
    it.stop()


async def test_one_of_several_identities(agent: Agent, tmp_path: Path) -> None:
    issued = CA.issue(OTHER)
    both = svid(CA.issue(ID)) + svid(issued, OTHER)
    for wanted, expected in ((None, ID), (OTHER, OTHER)):
        it = source(tmp_path, spiffe_id=wanted)
        agent.responses.put_nowait(both)
        identity = own_identity(await it.load(), "m.example", time.time())
        assert identity.workload.spiffe_id == expected
        it.stop()
        await agent.is_left()
    it = source(tmp_path, spiffe_id="spiffe://m.example/missing")
    agent.responses.put_nowait(both)
    with pytest.raises(CertificateError, match=f"but {ID}, {OTHER}: register it") as caught:
        await it.load()
    assert caught.value.reason == "not-an-svid"
    it.stop()


async def test_federated_bundles(agent: Agent, tmp_path: Path) -> None:
    it = source(tmp_path, "theirs.example", "missing.example")
    agent.responses.put_nowait(svid(CA.issue(ID)) + federated("theirs.example", THEIRS.bundle_pem))
    credentials = await it.load()
    assert list(credentials.other_bundles) == ["theirs.example"]
    (problem,) = credentials.problems
    assert problem.startswith("trust domain missing.example: the Workload API does not deliver its bundle")
    it.stop()


async def test_an_agent_that_refuses_and_then_does_not(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reconnect, "FIRST_RETRY", 0.01)
    it = source(tmp_path)
    for _ in range(3):
        agent.responses.put_nowait(grpc.StatusCode.PERMISSION_DENIED)
    agent.responses.put_nowait(svid(CA.issue(ID)))
    assert (await it.load()).certificate_pem
    it.stop()
    warnings = [record.__dict__["fields"] for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1  # the same reason three times
    assert "has no identity for this workload" in warnings[0]["problem"]
    assert warnings[0]["in_use"] is False


async def test_an_agent_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_SECONDS", 0.2)
    it = source(tmp_path)
    with pytest.raises(CertificateError, match=rf"^unix:{tmp_path}/agent\.sock cannot be reached: No such file"):
        await it.load()
    it.stop()


async def test_what_cannot_be_read_leaves_the_identity_in_use(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reconnect, "FIRST_RETRY", 0.01)
    it = source(tmp_path)
    issued = CA.issue(ID)
    agent.responses.put_nowait(svid(issued))
    await it.load()
    agent.responses.put_nowait(b"\x0a\x7f")
    async with asyncio.timeout(60):
        while len(agent.metadata) < 2:  # it asks again
            await asyncio.sleep(0.01)
    assert der((await it.load()).certificate_pem) == der(issued.certificate_pem)
    assert "cannot be read" in caplog.text or any("cannot be read" in str(r.__dict__["fields"]) for r in caplog.records)
    it.stop()


async def test_an_agent_that_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "FIRST_RETRY", 0.01)
    it = source(tmp_path)
    changed = asyncio.Event()
    for number in range(2):
        agent = Agent()
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((agent,))
        server.add_insecure_port(f"unix:{tmp_path}/agent.sock")
        await server.start()
        issued = CA.issue(ID)
        agent.responses.put_nowait(svid(issued))
        if not number:
            await it.load()
            it.start(changed.set)
        else:
            async with asyncio.timeout(60):
                await changed.wait()
        assert der((await it.load()).certificate_pem) == der(issued.certificate_pem)
        await server.stop(None)
    it.stop()
