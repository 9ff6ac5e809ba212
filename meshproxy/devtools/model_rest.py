"""The REST surface of the development model server.

Paths, error bodies and codes are those of `tensorflow_serving/model_servers` (`http_rest_api_handler.cc`,
`http_rest_api_util.cc`), traps included: paths are matched without regard to case, names are percent-decoded after
matching, a query makes a request malformed.
"""

from __future__ import annotations

import io
import json
import re
import urllib.parse
from typing import Any

from aiohttp import HttpVersion11, web
from google.protobuf import json_format

from meshproxy.devtools import messages
from meshproxy.devtools.model_service import Service
from meshproxy.devtools.models import HTTP_STATUS, ServingError
from meshproxy.refusal import GrpcStatus

METRICS_PATH = "/monitoring/prometheus/metrics"

# http_rest_api_util.cc, word for word.
_PREDICTION_PATH = re.compile(
    r"/v1/models/([^/:]+)(?:(?:/versions/([0-9]+))|(?:/labels/([^/:]+)))?:(classify|regress|predict)", re.IGNORECASE
)
_STATUS_PATH = re.compile(
    r"/v1/models(?:/([^/:]+))?(?:(?:/versions/([0-9]+))|(?:/labels/([^/:]+)))?(?:/(metadata))?", re.IGNORECASE
)


class Rest:
    """The REST surface over a Service."""

    def __init__(self, service: Service, metrics_path: str = METRICS_PATH) -> None:
        self._service = service
        self._metrics_path = metrics_path

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        is_waiting = request.version == HttpVersion11 and request.headers.get("expect", "").lower() == "100-continue"
        if is_waiting and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # aiohttp does so for its routes only
        return await self.answer(request.method, request.raw_path, await request.read())

    async def answer(self, method: str, target: str, body: bytes) -> web.Response:
        """The answer to a request; the target is path and query as they were sent."""
        if target == self._metrics_path:
            return web.Response(text=self._service.metrics.page(), content_type="text/plain")
        if not target.lower().startswith("/v1/"):
            return web.Response(status=404, text="<HTML><HEAD><TITLE>404 Not Found</TITLE></HEAD></HTML>\n")
        try:
            return _json(await self._answer(method, target, body), 200)
        except ServingError as error:
            return _json({"error": error.message}, HTTP_STATUS[error.status])

    async def _answer(self, method: str, target: str, body: bytes) -> Any:
        malformed = ServingError(GrpcStatus.INVALID_ARGUMENT, f"Malformed request: {method} {target}")
        if method == "POST" and (match := _PREDICTION_PATH.fullmatch(target)):
            name, version, label, verb = match.groups()
            if verb not in ("classify", "regress", "predict"):
                raise malformed
            spec = _spec(name, version, label)
            work = self._predict if verb == "predict" else self._classify if verb == "classify" else self._regress
            api = verb.capitalize()
            return await self._service.serve(spec.name, lambda content: work(spec, content), body, api)
        if method == "GET" and (match := _STATUS_PATH.fullmatch(target)):
            name, version, label, metadata = match.groups()
            if name is None:
                raise ServingError(GrpcStatus.INVALID_ARGUMENT, "Missing model name in request.")
            spec = _spec(name, version, label)
            if metadata:
                asked = messages.GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])
                return await self._service.serve(spec.name, self._metadata, asked)
            status = await self._service.call("GetModelStatus", messages.GetModelStatusRequest(model_spec=spec))
            return _plain(status)
        raise malformed

    def _predict(self, spec: Any, body: bytes) -> Any:
        content = _json_object(body)
        signature = content.get("signature_name", "")
        if not isinstance(signature, str):
            raise ServingError(GrpcStatus.INVALID_ARGUMENT, "'signature_name' key must be a string value.")
        servable = self._service.catalogue.servable(spec)
        if ("instances" in content) == ("inputs" in content):
            raise ServingError(GrpcStatus.INVALID_ARGUMENT, "Missing 'inputs' or 'instances' key")
        if "inputs" in content:
            inputs = content["inputs"]
            return {"outputs": servable.predict_json(signature, inputs["x"] if isinstance(inputs, dict) else inputs)}
        rows = content["instances"]
        if not isinstance(rows, list) or not rows:
            raise ServingError(GrpcStatus.INVALID_ARGUMENT, "'instances' value must be a non-empty list")
        values = [row.get("x") if isinstance(row, dict) else row for row in rows]
        return {"predictions": servable.predict_json(signature, values)}

    def _classify(self, spec: Any, body: bytes) -> Any:
        servable = self._service.catalogue.servable(spec)
        return {"results": [[["", servable.compute(x)]] for x in _json_examples(body)]}

    def _regress(self, spec: Any, body: bytes) -> Any:
        servable = self._service.catalogue.servable(spec)
        return {"results": [servable.compute(x) for x in _json_examples(body)]}

    def _metadata(self, asked: Any) -> Any:
        response = self._service.get_model_metadata(asked)
        signatures = messages.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return {"model_spec": _plain(response.model_spec), "metadata": {"signature_def": _plain(signatures)}}


def _spec(name: str, version: str | None, label: str | None) -> Any:
    spec = messages.ModelSpec(name=urllib.parse.unquote(name))
    if version is not None:
        if int(version) >= 2**63:
            raise ServingError(GrpcStatus.INVALID_ARGUMENT, f"Failed to convert version: {version} to numeric.")
        spec.version.value = int(version)
    if label is not None:
        spec.version_label = urllib.parse.unquote(label)
    return spec


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except ValueError as error:
        raise ServingError(GrpcStatus.INVALID_ARGUMENT, f"JSON Parse error: {error}") from None
    if not isinstance(content, dict):
        raise ServingError(GrpcStatus.INVALID_ARGUMENT, "Request body must be a JSON Object")
    return content


def _json_examples(body: bytes) -> list[float]:
    examples = _json_object(body).get("examples")
    if not isinstance(examples, list) or not examples:
        raise ServingError(GrpcStatus.INVALID_ARGUMENT, "When method is classify or regress, 'examples' is required")
    values = []
    for example in examples:
        x = example.get("x") if isinstance(example, dict) else None
        if isinstance(x, bool) or not isinstance(x, int | float):
            raise ServingError(
                GrpcStatus.INVALID_ARGUMENT, "Name: <unknown>, Feature: x (data type: float) is required"
            )
        values.append(float(x))
    return values


def _plain(message: Any) -> Any:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _json(content: Any, status: int) -> web.Response:
    text = json.dumps(content, indent=4).encode()
    # aiohttp wants to be given anything larger than 1 MiB as a file.
    body = text if len(text) < 1 << 20 else io.BytesIO(text)
    return web.Response(status=status, body=body, content_type="application/json")
