"""Endpoints of a Kubernetes Service: EndpointSlice objects (discovery.k8s.io/v1) as JSON gives them -> a set.

Source: https://kubernetes.io/docs/reference/kubernetes-api/service-resources/endpoint-slice-v1/, quoted as "API", and
KEP-1672 for endpoints that terminate. Objects come from an API server of any version, and from controllers of other
people: what cannot be read is left out and counted, and never raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, Protocol, TypeGuard

from meshproxy.upstream.discovery import MOST_ENDPOINTS, Found, LastGood, OnFailure, Tell, address, is_usable, order

Surface = Literal["rest", "grpc", "sidecar"]
Ports = Mapping[Surface, str | int]
"""Where each surface is: the name of a port of the Service, or the number that the pods listen on."""


@dataclass(frozen=True, slots=True)
class Slices:
    """What slices say."""

    found: tuple[Found, ...]
    """Those that take calls; sorted, each once."""
    skipped: int
    """Slices and endpoints left out: not to be read, or without any of the ports."""


def read_slices(slices: Iterable[object], ports: Ports) -> Slices:
    """The endpoints of one Service, which its slices hold in any order, some of them twice.

    Those that are ready. If nobody is: those that terminate and still serve, as kube-proxy has it, so that the last
    pods of a rollout that went wrong are not given up before they are gone.
    """
    ready: dict[tuple[tuple[int, int], str], Found] = {}
    leaving: dict[tuple[tuple[int, int], str], Found] = {}
    skipped = 0
    for piece in slices:
        if not isinstance(piece, Mapping):
            skipped += 1
            continue
        kind = piece.get("addressType")
        if kind == "FQDN":  # deprecated, and made by no controller
            continue
        numbers = _ports(piece.get("ports"), ports)
        endpoints = piece.get("endpoints") or ()
        if kind not in ("IPv4", "IPv6") or not isinstance(endpoints, list | tuple):
            skipped += 1
            continue
        for endpoint in endpoints:
            host = _host(endpoint, kind)
            if host is None or not numbers:
                skipped += 1
                continue
            conditions = endpoint.get("conditions")
            if not isinstance(conditions, Mapping):
                conditions = {}
            # API: nil means an unknown state, which is to be taken for ready; `serving` is then the same as `ready`.
            is_ready = conditions.get("ready") is not False
            is_leaving = conditions.get("terminating") is True and conditions.get("serving") is True
            if is_ready or is_leaving:
                zone = endpoint.get("zone")
                where = {surface: address(host, number) for surface, number in numbers.items()}
                found = Found(**where, locality=zone if isinstance(zone, str) else "")
                (ready if is_ready else leaving).setdefault((order(host), found.key), found)
    chosen = ready or leaving
    return Slices(tuple(chosen[key] for key in sorted(chosen)[:MOST_ENDPOINTS]), skipped)


def _ports(listed: object, wanted: Ports) -> dict[Surface, int]:
    """The number of each surface's port in one slice; surfaces that it does not have are left out. TCP only."""
    named: dict[str, int] = {}
    for port in listed if isinstance(listed, list | tuple) else ():
        if isinstance(port, Mapping) and port.get("protocol") in (None, "TCP"):
            name, number = port.get("name") or "", port.get("port")
            if isinstance(name, str) and _is_port(number):
                named[name] = number
    numbers = {surface: port if isinstance(port, int) else named.get(port) for surface, port in wanted.items()}
    return {surface: number for surface, number in numbers.items() if number is not None}


def _is_port(number: object) -> TypeGuard[int]:
    return isinstance(number, int) and not isinstance(number, bool) and 0 < number < 65_536


def _host(endpoint: object, kind: str) -> IPv4Address | IPv6Address | None:
    """The first address: API defines no meaning for others."""
    addresses = endpoint.get("addresses") if isinstance(endpoint, Mapping) else None
    if not isinstance(addresses, list | tuple) or not addresses or not isinstance(addresses[0], str):
        return None
    try:
        host = IPv4Address(addresses[0]) if kind == "IPv4" else IPv6Address(addresses[0])
    except ValueError:
        return None
    return host if is_usable(host) else None


class EndpointStore(Protocol):
    """Whoever watches EndpointSlices: a control plane."""

    def watch(self, namespace: str, service: str, tell: Callable[[Iterable[object]], None]) -> Callable[[], None]:
        """Have `tell` called with all slices of a Service (label `kubernetes.io/service-name`) as soon as they are
        known, and whenever one of them has changed, until what is returned is called. While the API server cannot be
        reached, nothing is told."""


class StoreDiscovery:
    """The endpoints of one Service (`discovery.Discovery`).

    A Service without endpoints has none: unlike a name server, which may have lost its data, the API server is where
    endpoints are decided, and the addresses of pods that are gone are given to others.
    """

    def __init__(self, store: EndpointStore, namespace: str, service: str, ports: Ports, on_failure: OnFailure) -> None:
        """`on_failure` is told of objects that were left out."""
        self._store = store
        self._namespace = namespace
        self._service = service
        self._ports = ports
        self._on_failure = on_failure
        self._stop: Callable[[], None] | None = None

    def start(self, tell: Tell) -> None:
        """Watch."""
        last = LastGood(tell, self._on_failure)

        def take(slices: Iterable[object]) -> None:
            read = read_slices(slices, self._ports)
            if read.skipped:
                self._on_failure(
                    f"Service {self._namespace}/{self._service}: {read.skipped} of its EndpointSlices or their "
                    "endpoints cannot be read, or have none of the ports"
                )
            last.take(read.found)

        self._stop = self._store.watch(self._namespace, self._service, take)

    async def close(self) -> None:
        """Watch no longer."""
        if self._stop is not None:
            self._stop()
            self._stop = None
