"""Endpoints found by name (`discovery.Discovery`): addresses, or the targets of a service, refreshed when the TTL ends.

A relative name is bound once: the search list is used until one of its names has endpoints, and from then on that name
is the only one that is looked up. Otherwise `models.prod` could become a host of the internet on the day when the
Service of that name is deleted. A later name of the list is tried only if all before it do not exist (NXDOMAIN).

A process with an IPv4 and an IPv6 address counts as two endpoints. /etc/hosts is not read.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from meshproxy.upstream.discovery import (
    MOST_ENDPOINTS,
    EndpointAddress,
    LastGoodEndpoints,
    OnEndpoints,
    OnFailure,
    address,
    order,
)
from meshproxy.upstream.dns_lookup import (
    AAAA,
    SRV,
    A,
    Addresses,
    Host,
    LookupFailed,
    find_name,
    look_up_addresses,
    look_up_targets,
    resolver_at,
    system_resolver,
)

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver
    from dns.name import Name
    from dns.rdatatype import RdataType

    from meshproxy.config import servers

logger = logging.getLogger(__name__)

JITTER = 0.1
"""An answer is refreshed up to this share of its TTL late, so that sidecars do not ask together, nor ask a cache that
still holds the old answer."""
CONCURRENT_TARGETS = 8
"""SRV targets whose addresses are looked up at the same time."""


class DnsDiscovery:
    """The endpoints behind one name."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: servers.Dns,
        on_failure: OnFailure,
        *,
        system: Callable[[], Resolver] = system_resolver,
        draw: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Nothing is looked up before `start`.

        Args:
            loop: runs the task.
            settings: what is looked up. With `name_server`, the name is absolute.
            on_failure: receives what could not be looked up, also if only a part failed.
            system: makes the resolver of this machine; may raise LookupFailed.
            draw: a random number from 0 to 1.
            sleep: waits between two rounds.
        """
        self._sleep = sleep
        self._loop = loop
        self._settings = settings
        self._on_failure = on_failure
        self._system = system
        self._draw = draw
        self._task: asyncio.Task[None] | None = None
        self._name: Name | None = None
        """The absolute name, once it had endpoints."""
        self._last: dict[tuple[Name, RdataType], tuple[Host, ...]] = {}
        """The last good answer to each question of the last round."""

    def start(self, on_endpoints: OnEndpoints) -> None:
        """Look the endpoints up, and again when the answer expires. An IP address and `localhost` are reported
        immediately."""
        last = LastGoodEndpoints(on_endpoints, self._on_failure)
        host = None if self._settings.srv is not None else _literal(self._settings.name)
        if host is not None:
            last.take(self._endpoints([(host, 0)]))
        else:
            self._task = self._loop.create_task(self._run(last))

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, last: LastGoodEndpoints) -> None:
        settings = self._settings
        while True:
            try:
                found, ttl = await self._look_up()
                last.take(found)
                wait = min(max(ttl, settings.min_refresh), settings.max_refresh)
            except Exception as error:
                if not isinstance(error, LookupFailed):
                    # Any defect: if it ended this task, the endpoints would never be refreshed again.
                    logger.exception("internal error in looking up the endpoints of %s", settings.name)
                last.fail(f"{settings.name}: {error}")
                wait = min(settings.min_refresh * 2 ** min(last.failures - 1, 20), settings.max_refresh)
            await self._sleep(wait * (1 + JITTER * self._draw()))

    async def _look_up(self) -> tuple[tuple[EndpointAddress, ...], float]:
        """At least one endpoint, and the TTL in seconds. Raises LookupFailed."""
        settings = self._settings
        text = settings.name
        if settings.name_server is not None:
            resolver = await resolver_at(self._loop, settings.name_server)
            text = text.removesuffix(".") + "."
        else:
            resolver = self._system()
        name = self._name or await find_name(resolver, text, A if settings.srv is None else SRV)
        answers: dict[tuple[Name, RdataType], tuple[Host, ...]] = {}
        if settings.srv is None:
            hosts, ttl = await self._hosts(resolver, name, answers)
            places = [(host, 0) for host in hosts]
        else:
            places, ttl = await self._places(resolver, name, answers)
        if not places:
            missing = "addresses" if settings.srv is None else "targets with addresses"
            raise LookupFailed(f"{name} has no {missing}")
        self._name, self._last = name, answers
        return self._endpoints(places), ttl

    async def _places(
        self, resolver: Resolver, name: Name, answers: dict[tuple[Name, RdataType], tuple[Host, ...]]
    ) -> tuple[list[tuple[Host, int]], float]:
        """Hosts and ports of SRV targets, and the TTL. The addresses of a target that cannot be looked up are its last
        good ones. Raises LookupFailed."""
        targets = await look_up_targets(resolver, name)
        ttl: float = targets.ttl
        hosts = dict(targets.known)
        unknown = list(dict.fromkeys(target for target, _ in targets.targets if target not in hosts))[:MOST_ENDPOINTS]
        problem: LookupFailed | None = None
        for i in range(0, len(unknown), CONCURRENT_TARGETS):
            batch = unknown[i : i + CONCURRENT_TARGETS]
            results = await asyncio.gather(
                *(self._hosts(resolver, target, answers) for target in batch), return_exceptions=True
            )
            for target, result in zip(batch, results, strict=True):
                if isinstance(result, LookupFailed):
                    problem = result
                    for kind in (A, AAAA):
                        answers[target, kind] = self._last.get((target, kind), ())
                    hosts[target] = answers[target, A] + answers[target, AAAA]
                elif isinstance(result, BaseException):
                    raise result
                else:
                    hosts[target], target_ttl = result
                    ttl = min(ttl, target_ttl)
        places = [(host, port) for target, port in targets.targets for host in hosts.get(target, ())]
        if problem is not None:
            if not places:
                raise problem
            self._on_failure(f"{self._settings.name}: {problem}")
        return places, ttl

    async def _hosts(
        self, resolver: Resolver, name: Name, answers: dict[tuple[Name, RdataType], tuple[Host, ...]]
    ) -> tuple[tuple[Host, ...], float]:
        """Addresses of both families, also written into `answers`, and the TTL. A family whose lookup fails has its
        last good addresses: some name servers know A only and fail for AAAA. Raises LookupFailed."""
        kinds = (A, AAAA)
        results = await asyncio.gather(
            *(look_up_addresses(resolver, name, kind) for kind in kinds), return_exceptions=True
        )
        problem: LookupFailed | None = None
        ttls: list[int] = []
        hosts: tuple[Host, ...] = ()
        for kind, result in zip(kinds, results, strict=True):
            if isinstance(result, Addresses):
                ttls.append(result.ttl)
                answers[name, kind] = result.hosts
            elif isinstance(result, LookupFailed):
                problem = result
                answers[name, kind] = self._last.get((name, kind), ())
            else:
                raise result
            hosts += answers[name, kind]
        if problem is not None:
            if not ttls or not hosts:
                raise problem
            self._on_failure(f"{self._settings.name}: {problem}")
        return hosts, min(ttls)

    def _endpoints(self, places: Sequence[tuple[Host, int]]) -> tuple[EndpointAddress, ...]:
        """An endpoint for each host and port, sorted. Port 0: the ports of the settings."""
        chosen = sorted(set(places), key=lambda place: (order(place[0]), place[1]))
        if len(chosen) > MOST_ENDPOINTS:
            self._on_failure(f"{self._settings.name}: of {len(chosen)} endpoints only {MOST_ENDPOINTS} are used")
        return tuple(self._endpoint(host, port) for host, port in chosen[:MOST_ENDPOINTS])

    def _endpoint(self, host: Host, port: int) -> EndpointAddress:
        settings = self._settings
        if settings.srv is not None:
            return EndpointAddress(**{settings.srv: address(host, port)})
        ports = {"rest": settings.rest, "grpc": settings.grpc, "sidecar": settings.sidecar}
        return EndpointAddress(
            **{surface: address(host, number) for surface, number in ports.items() if number is not None}
        )


def _literal(name: str) -> Host | None:
    """The address that a name is, if it is one. `localhost` is never looked up (RFC 6761 section 6.3) and has one
    address only: 127.0.0.1 and ::1 would count one process twice."""
    if name == "localhost" or name.endswith(".localhost"):
        return ipaddress.IPv4Address("127.0.0.1")
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
