"""A real API server answers in tests/e2e: to pods in test_story.py, to tests in test_attestation.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from meshproxy.control.cluster import connect
from meshproxy.devtools.node.tokens import request_token
from tests.control.fake_api_server import FakeApiServer

BOUND = {"apiVersion": "v1", "kind": "Pod", "name": "web-1", "uid": "42"}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, {"audiences": [], "expirationSeconds": 600}),
        (
            {"audience": "meshproxy", "seconds": 3600, "pod": ("web-1", "42")},
            {"audiences": ["meshproxy"], "expirationSeconds": 3600, "boundObjectRef": BOUND},
        ),
    ],
    ids=["of an account", "of a pod"],
)
async def test_what_is_asked_for(asked: Any, expected: Any, tmp_path: Path) -> None:
    seen = []

    async def create(request: web.Request) -> web.Response:
        content = await request.json()
        seen.append(content["spec"])
        return web.json_response(
            {**content, "status": {"token": "a.b.c", "expirationTimestamp": "2030-01-01T00:00:00Z"}}
        )

    application = web.Application()
    application.router.add_post("/api/v1/namespaces/serving/serviceaccounts/web/token", create)
    async with TestServer(application) as server:
        kubeconfig = FakeApiServer(url=str(server.make_url("")).rstrip("/")).write_kubeconfig(tmp_path, "serving")
        client = connect(kubeconfig)
        try:
            assert await request_token(client, "serving", "web", **asked) == "a.b.c"
        finally:
            await client.close()
    assert seen == [expected]
