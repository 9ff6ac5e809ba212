"""The metrics page of a model server: fetched, and read a few lines at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from meshproxy.codec.events import RequestHead
from meshproxy.inference.tfserving_metrics import MOST_LINES, PageError
from meshproxy.transport.channel import H1Channel, Target, own_connections
from meshproxy.transport.client import ClientError, exchange

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshproxy.upstream.cluster import Cluster
    from meshproxy.upstream.endpoint import Endpoint

PAGE_SECONDS = 5.0
"""From opening the connection to the last byte."""
PAGE_BYTES = 4 << 20
"""A hundred models, each called over REST and gRPC, make 1.5 MB."""
SLICE = 250
"""Lines that are read in one turn of the event loop: 0.5 ms, and 1 ms if every one of them has a latency."""


class NoPage(Exception):
    """The page cannot be had, or cannot be used. The message says why.

    Attributes:
        result: the label of `meshproxy_model_server_pages_total`.
    """

    def __init__(self, result: str, message: str) -> None:
        super().__init__(message)
        self.result = result


class Reader(Protocol):
    """Reads a page (`TimesReader`, `RelayedPage`)."""

    def feed(self, lines: Sequence[bytes], /) -> None:
        """Some lines. Raises PageError."""


def endpoints_of(server: str, clusters: Sequence[Cluster]) -> list[Endpoint]:
    """The endpoints of a `ModelServer`; none if it is not in use."""
    return [endpoint for each in clusters if each.name == server for endpoint in each.endpoints.values()]


async def feed(reader: Reader, page: bytes) -> None:
    """Give a reader all lines of a page. Requests are served in between. Raises PageError."""
    if page.count(b"\n") > MOST_LINES:  # before they are objects, empty ones too
        raise PageError(f"the page has more than {MOST_LINES} lines")
    lines = page.split(b"\n")
    for start in range(0, len(lines), SLICE):
        reader.feed(lines[start : start + SLICE])
        await asyncio.sleep(0)


async def read_page(endpoint: Endpoint, path: bytes, timeout: float = PAGE_SECONDS) -> bytes:
    """GET the page of one model server, on a connection of its own. Raises NoPage."""
    rest = endpoint.rest
    if rest is None or endpoint.is_sidecar:
        raise NoPage("absent", f"{endpoint.name} has no address for REST, where the page is")
    channel = H1Channel(own_connections(), Target(rest.address, rest.peer), connect_timeout=timeout)
    head = RequestHead(0, b"GET", b"", path, ((b"accept", b"text/plain"), (b"user-agent", b"meshproxy")), end=True)
    try:
        response = await exchange(channel, head, timeout=timeout, max_body_bytes=PAGE_BYTES)
    except ClientError as error:
        raise NoPage("failed", str(error)) from error
    finally:
        channel.abort()
    if response.status == 404:
        advice = "start it with --monitoring_config_file, or set metricsPath of its ModelServer"
        raise NoPage("absent", f"{endpoint.name} has no such page: {advice}")
    if response.status != 200:
        raise NoPage("failed", f"the response has status {response.status}")
    return response.body
