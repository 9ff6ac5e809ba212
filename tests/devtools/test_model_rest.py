from __future__ import annotations

import json
from typing import Any

import pytest

from meshproxy.devtools.model_rest import METRICS_PATH, Rest
from meshproxy.devtools.model_service import Service
from meshproxy.devtools.models import Catalogue, Model


async def ask(method: str, target: str, content: Any = None) -> tuple[int, Any]:
    service = Service(Catalogue([Model("half_plus_two", (1, 2), {"stable": 1}), Model("odd/name", (1,))]))
    body = content if isinstance(content, bytes) else json.dumps(content).encode() if content is not None else b""
    response: Any = await Rest(service).answer(method, target, body)
    return response.status, json.loads(response.body) if response.content_type == "application/json" else response.text


@pytest.mark.parametrize(
    ("target", "answer"),
    [
        ("/v1/models/half_plus_two:predict", [4.0]),
        ("/v1/models/half_plus_two/versions/1:predict", [3.0]),
        ("/v1/models/half_plus_two/labels/stable:predict", [3.0]),
        ("/V1/Models/half_plus_two/Versions/1:predict", [3.0]),
        ("/v1/models/h%61lf_plus_two:predict", [4.0]),
        ("/v1/models/odd%2Fname:predict", [3.0]),
    ],
)
async def test_predict_by_every_spelling(target: str, answer: list[float]) -> None:
    assert await ask("POST", target, {"instances": [2.0]}) == (200, {"predictions": answer})


async def test_column_format_answers_outputs() -> None:
    assert await ask("POST", "/v1/models/half_plus_two:predict", {"inputs": {"x": [2]}}) == (200, {"outputs": [4.0]})
    assert await ask("POST", "/v1/models/half_plus_two:predict", {"inputs": [2]}) == (200, {"outputs": [4.0]})


async def test_rows_may_name_their_input() -> None:
    assert await ask("POST", "/v1/models/half_plus_two:predict", {"instances": [{"x": 2}]}) == (
        200,
        {"predictions": [4.0]},
    )


async def test_classify_and_regress() -> None:
    content = {"examples": [{"x": 2.0}]}
    assert await ask("POST", "/v1/models/half_plus_two:classify", content) == (200, {"results": [[["", 4.0]]]})
    assert await ask("POST", "/v1/models/half_plus_two:regress", content) == (200, {"results": [4.0]})


async def test_status_and_metadata() -> None:
    status, answer = await ask("GET", "/v1/models/half_plus_two")
    assert (status, [each["version"] for each in answer["model_version_status"]]) == (200, ["2", "1"])
    assert answer["model_version_status"][0] == {
        "version": "2",
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }
    status, answer = await ask("GET", "/v1/models/half_plus_two/versions/1/metadata")
    assert (status, answer["model_spec"]["version"]) == (200, "1")
    assert "serving_default" in answer["metadata"]["signature_def"]["signature_def"]


@pytest.mark.parametrize(
    ("method", "target", "content", "status", "words"),
    [
        ("GET", "/v1/models", None, 400, "Missing model name in request."),
        ("GET", "/v1/models/none", None, 404, "Could not find any versions of model none"),
        ("POST", "/v1/models/none:predict", {"instances": [1]}, 404, "Servable not found for request: Latest(none)"),
        ("POST", "/v1/models/half_plus_two:predict?x=1", {}, 400, "Malformed request: POST"),
        ("POST", "/v1/models/half_plus_two:PREDICT", {}, 400, "Malformed request: POST"),
        ("GET", "/v1/models/half_plus_two:predict", None, 400, "Malformed request: GET"),
        ("POST", "/v1/nothing", {}, 400, "Malformed request: POST /v1/nothing"),
        ("POST", "/v1/models/half_plus_two/labels/x:predict", {}, 400, "Unrecognized servable version label: x"),
        ("GET", "/v1/models/half_plus_two/versions/99999999999999999999", None, 400, "Failed to convert version"),
        ("POST", "/v1/models/half_plus_two:predict", b"{", 400, "JSON Parse error"),
        ("POST", "/v1/models/half_plus_two:predict", [1], 400, "must be a JSON Object"),
        ("POST", "/v1/models/half_plus_two:predict", {}, 400, "Missing 'inputs' or 'instances' key"),
        ("POST", "/v1/models/half_plus_two:predict", {"instances": []}, 400, "non-empty list"),
        ("POST", "/v1/models/half_plus_two:predict", {"instances": ["a"]}, 400, "not of expected type"),
        ("POST", "/v1/models/half_plus_two:predict", {"signature_name": 1}, 400, "must be a string value"),
        ("POST", "/v1/models/half_plus_two:regress", {}, 400, "'examples' is required"),
        ("POST", "/v1/models/half_plus_two:classify", {"examples": [{"x": "a"}]}, 400, "data type: float"),
    ],
)
async def test_errors_have_tensorflow_servings_body(
    method: str, target: str, content: Any, status: int, words: str
) -> None:
    answered, body = await ask(method, target, content)
    assert answered == status
    assert words in body["error"]


async def test_paths_outside_of_v1_are_not_found() -> None:
    assert (await ask("GET", "/"))[0] == 404
    assert (await ask("GET", METRICS_PATH + "/"))[0] == 404


async def test_metrics_page() -> None:
    assert await ask("GET", METRICS_PATH) == (200, "# TYPE :tensorflow:serving:request_count counter\n")


async def test_latencies_are_those_of_rest() -> None:
    rest = Rest(Service(Catalogue([Model("m", (1,))])))
    await rest.answer("POST", "/v1/models/m:predict", b'{"instances": [1]}')
    await rest.answer("POST", "/v1/models/m:regress", b'{"examples": [{"x": 1.0}]}')
    await rest.answer("GET", "/v1/models/m", b"")
    page: Any = await rest.answer("GET", METRICS_PATH, b"")
    counted = [line for line in page.text.splitlines() if "request_latency_count" in line]
    assert counted == [
        f':tensorflow:serving:request_latency_count{{model_name="m",API="{api}",entrypoint="REST"}} 1'
        for api in ("Predict", "Regress")
    ]
