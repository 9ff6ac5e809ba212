"""The methods of the control plane, called without a socket."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from meshproxy.audit.lines import Kind, read_line
from meshproxy.control import attestation, authority, channel, service_accounts
from meshproxy.control.attestation import Attestation, Shown, make_token
from meshproxy.control.audit import ControlAudit
from meshproxy.control.authority import Authority, RequestRefused, authority_of
from meshproxy.control.channel import (
    ASKING,
    ISSUE_BURST,
    REFUSAL_BURST,
    STATUSES,
    IdentityService,
    Paces,
)
from meshproxy.control.issued_keys import IssuedKeys
from meshproxy.control.leaf import Leaf
from meshproxy.control.leaves import FolderLeaves, Roll
from meshproxy.control.service_accounts import PodIdentity
from meshproxy.control.store import StoreError
from meshproxy.control_api import ISSUE, IssueRequest, IssueResponse, leaf_name, roots_digest
from meshproxy.identity.caller import Workload
from meshproxy.identity.certificates import Credentials, own_identity
from meshproxy.identity.pem import read_certificates
from meshproxy.refusal import GrpcStatus
from meshproxy.sidecar.new_key import make_key
from meshproxy.telemetry.control_metrics import ControlMetrics
from meshproxy.transport.connection_info import ConnectionInfo
from meshproxy.transport.grpc_server import CallFailed
from tests.audit.trails import line_of
from tests.control.shown import shown_tls
from tests.control.test_attestation import MemoryTokens
from tests.processes.waiting import until

NOW = float(int(time.time()))
ID = "spiffe://m.example/ns/models/sa/resnet"


class FakeCall:
    """A unary call."""

    def __init__(self, message: bytes, peer: Workload | None = None, remote: str = "10.0.0.1:40000") -> None:
        self.info = ConnectionInfo(direction="control", protocol="HTTP/2", remote=remote, local="", peer=peer)
        self._message = message
        self.sent: list[bytes] = []

    async def only_message(self) -> bytes:
        return self._message

    async def send(self, message: bytes) -> None:
        self.sent.append(message)


class Pods:
    """A cluster that knows the uids of pods by their tokens, which are the same."""

    def __init__(self) -> None:
        self.refusal: RequestRefused | None = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.asked = 0

    async def identify(self, token: str) -> PodIdentity:
        self.asked += 1
        await self.may_answer.wait()
        if self.refusal is not None:
            raise self.refusal
        return PodIdentity("models", "resnet", "resnet-0", token)


class World:
    def __init__(self, folder: Path) -> None:
        self.now = NOW
        self.lines: list[bytes] = []
        self.missing = ""
        """Why the trail cannot be written."""
        self.tokens = MemoryTokens()
        self.metrics = ControlMetrics()
        self.pods = Pods()
        attestation = Attestation(self.tokens, "m.example", self.pods)
        self.authority = Authority.create("m.example", NOW)
        self.leaves = FolderLeaves(folder)
        self.service = IdentityService(
            lambda: self.authority,
            attestation,
            IssuedKeys(folder / "keys"),
            Roll(self.leaves),
            3_600.0,
            self.metrics,
            lambda: self.now,
            ControlAudit(self.lines.append, lambda: self.now, lambda: self.missing),
        )

    async def issue(self, token: str = "", peer: Workload | None = None, **of_call: Any) -> IssueResponse:
        request = IssueRequest(of_call.pop("csr", None) or make_key().csr, token, of_call.pop("pod_token", ""))
        call: Any = FakeCall(msgspec.json.encode(request), peer, **of_call)
        await self.service.methods[ISSUE](call)
        (message,) = call.sent
        return msgspec.json.decode(message, type=IssueResponse)

    async def refused(self, *arguments: Any, **of_call: Any) -> tuple[GrpcStatus, str]:
        with pytest.raises(CallFailed) as caught:
            await self.issue(*arguments, **of_call)
        return caught.value.status, caught.value.message

    def counted(self, result: str, reason: str) -> float:
        return self.metrics.issuances.labels(result, reason).value


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_each_reason_has_a_status() -> None:
    assert set(STATUSES) == authority.REASONS | attestation.REASONS | {
        "key-reused",
        "rate",
        "store",
        "audit-unavailable",
    }


async def test_a_workload_joins_and_renews(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    key = make_key()
    response = await world.issue(make_token(world.tokens, ID, NOW, 60.0), csr=key.csr)
    credentials = Credentials(response.certificate.encode(), key.key_pem, response.roots.encode())
    identity = own_identity(credentials, "m.example", NOW)
    assert identity.workload.spiffe_id == ID
    assert identity.workload.not_after == NOW + 3_600.0
    await world.issue(peer=identity.workload)
    assert world.counted("ok", "") == 2
    attested = [record.__dict__["fields"]["attested_by"] for record in caplog.records]
    assert attested == ["join token", "certificate"]


async def test_a_certificate_is_on_the_roll_before_it_is_given_out(world: World) -> None:
    """With the bundle that comes with it, and the one that it replaces."""
    key = make_key()
    response = await world.issue(make_token(world.tokens, ID, NOW, 60.0), csr=key.csr)
    (der,) = read_certificates(response.certificate.encode())
    name, roots = leaf_name(der, NOW + 3_600.0), roots_digest(response.roots.encode())
    (first,) = world.leaves.valid(NOW)
    assert first == Leaf(name, ID, world.authority.id, roots, peer="10.0.0.1:40000")
    shown = Shown(ID, "m.example", "models", "resnet", NOW + 3_600.0, shown_tls(der))
    world.now += 60.0
    world.authority = Authority.create("m.example", NOW)  # another root signs
    await world.issue(peer=shown)
    first, second = world.leaves.valid(NOW)
    assert (first.name, second.replaces, second.authority) == (name, name, world.authority.id)


async def test_nothing_is_given_out_of_an_authority_that_was_replaced_meanwhile(world: World) -> None:
    """A control plane that says that it has noticed a step of a rotation has nothing left of the step before."""
    old, new = world.authority, Authority.create("m.example", NOW)
    write = world.leaves.write

    def rotated(leaves: Iterable[Leaf]) -> None:
        world.authority = new
        write(leaves)

    world.leaves.write = rotated  # type: ignore[method-assign]
    response = await world.issue(make_token(world.tokens, ID, NOW, 60.0))
    (der,) = read_certificates(response.certificate.encode())
    assert authority_of(der) == new.id
    assert response.roots == new.bundle_pem.decode()
    left, given = sorted(world.leaves.valid(NOW), key=lambda leaf: leaf.authority != old.id)
    assert (left.authority, left.is_replaced) == (old.id, True)
    assert (given.name, given.is_replaced) == (leaf_name(der, NOW + 3_600.0), False)


async def test_refusals_are_counted_and_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    assert await world.refused() == (
        GrpcStatus.UNAUTHENTICATED,
        "the request shows neither a certificate nor a token",
    )
    assert (await world.refused("mpj1-unknown"))[0] is GrpcStatus.UNAUTHENTICATED
    assert (await world.refused(csr=b"no request"))[0] is GrpcStatus.INVALID_ARGUMENT
    assert [world.counted("refused", reason) for reason in ("unattested", "join-token", "malformed")] == [1, 1, 1]
    assert [record.__dict__["fields"]["reason"] for record in caplog.records] == [
        "unattested",
        "join-token",
        "malformed",
    ]


async def test_a_bad_request_does_not_use_up_the_token(world: World) -> None:
    token = make_token(world.tokens, ID, NOW, 60.0)
    await world.refused(token, csr=b"no request")
    await world.issue(token)


async def test_one_identity_cannot_ask_without_end(world: World) -> None:
    peer = Workload(ID, "m.example", "models", "resnet", NOW + 60.0)
    for _ in range(int(ISSUE_BURST)):
        await world.issue(peer=peer)
    status, message = await world.refused(peer=peer)
    assert (status, message) == (
        GrpcStatus.RESOURCE_EXHAUSTED,
        f"too many certificates for {ID} at 10.0.0.1: wait a minute",
    )
    await world.issue(peer=peer, remote="10.0.0.2:40000")  # another replica
    other = Workload("spiffe://m.example/ns/models/sa/other", "m.example", "models", "other", NOW + 60.0)
    await world.issue(peer=other)
    world.now += 5.0
    await world.issue(peer=peer)


async def test_a_workload_of_another_trust_domain_gets_no_certificate(world: World) -> None:
    """The control plane may trust it, for documents."""
    peer = Workload("spiffe://n.example/ns/a/sa/b", "n.example", "a", "b", NOW + 60.0)
    status, message = await world.refused(peer=peer)
    assert status is GrpcStatus.PERMISSION_DENIED
    assert "is not in the trust domain m.example" in message


async def test_a_key_is_good_for_one_certificate(world: World) -> None:
    peer = Workload(ID, "m.example", "models", "resnet", NOW + 60.0)
    csr = make_key().csr
    await world.issue(peer=peer, csr=csr)
    assert (await world.refused(peer=peer, csr=csr))[0] is GrpcStatus.INVALID_ARGUMENT
    world.now += 3_601.0
    joined = make_token(world.tokens, ID, world.now, 60.0)
    await world.issue(joined, csr=csr)
    assert world.counted("refused", "key-reused") == 1


async def test_the_same_join_is_answered_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    token, csr = make_token(world.tokens, ID, NOW, 60.0), make_key().csr
    answer = await world.issue(token, csr=csr)
    assert (await world.issue(token, csr=csr)).certificate == answer.certificate
    assert (world.counted("ok", ""), len(world.lines)) == (1, 1)
    assert "was used before" in (await world.refused(token))[1]  # for another key
    assert "two tokens" in (await world.refused(token, csr=csr, pod_token="uid-of-the-pod"))[1]
    authority, world.authority = world.authority, Authority.create("m.example", NOW)
    assert (await world.refused(token, csr=csr))[0] is GrpcStatus.UNAUTHENTICATED
    world.authority = authority
    monkeypatch.setattr(channel, "JOINS_KEPT", 1)
    await world.issue(make_token(world.tokens, ID, NOW, 60.0))
    assert len(world.service._joins) == 1  # those that were refused have left nothing
    assert "was used before" in (await world.refused(token, csr=csr))[1]


async def test_whoever_leaves_while_it_joins_can_ask_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    token, csr, may_go_on = make_token(world.tokens, ID, NOW, 60.0), make_key().csr, threading.Event()
    claim = world.service._keys.claim
    monkeypatch.setattr(world.service._keys, "claim", lambda *key: may_go_on.wait(10.0) and claim(*key))
    first = asyncio.create_task(world.issue(token, csr=csr))
    await until(lambda: not world.tokens.tokens)
    first.cancel()
    await asyncio.wait([first])
    second = asyncio.create_task(world.issue(token, csr=csr))
    may_go_on.set()
    assert (await second).certificate
    assert (world.counted("ok", ""), len(world.lines), first.cancelled()) == (1, 1, True)


async def test_the_key_of_the_certificate_that_is_shown_is_refused_by_whoever_has_issued_it(
    world: World, tmp_path: Path
) -> None:
    key = make_key()
    issued = await world.issue(make_token(world.tokens, ID, NOW, 60.0), csr=key.csr)
    peer = Shown(
        ID, "m.example", "models", "resnet", NOW + 60.0, shown_tls(read_certificates(issued.certificate.encode())[0])
    )
    other = World(tmp_path / "other")  # has never seen the key
    assert "make a new key" in (await other.refused(peer=peer, csr=key.csr))[1]
    await other.issue(peer=peer)


async def test_a_pod_joins_with_the_token_of_its_service_account(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    response = await world.issue(pod_token="uid-of-the-pod")
    assert response.certificate
    (record,) = caplog.records
    fields = record.__dict__["fields"]
    assert (fields["spiffe_id"], fields["attested_by"]) == (ID, "service-account token")
    assert fields["pod"] == "models/resnet-0 uid-of-the-pod"


async def test_replicas_of_one_account_do_not_wait_for_each_other(world: World) -> None:
    """But whoever replays the token of one pod waits."""
    for replica in range(3 * int(ISSUE_BURST)):
        await world.issue(pod_token=f"replica-{replica}")
    for _ in range(int(ISSUE_BURST) - 1):
        await world.issue(pod_token="replica-0")
    status, message = await world.refused(pod_token="replica-0")
    assert status is GrpcStatus.RESOURCE_EXHAUSTED
    assert message == f"too many certificates for {ID} pod replica-0: wait a minute"


async def test_each_refusal_of_a_token_is_counted(world: World) -> None:
    for reason in sorted(service_accounts.REASONS):
        world.pods.refusal = RequestRefused(reason, "why")
        assert await world.refused(pod_token="t", remote=f"10.0.1.1:{len(reason)}") == (
            GrpcStatus.UNAUTHENTICATED,
            "why",
        )
        assert world.counted("refused", reason) == 1


async def test_an_api_server_that_is_away_is_nobodys_fault(world: World) -> None:
    world.pods.refusal = RequestRefused("cluster", "away")
    for _ in range(2 * int(REFUSAL_BURST)):
        assert await world.refused(pod_token="t") == (GrpcStatus.UNAVAILABLE, "away")
    world.pods.refusal = None
    await world.issue(pod_token="t")
    assert world.counted("refused", "cluster") == 2 * REFUSAL_BURST


async def test_one_address_cannot_keep_the_cluster_busy(world: World) -> None:
    world.pods.may_answer.clear()
    asking = [asyncio.create_task(world.issue(pod_token=f"uid-{number}")) for number in range(ASKING)]
    await until(lambda: world.pods.asked == ASKING)
    assert await world.refused(pod_token="one more") == (
        GrpcStatus.RESOURCE_EXHAUSTED,
        f"{ASKING} requests from 10.0.0.1 are being looked at: try again",
    )
    elsewhere = asyncio.create_task(world.issue(pod_token="x", remote="10.0.0.2:1"))
    await until(lambda: world.pods.asked == ASKING + 1)
    world.pods.may_answer.set()
    await asyncio.gather(*asking, elsewhere)
    await world.issue(pod_token="one more")


async def test_a_certificate_does_not_help_with_guesses_of_tokens(world: World) -> None:
    world.pods.refusal = RequestRefused("token-unauthenticated", "why")
    peer = Workload(ID, "m.example", "models", "resnet", NOW + 60.0)
    for _ in range(int(REFUSAL_BURST)):
        await world.refused(peer=peer, pod_token="guess")
    assert (await world.refused(peer=peer, pod_token="guess"))[0] is GrpcStatus.RESOURCE_EXHAUSTED
    await world.issue(peer=peer)


async def test_guesses_from_one_address_stop_being_looked_at(world: World) -> None:
    for port in range(int(REFUSAL_BURST)):
        await world.refused("mpj1-guess", remote=f"10.0.0.9:{40_000 + port}")
    good = make_token(world.tokens, ID, NOW, 60.0)
    assert (await world.refused(good, remote="10.0.0.9:1"))[0] is GrpcStatus.RESOURCE_EXHAUSTED
    await world.issue(good, remote="10.0.0.10:1")  # from elsewhere, and not used up


async def test_a_store_that_fails_is_not_the_workloads_fault(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(digest: str) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(world.tokens, "take_token", fail)
    assert await world.refused("mpj1-x") == (GrpcStatus.UNAVAILABLE, "the disk is full")


async def test_without_a_trail_nothing_is_issued_and_the_token_is_kept(world: World) -> None:
    token = make_token(world.tokens, ID, NOW, 600.0)
    world.missing = "No space left on device"
    status, message = await world.refused(token)
    assert (status, world.counted("refused", "audit-unavailable")) == (GrpcStatus.UNAVAILABLE, 1.0)
    assert "No space left on device" in message
    world.missing = ""
    await world.issue(token)
    assert [read_line(line_of(body)).kind for body in world.lines] == [
        Kind.CERTIFICATE_REFUSED,
        Kind.CERTIFICATE_ISSUED,
    ]


async def test_a_message_of_another_kind(world: World) -> None:
    for message in (b"", b"[]", b'{"csr": 1}', b"{", b'{"x":' + b"[" * 50_000):
        call: Any = FakeCall(message)
        with pytest.raises(CallFailed, match="not a IssueRequest") as caught:
            await world.service.issue(call)
        assert caught.value.status is GrpcStatus.INVALID_ARGUMENT


async def test_members_that_are_not_known_are_ignored(world: World) -> None:
    request = msgspec.to_builtins(IssueRequest(make_key().csr, make_token(world.tokens, ID, NOW, 60.0)))
    call: Any = FakeCall(msgspec.json.encode({**request, "later": True}))
    await world.service.issue(call)
    assert len(call.sent) == 1


def test_paces_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "PACES_KEPT", 2)
    paces = Paces(1.0, 1.0)
    assert [paces.take(key, 0.0) for key in "abc"] == [True] * 3
    assert not paces.is_exhausted("a", 0.0)  # forgotten
    assert paces.is_exhausted("c", 0.0)


def test_a_key_that_has_used_nothing_is_forgotten() -> None:
    paces = Paces(1.0, 5.0)
    paces.take("a", 0.0)
    paces.charge("b", 0.0)
    paces.charge("b", 0.0)
    assert paces.take("c", 1.5)
    assert list(paces._buckets) == ["b", "c"]
    assert paces.take("c", 9.0)
    assert list(paces._buckets) == ["c"]


def test_a_clock_that_was_set_back_locks_nobody_out() -> None:
    paces = Paces(1.0, 1.0)
    assert paces.take("a", 10_000.0)
    assert not paces.take("a", 9_999.5)
    assert paces.take("a", 6_400.0)
    assert not paces.take("a", 6_400.5)
    assert paces.is_exhausted("a", 6_400.5)
    assert not paces.is_exhausted("a", 3_600.0)
