"""The target of a load, and the connections to it."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from pathlib import Path

from meshproxy.devtools.load.generator import Driver
from meshproxy.devtools.load.grpc import GrpcConnection, GrpcSlot, call_blocks
from meshproxy.devtools.load.rest import RestConnection
from meshproxy.devtools.load.varied import ids, vary_rest

PREDICT = b"/tensorflow.serving.PredictionService/Predict"


@dataclass(frozen=True, slots=True)
class Target:
    """The target of requests, and the client's identity."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    server_name: str | None = None
    """Sent as SNI, and checked against the certificate if `tls` checks host names."""
    token: str | None = None
    server_id: str | None = None
    """The SPIFFE id that the server's certificate must hold."""
    timeout_ms: int | None = None
    """How long each request says that its caller waits; None: it does not say."""

    @property
    def authority(self) -> str:
        return f"{self.server_name or self.host}:{self.port}"


def client_tls(bundle: Path | None, certificate: Path | None, key: Path | None, *, checks_name: bool) -> ssl.SSLContext:
    """TLS 1.3 with a client certificate.

    Args:
        bundle: the trust bundle (PEM) that the server must chain to; the system's if None.
        checks_name: False where the server's certificate names a SPIFFE id and no host.

    Raises:
        OSError: a file cannot be read.
        ssl.SSLError: a file is not what it should be.
    """
    context = ssl.create_default_context(cafile=str(bundle) if bundle else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = checks_name
    if certificate is not None:
        context.load_cert_chain(str(certificate), str(key) if key else None)
    return context


def rest_request(target: Target, path: str, body: bytes) -> bytes:
    """A POST with a JSON body as it goes on the wire."""
    lines = [
        f"POST {path} HTTP/1.1",
        f"host: {target.authority}",
        "user-agent: meshproxy-bench",
        "accept: */*",
        "content-type: application/json",
        f"content-length: {len(body)}",
    ]
    if target.token:
        lines.append(f"authorization: Bearer {target.token}")
    if target.timeout_ms is not None:
        lines.append(f"x-envoy-expected-rq-timeout-ms: {target.timeout_ms}")
    return "\r\n".join((*lines, "", "")).encode() + body


async def open_rest(
    target: Target, request: bytes, connections: int, driver: Driver, *, varies: bool = False
) -> list[RestConnection]:
    """Opens keep-alive connections; each is one slot.

    Args:
        varies: no two requests are alike (`varied`).

    Raises:
        OSError: a connection cannot be opened (`ssl.SSLError` among them), or the server has another identity.
    """
    opened = []
    make = vary_rest(request, ids()) if varies else None
    for _ in range(connections):
        _transport, connection = await asyncio.get_running_loop().create_connection(
            lambda: RestConnection(request, driver.finished, make),
            target.host,
            target.port,
            ssl=_with_alpn(target.tls, "http/1.1"),
            server_hostname=(target.server_name or target.host) if target.tls else None,
        )
        check_server(connection.transport, target)
        opened.append(connection)
    return opened


async def open_grpc(
    target: Target,
    message: bytes,
    connections: int,
    streams: int,
    driver: Driver,
    path: bytes = PREDICT,
    *,
    varies: bool = False,
) -> list[GrpcConnection]:
    """Opens HTTP/2 connections of `streams` slots each, ready to call.

    Args:
        varies: no two calls are alike (`varied`); `message` is a PredictRequest then.

    Raises:
        OSError: a connection cannot be opened, or its server speaks no HTTP/2.
    """
    metadata = ((b"authorization", f"Bearer {target.token}".encode()),) if target.token else ()
    if target.timeout_ms is not None:
        metadata = (*metadata, (b"grpc-timeout", b"%dm" % target.timeout_ms))
    blocks = call_blocks(path, target.authority.encode(), metadata, is_tls=target.tls is not None)
    opened = []
    make = ids() if varies else None
    for _ in range(connections):
        _transport, connection = await asyncio.get_running_loop().create_connection(
            lambda: GrpcConnection(blocks, message, streams, driver.finished, make),
            target.host,
            target.port,
            ssl=_with_alpn(target.tls, "h2"),
            server_hostname=(target.server_name or target.host) if target.tls else None,
        )
        check_server(connection.transport, target)
        opened.append(connection)
        await asyncio.wait_for(connection.has_settings, 10)
    return opened


def check_server(transport: asyncio.BaseTransport, target: Target) -> None:
    """
    Raises:
        ConnectionError: the server's certificate is not that of the SPIFFE id that was asked for.
    """
    if target.server_id is None:
        return
    names = (transport.get_extra_info("peercert") or {}).get("subjectAltName", ())
    found = [value for kind, value in names if kind == "URI"]
    if found != [target.server_id]:
        transport.close()
        raise ConnectionError(
            f"the server's certificate has the SPIFFE id {', '.join(found) or '(none)'}, not {target.server_id}"
        )


def grpc_slots(connections: list[GrpcConnection]) -> list[GrpcSlot]:
    """All slots, those of different connections taking turns."""
    return [connection.slots[number] for number in range(len(connections[0].slots)) for connection in connections]


def _with_alpn(context: ssl.SSLContext | None, protocol: str) -> ssl.SSLContext | None:
    # The offer belongs to the context, not to the connection: set right before each use.
    if context is not None:
        context.set_alpn_protocols([protocol])
    return context
