from __future__ import annotations

import asyncio
from typing import Any

import pytest

from meshproxy.devtools import messages
from meshproxy.devtools.model_service import Service
from meshproxy.devtools.models import Catalogue, Model, ServingError, float_tensor
from meshproxy.refusal import GrpcStatus


def service(**options: Any) -> Service:
    return Service(Catalogue([Model("m", (1, 2), {"stable": 1}), Model("other", (1,))]), **options)


def predict(name: str = "m", **spec: Any) -> Any:
    request = messages.PredictRequest(model_spec=messages.ModelSpec(name=name, **spec))
    request.inputs["x"].CopyFrom(float_tensor([2.0]))
    return request


def examples(*values: float) -> Any:
    given = messages.Input()
    for value in values:
        given.example_list.examples.add().features.feature["x"].float_list.value.append(value)
    return given


async def test_predict_says_which_version_answered() -> None:
    response = await service().call("Predict", predict(version_label="stable"))
    assert list(response.outputs["y"].float_val) == [3.0]
    assert response.model_spec.version.value == 1
    assert response.model_spec.signature_name == "serving_default"


async def test_classify_and_regress() -> None:
    spec = messages.ModelSpec(name="m")
    classes = await service().call("Classify", messages.ClassificationRequest(model_spec=spec, input=examples(2, 4)))
    assert [each.classes[0].score for each in classes.result.classifications] == [4.0, 5.0]
    values = await service().call("Regress", messages.RegressionRequest(model_spec=spec, input=examples(2)))
    assert values.result.regressions[0].value == 4.0


async def test_multi_inference_answers_every_task_of_one_model_only() -> None:
    request = messages.MultiInferenceRequest(input=examples(2))
    for method in ("tensorflow/serving/classify", "tensorflow/serving/regress"):
        request.tasks.add(method_name=method).model_spec.name = "m"
    response = await service().call("MultiInference", request)
    assert [each.WhichOneof("result") for each in response.results] == ["classification_result", "regression_result"]
    request.tasks[1].model_spec.name = "other"
    with pytest.raises(ServingError, match="must access the same model name"):
        await service().call("MultiInference", request)
    with pytest.raises(ServingError, match="at least one task"):
        await service().call("MultiInference", messages.MultiInferenceRequest())


async def test_metadata_and_status() -> None:
    spec = messages.ModelSpec(name="m")
    asked = messages.GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])
    metadata = await service().call("GetModelMetadata", asked)
    signatures = messages.SignatureDefMap()
    metadata.metadata["signature_def"].Unpack(signatures)
    assert set(signatures.signature_def) == {"serving_default", "size", "echo"}
    status = await service().call("GetModelStatus", messages.GetModelStatusRequest(model_spec=spec))
    assert [(each.version, each.state) for each in status.model_version_status] == [(2, 30), (1, 30)]


@pytest.mark.parametrize(
    ("verb", "request_message", "words"),
    [
        ("GetModelMetadata", messages.GetModelMetadataRequest(), "Missing ModelSpec"),
        ("GetModelStatus", messages.GetModelStatusRequest(), "Missing ModelSpec"),
        ("GetModelMetadata", messages.GetModelMetadataRequest(model_spec={"name": "m"}), "at least one metadata_field"),
        (
            "GetModelMetadata",
            messages.GetModelMetadataRequest(model_spec={"name": "m"}, metadata_field=["graph"]),
            "Metadata field graph is not supported",
        ),
        ("Predict", messages.PredictRequest(model_spec={"name": "m"}), "input size does not match signature"),
        ("Classify", messages.ClassificationRequest(model_spec={"name": "m"}), "Input is empty"),
    ],
)
async def test_incomplete_requests(verb: str, request_message: Any, words: str) -> None:
    with pytest.raises(ServingError, match=words) as caught:
        await service().call(verb, request_message)
    assert caught.value.status is GrpcStatus.INVALID_ARGUMENT


async def test_requests_are_counted_by_model_and_status() -> None:
    counted = service()
    await counted.call("Predict", predict())
    with pytest.raises(ServingError):
        await counted.call("Predict", predict("none"))
    assert counted.metrics.requests == {("m", "OK"): 1, ("none", "NOT_FOUND"): 1}


async def test_failures_can_be_ordered_and_repeat_with_the_seed() -> None:
    outcomes = []
    for _ in range(2):
        unlucky = service(failure_rate=0.5, seed=7)
        calls = [unlucky.call("Predict", predict()) for _ in range(20)]
        outcomes.append(
            [isinstance(each, ServingError) for each in await asyncio.gather(*calls, return_exceptions=True)]
        )
        assert unlucky.metrics.requests["m", "UNAVAILABLE"] == sum(outcomes[-1])
    assert outcomes[0] == outcomes[1]
    assert 2 < sum(outcomes[0]) < 18


async def test_calls_beyond_its_queue_are_unavailable_at_once() -> None:
    full = service(latency=0.01, concurrency=1, queue=1)
    results = await asyncio.gather(*(full.call("Predict", predict()) for _ in range(3)), return_exceptions=True)
    assert [getattr(result, "status", None) for result in results] == [None, None, GrpcStatus.UNAVAILABLE]
    assert full.metrics.requests == {("m", "OK"): 2, ("m", "UNAVAILABLE"): 1}
    await full.call("Predict", predict())


async def test_calls_beyond_its_concurrency_wait_for_their_turn() -> None:
    crowded = service(concurrency=2)
    begun: list[int] = []

    async def call(number: int) -> None:
        def work(content: int) -> None:
            begun.append(content)

        await crowded.serve("m", work, number)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(call(number)) for number in range(5)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert begun == [0, 1]
    assert begun == [0, 1, 2, 3, 4]
    assert all(task.done() for task in tasks)
