"""Endpoints that are looked up by name: addresses, or the targets of a service, again and again.

A name means what it meant when it was answered first: the search list is gone through until one name has endpoints,
and after that it is that one, whatever becomes of it. Otherwise `models.prod` could become a host of the internet on
the day when the Service of that name is deleted. As long as a name is not known not to exist, none behind it is tried.

A process with an IPv4 and an IPv6 address is two endpoints. /etc/hosts is not read.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from meshproxy.upstream.discovery import MOST_ENDPOINTS, Found, LastGood, OnFailure, Tell, address, order
from meshproxy.upstream.dns_answers import (
    AAAA,
    SRV,
    A,
    Host,
    LookupFailed,
    read_answer,
    read_name,
    read_targets,
)
from meshproxy.upstream.resolver import TRY_SECONDS, NameServer, ask, read_system

if TYPE_CHECKING:
    from dns.name import Name
    from dns.rdatatype import RdataType

    from meshproxy.config import servers

logger = logging.getLogger(__name__)

JITTER = 0.1
"""An answer is asked for again up to so much later than it has expired: not all sidecars at once, and not of a cache
that still holds it."""
AT_ONCE = 8
"""Targets of a service whose addresses are asked for at the same time."""


class DnsDiscovery:
    """The endpoints behind one name (`discovery.Discovery`)."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: servers.Dns,
        on_failure: OnFailure,
        *,
        system: Callable[[], NameServer] = read_system,
        try_seconds: float = TRY_SECONDS,
        draw: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Nothing is asked yet.

        Args:
            loop: runs the task.
            settings: what is looked up. With a name server of its own, the name is taken as it stands.
            on_failure: told what could not be found out, also if it is only a part.
            system: how this machine looks up names.
            try_seconds: time of one of two tries.
            draw: chance, from 0 to 1.
            sleep: waits between two rounds.
        """
        self._sleep = sleep
        self._loop = loop
        self._settings = settings
        self._on_failure = on_failure
        self._system = system
        self._try_seconds = try_seconds
        self._draw = draw
        self._task: asyncio.Task[None] | None = None
        self._name: Name | None = None
        """The whole name, once it is known."""
        self._kept: dict[tuple[Name, RdataType], tuple[Host, ...]] = {}
        """The last good answer to each question of the last round."""

    def start(self, tell: Tell) -> None:
        """Look it up, and again when the answer is over. An address, and `localhost`, is told at once."""
        last = LastGood(tell, self._on_failure)
        host = None if self._settings.srv is not None else _literal(self._settings.name)
        if host is not None:
            last.take(self._at([host]))
        else:
            self._task = self._loop.create_task(self._run(last))

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, last: LastGood) -> None:
        settings = self._settings
        while True:
            try:
                found, ttl = await self._look()
                last.take(found)
                wait = min(max(ttl, settings.min_refresh), settings.max_refresh)
            except Exception as error:
                if not isinstance(error, LookupFailed):
                    # Whatever it is: if this task died of it, the endpoints would rot unseen.
                    logger.exception("endpoints of %s cannot be looked up", settings.name)
                last.fail(f"{settings.name}: {error}")
                wait = min(settings.min_refresh * 2 ** min(last.failures - 1, 20), settings.max_refresh)
            await self._sleep(wait * (1 + JITTER * self._draw()))

    async def _look(self) -> tuple[tuple[Found, ...], float]:
        """The endpoints, at least one, and for how many seconds they hold. Raises LookupFailed."""
        settings = self._settings
        if settings.name_server is not None:
            server = NameServer(settings.name_server.host, settings.name_server.port, ndots=0)
        else:
            server = self._system()
        for name in _names(server.candidates(settings.name)) if self._name is None else (self._name,):
            found, ttl = await (self._look_at(server, name) if settings.srv is None else self._serve(server, name))
            if found:
                self._name = name
                return found, ttl
        raise LookupFailed("it has no addresses" if settings.srv is None else "it has no targets with addresses")

    async def _look_at(self, server: NameServer, name: Name) -> tuple[tuple[Found, ...], float]:
        answers: dict[tuple[Name, RdataType], tuple[Host, ...]] = {}
        hosts, ttl = await self._hosts(server, name, answers)
        if hosts:
            self._kept = answers
        return self._at(hosts), ttl

    async def _serve(self, server: NameServer, name: Name) -> tuple[tuple[Found, ...], float]:
        """SRV: the targets, then their addresses where they did not come along."""
        targets = read_targets(await ask(self._loop, server, name, SRV, self._try_seconds))
        ttl: float = targets.ttl
        where = dict(targets.known)
        unknown = list(dict.fromkeys(target for target, _ in targets.targets if target not in where))[:MOST_ENDPOINTS]
        answers: dict[tuple[Name, RdataType], tuple[Host, ...]] = {}
        problem: LookupFailed | None = None
        for i in range(0, len(unknown), AT_ONCE):
            several = unknown[i : i + AT_ONCE]
            looked = await asyncio.gather(
                *(self._hosts(server, target, answers) for target in several), return_exceptions=True
            )
            for target, result in zip(several, looked, strict=True):
                if isinstance(result, LookupFailed):
                    problem = result
                    for kind in (A, AAAA):
                        answers[target, kind] = self._kept.get((target, kind), ())
                    where[target] = answers[target, A] + answers[target, AAAA]
                elif isinstance(result, BaseException):
                    raise result
                else:
                    where[target], its_ttl = result
                    ttl = min(ttl, its_ttl)
        found = self._sorted([(host, port) for target, port in targets.targets for host in where.get(target, ())])
        if problem is not None:
            if not found:
                raise problem
            self._on_failure(f"{self._settings.name}: {problem}")
        if found:
            self._kept = answers
        return found, ttl

    async def _hosts(
        self, server: NameServer, name: Name, answers: dict[tuple[Name, RdataType], tuple[Host, ...]]
    ) -> tuple[tuple[Host, ...], float]:
        """Addresses of both families, written into `answers` too. If one of them cannot be had, its last good ones:
        there are name servers that know A only, and fail for the other. Raises LookupFailed."""
        kinds = (A, AAAA)
        asked = await asyncio.gather(
            *(ask(self._loop, server, name, kind, self._try_seconds) for kind in kinds), return_exceptions=True
        )
        problem: LookupFailed | None = None
        ttls: list[int] = []
        hosts: tuple[Host, ...] = ()
        for kind, message in zip(kinds, asked, strict=True):
            try:
                if isinstance(message, BaseException):
                    raise message
                answer = read_answer(message)
            except LookupFailed as error:
                problem = error
                mine = self._kept.get((name, kind), ())
            else:
                ttls.append(answer.ttl)
                mine = answer.hosts
            answers[name, kind] = mine
            hosts += mine
        if problem is not None:
            if not ttls or not hosts:
                raise problem
            self._on_failure(f"{self._settings.name}: {problem}")
        return hosts, min(ttls)

    def _at(self, hosts: Sequence[Host]) -> tuple[Found, ...]:
        return self._sorted([(host, 0) for host in hosts])

    def _sorted(self, places: Sequence[tuple[Host, int]]) -> tuple[Found, ...]:
        """An endpoint for each place. Port 0: the ports of the settings."""
        chosen = sorted(set(places), key=lambda place: (order(place[0]), place[1]))
        if len(chosen) > MOST_ENDPOINTS:
            self._on_failure(f"{self._settings.name}: of {len(chosen)} endpoints only {MOST_ENDPOINTS} are used")
        return tuple(self._found(host, port) for host, port in chosen[:MOST_ENDPOINTS])

    def _found(self, host: Host, port: int) -> Found:
        settings = self._settings
        if settings.srv is not None:
            return Found(**{settings.srv: address(host, port)})
        ports = {"rest": settings.rest, "grpc": settings.grpc, "sidecar": settings.sidecar}
        return Found(**{surface: address(host, number) for surface, number in ports.items() if number is not None})


def _names(candidates: Sequence[str]) -> Iterator[Name]:
    """Those that can be names: what is too long with a domain behind it does not exist."""
    for candidate in candidates:
        try:
            yield read_name(candidate)
        except LookupFailed:
            continue


def _literal(name: str) -> Host | None:
    """The address that a name is, if it is one. `localhost` is never looked up (RFC 6761 section 6.3); it is the
    address that model servers beside us listen on: two would be one process taken for two."""
    if name == "localhost" or name.endswith(".localhost"):
        return ipaddress.IPv4Address("127.0.0.1")
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
