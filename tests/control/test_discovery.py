"""Endpoints to sidecars, without sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from meshproxy.codec.grpc import PREFIX_BYTES
from meshproxy.control import discovery as module
from meshproxy.control.channel import Paces
from meshproxy.control.discovery import EndpointService
from meshproxy.control.endpoints import EndpointTable
from meshproxy.control_api import WATCH_ENDPOINTS, EndpointsRequest, ServiceEndpoints
from meshproxy.refusal import GrpcStatus
from meshproxy.telemetry.control_metrics import ControlMetrics
from meshproxy.transport.grpc_server import CallFailed
from tests.control.test_distribution import NOW, FakeCall, turns, workload
from tests.control.test_endpoints import A, B, a_slice


class Call(FakeCall):
    """The stream of a sidecar."""

    def need(self, **services: str) -> None:
        request = EndpointsRequest({f"models/{name}": version for name, version in services.items()})
        self.send(msgspec.json.encode(request))

    def post(self, framed: bytes) -> None:
        assert self.is_drained
        self.sent.put_nowait(msgspec.json.decode(framed[PREFIX_BYTES:], type=ServiceEndpoints))  # type: ignore[arg-type]
        self.is_drained = self.reads

    async def sent_hosts(self) -> dict[str, list[str]]:
        """What was sent since the last time, by Service."""
        await turns()
        found = {}
        while not self.sent.empty():
            each: Any = self.sent.get_nowait()
            found[each.service] = [endpoint.address for endpoint in each.endpoints]
        return found


class World:
    def __init__(self) -> None:
        self.table = EndpointTable()
        self.metrics = ControlMetrics()
        self.service = EndpointService(self.table, self.metrics, lambda: NOW)
        self.table.name([A, B])
        self.table.replace([A, B], [a_slice(), a_slice(B, "two", "10.0.0.2")])

    @asynccontextmanager
    async def watching(self, call: Any) -> AsyncIterator[asyncio.Task[None]]:
        task: asyncio.Task[None] = asyncio.create_task(self.service.methods[WATCH_ENDPOINTS](call))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def sidecars(self) -> dict[str, Any]:
        shown: Any = self.service.describe()
        counts = {name: found["sidecars"] for name, found in shown.items()}
        entries = {each.service: (each.sidecars, each.endpoints) for each in self.service.entries()}
        assert entries == {name: (counts[name], len(found["endpoints"])) for name, found in shown.items()}
        return counts


@pytest.fixture
async def world() -> World:
    return World()


async def test_a_sidecar_is_given_what_it_needs_and_then_what_changes(world: World) -> None:
    call, other = Call(workload()), Call(workload())
    async with world.watching(call), world.watching(other):
        call.need(a="")
        other.need(b="")
        assert await call.sent_hosts() == {A: ["10.0.0.1"]}
        assert await other.sent_hosts() == {B: ["10.0.0.2"]}
        world.table.put(a_slice(A, "more", "10.0.0.3"))
        assert await call.sent_hosts() == {A: ["10.0.0.1", "10.0.0.3"]}
        assert await other.sent_hosts() == {}
        call.need(a="", b="")
        assert await call.sent_hosts() == {B: ["10.0.0.2"]}
        assert world.sidecars() == {A: 1, B: 2}
        call.need(b="")
        await turns()
        world.table.remove("models", "more")
        assert await call.sent_hosts() == {}
        assert world.sidecars() == {A: 0, B: 2}
        assert world.metrics.endpoint_updates.labels().value == 4
    assert world.sidecars() == {A: 0, B: 0}


async def test_one_that_has_it_is_sent_nothing(world: World) -> None:
    call = Call(workload())
    async with world.watching(call):
        call.need(a=world.table.current(A).endpoints.version, b="older")
        assert await call.sent_hosts() == {B: ["10.0.0.2"]}
        world.table.put(a_slice(A, "one", "10.0.0.9"))
        world.table.put(a_slice(A, "one", "10.0.0.1"))  # back before anything was sent
        assert await call.sent_hosts() == {}


async def test_several_changes_before_it_is_read_are_one(world: World) -> None:
    call = Call(workload())
    async with world.watching(call):
        call.need(a="")
        await call.sent_hosts()
        call.reads = False
        for number in range(10):
            world.table.put(a_slice(A, "one", f"10.0.1.{number}"))
            await turns()
        assert await call.sent_hosts() == {A: ["10.0.1.0"]}
        call.drained()
        await turns()
        assert call.sent.qsize() == 1
        assert await call.sent_hosts() == {A: ["10.0.1.9"]}


async def test_that_there_are_none_and_that_they_are_not_known(world: World) -> None:
    call = Call(workload())
    async with world.watching(call):
        call.need(a="", c="")
        await turns()
        sent: list[Any] = [await call.given(), await call.given()]
        assert sent[1].problem == "Service models/c: no ModelServer of the control plane names it"
        world.table.replace([A], [])
        gone: Any = await call.given()
        assert (gone.version, gone.problem) == ("", "Service models/a: there is none, or it has no EndpointSlice")
        world.table.name([A, "models/c"])
        known: Any = await call.given()
        assert "not read" in known.problem


async def test_too_many_services(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SERVICES", 1)
    call = Call(workload())
    async with world.watching(call) as task:
        call.need(a="", b="")
        with pytest.raises(CallFailed, match="2 Services are more than the 1") as caught:
            await task
    assert caught.value.status is GrpcStatus.RESOURCE_EXHAUSTED
    assert world.metrics.limits_exceeded.labels("control", "services").value == 1


async def test_too_many_requests(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.service, "_requests", Paces(1.0, 3.0))
    call = Call(workload())
    async with world.watching(call) as task:
        for _ in range(4):
            call.need(a="")
        with pytest.raises(CallFailed, match="too many streams or requests"):
            await task
    assert world.sidecars() == {A: 0, B: 0}


async def test_who_is_not_served(world: World) -> None:
    for peer, message, status in (
        (None, b"", GrpcStatus.UNAUTHENTICATED),
        (workload(), b"[]", GrpcStatus.INVALID_ARGUMENT),
        (workload(), b'{"services": {"models/a": 1}}', GrpcStatus.INVALID_ARGUMENT),
    ):
        call = Call(peer)
        call.send(message)
        async with world.watching(call) as task:
            with pytest.raises(CallFailed) as caught:
                await task
        assert caught.value.status is status
    assert world.sidecars() == {A: 0, B: 0}


async def test_a_stream_ends_with_its_certificate(world: World) -> None:
    call = Call(workload(not_after=NOW + 0.05))
    async with world.watching(call) as task:
        call.need(a="")
        with pytest.raises(CallFailed, match="has expired") as caught:
            async with asyncio.timeout(60):
                await task
    assert caught.value.status is GrpcStatus.UNAVAILABLE
    assert world.sidecars() == {A: 0, B: 0}


async def test_a_sidecar_that_leaves(world: World) -> None:
    call = Call(workload())
    async with world.watching(call) as task:
        call.need(a="")
        await call.sent_hosts()
        call.leave()
        async with asyncio.timeout(60):
            await task
    assert world.sidecars() == {A: 0, B: 0}
