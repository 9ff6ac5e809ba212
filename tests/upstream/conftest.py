"""A name server on this machine, over UDP and TCP, that says what a test wants to hear."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest


class Zone:
    """What is known, and how it is told."""

    def __init__(self) -> None:
        self.port = 0
        self.records: dict[tuple[str, str], list[str]] = {}
        """Values by name (with its final dot) and type. No entry for any type: the name does not exist."""
        self.additional: list[tuple[str, str, str]] = []
        """Name, type and value of records that come along with every answer."""
        self.ttl = 0
        self.ttls: dict[str, int] = {}
        """Of single names, instead of `ttl`."""
        self.negative_ttl: int | None = None
        """With a SOA record in answers without records."""
        self.unrelated: list[tuple[str, str, str]] = []
        """Name, type and value of records in every answer section."""
        self.loops: list[str] = []
        """Names whose CNAMEs lead in a circle."""
        self.rcodes: dict[tuple[str, str], dns.rcode.Rcode] = {}
        self.silent: set[tuple[str, str]] = set()
        self.truncates = False
        self.truncates_over_tcp = False
        self.knows_edns = True
        self.forged: list[str] = []
        """Before an answer come these: `id`, `question`, `query`, `junk`."""
        self.asked: Counter[tuple[str, str, str]] = Counter()
        """By name, type and `udp` or `tcp`."""
        self.ids: list[int] = []
        self.ports: list[int] = []

    def put(self, name: str, kind: str, *values: str) -> None:
        self.records[name, kind] = list(values)

    def answers(self, wire: bytes, over: str) -> list[bytes]:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name, kind = question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
        self.asked[name, kind, over] += 1
        self.ids.append(query.id)
        if (name, kind) in self.silent:
            return []
        answer = dns.message.make_response(query)
        if query.edns >= 0 and not self.knows_edns:
            answer.set_rcode(dns.rcode.FORMERR)
            answer.use_edns(False)
            return [answer.to_wire()]
        answer.set_rcode(self.rcodes.get((name, kind), dns.rcode.NOERROR))
        if answer.rcode() == dns.rcode.NOERROR:
            self.fill(answer, name, kind)
        wires = [self.forge(query, how) for how in self.forged] if over == "udp" else []
        if self.truncates_over_tcp or (self.truncates and over == "udp"):
            del answer.answer[1:]
            answer.flags |= dns.flags.TC
        return [*wires, answer.to_wire(max_size=65_535)]

    def fill(self, answer: dns.message.Message, name: str, kind: str) -> None:
        for alias, target in zip(self.loops, [*self.loops[1:], *self.loops[:1]], strict=True):
            answer.answer.append(self.rrset(alias, "CNAME", target))
        while (name, "CNAME") in self.records and kind != "CNAME":
            target = self.records[name, "CNAME"][0]
            answer.answer.append(self.rrset(name, "CNAME", target))
            name = target
        values = self.records.get((name, kind), [])
        if values:
            answer.answer.append(self.rrset(name, kind, *values))
        elif not self.loops and not any(known == name for known, _ in self.records):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        if not values and self.negative_ttl is not None:
            soa = f"ns.test. admin.test. 1 2 3 4 {self.negative_ttl}"
            answer.authority.append(dns.rrset.from_text("test.", 40, "IN", "SOA", soa))
        answer.answer += [self.rrset(*record) for record in self.unrelated]
        answer.additional += [self.rrset(*record) for record in self.additional]

    def rrset(self, name: str, kind: str, *values: str) -> dns.rrset.RRset:
        return dns.rrset.from_text(name, self.ttls.get(name, self.ttl), "IN", kind, *values)

    def forge(self, query: dns.message.Message, how: str) -> bytes:
        name = query.question[0].name
        if how == "junk":
            return query.id.to_bytes(2, "big") + b"\xff" * 20
        if how == "query":
            return query.to_wire()
        forged = dns.message.make_response(query)
        if how == "id":
            forged.id ^= 1
        else:
            name = dns.name.from_text("other.test.")
            forged.question = [dns.rrset.RRset(name, dns.rdataclass.IN, query.question[0].rdtype)]
        forged.answer.append(dns.rrset.from_text(name, 0, "IN", "A", "10.66.66.66"))
        return forged.to_wire()


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, zone: Zone) -> None:
        self.zone = zone

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.zone.ports.append(addr[1])
        for answer in self.zone.answers(data, "udp"):
            self.transport.sendto(answer, addr)


@asynccontextmanager
async def serving(zone: Zone) -> AsyncIterator[Zone]:
    loop = asyncio.get_running_loop()
    ends: list[asyncio.StreamWriter] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.append(writer)
        size = int.from_bytes(await reader.readexactly(2), "big")
        for answer in zone.answers(await reader.readexactly(size), "tcp"):
            writer.write(len(answer).to_bytes(2, "big") + answer)

    tcp = await asyncio.start_server(talk, "127.0.0.1", 0)
    zone.port = tcp.sockets[0].getsockname()[1]
    udp, _ = await loop.create_datagram_endpoint(lambda: _Udp(zone), local_addr=("127.0.0.1", zone.port))
    try:
        yield zone
    finally:
        udp.abort()
        tcp.close()
        for end in ends:
            end.transport.abort()
        await tcp.wait_closed()


@pytest.fixture
async def zone() -> AsyncIterator[Zone]:
    """A name server that is listening, and knows nothing yet."""
    async with serving(Zone()) as listening:
        yield listening
