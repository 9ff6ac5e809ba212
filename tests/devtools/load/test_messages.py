"""The bytes are read back with the message classes of the development model server."""

from __future__ import annotations

import json

import pytest

from meshproxy.devtools import messages as serving
from meshproxy.devtools.load.messages import grpc_reply, grpc_request, rest_body

SIZES = [30, 1_000, 10_000, 2**20]


@pytest.mark.parametrize("size", SIZES)
def test_rest_bodies_are_json_of_about_the_size(size: int) -> None:
    body = rest_body(size)
    assert size - 24 <= len(body) <= size
    assert all(isinstance(number, float) for number in json.loads(body)["instances"])


@pytest.mark.parametrize("size", SIZES)
def test_grpc_requests_are_predict_requests_of_about_the_size(size: int) -> None:
    data = grpc_request("half_plus_two", size)
    request = serving.PredictRequest.FromString(data)
    assert request.model_spec.name == "half_plus_two"
    tensor = request.inputs["x"]
    assert tensor.dtype == 1
    assert len(tensor.tensor_content) == 4 * tensor.tensor_shape.dim[0].size
    assert abs(len(data) - max(size, 38)) <= 24


@pytest.mark.parametrize("size", SIZES)
def test_grpc_replies_are_predict_responses_of_about_the_size(size: int) -> None:
    data = grpc_reply(size)
    reply = serving.PredictResponse.FromString(data)
    assert reply.model_spec.signature_name == "serving_default"
    assert len(reply.outputs["y"].tensor_content) == 4 * reply.outputs["y"].tensor_shape.dim[0].size
    assert abs(len(data) - max(size, 66)) <= 24
