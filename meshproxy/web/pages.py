"""The pages: what may be seen of the mesh, in HTML. Everything that others have named is escaped by the templates."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, NamedTuple

import jinja2
from aiohttp import web

from meshproxy.view.graph import NodeKind, node_id
from meshproxy.web.permissions import Permission
from meshproxy.web.shapes import Denials
from meshproxy.web.text import FILTERS
from meshproxy.web.windows import WINDOWS, read_window

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meshproxy.web.assets import Assets
    from meshproxy.web.guard import Viewer
    from meshproxy.web.source import Source
    from meshproxy.web.visible import View


CALLER = node_id(NodeKind.CALLER, "")
"""What the ids of callers begin with."""


class Tab(NamedTuple):
    """A page that all others link to."""

    path: str
    title: str
    needs: Permission


TABS = (
    Tab("/", "Mesh", Permission.GRAPH),
    Tab("/denials", "Denials", Permission.DENIALS),
    Tab("/certificates", "Certificates", Permission.CERTIFICATES),
    Tab("/configuration", "Configuration", Permission.CONFIGURATION),
)


class Pages:
    """Renders them."""

    def __init__(self, source: Source, view: View, assets: Assets) -> None:
        self._source = source
        self._view = view
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("meshproxy.web"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            auto_reload=False,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(FILTERS)
        self._templates.globals.update(asset=assets.url)

    async def mesh(self, request: web.Request, viewer: Viewer) -> web.Response:
        """GET /."""
        seconds = read_window(request)
        graph = self._view.graph(seconds, viewer.sees)
        return self._page(
            "mesh.html",
            viewer,
            "Mesh",
            command=["meshproxy", "edges", *_time(seconds)],
            seconds=seconds,
            answer=graph,
            nodes={node.id: node for node in graph.nodes},
            models=[node for node in graph.nodes if node.kind is NodeKind.MODEL],
            calls=[edge for edge in graph.edges if edge.source.startswith(CALLER)],
            shares=[edge for edge in graph.edges if not edge.source.startswith(CALLER)],
        )

    async def model(self, request: web.Request, viewer: Viewer) -> web.Response:
        """GET /model?name=NAME."""
        name, seconds = request.query.get("name", ""), read_window(request)
        model = self._view.model(name, seconds, viewer.sees)
        if model is None:
            return self.message(404, "No such model", f"Nobody calls {name!r}, and no document names it.", viewer)
        return self._page(
            "model.html",
            viewer,
            name,
            command=["meshproxy", "edges", "-o", "wide", "--model", name, *_time(seconds)],
            seconds=seconds,
            answer=model,
            nodes={node.id: node for node in (*model.callers, *model.versions)},
        )

    async def denials(self, request: web.Request, viewer: Viewer) -> web.Response:
        """GET /denials."""
        answer = Denials(denials=self._view.denials(viewer.sees))
        return self._page(
            "denials.html", viewer, "Denials", command=["curl", "-s", "localhost:18512/api/denials"], answer=answer
        )

    async def certificates(self, request: web.Request, viewer: Viewer) -> web.Response:
        """GET /certificates."""
        return self._page(
            "certificates.html",
            viewer,
            "Certificates",
            command=["meshproxy", "check"],
            answer=await self._source.certificates(),
        )

    async def configuration(self, request: web.Request, viewer: Viewer) -> web.Response:
        """GET /configuration."""
        return self._page(
            "configuration.html",
            viewer,
            "Configuration",
            command=["meshproxy", "proxy-status"],
            answer=await self._source.configuration(),
        )

    def message(
        self,
        status: int,
        title: str,
        text: str,
        viewer: Viewer | None = None,
        links: Mapping[str, str] | None = None,
    ) -> web.Response:
        """A page that says one thing, with links by their text."""
        return self._page("message.html", viewer, title, status=status, text=text, links=links or {})

    def _page(
        self,
        name: str,
        viewer: Viewer | None,
        title: str,
        status: int = 200,
        command: Sequence[str] = (),
        **more: object,
    ) -> web.Response:
        sees = viewer.sees if viewer is not None else frozenset()
        page = self._templates.get_template(name).render(
            title=title,
            command=shlex.join(command),
            windows=WINDOWS,
            tabs=[tab for tab in TABS if tab.needs in sees],
            session=viewer.session if viewer is not None else None,
            sees={permission.value for permission in sees},
            **more,
        )
        return web.Response(text=page, content_type="text/html", status=status)


def _time(seconds: int) -> list[str]:
    return ["-t", f"{seconds}s"]
