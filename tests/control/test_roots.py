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

from meshproxy.control.attestation import Shown
from meshproxy.control.current_authority import CurrentAuthority
from meshproxy.control.leaf import Leaf
from meshproxy.control.leaves import FolderLeaves, Roll
from meshproxy.control.roots import RootsService
from meshproxy.control.rotator import Rotator
from meshproxy.control.store import FolderStore
from meshproxy.control_api import ROOTS, Roots, RootsReport, leaf_name, roots_digest
from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.identity.caller import Workload
from meshproxy.refusal import GrpcStatus
from meshproxy.transport.connection_info import ConnectionInfo
from meshproxy.transport.grpc_server import CallFailed

NOW = float(int(time.time()))
ID = "spiffe://m.example/ns/a/sa/b"


class FakeCall:
    """A stream of a sidecar: what it sends, and what it was sent."""

    def __init__(self, peer: Workload | None) -> None:
        self.info = ConnectionInfo(direction="control", protocol="HTTP/2", remote="10.0.0.1:1", local="", peer=peer)
        self.messages: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.sent: asyncio.Queue[bytes] = asyncio.Queue()

    def __aiter__(self) -> FakeCall:
        return self

    async def __anext__(self) -> bytes:
        message = await self.messages.get()
        if message is None:
            raise StopAsyncIteration
        return message

    async def send(self, message: bytes) -> None:
        self.sent.put_nowait(message)

    def say(self, leaf: str, roots: str) -> None:
        self.messages.put_nowait(msgspec.json.encode(RootsReport("resnet", leaf, roots, "1.0")))

    async def given(self) -> bytes:
        async with asyncio.timeout(5):
            return msgspec.json.decode(await self.sent.get(), type=Roots).roots.encode()


class World:
    def __init__(self, folder: Path) -> None:
        self.store = FolderStore(folder)
        self.authority = CurrentAuthority(self.store, "m.example", NOW)
        self.leaves = FolderLeaves(folder)
        self.roll = Roll(self.leaves)
        self.service = RootsService(self.authority, self.roll, lambda: NOW)
        der = DevelopmentCA.create("m.example").issue(ID).der
        self.peer = Shown(ID, "m.example", "a", "b", NOW + 60.0, der)
        self.leaf = leaf_name(der, NOW + 60.0)
        self.bundle = self.authority().bundle_pem

    @asynccontextmanager
    async def watching(self, call: Any) -> AsyncIterator[asyncio.Task[None]]:
        task: asyncio.Task[None] = asyncio.create_task(self.service.methods[ROOTS](call))  # type: ignore[arg-type]
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_each_new_bundle_reaches_a_sidecar(world: World) -> None:
    call = FakeCall(world.peer)
    call.say(world.leaf, roots_digest(world.bundle))
    async with world.watching(call):
        await asyncio.sleep(0)
        Rotator(world.store, lambda: NOW).forward()
        both = world.authority().bundle_pem
        assert await call.given() == both != world.bundle
        assert call.sent.empty()
        call.say(world.leaf, roots_digest(both))
        call.messages.put_nowait(None)
        await asyncio.sleep(0.01)
    await world.roll.flush()
    (leaf,) = world.leaves.valid(NOW)
    assert (leaf.name, leaf.spiffe_id, leaf.roots) == (world.leaf, ID, roots_digest(both))
    assert (leaf.sidecar, leaf.peer) == ("resnet", "10.0.0.1:1")


async def test_one_that_has_another_bundle_gets_this_one_at_once(world: World) -> None:
    call = FakeCall(world.peer)
    call.say(world.leaf, "another")
    async with world.watching(call):
        assert await call.given() == world.bundle


async def test_a_sidecar_that_uses_the_next_certificate_says_so(world: World) -> None:
    """On the connection that it has made with the one before."""
    following = Leaf(leaf_name(b"next", NOW + 120.0), ID, "a1", replaces=world.leaf)
    await world.roll.issued(Leaf(world.leaf, ID, "a1"))
    await world.roll.issued(following)
    call = FakeCall(world.peer)
    call.say(following.name, "other")
    async with world.watching(call):
        await call.given()
    await world.roll.flush()
    first, second = world.leaves.valid(NOW)
    assert (first.is_replaced, second.roots) == (True, "other")


@pytest.mark.parametrize(
    ("message", "status", "says"),
    [
        (b"{", GrpcStatus.INVALID_ARGUMENT, "is not a RootsReport"),
        (None, GrpcStatus.INVALID_ARGUMENT, "says first what it has"),
        (
            msgspec.json.encode(RootsReport("resnet", "../../authority-key.pem", "x")),
            GrpcStatus.INVALID_ARGUMENT,
            "not the name of a certificate",
        ),
    ],
)
async def test_what_makes_no_sense(world: World, message: bytes | None, status: GrpcStatus, says: str) -> None:
    call = FakeCall(world.peer)
    call.messages.put_nowait(message)
    async with world.watching(call) as task:
        with pytest.raises(CallFailed, match=says) as caught:
            await task
    assert caught.value.status is status


async def test_without_a_certificate(world: World) -> None:
    async with world.watching(FakeCall(None)) as task:
        with pytest.raises(CallFailed, match="for sidecars that show their certificate"):
            await task


async def test_a_stream_ends_with_the_certificate_that_it_began_with(world: World) -> None:
    call = FakeCall(Shown(ID, "m.example", "a", "b", NOW - 1.0, world.peer.certificate))
    call.say(world.leaf, roots_digest(world.bundle))
    async with world.watching(call) as task:
        with pytest.raises(CallFailed, match="has expired") as caught:
            await task
    assert caught.value.status is GrpcStatus.UNAVAILABLE


async def test_the_bundle_is_not_for_workloads_of_other_trust_domains(tmp_path: Path) -> None:
    world = World(tmp_path)
    der = DevelopmentCA.create("n.example").issue("spiffe://n.example/ns/a/sa/b").der
    call = FakeCall(Shown("spiffe://n.example/ns/a/sa/b", "n.example", "a", "b", NOW + 60.0, der))
    async with world.watching(call) as task:
        with pytest.raises(CallFailed) as caught:
            await task
    assert caught.value.status is GrpcStatus.PERMISSION_DENIED
