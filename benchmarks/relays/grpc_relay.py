"""A generic relay for unary gRPC on grpc.aio: mTLS, JWT, the method's path, an access log; messages stay unread."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import uvloop

from benchmarks.relays.checks import Checks, Settings, access_log

SERVICE = "/tensorflow.serving.PredictionService/"
OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
]


class Relay(grpc.GenericRpcHandler):
    """Takes every method of the prediction service and calls the same one upstream, bytes in, bytes out."""

    def __init__(self, settings: Settings) -> None:
        self._checks = Checks(settings)
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{settings.upstream}", OPTIONS)
        self._calls: dict[str, Any] = {}
        self._log = access_log()

    def service(self, handler_call_details: Any) -> Any:
        path: str = handler_call_details.method
        if not path.startswith(SERVICE):
            return None
        return grpc.unary_unary_rpc_method_handler(self._carry(path))

    def _carry(self, path: str) -> Callable[[bytes, Any], Awaitable[bytes]]:
        call = self._calls.get(path)
        if call is None:
            call = self._calls[path] = self._channel.unary_unary(path)

        async def carry(message: bytes, context: Any) -> bytes:
            begun = time.monotonic()
            metadata = dict(context.invocation_metadata())
            claims = self._checks.claims(metadata.get("authorization"))
            if claims is None:
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, "unauthenticated")
                raise AssertionError("abort raises")
            # All names of the certificate: the SPIFFE id is the one that is a URI of that scheme.
            names = [name.decode() for name in context.auth_context().get("x509_subject_alternative_name", ())]
            workload = next((name for name in names if name.startswith("spiffe://")), None)
            if not self._checks.may(claims, workload):
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, "permission denied")
            passed = tuple((name, value) for name, value in metadata.items() if name != "user-agent")
            answer: bytes = await call(message, metadata=passed)
            self._log.info(
                json.dumps(
                    {
                        "start_time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                        "path": path,
                        "grpc_status": 0,
                        "bytes_received": len(message),
                        "bytes_sent": len(answer),
                        "duration": round((time.monotonic() - begun) * 1000),
                        "user_agent": metadata.get("user-agent"),
                        "peer_spiffe_id": workload,
                        "jwt_sub": claims.get("sub"),
                    }
                )
            )
            return answer

        return carry


async def serve(settings: Settings) -> None:
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((Relay(settings),))
    pair = (Path(settings.key).read_bytes(), Path(settings.certificate).read_bytes())
    credentials = grpc.ssl_server_credentials([pair], Path(settings.bundle).read_bytes(), require_client_auth=True)
    server.add_secure_port(f"127.0.0.1:{settings.port}", credentials)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    try:
        uvloop.run(serve(Settings.read()))
    except (KeyboardInterrupt, asyncio.CancelledError):
        pass
