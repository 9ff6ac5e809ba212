"""Names of Services by DNS, as in every cluster: `NAME.NAMESPACE.svc.cluster.local`. UDP, addresses of IPv4."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import dns.exception
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DOMAIN = "cluster.local"
TTL = 5
"""Seconds."""


def service_names(services: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The address of each Service that has one, by its whole name."""
    return {
        f"{each['metadata']['name']}.{each['metadata']['namespace']}.svc.{DOMAIN}.": address
        for each in services
        if (address := each["spec"].get("clusterIP")) and address != "None"
    }


def resolv_conf(namespace: str, server: str) -> str:
    """What a pod of a namespace has in /etc/resolv.conf (`dnsPolicy: ClusterFirst`)."""
    search = f"{namespace}.svc.{DOMAIN} svc.{DOMAIN} {DOMAIN}"
    return f"nameserver {server}\nsearch {search}\noptions ndots:5\n"


def answer(wire: bytes, names: Mapping[str, str]) -> bytes | None:
    """The answer to a query; None to what is none."""
    try:
        query = dns.message.from_wire(wire)
        (question,) = query.question
    except (dns.exception.DNSException, ValueError):
        return None
    response = dns.message.make_response(query, recursion_available=True)
    name = question.name.to_text().lower()
    if name not in names:
        response.set_rcode(dns.rcode.NXDOMAIN)
    elif question.rdtype == dns.rdatatype.A:
        response.answer.append(dns.rrset.from_text(question.name, TTL, "IN", "A", names[name]))
    return response.to_wire()


class NameServer(asyncio.DatagramProtocol):
    """Answers queries.

    Attributes:
        names: addresses by whole names.
    """

    def __init__(self) -> None:
        self.names: Mapping[str, str] = {}
        self._transport: asyncio.DatagramTransport | None = None

    async def listen(self, address: str, port: int = 53) -> int:
        """Returns the port. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(address, port))
        return int(self._transport.get_extra_info("sockname")[1])

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if self._transport is not None and (wire := answer(data, self.names)) is not None:
            self._transport.sendto(wire, addr)
