"""Chromium: what a page of another origin may do with a model."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from meshproxy.devtools.child import Child
from meshproxy.devtools.local_mesh import document, environment, local_sidecar

pytestmark = pytest.mark.asyncio(loop_scope="session")

PAGE = """<!doctype html><script>
const json = {"content-type": "application/json"};
const body = JSON.stringify({instances: [1.0]});
async function ask(url, options) {
  try {
    const answer = await fetch(url, options);
    return [answer.status, await answer.json(), answer.headers.get("x-meshproxy-refusal")];
  } catch (error) {
    return String(error);
  }
}
async function run() {
  const model = "http://SIDECAR/v1/models/half_plus_two";
  const results = {
    predict: await ask(model + ":predict", {method: "POST", headers: json, body}),
    status: (await ask(model))[0],
    refused: await ask(model + ":predict", {method: "POST", headers: {...json, authorization: "Bearer bad"}, body}),
    own_header: await ask(model + ":predict", {method: "POST", headers: {...json, "x-own": "1"}, body}),
    method: await ask(model + ":predict", {method: "PUT", headers: json, body}),
    closed: await ask(model.replace("two", "three") + ":predict", {method: "POST", headers: json, body}),
    closed_simple: await ask(model.replace("two", "three") + ":predict", {method: "POST", body}),
  };
  await fetch("/results", {method: "POST", body: JSON.stringify(results)});
}
run();
</script>"""
ISSUER = {
    "name": "corp",
    "issuer": "https://issuer.example",
    "audiences": ["models"],
    "algorithms": ["EdDSA"],
    "keys": {
        "inline": {
            "keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]
        }
    },
}


class PageServer:
    """Serves the page, and takes what it found out."""

    def __init__(self) -> None:
        self.results: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.page = ""

    async def get(self, request: web.Request) -> web.Response:
        return web.Response(text=self.page, content_type="text/html")

    async def post(self, request: web.Request) -> web.Response:
        self.results.set_result(json.loads(await request.text()))
        return web.Response()

    async def start(self) -> tuple[web.AppRunner, str]:
        """Its runner, and its origin."""
        application = web.Application()
        application.add_routes([web.get("/", self.get), web.post("/results", self.post)])
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


async def browse(url: str, folder: Path, until: asyncio.Future[Any]) -> None:
    """Open the page and wait for what it has to say."""
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    process = await asyncio.create_subprocess_exec(
        "chromium", *options, f"--user-data-dir={folder}", url, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(60):
            await until
    finally:
        process.terminate()
        await process.wait()


async def test_a_page_of_another_origin(model_server: Child, tmp_path: Path) -> None:
    said = model_server.listening
    server = PageServer()
    runner, origin = await server.start()
    cors = {"allowOrigins": [origin], "exposeHeaders": ["x-meshproxy-refusal"]}
    documents = [
        *environment(
            said["rest"], said["grpc"], mtls="disabled", mesh={"issuers": [ISSUER]}, sidecar={"drainTimeout": "1s"}
        ),
        document("ModelRoute", {"models": ["half_plus_two"], "cors": cors}),
    ]
    try:
        async with local_sidecar(tmp_path / "mesh", documents) as it:
            server.page = PAGE.replace("SIDECAR", it.inbound)
            await browse(origin, tmp_path / "chromium", server.results)
            found = server.results.result()
            print(json.dumps(found, indent=1))
    finally:
        await runner.cleanup()
    blocked = "TypeError: Failed to fetch"
    assert found["predict"] == [200, {"predictions": [3.5]}, None]
    assert found["status"] == 200
    assert found["refused"][0::2] == [401, "unauthenticated"]
    for what in ("own_header", "method", "closed", "closed_simple"):
        assert found[what] == blocked, what
