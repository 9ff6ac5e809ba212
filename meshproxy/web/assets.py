"""Files of the page that say nothing of the mesh: style sheet, scripts, and the libraries of others in `static/vendor`.

They are read once. Their addresses have the hash of what is in them, so browsers keep them for good.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from meshproxy.web.guard import Viewer

KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
HASH_CHARACTERS = 16


class Assets:
    """All of them, by name."""

    def __init__(self) -> None:
        folder = files("meshproxy.web") / "static"
        self._held = dict(_read(folder, "")) | dict(_read(folder / "vendor", "vendor/"))

    def url(self, name: str) -> str:
        """Where a page finds it."""
        return f"/static/{name}?v={_hash(self._held[name])}"

    async def get(self, request: web.Request, viewer: Viewer) -> web.Response:
        """GET /static/{name}."""
        name = request.match_info["name"]
        content = self._held.get(name)
        if content is None:
            raise web.HTTPNotFound(text="no such file\n")
        is_that = request.query.get("v") == _hash(content)
        lasts = "public, max-age=31536000, immutable" if is_that else "no-cache"
        kind = KINDS[name[name.rindex(".") :]]
        response = web.Response(body=content, content_type=kind, charset="utf-8", headers={"Cache-Control": lasts})
        response.enable_compression()
        return response


def _read(folder: Traversable, prefix: str) -> list[tuple[str, bytes]]:
    return [(prefix + each.name, each.read_bytes()) for each in folder.iterdir() if each.name.endswith(tuple(KINDS))]


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:HASH_CHARACTERS]
