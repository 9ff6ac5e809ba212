"""The description of `/api/` (OpenAPI 3.1), made from the shapes of its answers."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from aiohttp import web

from meshproxy import __version__
from meshproxy.view.graph import Graph
from meshproxy.web.shapes import Certificates, Configuration, Denials, Model, Problem, Session
from meshproxy.web.windows import DEFAULT, WINDOWS

if TYPE_CHECKING:
    from meshproxy.web.guard import Viewer

PATH = "/api/openapi.json"
NAME = {"name": "name", "in": "query", "required": True, "schema": {"type": "string"}, "description": "of the model"}
SECONDS = {
    "name": "seconds",
    "in": "query",
    "schema": {"type": "integer", "enum": list(WINDOWS), "default": DEFAULT},
    "description": "how long the time is that figures are of",
}


class Operation(NamedTuple):
    """One GET."""

    path: str
    summary: str
    answer: type[msgspec.Struct]
    parameters: tuple[dict[str, Any], ...] = ()


OPERATIONS = (
    Operation("/api/graph", "Callers by name if they may be seen, models and versions.", Graph, (SECONDS,)),
    Operation("/api/model", "One model.", Model, (NAME, SECONDS)),
    Operation("/api/denials", "The last calls that were refused.", Denials),
    Operation("/api/certificates", "Certificates that are out.", Certificates),
    Operation("/api/configuration", "Sidecars, and whether they have the documents in force.", Configuration),
    Operation("/api/session", "The session, and what it may see.", Session),
)


@cache
def description() -> dict[str, Any]:
    """The document."""
    types = [*dict.fromkeys(operation.answer for operation in OPERATIONS), Problem]
    references, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    by_type = dict(zip(types, references, strict=True))
    paths: dict[str, Any] = {operation.path: {"get": _operation(operation, by_type)} for operation in OPERATIONS}
    paths[PATH] = {
        "get": {
            "operationId": "openapi",
            "summary": "This description.",
            "responses": _responses({"type": "object"}, by_type[Problem], ("401", "403")),
        }
    }
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "meshproxy",
            "version": __version__,
            "description": "The mesh as the page shows it. It only reads.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "__Host-meshproxy-session",
                    "description": "Of a login on the page; `meshproxy-session` where that is not reached over TLS.",
                }
            },
        },
        "security": [{"session": []}, {}],
    }


def _operation(operation: Operation, by_type: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    errors = ("401", "403", "404") if NAME in operation.parameters else ("401", "403")
    found: dict[str, Any] = {
        "operationId": operation.path.removeprefix("/api/"),
        "summary": operation.summary,
        "responses": _responses(by_type[operation.answer], by_type[Problem], errors),
    }
    return found | ({"parameters": list(operation.parameters)} if operation.parameters else {})


def _responses(good: dict[str, Any], problem: dict[str, Any], errors: tuple[str, ...]) -> dict[str, Any]:
    texts = {"401": "There is no session: log in.", "403": "The role does not see this.", "404": "There is none."}
    return {"200": _response("What was asked for.", good)} | {
        status: _response(texts[status], problem) for status in errors
    }


def _response(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


async def get(request: web.Request, viewer: Viewer) -> web.Response:
    """GET /api/openapi.json."""
    return web.Response(body=msgspec.json.encode(description()), content_type="application/json")
