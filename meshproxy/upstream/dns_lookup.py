"""DNS questions about endpoints, answered by `dns.asyncresolver` (dnspython): addresses, and the targets of a service.

dnspython is imported here and in `dns` only, and only when a ModelServer has `dns`: 3.6 MB (decision 0010). It reads
resolv.conf, applies the search list, asks the name servers in turn, checks that an answer belongs to the question,
falls back to TCP when an answer is truncated, and follows CNAMEs. What is added here: value types with the time to
live, the first priority of SRV records, and one error type whose text an operator can use.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

import dns._features

# httpx2 comes with the libraries of the control plane: dnspython would load it for DNS over HTTPS, which takes 5 MB.
dns._features.force("doh", False)

import dns.flags
import dns.name
from dns.asyncresolver import Resolver
from dns.exception import DNSException
from dns.message import ChainingResult, Message, QueryMessage
from dns.name import Name
from dns.nameserver import Do53Nameserver
from dns.rdatatype import RdataType
from dns.rdtypes.ANY.CNAME import CNAME as _CNAME  # noqa: F401 (import now, not with the first answer)
from dns.rdtypes.IN.A import A as _A
from dns.rdtypes.IN.AAAA import AAAA as _AAAA
from dns.rdtypes.IN.SRV import SRV as _SRV
from dns.resolver import NXDOMAIN, LifetimeTimeout, NoNameservers, NoResolverConfiguration

from meshproxy.config.values import Address
from meshproxy.upstream.discovery import is_usable

A, AAAA, SRV = RdataType.A, RdataType.AAAA, RdataType.SRV
TRY_SECONDS = 2.0
"""For one question to one name server. `options timeout` of resolv.conf is ignored: with a longer one the second name
server would never be asked, and with 0 dnspython gives up at once, where the C library waits a second."""
LIFETIME_SECONDS = 5.0
"""For one question, over all name servers and retries."""

Host = IPv4Address | IPv6Address


class LookupFailed(Exception):
    """No usable answer. The text says why."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """The addresses of one name and family; none if the name does not exist or has none."""

    hosts: tuple[Host, ...]
    ttl: int
    """Seconds for which this holds: the shortest in the CNAME chain, or that of the negative answer (RFC 2308)."""


@dataclass(frozen=True, slots=True)
class Targets:
    """The targets of a service (RFC 2782)."""

    targets: tuple[tuple[Name, int], ...]
    """Name and port of those with the lowest priority number. Targets of other priorities are for failover, and
    weights are for clients without a load measure: neither is used."""
    ttl: int
    known: Mapping[Name, tuple[Host, ...]]
    """Addresses of targets from the additional section."""


def system_resolver() -> Resolver:
    """A resolver with the name servers, search list and `ndots` of /etc/resolv.conf. Call it for each round: the file
    may change.

    Raises:
        LookupFailed: the file has no name server, or cannot be read.
    """
    try:
        resolver = Resolver()
    except NoResolverConfiguration as error:
        raise LookupFailed(f"/etc/resolv.conf: {error}") from None
    except (DNSException, OSError, ValueError) as error:
        raise LookupFailed(f"/etc/resolv.conf cannot be used: {error}") from None
    return _limited(resolver)


async def resolver_at(loop: asyncio.AbstractEventLoop, name_server: Address) -> Resolver:
    """A resolver that asks one name server, without a search list.

    Raises:
        LookupFailed: the name server is given by a host name that the system cannot resolve.
    """
    host, port = name_server.host, name_server.port
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise LookupFailed(f"name server {name_server} cannot be resolved: {error.strerror or error}") from None
    resolver = Resolver(configure=False)
    resolver.nameservers = [Do53Nameserver(str(address[0]), port) for *_, address in found]
    return _limited(resolver)


def _limited(resolver: Resolver) -> Resolver:
    resolver.timeout, resolver.lifetime = TRY_SECONDS, LIFETIME_SECONDS
    return resolver


async def find_name(resolver: Resolver, text: str, kind: RdataType) -> Name:
    """The first existing name of the search list (resolv.conf(5)). A final dot says that `text` is absolute.

    Raises:
        LookupFailed: none of the names exists, or one could not be looked up.
    """
    try:
        name = dns.name.from_text(text, None)
        if name.is_absolute():
            return name
        return (await resolver.resolve(name, kind, raise_on_no_answer=False, search=True)).qname
    except NXDOMAIN as error:
        raise LookupFailed("no such name: " + ", ".join(map(str, error.kwargs["qnames"]))) from None
    except (DNSException, ValueError) as error:
        raise _failed(resolver, error) from None


async def look_up_addresses(resolver: Resolver, name: Name, kind: RdataType) -> Addresses:
    """The addresses of one family (`A` or `AAAA`). Raises LookupFailed."""
    _, chain = await _ask(resolver, name, kind)
    return Addresses(_hosts(chain.answer or ()), chain.minimum_ttl)


async def look_up_targets(resolver: Resolver, name: Name) -> Targets:
    """The targets of a service. Raises LookupFailed."""
    message, chain = await _ask(resolver, name, SRV)
    records = [record for record in chain.answer or () if isinstance(record, _SRV) and record.port]
    first = min((record.priority for record in records), default=0)
    targets = {
        (record.target, record.port): None
        for record in records
        if record.priority == first and record.target != dns.name.root  # ".": the service is not available
    }
    names = {target for target, _ in targets}
    known: dict[Name, tuple[Host, ...]] = {}
    ttl = chain.minimum_ttl
    for rrset in message.additional:
        if rrset.name in names and (hosts := _hosts(rrset)):
            known[rrset.name] = known.get(rrset.name, ()) + hosts
            ttl = min(ttl, rrset.ttl)
    return Targets(tuple(targets), ttl, known)


async def _ask(resolver: Resolver, name: Name, kind: RdataType) -> tuple[Message, ChainingResult]:
    """The response and its CNAME chain. A name that does not exist has an empty one. Raises LookupFailed."""
    try:
        answer = await resolver.resolve(name, kind, raise_on_no_answer=False)
    except NXDOMAIN as error:
        response = error.kwargs["responses"][name]
        assert isinstance(response, QueryMessage)
        return response, response.resolve_chaining()
    except DNSException as error:
        raise _failed(resolver, error) from None
    if answer.response.flags & dns.flags.TC:
        # dnspython raises Truncated over UDP only, and takes what is left of an answer that is truncated over TCP too.
        raise LookupFailed(f"{answer.nameserver}@{answer.port} truncated its answer over TCP")
    return answer.response, answer.chaining_result


def _failed(resolver: Resolver, error: Exception) -> LookupFailed:
    if isinstance(error, LifetimeTimeout):
        servers = ", ".join(map(str, resolver.nameservers))
        return LookupFailed(f"no answer within {resolver.lifetime:g} s from {servers}")
    if isinstance(error, NoNameservers):
        return LookupFailed(
            "; ".join(f"{server} answered {reason}" for server, _, _, reason, _ in error.kwargs["errors"])
        )
    return LookupFailed(str(error))


def _hosts(records: Iterable[object]) -> tuple[Host, ...]:
    hosts: list[Host] = []
    for record in records:
        if isinstance(record, _A):
            hosts.append(IPv4Address(record.address))
        elif isinstance(record, _AAAA):
            hosts.append(IPv6Address(record.address))
    return tuple(host for host in hosts if is_usable(host))
