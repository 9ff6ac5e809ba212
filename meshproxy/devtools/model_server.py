"""A stand-in for TensorFlow Serving: its REST and gRPC surface on tiny models, for the demo, the tests and benchmarks.

It runs no graph: `models.py` has what is computed, `model_service.py` the verbs, `model_rest.py` the REST paths, and
this file puts them on sockets.
"""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import grpc
from aiohttp import web
from aiohttp.http_parser import RawRequestMessage

from meshproxy.devtools import messages
from meshproxy.devtools.model_rest import METRICS_PATH, Rest
from meshproxy.devtools.model_service import Service
from meshproxy.devtools.models import Model, ServingError
from meshproxy.refusal import GrpcStatus

# TensorFlow Serving takes messages up to 2 GiB (model_servers/server.cc); gRPC's own default is 4 MiB.
_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Grpc(grpc.GenericRpcHandler):
    """The gRPC surface over a Service."""

    def __init__(self, service: Service) -> None:
        self._handlers = {
            path: grpc.unary_unary_rpc_method_handler(
                _unary(service, path.rpartition("/")[2]),
                request_deserializer=request.FromString,
                response_serializer=response.SerializeToString,
            )
            for path, (request, response) in messages.METHODS.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        return self._handlers.get(handler_call_details.method)


def _unary(service: Service, verb: str) -> Callable[[Any, Any], Awaitable[Any]]:
    async def answer(request: Any, context: Any) -> Any:
        try:
            return await service.call(verb, request)
        except ServingError as error:
            await context.abort(_GRPC_CODES[error.status], error.message)

    return answer


_GRPC_CODES = {GrpcStatus(code.value[0]): code for code in grpc.StatusCode}


def _unlimited(
    message: RawRequestMessage, payload: Any, protocol: Any, writer: Any, task: asyncio.Task[None]
) -> web.BaseRequest:
    """A request whose body may have any size; aiohttp's own limit is 1 MiB."""
    return web.BaseRequest(message, payload, protocol, writer, task, asyncio.get_running_loop(), client_max_size=0)


@dataclass(frozen=True)
class ServerTls:
    """What `--ssl_config_file` of TensorFlow Serving names. PEM."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    """Clients must present a certificate of this authority."""

    def credentials(self) -> grpc.ServerCredentials:
        """For gRPC."""
        ca = self.client_ca.read_bytes() if self.client_ca is not None else None
        pair = (self.key.read_bytes(), self.certificate.read_bytes())
        return grpc.ssl_server_credentials([pair], ca, require_client_auth=ca is not None)

    def context(self) -> ssl.SSLContext:
        """For REST, which TensorFlow Serving has in plain text only; a proxy before it may have TLS."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.client_ca)
        context.load_cert_chain(self.certificate, self.key)
        if self.client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@dataclass(frozen=True)
class Ports:
    """Where both surfaces listen; port 0 takes any that is free. A UNIX socket is beside the port."""

    host: str = "127.0.0.1"
    rest: int = 0
    grpc: int = 0
    rest_socket: str | None = None
    grpc_socket: str | None = None
    tls: ServerTls | None = None
    rest_has_tls: bool = False
    """TLS for REST too."""
    metrics_path: str = METRICS_PATH


GRACE = 1.0
"""Seconds for what is in flight when it stops. aiohttp would wait for a minute: longer than a pod has for its end."""


class ModelServer:
    """Both surfaces, listening on sockets of this machine.

    Attributes:
        service: what answers.
        rest: where REST is listening, HOST:PORT.
        grpc: where gRPC is listening, HOST:PORT.
    """

    def __init__(
        self, service: Service, runner: web.ServerRunner, rest: str, grpc_server: grpc.aio.Server, grpc_address: str
    ) -> None:
        self.service = service
        self.rest = rest
        self.grpc = grpc_address
        self._runner = runner
        self._grpc_server = grpc_server

    @classmethod
    async def start(cls, service: Service, ports: Ports | None = None) -> ModelServer:
        """Listens where `ports` says. Raises OSError."""
        ports = ports or Ports()
        rest = Rest(service, ports.metrics_path)
        runner = web.ServerRunner(
            web.Server(rest.handle, request_factory=_unlimited, access_log=None), shutdown_timeout=GRACE
        )
        await runner.setup()
        rest_tls = ports.tls.context() if ports.tls is not None and ports.rest_has_tls else None
        await web.TCPSite(runner, ports.host, ports.rest, ssl_context=rest_tls).start()
        rest_address = f"{ports.host}:{runner.addresses[0][1]}"
        if ports.rest_socket is not None:
            await web.UnixSite(runner, ports.rest_socket, ssl_context=rest_tls).start()
        server = grpc.aio.server(handlers=[Grpc(service)], options=_UNLIMITED)
        listen = server.add_insecure_port
        if ports.tls is not None:
            listen = partial(server.add_secure_port, server_credentials=ports.tls.credentials())
        grpc_address = f"{ports.host}:{listen(f'{ports.host}:{ports.grpc}')}"
        if ports.grpc_socket is not None:
            listen(f"unix:{ports.grpc_socket}")
        await server.start()
        return cls(service, runner, rest_address, server, grpc_address)

    async def stop(self, grace: float = GRACE) -> None:
        """Stops both; calls of gRPC in flight get `grace` seconds, requests of REST `GRACE`."""
        await self._grpc_server.stop(grace)
        await self._runner.cleanup()


def parse_models(texts: Sequence[str]) -> list[Model]:
    """`NAME=1,2` each; the labels stable and canary point at the oldest and the newest version. Raises ValueError."""
    models = []
    for text in texts:
        name, _, versions = text.partition("=")
        numbers = tuple(sorted(int(version) for version in (versions or "1").split(",")))
        models.append(Model(name, numbers, {"stable": numbers[0], "canary": numbers[-1]}))
    return models


async def serve(service: Service, ports: Ports) -> None:
    """Runs until SIGTERM or SIGINT. Prints its addresses as one line of JSON."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = await ModelServer.start(service, ports)
    listening = {"event": "listening", "rest": server.rest, "grpc": server.grpc, "models": service.catalogue.names()}
    click.echo(json.dumps(listening))
    await stop.wait()
    await server.stop()
