from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from meshproxy.devtools import messages
from meshproxy.devtools.clients import GrpcClient, RestClient
from meshproxy.devtools.model_server import ModelServer, parse_models
from meshproxy.devtools.model_service import Service
from meshproxy.devtools.models import Catalogue, predict_request

PREDICT = "/tensorflow.serving.PredictionService/Predict"


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    started = await ModelServer.start(Service(Catalogue(parse_models(["m=1"]))))
    yield started
    await started.stop(0)


async def test_rest_answers_with_a_document(server: ModelServer) -> None:
    async with RestClient(server.rest, None) as client:
        answer = await client.call("POST", "/v1/models/m:predict", {"instances": [2.0]})
        assert (answer.status, answer.refusal, answer.body) == ("200", None, {"predictions": [3.0]})
        assert 0 < answer.seconds < 10
        answer = await client.call("GET", "/nothing")
        assert answer.status == "404"
        assert "Not Found" in answer.body


async def test_rest_tells_what_the_connection_failed_with() -> None:
    async with RestClient("127.0.0.1:1", None) as client:
        answer = await client.call("GET", "/v1/models/m")
        assert answer.status == "ClientConnectorError"


async def test_grpc_answers_with_a_message_or_a_status(server: ModelServer) -> None:
    async with GrpcClient(server.grpc, None, token="t") as client:
        answer = await client.call(PREDICT, predict_request("m", [2.0]).SerializeToString(), {"x-request-id": "1"})
        assert answer.status == "OK"
        assert list(messages.PredictResponse.FromString(answer.body).outputs["y"].float_val) == [3.0]
        answer = await client.call(PREDICT, predict_request("n", [2.0]).SerializeToString())
        assert (answer.status, answer.refusal) == ("NOT_FOUND", None)
        assert answer.body == "Servable not found for request: Latest(n)"
