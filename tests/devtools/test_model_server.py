from __future__ import annotations

import asyncio
import contextlib
import io
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import grpc
import pytest

from meshproxy.devtools import messages
from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.devtools.model_server import ModelServer, Ports, ServerTls, parse_models
from meshproxy.devtools.model_service import Service
from meshproxy.devtools.models import Catalogue, Model, float_tensor

PREDICT = "/tensorflow.serving.PredictionService/Predict"


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    started = await ModelServer.start(Service(Catalogue(parse_models(["half_plus_two=1,2"]))))
    yield started
    await started.stop(0)


def unary(channel: grpc.aio.Channel, method: str = PREDICT) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
    return channel.unary_unary(method)


def predict(name: str, x: list[float] | bytes, signature: str = "") -> bytes:
    request = messages.PredictRequest(model_spec={"name": name, "signature_name": signature})
    request.inputs["x"].CopyFrom(float_tensor(x))
    return bytes(request.SerializeToString())


async def test_rest_over_a_socket(server: ModelServer) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{server.rest}/v1/models/half_plus_two:predict", json={"instances": [2]}) as response,
    ):
        assert response.status == 200
        assert await response.json() == {"predictions": [4.0]}


async def test_rest_takes_large_bodies(server: ModelServer) -> None:
    instances = [1.0] * 600_000
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"http://{server.rest}/v1/models/half_plus_two:predict",
            data=io.BytesIO(json.dumps({"instances": instances, "signature_name": "echo"}).encode()),
        ) as response,
    ):
        assert (await response.json())["predictions"] == instances


async def test_a_client_that_waits_for_100_before_its_body(server: ModelServer) -> None:
    """As curl does, for a second, and the HTTP client of Java for ever."""
    host, _, port = server.rest.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = b'{"instances": [2]}'
    head = f"POST /v1/models/half_plus_two:predict HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n"
    writer.write(head.encode() + b"expect: 100-continue\r\nconnection: close\r\n\r\n")
    with contextlib.closing(writer):
        async with asyncio.timeout(10):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(body)
            answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"predictions": [4.0]}


async def test_grpc_over_a_socket(server: ModelServer) -> None:
    async with grpc.aio.insecure_channel(server.grpc) as channel:
        answer = messages.PredictResponse.FromString(await unary(channel)(predict("half_plus_two", [2.0])))
        assert list(answer.outputs["y"].float_val) == [4.0]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await unary(channel)(predict("none", [2.0]))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert caught.value.details() == "Servable not found for request: Latest(none)"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await unary(channel, "/tensorflow.serving.SessionService/SessionRun")(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_grpc_takes_large_messages(server: ModelServer) -> None:
    async with grpc.aio.insecure_channel(server.grpc) as channel:
        answer = messages.PredictResponse.FromString(
            await unary(channel)(predict("half_plus_two", bytes(8 << 20), "size"))
        )
        assert list(answer.outputs["y"].int64_val) == [8 << 20]


async def test_grpc_over_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "grpc.sock"
    server = await ModelServer.start(Service(Catalogue(parse_models(["m"]))), Ports(grpc_socket=str(path)))
    try:
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            assert await unary(channel)(predict("m", [1.0]))
    finally:
        await server.stop(0)


def test_models_are_named_with_their_versions() -> None:
    assert parse_models(["a=3,1", "b"]) == [
        Model("a", (1, 3), {"stable": 1, "canary": 3}),
        Model("b", (1,), {"stable": 1, "canary": 1}),
    ]
    with pytest.raises(ValueError):
        parse_models(["a=x"])


async def test_rest_over_a_unix_socket_and_another_metrics_path(tmp_path: Path) -> None:
    ports = Ports(rest_socket=str(tmp_path / "rest.sock"), metrics_path="/metrics")
    server = await ModelServer.start(Service(Catalogue(parse_models(["m"]))), ports)
    connector = aiohttp.UnixConnector(str(tmp_path / "rest.sock"))
    async with aiohttp.ClientSession(connector=connector) as session:
        for path, status in (("/v1/models/m", 200), ("/metrics", 200), ("/monitoring/prometheus/metrics", 404)):
            async with session.get(f"http://localhost{path}") as response:
                assert response.status == status
    await server.stop(0)


async def test_tls_for_both(tmp_path: Path) -> None:
    ca = DevelopmentCA.create("models.example")
    bundle = ca.write(tmp_path)
    mine = ca.issue(dns=["client"]).write(tmp_path, "client")
    tls = ServerTls(*ca.issue(dns=["localhost"]).write(tmp_path, "server"), client_ca=bundle)
    server = await ModelServer.start(Service(Catalogue(parse_models(["m"]))), Ports(tls=tls, rest_has_tls=True))
    credentials = grpc.ssl_channel_credentials(bundle.read_bytes(), mine[1].read_bytes(), mine[0].read_bytes())
    address = server.grpc.replace("127.0.0.1", "localhost")
    async with grpc.aio.secure_channel(address, credentials) as channel:
        assert await unary(channel)(predict("m", [2.0]))
    context = ssl.create_default_context(cafile=bundle)
    context.load_cert_chain(*mine)
    url = f"https://{server.rest}/v1/models/m".replace("127.0.0.1", "localhost")
    async with aiohttp.ClientSession() as session, session.get(url, ssl=context) as response:
        assert response.status == 200
    async with grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(bundle.read_bytes())) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await unary(channel)(predict("m", [2.0]))
    await server.stop(0)
