"""What name servers are asked and what their answers say. Pure: `resolver` sends and receives.

dnspython makes and parses the messages (RFC 1035, 2782, 6891). With `dns` it is loaded only where a ModelServer is
looked up by name: 2.8 MB and 26 ms on top of what a sidecar has loaded anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
from dns.message import Message, QueryMessage
from dns.name import Name
from dns.rdatatype import RdataType
from dns.rdtypes.ANY.CNAME import CNAME as _CNAME  # noqa: F401 (loaded now rather than with the first answer)
from dns.rdtypes.IN.A import A as _A
from dns.rdtypes.IN.AAAA import AAAA as _AAAA
from dns.rdtypes.IN.SRV import SRV as _SRV

from meshproxy.upstream.discovery import is_usable

A, AAAA, SRV = RdataType.A, RdataType.AAAA, RdataType.SRV
PAYLOAD = 1_232
"""Bytes that an answer over UDP may have: what passes everywhere without being cut up (dnsflagday.net/2020). 70
addresses; more come over TCP."""

Host = IPv4Address | IPv6Address


class LookupFailed(Exception):
    """There is no answer, or none that can be used. The text says why."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a name leads; nowhere, if it does not exist or has no addresses."""

    hosts: tuple[Host, ...]
    ttl: int
    """Seconds for which this holds."""


@dataclass(frozen=True, slots=True)
class Targets:
    """Where a service is (RFC 2782)."""

    targets: tuple[tuple[Name, int], ...]
    """Name and port of those with the lowest priority number. The others are for when none of these can be reached,
    and weights for who has no other measure: neither counts."""
    ttl: int
    known: Mapping[Name, tuple[Host, ...]]
    """Addresses of targets that came along (additional section)."""


def read_name(text: str) -> Name:
    """An absolute name. Raises LookupFailed: it is none."""
    try:
        return dns.name.from_text(text)
    except (dns.exception.DNSException, ValueError) as error:
        raise LookupFailed(f"{text} cannot be looked up: {error}") from None


def make_query(name: Name, kind: RdataType, *, is_plain: bool = False) -> QueryMessage:
    """A question, with a random id. `is_plain`: without EDNS, for servers that do not know it."""
    query = dns.message.make_query(name, kind, use_edns=False if is_plain else 0, payload=PAYLOAD)
    assert isinstance(query, QueryMessage)
    return query


def read_reply(query: Message, wire: bytes) -> Message | None:
    """The message, if it answers this question: same id, same name, same type. None: it is anything else."""
    if wire[:2] != query.id.to_bytes(2, "big"):
        return None
    try:
        message = dns.message.from_wire(wire)
        return message if query.is_response(message) else None
    except Exception:
        # Whoever can send us a packet must not be able to end the task that reads it, whatever the parser raises.
        return None


def is_truncated(message: Message) -> bool:
    """It did not fit into a packet: ask again over TCP."""
    return bool(message.flags & dns.flags.TC)


def is_confused(message: Message) -> bool:
    """The server may not know EDNS (RFC 6891 section 7)."""
    return message.rcode() in (dns.rcode.FORMERR, dns.rcode.NOTIMP)


def read_answer(message: Message) -> Addresses:
    """The addresses in an answer to a question for A or AAAA, behind aliases if there are any.

    Raises:
        LookupFailed: the server does not know (SERVFAIL, REFUSED, ...), or the answer contradicts itself.
    """
    chain = _resolve(message)
    return Addresses(_hosts(chain.answer or ()), chain.minimum_ttl)


def read_targets(message: Message) -> Targets:
    """The targets in an answer to a question for SRV. Raises LookupFailed."""
    chain = _resolve(message)
    records = [record for record in chain.answer or () if isinstance(record, _SRV) and record.port]
    first = min((record.priority for record in records), default=0)
    targets = {
        (record.target, record.port): None
        for record in records
        if record.priority == first and record.target != dns.name.root  # "." stands for: not here
    }
    names = {name for name, _ in targets}
    known: dict[Name, tuple[Host, ...]] = {}
    ttl = chain.minimum_ttl
    for records_of_one in message.additional:
        if records_of_one.name in names and (hosts := _hosts(records_of_one)):
            known[records_of_one.name] = known.get(records_of_one.name, ()) + hosts
            ttl = min(ttl, records_of_one.ttl)
    return Targets(tuple(targets), ttl, known)


def _resolve(message: Message) -> dns.message.ChainingResult:
    rcode = message.rcode()
    if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise LookupFailed(f"the name server answers {dns.rcode.to_text(rcode)}")
    assert isinstance(message, QueryMessage)
    try:
        return message.resolve_chaining()
    except dns.exception.DNSException as error:
        raise LookupFailed(f"the name server's answer contradicts itself: {error}") from None


def _hosts(records: Iterable[object]) -> tuple[Host, ...]:
    hosts: list[Host] = []
    for record in records:
        if isinstance(record, _A):
            hosts.append(IPv4Address(record.address))
        elif isinstance(record, _AAAA):
            hosts.append(IPv6Address(record.address))
    return tuple(host for host in hosts if is_usable(host))
