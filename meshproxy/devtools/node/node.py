"""The nodes: pods are bound to one of them, run and reported, and addresses of Services lead to pods."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightkube.generic_resource import create_namespaced_resource
from lightkube.models.core_v1 import NodeCondition, NodeStatus, NodeSystemInfo, ObjectReference
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Node, Pod

from meshproxy.control.cluster import FAILURES
from meshproxy.control.reflector import Key, Reflector
from meshproxy.devtools.node import names, services
from meshproxy.devtools.node.network import ADDRESS, SERVICES
from meshproxy.devtools.node.worker import PodWorker, Site
from meshproxy.telemetry.control_metrics import ControlMetrics

if TYPE_CHECKING:
    from lightkube.core.resource import NamespacedResourceG

logger = logging.getLogger(__name__)

HOSTNAME = "kubernetes.io/hostname"
KUBELET = "v1.37.0"
"""The release of the kubelet that is stood in for: with native sidecars."""
PAUSE = 0.5
"""Seconds until pods that no node takes are looked at again."""


def choose(nodes: Iterable[Mapping[str, Any]], pods: Iterable[Mapping[str, Any]]) -> str | None:
    """The node for the next pod: of those that take pods, the one that has the fewest. None: none does."""
    counts = {node["metadata"]["name"]: 0 for node in nodes if not (node.get("spec") or {}).get("unschedulable")}
    for pod in pods:
        name = pod["spec"].get("nodeName")
        if name in counts:
            counts[name] += 1
    return min(counts, key=lambda name: (counts[name], name), default=None)


def _information() -> NodeSystemInfo:
    """What a node says about itself. The API server takes none of these left out."""
    system = os.uname()
    return NodeSystemInfo(
        architecture=system.machine,
        bootID="",
        containerRuntimeVersion="process://1",
        kernelVersion=system.release,
        kubeProxyVersion="",
        kubeletVersion=KUBELET,
        machineID="",
        operatingSystem="linux",
        osImage="",
        systemUUID="",
    )


class Nodes:
    """Nodes on one machine. See `nodes`."""

    def __init__(self, site: Site, node_names: Collection[str]) -> None:
        self._site = site
        self._names = node_names
        self._workers: dict[str, PodWorker] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._over: set[str] = set()
        """Pods that are no longer run: events about them may come late."""
        self._unbound = asyncio.Event()
        self._name_server = names.NameServer()
        metrics = ControlMetrics()

        def follow(group: str, kind: str, plural: str, changed: Any) -> Reflector[Any]:
            resource: type[NamespacedResourceG] = create_namespaced_resource(group, "v1", kind, plural)
            return Reflector(site.client, resource, dict, changed, metrics, "*")

        self._pods = follow("", "Pod", "pods", self._note_pods)
        self._services = follow("", "Service", "services", self._note_services)
        self._slices = follow("discovery.k8s.io", "EndpointSlice", "endpointslices", self._note_services)

    def log(self, pod: str, container: str) -> Path | None:
        """The output of a container. None: no pod of this name is run."""
        for worker in self._workers.values():
            if worker.shown["metadata"]["name"] == pod:
                return worker.log(container)
        return None

    async def run(self) -> None:
        """Run pods until cancelled; then they are killed."""
        for name in self._names:
            await self._register(name)
        await self._name_server.listen(ADDRESS)
        try:
            async with asyncio.TaskGroup() as group:
                for each in (self._pods, self._services, self._slices):
                    group.create_task(each.run())
                group.create_task(self._bind())
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            self._name_server.close()

    async def _register(self, name: str) -> None:
        client = self._site.client
        await client.create(Node(metadata=ObjectMeta(name=name, labels={HOSTNAME: name})))
        conditions = [NodeCondition(type="Ready", status="True")]
        capacity: Any = {"cpu": "8", "memory": "16Gi", "pods": "110"}
        status = NodeStatus(conditions=conditions, capacity=capacity, allocatable=capacity, nodeInfo=_information())
        await client.patch(Node.Status, name, {"status": status.to_dict()})
        # What the API server puts on each new node, and the controller of nodes takes away once it is ready.
        await client.patch(Node, name, {"spec": {"taints": None}})

    def _note_pods(self, keys: Collection[Key]) -> None:
        for key in keys:
            shown = self._pods.values.get(key)
            gone = [
                uid
                for uid, worker in self._workers.items()
                if (worker.shown["metadata"]["namespace"], worker.shown["metadata"]["name"]) == key
                and (shown is None or shown["metadata"]["uid"] != uid)
            ]
            for uid in gone:
                self._tasks[uid].cancel()
            if shown is None:
                continue
            uid, node = shown["metadata"]["uid"], shown["spec"].get("nodeName")
            if node is None:
                self._unbound.set()
            elif uid in self._workers:
                self._workers[uid].update(shown)
            elif node in self._names and uid not in self._over:
                self._begin(uid, PodWorker(self._site, shown))

    def _begin(self, uid: str, worker: PodWorker) -> None:
        async def run() -> None:
            try:
                await worker.run()
            except Exception:
                logger.exception("a pod is no longer run", extra={"fields": {"pod": worker.shown["metadata"]["name"]}})
                raise
            finally:
                del self._workers[uid], self._tasks[uid]
                self._over.add(uid)

        self._workers[uid] = worker
        self._tasks[uid] = asyncio.ensure_future(run())

    def _note_services(self, keys: Collection[Key]) -> None:
        known = list(self._services.values.values())
        ports = services.service_ports(known, self._slices.values.values())
        self._site.machine.translate(services.rules(ports, SERVICES))
        self._name_server.names = names.service_names(known)

    async def _bind(self) -> None:
        """What a scheduler does."""
        client = self._site.client
        while True:
            await self._unbound.wait()
            self._unbound.clear()
            for shown in list(self._pods.values.values()):
                metadata = shown["metadata"]
                if shown["spec"].get("nodeName") or "deletionTimestamp" in metadata:
                    continue
                try:
                    found = [node.to_dict() async for node in client.list(Node)]
                    bound = [pod.to_dict() async for pod in client.list(Pod, namespace="*")]
                    if name := choose((node for node in found if node["metadata"]["name"] in self._names), bound):
                        target = ObjectReference(apiVersion="v1", kind="Node", name=name)
                        binding = Pod.Binding(metadata=ObjectMeta(name=metadata["name"]), target=target)
                        await client.create(binding, metadata["name"], namespace=metadata["namespace"])
                        continue
                except FAILURES as error:  # it may be gone
                    logger.info("pod not bound", extra={"fields": {"pod": metadata["name"], "problem": str(error)}})
                self._unbound.set()
            if self._unbound.is_set():
                await asyncio.sleep(PAUSE)


@asynccontextmanager
async def nodes(site: Site, node_names: Collection[str]) -> AsyncIterator[Nodes]:
    """Nodes of these names, which are there as long as this lasts. Raises what ended them before."""
    standing = Nodes(site, node_names)
    task = asyncio.ensure_future(standing.run())
    try:
        yield standing
        if task.done():
            task.result()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
