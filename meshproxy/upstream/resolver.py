"""Asks a name server: over UDP, and over TCP what does not fit into a packet.

Every question goes out from a port of its own with an id of its own, both by chance, and the kernel drops what does not
come from the server: an answer cannot be forged by somebody who does not see the question (RFC 5452).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

from dns.message import Message
from dns.name import Name
from dns.rdatatype import RdataType

from meshproxy.upstream.dns_answers import LookupFailed, is_confused, is_truncated, make_query, read_reply

TRY_SECONDS = 2.0
TRIES = 2
RESOLV_CONF = Path("/etc/resolv.conf")
MOST_DOTS = 15
"""`ndots` is no more than that (resolv.conf(5))."""


@dataclass(frozen=True, slots=True)
class NameServer:
    """Who is asked, and how short names are completed."""

    host: str
    """An IP address, or a name that the system knows."""
    port: int = 53
    search: tuple[str, ...] = ()
    ndots: int = 1

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def candidates(self, name: str) -> tuple[str, ...]:
        """The names that a name may stand for, in the order in which they are tried (resolv.conf(5)). A final dot says
        that it is whole."""
        if name.endswith("."):
            return (name,)
        completed = tuple(f"{name}.{domain}" if domain else name for domain in self.search)
        names = (name, *completed) if name.count(".") >= self.ndots else (*completed, name)
        return tuple(f"{each}." for each in dict.fromkeys(names))


def read_resolv_conf(text: str) -> NameServer:
    """The first name server, the search list and `ndots`; what else it says does not concern us, and what cannot be
    read is passed over, as the C library does. Without a server it is the one on this machine."""
    server = NameServer("127.0.0.1")
    has_server = False
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0][0] in "#;":
            continue
        if words[0] == "nameserver" and not has_server:
            has_server = True
            server = replace(server, host=words[1])
        elif words[0] in ("search", "domain"):  # the last one counts
            server = replace(server, search=tuple(word.lower().rstrip(".") for word in words[1:]))
        elif words[0] == "options":
            for option in words[1:]:
                key, _, number = option.partition(":")
                if key == "ndots" and number.isascii() and number.isdigit():
                    server = replace(server, ndots=min(int(number[:3]), MOST_DOTS))
    return server


def read_system() -> NameServer:
    """What this machine is set up with. The file is short, and read again for each round: it may change."""
    try:
        return read_resolv_conf(RESOLV_CONF.read_text("utf-8", "replace"))
    except OSError:
        return read_resolv_conf("")


async def ask(
    loop: asyncio.AbstractEventLoop, server: NameServer, name: Name, kind: RdataType, seconds: float = TRY_SECONDS
) -> Message:
    """The server's answer, whatever it is. `seconds` is the time of one of two tries.

    Raises:
        LookupFailed: there was none.
    """
    problem = ""
    is_plain = False
    for _ in range(TRIES):
        query = make_query(name, kind, is_plain=is_plain)
        try:
            async with asyncio.timeout(seconds):
                message = await _over_udp(loop, server, query)
                if is_truncated(message):
                    message = await _over_tcp(server, query)
        except TimeoutError:
            problem = f"name server {server} did not answer within {seconds:g} s"
        except OSError as error:
            problem = f"name server {server} cannot be reached: {error.strerror or error}"
        except asyncio.IncompleteReadError:
            problem = f"name server {server} closed the connection before it had answered over TCP"
        else:
            if is_plain or not is_confused(message):
                return message
            is_plain = True
            problem = f"name server {server} does not understand questions"
    raise LookupFailed(problem)


class _Asking(asyncio.DatagramProtocol):
    """One question over UDP. What is not its answer is as if it had not come."""

    def __init__(self, query: Message, outcome: asyncio.Future[Message | Exception]) -> None:
        self._query = query
        self._outcome = outcome

    def datagram_received(self, data: bytes, addr: object) -> None:
        """asyncio: a packet came."""
        if not self._outcome.done() and (message := read_reply(self._query, data)) is not None:
            self._outcome.set_result(message)

    def error_received(self, exc: Exception) -> None:
        """asyncio: nobody listens there."""
        if not self._outcome.done():
            self._outcome.set_result(exc)


async def _over_udp(loop: asyncio.AbstractEventLoop, server: NameServer, query: Message) -> Message:
    outcome: asyncio.Future[Message | Exception] = loop.create_future()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: _Asking(query, outcome), remote_addr=(server.host, server.port)
    )
    try:
        transport.sendto(query.to_wire())
        message = await outcome
    finally:
        transport.abort()
    if isinstance(message, Exception):
        raise message
    return message


async def _over_tcp(server: NameServer, query: Message) -> Message:
    """RFC 7766: the same messages, each behind its length."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        wire = query.to_wire()
        writer.write(len(wire).to_bytes(2, "big") + wire)
        size = int.from_bytes(await reader.readexactly(2), "big")
        message = read_reply(query, await reader.readexactly(size))
    finally:
        writer.transport.abort()
    if message is None or is_truncated(message):
        raise OSError("it says something else over TCP")
    return message
