"""Opens connections to servers."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

from meshproxy.transport.connection import keep_alive
from meshproxy.transport.facts import ConnectionFacts
from meshproxy.transport.h1 import H1Client
from meshproxy.transport.h1 import Owner as H1Owner
from meshproxy.transport.h2 import H2Client
from meshproxy.transport.h2 import Owner as H2Owner

if TYPE_CHECKING:
    from meshproxy.transport.connection import Driving


class ConnectError(Exception):
    """A server could not be reached. The message says which and why."""


async def connect_h1(driving: Driving, address: str, owner: H1Owner, timeout: float) -> H1Client:
    """An HTTP/1.1 connection to `host:port` or a UNIX socket's path. Raises ConnectError."""
    client = H1Client(driving, _facts(address, "HTTP/1.1"), owner)
    await _connect(driving, address, client, timeout)
    return client


async def connect_h2(driving: Driving, address: str, owner: H2Owner, timeout: float) -> H2Client:
    """An HTTP/2 connection with prior knowledge (RFC 9113 section 3.3), as to gRPC servers. Raises ConnectError."""
    client = H2Client(driving, _facts(address, "HTTP/2"), owner)
    await _connect(driving, address, client, timeout)
    return client


def _facts(address: str, protocol: str) -> ConnectionFacts:
    return ConnectionFacts(direction="upstream", protocol=protocol, remote=address, local="")


async def _connect(driving: Driving, address: str, protocol: asyncio.BaseProtocol, timeout: float) -> None:
    try:
        async with asyncio.timeout(timeout):
            if address.startswith("/"):
                await driving.loop.create_unix_connection(lambda: protocol, address)
                return
            host, _, port = address.rpartition(":")
            transport, _ = await driving.loop.create_connection(lambda: protocol, host.strip("[]"), int(port))
            with contextlib.suppress(OSError):  # gone already: its driver has heard
                keep_alive(transport.get_extra_info("socket"))
    except TimeoutError as error:
        raise ConnectError(f"{address} did not accept a connection within {timeout:g} s") from error
    except OSError as error:
        # asyncio puts the address into `strerror`; errors of name look-ups have negative numbers.
        why = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else error.strerror or error
        raise ConnectError(f"{address} cannot be reached: {why}") from error
