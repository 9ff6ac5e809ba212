"""What browsers do with a sidecar, step by step as the Fetch standard says, by an HTTP client; `make conformance` asks
Chromium itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from meshproxy.devtools.local_mesh import LocalSidecar, document, environment, local_mesh

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

APP = "https://app.example"
CORS = {"allowOrigins": [APP], "exposeHeaders": ["X-Meshproxy-Refusal", "retry-after"], "maxAge": "10m"}
KEY = {"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
ISSUER = {
    "name": "corp",
    "issuer": "https://issuer.example",
    "audiences": ["models"],
    "algorithms": ["EdDSA"],
    "keys": {"inline": {"keys": [KEY]}},
}
PREDICT = "/v1/models/half_plus_two:predict"
ASKS = {
    "origin": APP,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}


@asynccontextmanager
async def sidecar(folder: Path) -> AsyncIterator[LocalSidecar]:
    """Pages of `APP` may call every model; `half_plus_three` once in a thousand seconds."""
    async with local_mesh(folder / "mesh") as mesh:
        said = (await mesh.model_server()).listening
        seldom = [{"requests": 0.001, "burst": 1000}]
        documents = [
            *environment(
                said["rest"],
                said["grpc"],
                mtls="disabled",
                mesh={"issuers": [ISSUER]},
                sidecar={"accessLog": str(folder / "access.log")},
            ),
            document("ModelRoute", {"models": ["*"], "cors": CORS}, "all"),
            document("ModelRoute", {"models": ["half_plus_three"], "cors": CORS, "rateLimits": seldom}, "seldom"),
        ]
        yield await mesh.sidecar("the sidecar", documents)


async def test_a_page_of_another_origin(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as it, aiohttp.ClientSession(f"http://{it.inbound}") as session:
        async with session.options(PREDICT, headers=ASKS) as answer:
            assert (answer.status, await answer.read()) == (204, b"")
            assert answer.headers["access-control-allow-origin"] == APP
            assert "POST" in answer.headers["access-control-allow-methods"]
            assert answer.headers["access-control-allow-headers"] == "authorization, content-type"
            assert answer.headers["access-control-max-age"] == "600"
        page = {"origin": APP, "content-type": "application/json"}
        async with session.post(PREDICT, data='{"instances": [1.0]}', headers=page) as answer:
            assert (answer.status, await answer.json()) == (200, {"predictions": [3.5]})
            assert answer.headers.getall("access-control-allow-origin") == [APP]
            assert answer.headers.getall("vary") == ["origin"]
            assert answer.headers["access-control-expose-headers"] == "x-meshproxy-refusal, retry-after"
        bad = {**page, "authorization": "Bearer bad"}
        async with session.post(PREDICT, data="{}", headers=bad) as answer:
            assert (answer.status, answer.headers["access-control-allow-origin"]) == (401, APP)
            assert answer.headers["x-meshproxy-refusal"] == "unauthenticated"
        seldom = PREDICT.replace("two", "three")
        statuses = []
        for _ in range(2):
            async with session.post(seldom, data='{"instances": [1.0]}', headers=page) as answer:
                statuses.append((answer.status, answer.headers["access-control-allow-origin"]))
        assert statuses[1] == (429, APP)
        evil = {**ASKS, "origin": "https://app.example.evil"}
        async with session.options(PREDICT, headers=evil) as answer:
            assert (answer.status, answer.headers["x-meshproxy-refusal"]) == (403, "origin-not-allowed")
            assert "access-control-allow-origin" not in answer.headers
        async with session.options(PREDICT) as answer:
            assert (answer.status, answer.headers["x-meshproxy-refusal"]) == (400, "bad-request")
        assert await it.total("meshproxy_requests_total", 'code="204"') == 1
        assert await it.total("meshproxy_refusals_total", 'reason="origin-not-allowed"') == 1
    log = (tmp_path / "access.log").read_text()
    assert '"method":"OPTIONS"' in log
    assert '"response_code":204' in log
    assert '"response_code_details":"direct_response"' in log
    assert '"route_name":"all"' in log.partition("\n")[0]
