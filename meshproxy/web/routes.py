"""Every route of the page: one table, with what each needs. `make_page` puts it together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import web

from meshproxy.web import openapi
from meshproxy.web.api import Api, answer
from meshproxy.web.assets import Assets
from meshproxy.web.events import Events
from meshproxy.web.guard import Access, Denied, Guard, Viewer
from meshproxy.web.login import Login, LoginEvent
from meshproxy.web.pages import Pages
from meshproxy.web.permissions import Permission
from meshproxy.web.provider import CALLBACK
from meshproxy.web.sessions import Sessions
from meshproxy.web.shapes import Problem
from meshproxy.web.visible import View

if TYPE_CHECKING:
    from meshproxy.web.login_file import LoginSettings
    from meshproxy.web.source import Source

API = "/api/"


class Route(NamedTuple):
    """One route."""

    method: str
    path: str
    needs: Permission | Access
    handler: Callable[[web.Request, Viewer], Awaitable[web.StreamResponse]]


class Page:
    """The page of one control plane."""

    def __init__(
        self,
        source: Source,
        is_local: Callable[[str, str], bool],
        login: LoginSettings | None = None,
        tell: Callable[[LoginEvent], None] = lambda event: None,
    ) -> None:
        """
        Args:
            source: of the mesh.
            is_local: whether a client is on this host, by its address and the Host that it asked for.
            login: None: for clients on this host alone.
            tell: is told of each login and logout.
        """
        self.sessions = Sessions()
        self.guard = guard = Guard(is_local, login, self.sessions)
        assets, view = Assets(), View(source)
        self.pages = pages = Pages(source, view, assets)
        api = Api(source, view)
        self._events = events = Events(view, guard)
        see = Permission
        self.routes = [
            Route("GET", "/", see.GRAPH, pages.mesh),
            Route("GET", "/model", see.GRAPH, pages.model),
            Route("GET", "/denials", see.DENIALS, pages.denials),
            Route("GET", "/certificates", see.CERTIFICATES, pages.certificates),
            Route("GET", "/configuration", see.CONFIGURATION, pages.configuration),
            Route("GET", "/events", see.GRAPH, events.get),
            Route("GET", "/static/{name:.+}", Access.EVERYBODY, assets.get),
            Route("GET", "/api/graph", see.GRAPH, api.graph),
            Route("GET", "/api/model", see.GRAPH, api.model),
            Route("GET", "/api/denials", see.DENIALS, api.denials),
            Route("GET", "/api/certificates", see.CERTIFICATES, api.certificates),
            Route("GET", "/api/configuration", see.CONFIGURATION, api.configuration),
            Route("GET", "/api/session", Access.SESSION, api.session),
            Route("GET", openapi.PATH, Access.SESSION, openapi.get),
        ]
        if login is not None:
            entry = Login(login, guard, self.sessions, pages, tell)
            self.routes += [
                Route("GET", "/login", Access.EVERYBODY, entry.begin),
                Route("GET", CALLBACK, Access.EVERYBODY, entry.finish),
                Route("POST", "/logout", Access.SESSION, entry.end),
            ]

    def add_to(self, application: web.Application) -> None:
        """Serve the page beside what the application has."""
        application.on_response_prepare.append(self.guard.add_headers)
        application.on_shutdown.append(self._events.close)
        for route in self.routes:
            application.router.add_route(route.method, route.path, self._guarded(route))

    def _guarded(self, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                viewer = self.guard.admit(request, route.needs)
                return await route.handler(request, viewer)
            except Denied as denied:
                return self._denied(route, denied)

        return handle

    def _denied(self, route: Route, denied: Denied) -> web.Response:
        if route.path.startswith(API) or route.path == "/events":
            return answer(Problem(error=denied.text), denied.status)
        if denied.location and route.method == "GET":
            return web.Response(status=303, headers={"Location": denied.location})
        return self.pages.message(denied.status, "Not permitted", f"{denied.text}.")
