"""The trust bundle to sidecars, without sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from meshproxy.codec.grpc import Deframer, Misframed
from meshproxy.control.attestation import Shown
from meshproxy.control.current_authority import CurrentAuthority
from meshproxy.control.distribution import REPORT_BURST
from meshproxy.control.leaf import Leaf
from meshproxy.control.leaves import FolderLeaves, Roll
from meshproxy.control.roots import RootsService
from meshproxy.control.rotator import Rotator
from meshproxy.control.store import FolderStore
from meshproxy.control_api import ROOTS, Roots, RootsReport, leaf_name, roots_digest
from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.identity.caller import Workload
from meshproxy.refusal import GrpcStatus
from meshproxy.transport.grpc_server import CallFailed
from tests.control.shown import shown_tls
from tests.control.test_distribution import FakeCall
from tests.processes.waiting import until

NOW = float(int(time.time()))
ID = "spiffe://m.example/ns/a/sa/b"


class Call(FakeCall):
    """The stream of a sidecar, and the bundles that it was sent."""

    def __init__(self, peer: Workload | None) -> None:
        super().__init__(peer)
        self.bundles: list[bytes] = []

    def post(self, framed: bytes) -> None:
        (part,) = Deframer().receive(framed)
        assert not isinstance(part, Misframed)
        self.bundles.append(msgspec.json.decode(part.data, type=Roots).roots.encode())

    def report(self, leaf: str, roots: str) -> None:
        self.send(msgspec.json.encode(RootsReport("resnet", leaf, roots, "1.0")))


class World:
    def __init__(self, folder: Path) -> None:
        self.store = FolderStore(folder)
        self.authority = CurrentAuthority(self.store, "m.example", NOW)
        self.leaves = FolderLeaves(folder)
        self.roll = Roll(self.leaves)
        self.service = RootsService(self.authority(), self.roll, lambda: NOW)
        self.authority.changed = self.service.change
        der = DevelopmentCA.create("m.example").issue(ID).der
        self.peer = Shown(ID, "m.example", "a", "b", NOW + 60.0, shown_tls(der))
        self.leaf = leaf_name(der, NOW + 60.0)
        self.bundle = self.authority().bundle_pem

    @asynccontextmanager
    async def watching(self, call: Any) -> AsyncIterator[asyncio.Task[None]]:
        task: asyncio.Task[None] = asyncio.create_task(self.service.methods[ROOTS](call))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_each_new_bundle_reaches_a_sidecar(world: World) -> None:
    call = Call(world.peer)
    call.report(world.leaf, roots_digest(world.bundle))
    async with world.watching(call) as task:
        await asyncio.sleep(0)
        Rotator(world.store, world.leaves, lambda: NOW).forward()
        both = world.authority().bundle_pem
        await until(lambda: call.bundles)
        assert call.bundles == [both] != [world.bundle]
        call.report(world.leaf, roots_digest(both))
        call.leave()
        await task
    assert call.bundles == [both]
    await world.roll.flush()
    (leaf,) = world.leaves.valid(NOW)
    assert (leaf.name, leaf.spiffe_id, leaf.roots) == (world.leaf, ID, roots_digest(both))
    assert (leaf.sidecar, leaf.peer) == ("resnet", "10.0.0.1:1")


async def test_one_that_has_another_bundle_gets_this_one_at_once_and_once(world: World) -> None:
    """It may have a reason not to take it."""
    call = Call(world.peer)
    async with world.watching(call) as task:
        await asyncio.sleep(0)
        assert call.bundles == []  # it has not said yet what it has
        call.report(world.leaf, "another")
        await until(lambda: call.bundles)
        call.report(world.leaf, "another")
        call.leave()
        await task
    assert call.bundles == [world.bundle]


async def test_one_that_does_not_read_is_not_sent_more(world: World) -> None:
    call = Call(world.peer)
    call.is_drained = False
    call.report(world.leaf, "another")
    async with world.watching(call):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert call.bundles == []
        call.is_drained = True
        call.wake()
        await until(lambda: call.bundles == [world.bundle])


async def test_a_sidecar_that_uses_the_next_certificate_says_so(world: World) -> None:
    """On the connection that it has made with the one before."""
    following = Leaf(leaf_name(b"next", NOW + 120.0), ID, "a1", replaces=world.leaf)
    await world.roll.issued(Leaf(world.leaf, ID, "a1"))
    await world.roll.issued(following)
    call = Call(world.peer)
    call.report(following.name, "other")
    call.leave()
    async with world.watching(call) as task:
        await task
    await world.roll.flush()
    first, second = world.leaves.valid(NOW)
    assert (first.is_replaced, second.roots) == (True, "other")


async def test_reports_without_end_are_refused(world: World) -> None:
    call = Call(world.peer)
    for _ in range(int(REPORT_BURST) + 1):
        call.report(world.leaf, roots_digest(world.bundle))
    async with world.watching(call) as task:
        with pytest.raises(CallFailed, match="too many streams or reports") as caught:
            await task
    assert caught.value.status is GrpcStatus.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("message", "status", "says"),
    [
        (b"{", GrpcStatus.INVALID_ARGUMENT, "is not a RootsReport"),
        (
            msgspec.json.encode(RootsReport("resnet", "../../authority-key.pem", "x")),
            GrpcStatus.INVALID_ARGUMENT,
            "not the name of a certificate",
        ),
        (
            msgspec.json.encode(RootsReport("s" * 257, leaf_name(b"x", NOW), "x")),
            GrpcStatus.INVALID_ARGUMENT,
            "is not a RootsReport",
        ),
        (
            msgspec.json.encode(RootsReport("resnet", leaf_name(b"x", NOW), "x" * 257)),
            GrpcStatus.INVALID_ARGUMENT,
            "is not a RootsReport",
        ),
    ],
)
async def test_what_makes_no_sense(world: World, message: bytes, status: GrpcStatus, says: str) -> None:
    call = Call(world.peer)
    call.send(message)
    async with world.watching(call) as task:
        with pytest.raises(CallFailed, match=says) as caught:
            await task
    assert caught.value.status is status


async def test_without_a_certificate(world: World) -> None:
    async with world.watching(Call(None)) as task:
        with pytest.raises(CallFailed, match="for sidecars that show their certificate"):
            await task


async def test_of_another_trust_domain(world: World) -> None:
    """It may have documents, and has its bundle from elsewhere."""
    async with world.watching(Call(Shown(ID, "n.example", "a", "b", NOW + 60.0, world.peer.tls))) as task:
        with pytest.raises(CallFailed, match="for sidecars with a certificate from here") as caught:
            await task
    assert caught.value.status is GrpcStatus.PERMISSION_DENIED


async def test_a_stream_ends_with_the_certificate_that_it_began_with(world: World) -> None:
    call = Call(Shown(ID, "m.example", "a", "b", NOW - 1.0, world.peer.tls))
    call.report(world.leaf, roots_digest(world.bundle))
    async with world.watching(call) as task:
        with pytest.raises(CallFailed, match="has expired") as caught:
            await task
    assert caught.value.status is GrpcStatus.UNAVAILABLE


async def test_the_bundle_is_not_for_workloads_of_other_trust_domains(tmp_path: Path) -> None:
    world = World(tmp_path)
    der = DevelopmentCA.create("n.example").issue("spiffe://n.example/ns/a/sa/b").der
    call = Call(Shown("spiffe://n.example/ns/a/sa/b", "n.example", "a", "b", NOW + 60.0, shown_tls(der)))
    async with world.watching(call) as task:
        with pytest.raises(CallFailed) as caught:
            await task
    assert caught.value.status is GrpcStatus.PERMISSION_DENIED
