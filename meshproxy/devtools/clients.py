"""Clients that a sidecar's callers use: aiohttp for REST, the official grpcio for gRPC, both with a certificate.

Both return an `Answer` of the same form, so that the demo and the tests can treat them alike.
"""

from __future__ import annotations

import io
import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
import grpc

REFUSAL_HEADER = "x-meshproxy-refusal"
SERVER_NAME = "localhost"
"""The DNS name in a development sidecar's certificate. Its SPIFFE id is what counts between workloads; these clients
check names."""

_GRPC_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.ssl_target_name_override", SERVER_NAME),
    # Channels to one address share connections in a process otherwise: here each caller has its own certificate.
    ("grpc.use_local_subchannel_pool", 1),
]


@dataclass(frozen=True)
class Certificate:
    """A client's certificate, key and trust bundle, as files."""

    bundle: Path
    certificate: Path | None = None
    """None: the client shows nothing."""
    key: Path | None = None


@dataclass(frozen=True)
class Answer:
    """What came back, over either protocol.

    Attributes:
        status: the HTTP status as digits, the name of the gRPC status, or what the connection failed with.
        refusal: the reason in `x-meshproxy-refusal`; None says that it is not the sidecar's answer.
        body: the JSON document or the bytes of the message; the error's text if there was one.
        seconds: from sending to the last byte.
    """

    status: str
    refusal: str | None
    body: Any
    seconds: float


class RestClient:
    """One caller's REST connection pool."""

    def __init__(self, address: str, certificate: Certificate | None, token: str | None = None) -> None:
        self._base = f"{'https' if certificate else 'http'}://{address}"
        self._server_name = SERVER_NAME if certificate else None
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        connector = aiohttp.TCPConnector(ssl=tls_context(certificate)) if certificate else aiohttp.TCPConnector()
        self._session = aiohttp.ClientSession(connector=connector)

    async def __aenter__(self) -> RestClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def call(
        self, method: str, path: str, content: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Sends a request, with content as JSON if there is any."""
        # Bytes above 1 MiB are to be given to aiohttp as a file.
        data = None if content is None else io.BytesIO(json.dumps(content).encode())
        sent = {**self._headers, "content-type": "application/json", **(headers or {})}
        started = time.perf_counter()
        try:
            async with self._session.request(
                method, self._base + path, data=data, headers=sent, server_hostname=self._server_name
            ) as response:
                body = await response.read()
        except aiohttp.ClientError as error:
            return Answer(type(error).__name__, None, str(error), time.perf_counter() - started)
        seconds = time.perf_counter() - started
        is_json = response.content_type == "application/json"
        return Answer(
            str(response.status),
            response.headers.get(REFUSAL_HEADER),
            json.loads(body) if is_json and body else body.decode(errors="replace"),
            seconds,
        )


class GrpcClient:
    """One caller's gRPC channel."""

    def __init__(
        self, address: str, certificate: Certificate | None, token: str | None = None, *, retries: bool = False
    ) -> None:
        """With `retries`, grpcio's default: calls that have not left the client, or that GOAWAY excludes, are sent on
        another connection (gRFC A6, transparent retries)."""
        self._metadata = [("authorization", f"Bearer {token}")] if token else []
        options = [*_GRPC_OPTIONS, ("grpc.enable_retries", int(retries))]
        if certificate is None:
            self.channel = grpc.aio.insecure_channel(address, options=options)
        else:
            self.channel = grpc.aio.secure_channel(address, _grpc_credentials(certificate), options=options)

    async def __aenter__(self) -> GrpcClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.channel.close()

    async def call(
        self, path: str, message: bytes, headers: Mapping[str, str] | None = None, *, timeout: float = 30.0
    ) -> Answer:
        """A unary call with these bytes as its message."""
        metadata = [*self._metadata, *(headers or {}).items()]
        call: Any = self.channel.unary_unary(path)(message, metadata=metadata, timeout=timeout)  # type: ignore[arg-type]
        started = time.perf_counter()
        try:
            body = await call
        except grpc.aio.AioRpcError as error:
            seconds = time.perf_counter() - started
            return Answer(error.code().name, refusal_of(error), error.details(), seconds)
        return Answer("OK", None, body, time.perf_counter() - started)


def refusal_of(error: grpc.aio.AioRpcError) -> str | None:
    """The reason in `x-meshproxy-refusal`, wherever the client has put the header of a trailers-only response."""
    for metadata in (error.initial_metadata(), error.trailing_metadata()):
        for name, value in metadata or ():
            if name == REFUSAL_HEADER:
                return str(value)
    return None


def tls_context(certificate: Certificate) -> ssl.SSLContext:
    """What a client offers: its certificate if it has one, HTTP/1.1 by ALPN. Raises OSError or SSLError."""
    context = ssl.create_default_context(cafile=str(certificate.bundle))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    if certificate.certificate is not None:
        context.load_cert_chain(certificate.certificate, certificate.key)
    return context


def _grpc_credentials(certificate: Certificate) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        certificate.bundle.read_bytes(),
        certificate.key.read_bytes() if certificate.key else None,
        certificate.certificate.read_bytes() if certificate.certificate else None,
    )
