"""What a watch of Services does, whoever the API server is: run against the fake one by `make test`, against a real one
by `make e2e`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from lightkube import AsyncClient
from lightkube.generic_resource import create_namespaced_resource
from lightkube.models.meta_v1 import ObjectMeta

from meshproxy.control.endpoints import EndpointTable
from meshproxy.control.service_watch import ServiceWatch
from meshproxy.control.slices import SERVICE_NAME
from meshproxy.telemetry.control_metrics import ControlMetrics
from tests.background import running
from tests.control.following import ReflectorTests, Server
from tests.processes.waiting import until

Slice = create_namespaced_resource("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")


def a_slice(name: str, service: str, *hosts: str, port: int = 8500) -> Any:
    endpoints = [{"addresses": [host], "conditions": {}} for host in hosts]
    return Slice(
        metadata=ObjectMeta(name=name, labels={SERVICE_NAME: service}),
        addressType="IPv4",
        ports=[{"name": "grpc", "port": port, "protocol": "TCP"}],
        endpoints=endpoints,
    )


class Watching:
    """Follows Services of a namespace."""

    def __init__(self, client: AsyncClient, namespace: str) -> None:
        self.client = client
        self.namespace = namespace
        self.table = EndpointTable()
        self.changed: list[str] = []
        self.table.on_change = self.changed.append
        self.watch = ServiceWatch(client, self.table, ControlMetrics())

    def name(self, *services: str) -> None:
        self.table.name(f"{self.namespace}/{service}" for service in services)

    def hosts(self, service: str) -> list[str] | None:
        """None: not known."""
        found = self.table.current(f"{self.namespace}/{service}").endpoints
        return [each.address for each in found.endpoints] if found.version else None

    async def become(self, service: str, *hosts: str) -> None:
        await until(lambda: self.hosts(service) == list(hosts))

    async def write(self, each: Any) -> None:
        each.metadata.namespace = self.namespace
        await self.client.apply(each, force=True)

    async def delete(self, name: str) -> None:
        await self.client.delete(Slice, name, namespace=self.namespace)


@asynccontextmanager
async def watching(client: AsyncClient, namespace: str) -> AsyncIterator[Watching]:
    it = Watching(client, namespace)
    async with running(it.watch.run()):
        yield it


class WatchingTests(ReflectorTests):
    """Whoever inherits from this has the fixture `server`."""

    async def test_slices_of_the_services_that_are_named(self, server: Server) -> None:
        async with watching(server.client, server.namespace) as it:
            await it.write(a_slice("a-1", "a", "10.0.0.1"))
            await it.write(a_slice("b-1", "b", "10.0.0.2"))
            it.name("a")
            await it.become("a", "10.0.0.1")
            await it.write(a_slice("a-2", "a", "10.0.0.3"))
            await it.become("a", "10.0.0.1", "10.0.0.3")
            it.name("a", "b", "c")
            await it.become("b", "10.0.0.2")
            assert it.hosts("a") == ["10.0.0.1", "10.0.0.3"]
            assert it.hosts("c") is None
            await it.delete("a-1")
            await it.become("a", "10.0.0.3")
            it.name("b")
            await it.write(a_slice("b-1", "b", "10.0.0.9"))
            await it.become("b", "10.0.0.9")
            assert it.hosts("a") is None

    async def test_what_others_do_is_not_heard(self, server: Server) -> None:
        async with watching(server.client, server.namespace) as it:
            it.name("a")
            await it.write(a_slice("a-1", "a", "10.0.0.1"))
            await it.become("a", "10.0.0.1")
            seen = len(it.changed)
            await it.write(a_slice("b-1", "b", "10.0.0.2"))
            await it.write(a_slice("a-1", "a", "10.0.0.3"))
            await it.become("a", "10.0.0.3")
            assert len(it.changed) == seen + 1

    async def test_an_api_server_that_is_away(self, server: Server) -> None:
        async with watching(server.client, server.namespace) as it:
            await it.write(a_slice("a-1", "a", "10.0.0.1"))
            it.name("a")
            await it.become("a", "10.0.0.1")
            await server.stop()
            await asyncio.sleep(0.05)
            assert it.hosts("a") == ["10.0.0.1"]
            await server.start()
            await it.delete("a-1")
            await it.write(a_slice("a-2", "a", "10.0.0.2"))
            await it.become("a", "10.0.0.2")
