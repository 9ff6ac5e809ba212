"""Calls at a rate against a model server on loopback: all of them are made, and what becomes of each is known."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from meshproxy.devtools.load.predict import predict_over_grpc, predict_over_rest, target_of
from meshproxy.devtools.model_server import ModelServer, parse_models
from meshproxy.devtools.model_service import Service
from meshproxy.devtools.models import Catalogue, predict_request


@pytest.fixture
async def models() -> AsyncIterator[ModelServer]:
    started = await ModelServer.start(Service(Catalogue(parse_models(["half_plus_two=1"]))))
    yield started
    await started.stop(0)


def test_the_server_is_asked_for_by_its_name() -> None:
    target = target_of("127.0.0.1:18501", "models")
    assert (target.host, target.port, target.authority) == ("127.0.0.1", 18501, "models:18501")


async def test_over_rest(models: ModelServer) -> None:
    run = await predict_over_rest(models.rest, 100, 0.2, connections=4)
    assert (run.done, sum(run.errors.values()), run.unanswered) == (20, 0, 0)


async def test_what_fails_is_counted(models: ModelServer) -> None:
    run = await predict_over_rest(models.rest, 100, 0.1, model="unknown", connections=4)
    # A connection that was refused something is not used again.
    assert (run.done, sum(run.errors.values()), run.unanswered) == (0, 4, 6)


async def test_over_grpc(models: ModelServer) -> None:
    message = predict_request("half_plus_two", [1.0]).SerializeToString()
    run = await predict_over_grpc(models.grpc, 100, 0.2, message, streams=8)
    assert (run.done, sum(run.errors.values()), run.unanswered) == (20, 0, 0)
