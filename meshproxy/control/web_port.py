"""The web port of the control plane: health and metrics for everybody, pages for commands on this host, and the page of
the mesh (`meshproxy/web`)."""

from __future__ import annotations

import asyncio
from math import nan
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from meshproxy.control.orders import who_orders
from meshproxy.control.rollouts import KeepFailed
from meshproxy.control.status import is_local
from meshproxy.control.tap_page import tap_page
from meshproxy.rollout.steps import Command, CommandRefused
from meshproxy.telemetry import exposition
from meshproxy.web.api import answer
from meshproxy.web.guard import is_here

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from meshproxy.control.audit import ControlAudit
    from meshproxy.control.rollouts import RolloutController
    from meshproxy.control.status import ControlStatus
    from meshproxy.control.taps import TapService
    from meshproxy.telemetry.metrics import Registry
    from meshproxy.view.findings import Findings
    from meshproxy.view.page import MeshPage
    from meshproxy.web.routes import Page

HOUR = 3_600

COMMAND_HEADER = "x-meshproxy-command"
"""Of orders: a page in a browser cannot send it to another site without asking."""


def web_port(
    registry: Registry,
    status: Callable[[], Awaitable[ControlStatus]],
    endpoints: Callable[[], dict[str, object]],
    mesh: Callable[[float], MeshPage],
    findings: Callable[[], Findings],
    documents: Callable[[], Sequence[msgspec.Raw]],
    page: Page,
    taps: TapService,
    rollouts: RolloutController | None = None,
    audit: ControlAudit | None = None,
    commands: Callable[[], str] | None = None,
) -> web.Application:
    """Its pages.

    Args:
        registry: the metrics.
        status: what the control plane says about itself and its sidecars.
        endpoints: those of Services, by Service.
        mesh: what sidecars have reported, of so many seconds.
        findings: what that says of the documents.
        documents: those in force, as they are sent.
        page: of the mesh.
        taps: show calls as they end.
        rollouts: shows rollouts, and takes orders; None: there are none without documents.
        audit: the audit trail, if there is one.
        commands: the address of the port that serves commands, and nothing else does; empty: it is not open yet. None:
            it is this one.
    """

    def check_command(request: web.Request) -> None:
        """Raises HTTPForbidden unless a command on this host asks, where it may."""
        if commands is not None:
            address = commands()
            if request.transport is None or str(port_of(request.transport)) != address.rpartition(":")[2]:
                where = address or "a port that is not open yet"
                raise web.HTTPForbidden(text=f"forbidden: people log in here, and commands use {where} (--commands)\n")
        _check_local(request)

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
        check_command(request)
        page = await asyncio.to_thread(msgspec.json.encode, await status())
        return web.Response(body=page, content_type="application/json")

    async def endpoints_page(request: web.Request) -> web.Response:
        check_command(request)
        return web.json_response(endpoints())

    async def mesh_page(request: web.Request) -> web.Response:
        check_command(request)
        page = await asyncio.to_thread(msgspec.json.encode, mesh(read_seconds(request.query.get("seconds", ""))))
        return web.Response(body=page, content_type="application/json")

    async def findings_page(request: web.Request) -> web.Response:
        check_command(request)
        return answer(findings())

    async def documents_page(request: web.Request) -> web.Response:
        check_command(request)
        return answer(documents())

    async def rollouts_page(request: web.Request) -> web.Response:
        check_command(request)
        return answer(rollouts.shown() if rollouts is not None else [])

    async def tap(request: web.Request) -> web.StreamResponse:
        check_command(request)
        if COMMAND_HEADER not in request.headers:
            raise web.HTTPForbidden(text=f"forbidden: taps need the header {COMMAND_HEADER}\n")
        return await tap_page(request, taps, audit)

    async def order(request: web.Request) -> web.Response:
        check_command(request)
        if COMMAND_HEADER not in request.headers:
            raise web.HTTPForbidden(text=f"forbidden: orders need the header {COMMAND_HEADER}\n")
        if rollouts is None:
            raise web.HTTPNotFound(text="this control plane has no documents, and no rollouts\n")
        name, who = request.match_info["name"], await asyncio.to_thread(who_orders, request)
        try:
            command = Command(request.match_info["command"])
        except ValueError:
            known = ", ".join(command.value for command in Command)
            raise web.HTTPNotFound(text=f"no such order; there are: {known}\n") from None

        def refuse(answer: type[web.HTTPError], why: str) -> web.HTTPError:
            if audit is not None:
                audit.order_refused(name, command.value, why, who)
            return answer(text=f"{why}\n")

        if audit is not None and (problem := audit.problem) and command is not Command.ABORT:
            raise refuse(web.HTTPServiceUnavailable, problem)
        try:
            await rollouts.order(name, command, who)
        except CommandRefused as error:
            raise refuse(web.HTTPConflict, str(error)) from None
        except KeepFailed as error:  # it has been taken
            raise web.HTTPServiceUnavailable(text=f"{error}; it is tried again\n") from None
        done = next(each for each in rollouts.shown() if each.name == name)
        paused = ", paused" if done.paused and done.status.is_active else ""
        has = f"its candidate has {done.status.weight:g} %"
        return web.Response(text=f"{name} is {done.status.phase.value}{paused}, {has}\n")

    application = web.Application()
    application.add_routes(
        [
            web.get("/livez", livez),
            web.get("/readyz", livez),
            web.get("/metrics", metrics_page),
            web.get("/status", status_page),
            web.get("/endpoints", endpoints_page),
            web.get("/mesh", mesh_page),
            web.get("/findings", findings_page),
            web.get("/documents", documents_page),
            web.get("/rollouts", rollouts_page),
            web.get("/tap", tap),
            web.post("/rollouts/{name}/{command}", order),
        ]
    )
    page.add_to(application)
    return application


def read_seconds(text: str) -> float:
    """Of a window: 1 to 3,600, or 60 if the query names none. Raises HTTPBadRequest."""
    try:
        seconds = float(text or 60)
    except ValueError:
        seconds = nan
    if not 1 <= seconds <= HOUR:
        raise web.HTTPBadRequest(text=f"seconds: expected a number from 1 to {HOUR}\n")
    return seconds


def port_of(transport: asyncio.Transport) -> int:
    """At which port of ours a connection has arrived."""
    return int(transport.get_extra_info("sockname")[1])


def _check_local(request: web.Request) -> None:
    """Raises HTTPForbidden for a client elsewhere, also behind a reverse proxy on this host."""
    if not is_here(request, is_local):
        raise web.HTTPForbidden(text="forbidden: use a loopback connection and the host name localhost\n")
