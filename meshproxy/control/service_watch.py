"""The EndpointSlices of the Services that documents name, from the API server: one watch for each of their namespaces,
which asks for those Services only. What other Services of the cluster do costs nothing here."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
from lightkube.generic_resource import create_namespaced_resource

from meshproxy.control.reflector import Reflector
from meshproxy.control.slices import SERVICE_NAME, EndpointSlice

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lightkube import AsyncClient

    from meshproxy.control.endpoints import EndpointTable
    from meshproxy.control.reflector import Key
    from meshproxy.telemetry.control_metrics import ControlMetrics

# Objects as mappings, which cost less to read than the classes of lightkube.
_Resource = create_namespaced_resource("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")


class ServiceWatch:
    """Keeps a table up to date.

    Args:
        client: of the API server.
        table: says which Services are named, and is told of their slices.
    """

    def __init__(self, client: AsyncClient, table: EndpointTable, metrics: ControlMetrics) -> None:
        self._client = client
        self._table = table
        self._metrics = metrics
        self._named = asyncio.Event()
        table.on_named = self._named.set

    async def run(self) -> None:
        """Follow the slices until cancelled."""
        running: dict[str, tuple[frozenset[str], asyncio.Task[None]]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                self._named.clear()
                wanted = by_namespace(self._table.named)
                for namespace in list(running):
                    if running[namespace][0] != wanted.get(namespace):
                        running.pop(namespace)[1].cancel()
                for namespace, names in wanted.items():
                    if namespace not in running:
                        running[namespace] = names, group.create_task(self._follow(namespace, names))
                await self._named.wait()

    async def _follow(self, namespace: str, names: frozenset[str]) -> None:
        services = {f"{namespace}/{name}" for name in names}
        is_known = False

        def changed(keys: Iterable[Key]) -> None:
            nonlocal is_known
            slices = reflector.values
            if not is_known:
                is_known = True
                self._table.replace(services, slices.values())
                return
            for key in keys:
                if (found := slices.get(key)) is not None:
                    self._table.put(found)
                else:
                    self._table.remove(*key)

        labels = {SERVICE_NAME: sorted(names)}
        reflector = Reflector(self._client, _Resource, read, changed, self._metrics, namespace, labels)
        await reflector.run()


def by_namespace(services: Iterable[str]) -> dict[str, frozenset[str]]:
    """The names of Services (`NAMESPACE/NAME`) by their namespace."""
    found: dict[str, set[str]] = {}
    for service in services:
        namespace, _, name = service.partition("/")
        found.setdefault(namespace, set()).add(name)
    return {namespace: frozenset(names) for namespace, names in found.items()}


def read(shown: Any) -> EndpointSlice:
    """A slice as lightkube has it.

    Raises:
        msgspec.ValidationError: it has another form.
    """
    of = shown.metadata
    metadata = {"name": of.name, "namespace": of.namespace, "labels": of.labels}
    return msgspec.convert({**shown, "metadata": metadata}, EndpointSlice)
