"""`/api/`: what the pages show, as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from meshproxy.web.shapes import Denials, Problem, Session
from meshproxy.web.windows import read_window

if TYPE_CHECKING:
    from meshproxy.web.guard import Viewer
    from meshproxy.web.source import Source
    from meshproxy.web.visible import View


class Api:
    """Answers."""

    def __init__(self, source: Source, view: View) -> None:
        self._source = source
        self._view = view

    async def graph(self, request: web.Request, viewer: Viewer) -> web.Response:
        """GET /api/graph."""
        return answer(self._view.graph(read_window(request), viewer.sees))

    async def model(self, request: web.Request, viewer: Viewer) -> web.Response:
        """GET /api/model?name=NAME."""
        model = self._view.model(request.query.get("name", ""), read_window(request), viewer.sees)
        if model is None:
            return answer(Problem(error="nobody calls a model of this name, and no document names it"), 404)
        return answer(model)

    async def denials(self, request: web.Request, viewer: Viewer) -> web.Response:
        """GET /api/denials."""
        return answer(Denials(denials=self._view.denials(viewer.sees)))

    async def certificates(self, request: web.Request, viewer: Viewer) -> web.Response:
        """GET /api/certificates."""
        return answer(await self._source.certificates())

    async def configuration(self, request: web.Request, viewer: Viewer) -> web.Response:
        """GET /api/configuration."""
        return answer(await self._source.configuration())

    async def session(self, request: web.Request, viewer: Viewer) -> web.Response:
        """GET /api/session."""
        session = viewer.session
        sees = tuple(sorted(permission.value for permission in viewer.sees))
        return answer(
            Session(
                subject=session.subject if session is not None else "",
                roles=session.roles if session is not None else (),
                sees=sees,
            )
        )


def answer(shape: object, status: int = 200) -> web.Response:
    """As JSON."""
    return web.Response(body=msgspec.json.encode(shape), content_type="application/json", status=status)
