"""The official stubs against a real SavedModel, with a real sidecar in between: mTLS, a token, and a policy.

Runs in an environment of its own (`make test-tensorflow`). What is asserted is that the official client cannot tell
that there is a proxy, except where the policy says no.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy
import pytest
import pytest_asyncio
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from meshproxy.devtools.child import Child
from meshproxy.devtools.clients import Certificate, GrpcClient, refusal_of
from meshproxy.devtools.issuer import DevelopmentIssuer
from meshproxy.devtools.local_mesh import LocalSidecar, document, environment, local_sidecar

pytestmark = [pytest.mark.asyncio(loop_scope="session", loop_factories=["uvloop"])]

ISSUER = DevelopmentIssuer("https://login.local.example", algorithm="ES256")
POLICY = [
    document(
        "ModelRole",
        {"rules": [{"models": ["half_plus_two"], "verbs": ["predict", "multi-inference", "metadata", "status"]}]},
        "reader",
    ),
    document(
        "ModelRoleBinding",
        {
            "role": "reader",
            "subjects": [
                {
                    "workload": {"namespace": "tests", "serviceAccount": "client"},
                    "token": {"issuer": "corp", "claims": {"groups": "finance"}},
                }
            ],
        },
        "finance",
    ),
]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalSidecar]:
    directory = tmp_path_factory.mktemp("tensorflow")
    script = str(Path(__file__).with_name("serving.py"))
    arguments = (script, "half_plus_two", str(directory / "model"))
    serving = await Child.start("the SavedModel", sys.executable, *arguments, directory=directory, timeout=300)
    corp = {"name": "corp", "issuer": ISSUER.issuer, "audiences": ["models"], "keys": {"file": "jwks.json"}}
    sidecar = directory / "sidecar"
    sidecar.mkdir()
    (sidecar / "jwks.json").write_text(json.dumps(ISSUER.jwks()))
    documents = environment(grpc=serving.listening["grpc"], mesh={"issuers": [corp]}, sidecar={"drainTimeout": "1s"})
    async with local_sidecar(sidecar, documents + POLICY) as started:
        yield started
    await serving.stop()


class Stubs:
    """The official stubs on one channel, and the token that every call carries."""

    def __init__(self, channel: grpc.aio.Channel, token: str | None) -> None:
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self.model = model_service_pb2_grpc.ModelServiceStub(channel)
        self.metadata = [("authorization", f"Bearer {token}")] if token else []

    async def predict(self, request: Any) -> Any:
        return await self.prediction.Predict(request, metadata=self.metadata, timeout=60)


async def stubs_of(running: LocalSidecar, certificate: Certificate | None = None, **token: Any) -> AsyncIterator[Stubs]:
    async with GrpcClient(running.inbound, certificate or running.client) as client:
        yield Stubs(client.channel, ISSUER.token(**token) if token else None)


@pytest_asyncio.fixture(loop_scope="session")
async def permitted(running: LocalSidecar) -> AsyncIterator[Stubs]:
    async for stubs in stubs_of(running, groups=["finance"]):
        yield stubs


@pytest_asyncio.fixture(loop_scope="session")
async def elsewhere(running: LocalSidecar) -> AsyncIterator[Stubs]:
    """A token, but not of the group that the policy wants."""
    async for stubs in stubs_of(running, groups=["marketing"]):
        yield stubs


@pytest_asyncio.fixture(loop_scope="session")
async def tokenless(running: LocalSidecar) -> AsyncIterator[Stubs]:
    async for stubs in stubs_of(running):
        yield stubs


def predict(x: Any, name: str = "half_plus_two", signature: str = "") -> Any:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(x, dtype=tf.float32))
    return request


async def test_predict(permitted: Stubs) -> None:
    response = await permitted.predict(predict([1.0, 2.0, 5.0]))
    assert tf.make_ndarray(response.outputs["y"]).tolist() == [2.5, 3.0, 4.5]
    assert response.model_spec.version.value == 1


async def test_tensors_of_32_mib_both_ways(permitted: Stubs) -> None:
    x = numpy.arange(8 << 20, dtype=numpy.float32)
    response = await permitted.predict(predict(x))
    assert numpy.array_equal(tf.make_ndarray(response.outputs["y"]), x / 2 + 2)


async def test_another_signature(permitted: Stubs) -> None:
    response = await permitted.predict(predict(numpy.zeros(1000), signature="size"))
    assert tf.make_ndarray(response.outputs["y"]).tolist() == [1000]


async def test_metadata(permitted: Stubs) -> None:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "half_plus_two"
    response = await permitted.prediction.GetModelMetadata(request, metadata=permitted.metadata)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert {"serving_default", "regress_x_to_y", "size"} <= set(signatures.signature_def)
    assert signatures.signature_def["serving_default"].inputs["x"].dtype == tf.float32.as_datatype_enum


async def test_status(permitted: Stubs) -> None:
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "half_plus_two"
    response = await permitted.model.GetModelStatus(request, metadata=permitted.metadata)
    assert [each.version for each in response.model_version_status] == [1]


def multi_inference(*names: str) -> Any:
    request = inference_pb2.MultiInferenceRequest()
    for name in names:
        task = request.tasks.add(method_name="tensorflow/serving/regress")
        task.model_spec.name = name
        task.model_spec.signature_name = "regress_x_to_y"
    for x in (1.0, 2.0):
        request.input.example_list.examples.add().features.feature["x"].float_list.value.append(x)
    return request


async def test_multi_inference(permitted: Stubs) -> None:
    response = await permitted.prediction.MultiInference(
        multi_inference("half_plus_two", "half_plus_two"), metadata=permitted.metadata
    )
    values = [[each.value for each in result.regression_result.regressions] for result in response.results]
    assert values == [[2.5, 3.0], [2.5, 3.0]]


async def test_multi_inference_needs_a_permission_for_every_task(permitted: Stubs) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await permitted.prediction.MultiInference(
            multi_inference("half_plus_two", "payroll"), metadata=permitted.metadata
        )
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert refusal_of(caught.value) == "permission-denied"


async def test_the_servers_own_errors_pass(permitted: Stubs) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await permitted.predict(predict([1.0], signature="nope"))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == 'Serving signature name: "nope" not found in signature def'
    assert refusal_of(caught.value) is None


async def test_another_model_is_denied(permitted: Stubs) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await permitted.predict(predict([1.0], name="payroll"))
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert refusal_of(caught.value) == "permission-denied"


async def test_another_group_is_denied(elsewhere: Stubs) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await elsewhere.predict(predict([1.0]))
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_without_a_token_nobody_is_let_in(tokenless: Stubs) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await tokenless.predict(predict([1.0]))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert refusal_of(caught.value) == "unauthenticated"


async def test_another_workload_is_denied(running: LocalSidecar) -> None:
    async for stubs in stubs_of(running, running.mesh.certificate("tests", "other"), groups=["finance"]):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.predict(predict([1.0]))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_without_a_certificate_there_is_no_connection(running: LocalSidecar) -> None:
    async for stubs in stubs_of(running, Certificate(running.client.bundle), groups=["finance"]):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.predict(predict([1.0]))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_reloading_the_server_is_for_administrators(permitted: Stubs) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await permitted.model.HandleReloadConfigRequest(
            model_management_pb2.ReloadConfigRequest(), metadata=permitted.metadata
        )
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
