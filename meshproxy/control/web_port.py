"""The web port of the control plane: health and metrics for everybody, pages for commands on this host."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from meshproxy.control.status import is_local
from meshproxy.telemetry import exposition

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from meshproxy.control.status import ControlStatus
    from meshproxy.telemetry.metrics import Registry


def web_port(
    registry: Registry, status: Callable[[], Awaitable[ControlStatus]], endpoints: Callable[[], dict[str, object]]
) -> web.Application:
    """Its pages.

    Args:
        registry: the metrics.
        status: what the control plane says about itself and its sidecars.
        endpoints: those of Services, by Service.
    """

    async def livez(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def metrics_page(request: web.Request) -> web.Response:
        openmetrics = exposition.wants_openmetrics(request.headers.get("accept", "").encode())
        kind = exposition.OPENMETRICS if openmetrics else exposition.TEXT
        page = bytearray()
        for piece in exposition.render(registry, openmetrics=openmetrics):
            page += piece
            await asyncio.sleep(0)  # whatever else there is to do comes first
        return web.Response(body=bytes(page), headers={"content-type": kind.decode()})

    async def status_page(request: web.Request) -> web.Response:
        _check_local(request)
        page = await asyncio.to_thread(msgspec.json.encode, await status())
        return web.Response(body=page, content_type="application/json")

    async def endpoints_page(request: web.Request) -> web.Response:
        _check_local(request)
        return web.json_response(endpoints())

    application = web.Application()
    application.add_routes(
        [
            web.get("/livez", livez),
            web.get("/readyz", livez),
            web.get("/metrics", metrics_page),
            web.get("/status", status_page),
            web.get("/endpoints", endpoints_page),
        ]
    )
    return application


def _check_local(request: web.Request) -> None:
    """Raises HTTPForbidden for a client elsewhere."""
    if not is_local(request.remote or "", request.host):
        raise web.HTTPForbidden(text="forbidden: use a loopback connection and the host name localhost\n")
