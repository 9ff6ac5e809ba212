"""Endpoints on their way to the sidecars: one stream for each sidecar whose documents name Services."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from meshproxy.control.channel import Paces, decode
from meshproxy.control.expiries import Expiries
from meshproxy.control.status import ServiceEntry
from meshproxy.control_api import WATCH_ENDPOINTS, EndpointsRequest
from meshproxy.identity.caller import Workload
from meshproxy.refusal import GrpcStatus
from meshproxy.transport.grpc_server import CallFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.control.endpoints import EndpointTable
    from meshproxy.telemetry.control_metrics import ControlMetrics
    from meshproxy.transport.grpc_server import Method, ServerCall

SERVICES = 256
"""Of one sidecar."""
REQUEST_RATE = 5.0
REQUEST_BURST = 100.0
"""Streams and requests of one identity at one address, a second: a sidecar asks when its documents change."""


class _Watcher:
    """A sidecar that is connected."""

    def __init__(self, call: ServerCall) -> None:
        self.call = call
        self.has: dict[str, tuple[str, str]] = {}
        """Each Service that it needs -> version and problem that it was sent last."""
        self.due: dict[str, None] = {}
        """Services that may have others for it, the one that has waited longest first."""

    def mark(self, service: str) -> None:
        """It may be due something for this Service. Several changes before it is sent are one."""
        self.due[service] = None
        self.call.wake()


class EndpointService:
    """Gives each sidecar the endpoints of the Services that it asks for and documents name.

    A change is computed and encoded once, and sent to those that asked for its Service; others notice nothing.
    """

    def __init__(self, table: EndpointTable, metrics: ControlMetrics, clock: Callable[[], float] = time.time) -> None:
        self._table = table
        self._metrics = metrics
        self._clock = clock
        self._requests = Paces(REQUEST_RATE, REQUEST_BURST)
        self._expiries = Expiries()
        self._watchers: dict[str, set[_Watcher]] = {}
        """By Service."""
        table.on_change = self._changed

    @property
    def methods(self) -> dict[bytes, Method]:
        """For `GrpcServer`."""
        return {WATCH_ENDPOINTS: self.watch}

    async def watch(self, call: ServerCall) -> None:
        """`Endpoints/Watch`."""
        workload = call.info.peer
        if not isinstance(workload, Workload):
            raise CallFailed(GrpcStatus.UNAUTHENTICATED, "endpoints are for sidecars that show their certificate")
        watcher = _Watcher(call)
        self._expiries.add(call, workload, self._clock())
        try:
            while True:
                while (message := call.take()) is not None:
                    self._ask(watcher, workload, decode(message, EndpointsRequest))
                if call.has_ended:
                    break
                self._give(watcher)
                await call.wait()
        finally:
            self._forget(watcher, list(watcher.has))
            self._expiries.discard(call)

    def _ask(self, watcher: _Watcher, workload: Workload, request: EndpointsRequest) -> None:
        """Raises CallFailed."""
        self._requests.check(watcher.call, workload, "requests", self._clock())
        if len(request.services) > SERVICES:
            self._metrics.limits_exceeded.labels("control", "services").value += 1
            message = f"{len(request.services)} Services are more than the {SERVICES} that one sidecar may need"
            raise CallFailed(GrpcStatus.RESOURCE_EXHAUSTED, message)
        self._forget(watcher, [service for service in watcher.has if service not in request.services])
        for service, version in request.services.items():
            if service not in watcher.has:
                watcher.has[service] = (version, "")
                self._watchers.setdefault(service, set()).add(watcher)
                watcher.mark(service)

    def _forget(self, watcher: _Watcher, services: list[str]) -> None:
        for service in services:
            del watcher.has[service]
            watcher.due.pop(service, None)
            its = self._watchers[service]
            its.remove(watcher)
            if not its:
                del self._watchers[service]

    def _changed(self, service: str) -> None:
        for watcher in self._watchers.get(service, ()):
            watcher.mark(service)

    def _give(self, watcher: _Watcher) -> None:
        """Send what the sidecar does not have, as far as it takes it."""
        while watcher.due and watcher.call.is_drained:
            service = next(iter(watcher.due))
            del watcher.due[service]
            current = self._table.current(service)
            state = (current.endpoints.version, current.endpoints.problem)
            if watcher.has[service] != state:
                watcher.has[service] = state
                self._metrics.endpoint_updates.labels().value += 1
                watcher.call.post(current.message)

    def entries(self) -> tuple[ServiceEntry, ...]:
        """Each Service that documents name."""
        found = ((service, self._table.current(service).endpoints) for service in sorted(self._table.named))
        return tuple(
            ServiceEntry(
                service=service,
                endpoints=len(current.endpoints),
                sidecars=len(self._watchers.get(service, ())),
                problem=current.problem,
            )
            for service, current in found
        )

    def describe(self) -> dict[str, object]:
        """Each Service that documents name, its endpoints, and how many sidecars need it, for the page /endpoints."""
        return {
            service: {
                **msgspec.to_builtins(self._table.current(service).endpoints),
                "sidecars": len(self._watchers.get(service, ())),
            }
            for service in sorted(self._table.named)
        }
