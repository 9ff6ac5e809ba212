"""A relay for REST on aiohttp's server and client, with uvloop: mTLS, JWT, a table of models, an access log."""

from __future__ import annotations

import json
import ssl
import time
from datetime import UTC, datetime
from typing import Any

import aiohttp
import uvloop
from aiohttp import web

from benchmarks.relays.checks import Checks, Settings, access_log

NOT_FORWARDED = frozenset({"host", "connection", "keep-alive", "transfer-encoding", "te", "upgrade", "content-length"})


class Relay:
    """The handler of every request."""

    def __init__(self, settings: Settings) -> None:
        self._checks = Checks(settings)
        self._models = frozenset(settings.models)
        self._base = f"http://127.0.0.1:{settings.upstream}"
        self._log = access_log()
        self._session: aiohttp.ClientSession

    async def open(self, _app: web.Application) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)

    async def close(self, _app: web.Application) -> None:
        await self._session.close()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        begun = time.monotonic()
        claims = self._checks.claims(request.headers.get("authorization"))
        if claims is None:
            return web.json_response({"error": "unauthenticated"}, status=401)
        model = request.match_info["model"]
        workload = self._workload(request)
        if model not in self._models or not self._checks.may(claims, workload):
            return web.json_response({"error": "permission denied"}, status=403)
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in NOT_FORWARDED]
        length = request.content_length
        # A body of known size is small enough to read, or is streamed on as it comes.
        body: Any = await request.read() if length is not None and length <= 65_536 else request.content
        if length is not None:
            headers.append(("content-length", str(length)))
        async with self._session.request(
            request.method, self._base + request.raw_path, headers=headers, data=body
        ) as answer:
            passed = [(name, value) for name, value in answer.headers.items() if name.lower() not in NOT_FORWARDED]
            response: web.StreamResponse
            if answer.content_length is not None and answer.content_length <= 65_536:
                response = web.Response(status=answer.status, body=await answer.read(), headers=passed)
            else:
                response = web.StreamResponse(status=answer.status, headers=dict(passed))
                if answer.content_length is not None:
                    response.content_length = answer.content_length
                await response.prepare(request)
                async for piece in answer.content.iter_any():
                    await response.write(piece)
                await response.write_eof()
        self._log.info(
            json.dumps(
                {
                    "start_time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                    "method": request.method,
                    "path": request.raw_path,
                    "response_code": response.status,
                    "bytes_received": length,
                    "bytes_sent": answer.content_length,
                    "duration": round((time.monotonic() - begun) * 1000),
                    "user_agent": request.headers.get("user-agent"),
                    "model": model,
                    "peer_spiffe_id": workload,
                    "jwt_sub": claims.get("sub"),
                }
            )
        )
        return response

    def _workload(self, request: web.Request) -> str | None:
        assert request.transport is not None
        certificate = request.transport.get_extra_info("peercert") or {}
        return next((value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"), None)


def main() -> None:
    settings = Settings.read()
    relay = Relay(settings)
    app = web.Application(client_max_size=1 << 30)
    app.on_startup.append(relay.open)
    app.on_cleanup.append(relay.close)
    app.router.add_route("*", "/v1/models/{model:[^/:]+}:predict", relay.handle)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(settings.certificate, settings.key)
    context.load_verify_locations(settings.bundle)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0
    web.run_app(
        app,
        host="127.0.0.1",
        port=settings.port,
        ssl_context=context,
        access_log=None,
        print=lambda *_: None,
        loop=uvloop.new_event_loop(),
        backlog=4096,
    )


if __name__ == "__main__":
    main()
