"""`EndpointSlice`s of Kubernetes (discovery.k8s.io/v1) -> the endpoints of their Service that take calls. Pure.

A Service has the endpoints of all of its slices: of the controller's, of which there is one for each address family,
set of ports and 100 addresses, and of those that people made by hand. While they change, an endpoint may be in two of
them, or in one that is out of date. Lists may be null.

Which endpoints take calls, as kube-proxy has it: those that are ready; while there is none, those that are terminating
and still serve. `ready` that is not given means ready.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping
from enum import IntEnum

import msgspec

from meshproxy.control_api import ServiceEndpoint, ServiceEndpoints
from meshproxy.upstream.discovery import MOST_ENDPOINTS, is_usable, order

SERVICE_NAME = "kubernetes.io/service-name"
"""The label with the name of the Service. A slice without it belongs to none."""
MOST_PORTS = 32
"""Of one slice, by their names: what a sidecar is sent at once stays below 3 MiB."""
VERSION_BYTES = 8


class _Part(msgspec.Struct, frozen=True, rename="camel"):
    """A part of an object of the API server; members that do not matter here are ignored."""


class Named(_Part, frozen=True):
    """A zone of `hints`."""

    name: str


class Hints(_Part, frozen=True):
    for_zones: tuple[Named, ...] | None = None


class Conditions(_Part, frozen=True):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Reference(_Part, frozen=True):
    """`targetRef`: usually a pod."""

    uid: str | None = None


class SliceEndpoint(_Part, frozen=True):
    addresses: tuple[str, ...] | None = None
    """Of one process, any of which will do."""
    conditions: Conditions | None = None
    zone: str | None = None
    hints: Hints | None = None
    target_ref: Reference | None = None


class SlicePort(_Part, frozen=True):
    name: str | None = None
    port: int | None = None
    protocol: str | None = None


class SliceMetadata(_Part, frozen=True):
    name: str
    namespace: str
    labels: Mapping[str, str] | None = None


class EndpointSlice(_Part, frozen=True):
    """The members of an EndpointSlice that matter here."""

    metadata: SliceMetadata
    endpoints: tuple[SliceEndpoint, ...] | None = None
    ports: tuple[SlicePort, ...] | None = None

    @property
    def service(self) -> str | None:
        """`NAMESPACE/NAME` of its Service."""
        name = (self.metadata.labels or {}).get(SERVICE_NAME)
        return f"{self.metadata.namespace}/{name}" if name else None

    def tcp_ports(self) -> dict[str, int]:
        """The ports that a connection can be opened to, by name."""
        return {
            port.name or "": port.port
            for port in self.ports or ()
            if port.port is not None and 0 < port.port < 65_536 and port.protocol in (None, "TCP")
        }


class Availability(IntEnum):
    """What the conditions of an endpoint say, the best last."""

    OUT = 0
    TERMINATING = 1
    """Serves what it has begun, and new calls if nothing else can."""
    READY = 2

    @classmethod
    def of(cls, conditions: Conditions | None) -> Availability:
        """Of an endpoint."""
        if conditions is None or conditions.ready is not False:
            return cls.READY
        return cls.TERMINATING if conditions.serving and conditions.terminating else cls.OUT


class _Found(msgspec.Struct, frozen=True):
    availability: Availability
    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    ports: Mapping[str, int]
    zone: str
    zones_hinted: tuple[str, ...]

    @property
    def rank(self) -> tuple[int, int, int]:
        """Of two that are the same process, the higher one counts."""
        version, number = order(self.address)
        return self.availability, -version, -number


def combine(service: str, slices: Iterable[EndpointSlice]) -> ServiceEndpoints:
    """The endpoints of a Service, in a stable order, from all of its slices in any order.

    A process that has an IPv4 and an IPv6 address (one pod in slices of both families) is one endpoint, with its IPv4
    address. Endpoints without a usable address or a TCP port are left out.
    """
    processes: dict[tuple[object, ...], _Found] = {}
    total = most_ports = 0
    for each in slices:
        total += 1
        ports = each.tcp_ports()
        most_ports = max(most_ports, len(ports))
        if len(ports) > MOST_PORTS:
            ports = dict(sorted(ports.items())[:MOST_PORTS])
        for endpoint in each.endpoints or ():
            found = _read(endpoint, ports)
            if found is None:
                continue
            target = endpoint.target_ref.uid if endpoint.target_ref is not None else None
            key = (target or str(found.address), *sorted(ports.items()))
            known = processes.get(key)
            if known is None or found.rank > known.rank:
                processes[key] = found
    if not total:
        return ServiceEndpoints(service, problem=f"Service {service}: there is none, or it has no EndpointSlice")
    best = max((found.availability for found in processes.values()), default=Availability.OUT)
    chosen = sorted(
        (found for found in processes.values() if found.availability is best),
        key=lambda found: (order(found.address), sorted(found.ports.items())),
    )
    problem = ""
    if most_ports > MOST_PORTS:
        problem = (
            f"Service {service}: of {most_ports} ports no more than {MOST_PORTS} are used, in the order of their names"
        )
    if len(chosen) > MOST_ENDPOINTS:
        problem = f"Service {service}: of {len(chosen)} endpoints only {MOST_ENDPOINTS} are used"
        del chosen[MOST_ENDPOINTS:]
    has_hints = all(found.zones_hinted for found in chosen)
    endpoints = tuple(ServiceEndpoint(str(found.address), found.ports, _zone(found, has_hints)) for found in chosen)
    return ServiceEndpoints(service, version_of(endpoints), endpoints, problem)


def version_of(endpoints: tuple[ServiceEndpoint, ...]) -> str:
    """The same for the same endpoints, in every control plane."""
    return hashlib.sha256(msgspec.json.encode(endpoints, order="sorted")).hexdigest()[: 2 * VERSION_BYTES]


def _read(endpoint: SliceEndpoint, ports: Mapping[str, int]) -> _Found | None:
    """None: it takes no calls."""
    availability = Availability.of(endpoint.conditions)
    if availability is Availability.OUT or not ports or not endpoint.addresses:
        return None
    try:
        address = ipaddress.ip_address(endpoint.addresses[0])
    except ValueError:  # addressType FQDN, which is deprecated
        return None
    if not is_usable(address):
        return None
    hinted = tuple(zone.name for zone in (endpoint.hints and endpoint.hints.for_zones) or ())
    return _Found(availability, address, ports, endpoint.zone or "", hinted)


def _zone(found: _Found, has_hints: bool) -> str:
    """The zone that should call it: by hints, where every endpoint has them, as kube-proxy has it; or else where it
    is."""
    if not has_hints or found.zone in found.zones_hinted:
        return found.zone
    return found.zones_hinted[0]
