"""`/events`: what has changed in the graph, as one stream of server-sent events.

A reader is sent the whole graph first, then the nodes and edges that are others than before (`change`). The graph is
made once for all readers that see the same. Who reads too slowly loses the stream, and the browser asks again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from meshproxy.view.graph import Graph, GraphEdge, Node
from meshproxy.web.windows import read_window

if TYPE_CHECKING:
    from meshproxy.web.guard import Guard, Viewer
    from meshproxy.web.permissions import Permission
    from meshproxy.web.visible import View

INTERVAL = 2.0
"""Seconds between two looks at the mesh."""
SILENCE = 15.0
"""Seconds after which a line is sent that says nothing, so that nobody between gives up the connection."""
READERS = 100
"""At once."""
READERS_OF_ONE = 20
"""Of one subject that has logged in: nobody takes them all."""
SEND_SECONDS = 10.0
"""That a reader has for one event."""
RETRY = b"retry: 5000\n\n"


class Change(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What is different from the event before."""

    graph: Graph
    """Without nodes and edges."""
    nodes: tuple[Node, ...]
    edges: tuple[GraphEdge, ...]
    removed: tuple[str, ...]
    """Ids of nodes and edges."""


def change(before: Graph, after: Graph) -> Change:
    """From one graph to a later one."""
    old: dict[str, Node | GraphEdge] = {node.id: node for node in before.nodes}
    old.update((edge.id, edge) for edge in before.edges)
    nodes = tuple(node for node in after.nodes if old.pop(node.id, None) != node)
    edges = tuple(edge for edge in after.edges if old.pop(edge.id, None) != edge)
    return Change(
        graph=msgspec.structs.replace(after, nodes=[], edges=[], rows=[]), nodes=nodes, edges=edges, removed=tuple(old)
    )


class Events:
    """The stream, for all its readers."""

    def __init__(self, view: View, guard: Guard) -> None:
        self._view = view
        self._guard = guard
        self._changes: dict[tuple[int, frozenset[Permission]], tuple[Graph, Graph, bytes]] = {}
        """The last ones, from which graph to which: readers that began at different times are soon at the same one."""
        self._readers: Counter[str] = Counter()
        """By subject; empty: without a login."""
        self._closing = asyncio.Event()

    async def close(self, application: web.Application) -> None:
        """A signal of aiohttp: end all streams, for which it would wait a minute. Browsers ask again."""
        self._closing.set()

    async def get(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """GET /events."""
        subject = viewer.session.subject if viewer.session is not None else ""
        if self._readers.total() >= READERS or (subject and self._readers[subject] >= READERS_OF_ONE):
            raise web.HTTPServiceUnavailable(text="too many pages are open\n", headers={"Retry-After": "30"})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        self._readers[subject] += 1
        try:
            await self._stream(request, viewer, response)
        except (ConnectionError, TimeoutError):
            pass  # it is gone, or too slow: a browser asks again
        finally:
            self._readers[subject] -= 1
            self._readers += Counter()  # forgets those that have none
        return response

    async def _stream(self, request: web.Request, viewer: Viewer, response: web.StreamResponse) -> None:
        await response.prepare(request)
        loop, seconds = asyncio.get_running_loop(), read_window(request)
        graph = self._view.graph(seconds, viewer.sees)
        await self._send(response, RETRY + event("graph", msgspec.structs.replace(graph, rows=[])))
        told = loop.time()
        while not self._guard.is_over(request):
            with suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL):
                    await self._closing.wait()
                return
            newer = self._view.graph(seconds, viewer.sees)
            if newer is not graph:
                await self._send(response, self._change(graph, newer, seconds, viewer.sees))
                graph, told = newer, loop.time()
            elif loop.time() - told >= SILENCE:
                await self._send(response, b":\n\n")
                told = loop.time()
        await self._send(response, b"event: over\ndata: {}\n\n")

    async def _send(self, response: web.StreamResponse, data: bytes) -> None:
        """Raises TimeoutError for a reader that is too slow, ConnectionError for one that is gone."""
        async with asyncio.timeout(SEND_SECONDS):
            await response.write(data)

    def _change(self, before: Graph, after: Graph, seconds: int, sees: frozenset[Permission]) -> bytes:
        known = self._changes.get((seconds, sees))
        if known is not None and known[0] is before and known[1] is after:
            return known[2]
        made = event("change", change(before, after))
        self._changes[seconds, sees] = before, after, made
        return made


def event(name: str, data: msgspec.Struct) -> bytes:
    """One event. JSON has no line breaks of its own."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(data))
