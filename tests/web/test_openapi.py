"""The description of the API: it is complete, and the answers are what it says."""

from __future__ import annotations

from collections.abc import AsyncIterator

import jsonschema
import msgspec
import pytest

from meshproxy.web.openapi import OPERATIONS, PATH, description
from tests.view.meshes import mesh
from tests.web.logins import log_in, page_with_login
from tests.web.meshes import ROLLOUT, Client, FixedSource, application, client

# What the document itself must be, of the official schema (https://spec.openapis.org/oas/3.1/schema/2022-10-07), as far
# as it is used.
DOCUMENT = {
    "type": "object",
    "required": ["openapi", "info", "paths", "components"],
    "properties": {
        "openapi": {"pattern": r"^3\.1\.\d+$"},
        "info": {"required": ["title", "version"]},
        "paths": {
            "patternProperties": {
                "^/": {
                    "required": ["get"],
                    "additionalProperties": False,
                    "properties": {
                        "get": {
                            "required": ["operationId", "summary", "responses"],
                            "properties": {
                                "responses": {
                                    "patternProperties": {"^[1-5][0-9]{2}$": {"required": ["description", "content"]}},
                                    "additionalProperties": False,
                                },
                                "parameters": {"items": {"required": ["name", "in", "schema"]}},
                            },
                        }
                    },
                }
            },
            "additionalProperties": False,
        },
    },
}


def source() -> FixedSource:
    return FixedSource(mesh(20, 1_000_000.0), 1_000_000.0, ROLLOUT)


@pytest.fixture
async def page() -> AsyncIterator[Client]:
    async with client(source()) as (found, _):
        yield found


def validate(answer: object, path: str, status: int) -> None:
    schema = description()["paths"][path]["get"]["responses"][str(status)]["content"]["application/json"]["schema"]
    jsonschema.Draft202012Validator({**schema, "components": description()["components"]}).validate(answer)


async def test_each_route_is_described() -> None:
    _, page = application(source())
    assert {route.path for route in page.routes if route.path.startswith("/api/")} == set(description()["paths"])
    jsonschema.Draft202012Validator(DOCUMENT).validate(description())
    for schema in description()["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


async def test_each_answer_is_what_it_says(page: Client) -> None:
    for operation in OPERATIONS:
        path = f"{operation.path}?name=model-0"
        async with page.get(path) as answer:
            assert answer.status == 200
            said = await answer.json()
            validate(said, operation.path, 200)
            assert said["apiVersion"] == "meshproxy.dev/v1alpha1"
            assert said["kind"]
    async with page.get("/api/model?name=no-such") as answer:
        assert answer.status == 404
        validate(await answer.json(), "/api/model", 404)
    async with page.get(PATH) as answer:
        assert await answer.read() == msgspec.json.encode(description())


async def test_each_refusal_is_what_it_says() -> None:
    async with page_with_login(source()) as (page, _, _):
        for path in description()["paths"]:
            async with page.get(path) as answer:
                assert answer.status == 401
                validate(await answer.json(), path, 401)
        await log_in(page, "vera")
        for path in ("/api/denials", "/api/certificates"):
            async with page.get(path) as answer:
                assert answer.status == 403
                validate(await answer.json(), path, 403)


def test_what_is_not_described_would_be_found() -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate({"kind": 7}, "/api/graph", 200)
