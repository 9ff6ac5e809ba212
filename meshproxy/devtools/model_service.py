"""TensorFlow Serving's verbs on tiny models, for REST and gRPC alike: message in, message out."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

from meshproxy.devtools import messages
from meshproxy.devtools.model_metrics import ModelMetrics
from meshproxy.devtools.models import Catalogue, Servable, ServingError
from meshproxy.refusal import GrpcStatus

_CLASSIFY = "tensorflow/serving/classify"
_REGRESS = "tensorflow/serving/regress"


class Service:
    """The verbs of PredictionService and ModelService, message in, message out. Raises ServingError.

    Attributes:
        metrics: what was counted.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        latency: float = 0.0,
        failure_rate: float = 0.0,
        concurrency: int | None = None,
        queue: int | None = None,
        seed: int | None = None,
    ) -> None:
        self.catalogue = catalogue
        self.metrics = ModelMetrics()
        self._latency = latency
        self._failure_rate = failure_rate
        # Further calls wait in order, and those beyond the queue are UNAVAILABLE at once, as in a batching queue.
        self._room = asyncio.Semaphore(concurrency) if concurrency is not None else None
        self._most = concurrency + queue if concurrency is not None and queue is not None else None
        self._present = 0
        self._random = random.Random(seed)
        self._verbs: dict[str, Callable[[Any], Any]] = {
            "Predict": self.predict,
            "Classify": self.classify,
            "Regress": self.regress,
            "MultiInference": self.multi_inference,
            "GetModelMetadata": self.get_model_metadata,
            "GetModelStatus": self.get_model_status,
            "HandleReloadConfigRequest": self.reload_config,
        }

    async def call(self, verb: str, request: Any) -> Any:
        """Runs a verb by its gRPC name, after the configured latency, unless a failure is injected."""
        return await self.serve(_model_of(request), self._verbs[verb], request, verb, "GRPC")

    async def serve(
        self, model: str, work: Callable[[Any], Any], request: Any, api: str = "", entrypoint: str = "REST"
    ) -> Any:
        """Applies latency, injected failures and counting to a request of either protocol."""
        started = time.monotonic()
        if self._room is not None:
            if self._present == self._most:
                self.metrics.record(model, GrpcStatus.UNAVAILABLE.name, api, entrypoint, 0.0)
                raise ServingError(
                    GrpcStatus.UNAVAILABLE, "The batch scheduling queue to which this task was submitted is full"
                )
            self._present += 1
            try:
                async with self._room:
                    await asyncio.sleep(self._latency)
            finally:
                self._present -= 1
        elif self._latency:
            await asyncio.sleep(self._latency)
        status = GrpcStatus.OK
        try:
            if self._failure_rate and self._random.random() < self._failure_rate:
                raise ServingError(GrpcStatus.UNAVAILABLE, "injected failure")
            return work(request)
        except ServingError as error:
            status = error.status
            raise
        finally:
            self.metrics.record(model, status.name, api, entrypoint, time.monotonic() - started)

    def predict(self, request: Any) -> Any:
        servable = self.catalogue.servable(request.model_spec)
        if set(request.inputs) != {"x"}:
            raise ServingError(
                GrpcStatus.INVALID_ARGUMENT,
                f"input size does not match signature: {len(request.inputs)}!=1 len({{{','.join(request.inputs)}}}) "
                "!= len({x}). Sent extra: {}. Missing but required: {x}.",
            )
        signature = request.model_spec.signature_name
        response = messages.PredictResponse()
        response.outputs["y"].CopyFrom(servable.predict(signature, request.inputs["x"]))
        _name(response.model_spec, servable, signature or "serving_default")
        return response

    def classify(self, request: Any) -> Any:
        servable = self.catalogue.servable(request.model_spec)
        response = messages.ClassificationResponse()
        for x in _examples(request.input):
            response.result.classifications.add().classes.add(score=servable.compute(x))
        _name(response.model_spec, servable, request.model_spec.signature_name or "serving_default")
        return response

    def regress(self, request: Any) -> Any:
        servable = self.catalogue.servable(request.model_spec)
        response = messages.RegressionResponse()
        for x in _examples(request.input):
            response.result.regressions.add(value=servable.compute(x))
        _name(response.model_spec, servable, request.model_spec.signature_name or "serving_default")
        return response

    def multi_inference(self, request: Any) -> Any:
        """The first task picks the servable; the others must name the same model (`multi_inference.cc`)."""
        if not request.tasks:
            raise ServingError(GrpcStatus.INVALID_ARGUMENT, "Inference request must have at least one task")
        servable = self.catalogue.servable(request.tasks[0].model_spec)
        response = messages.MultiInferenceResponse()
        for task in request.tasks:
            if task.model_spec.name != servable.name:
                raise ServingError(
                    GrpcStatus.INVALID_ARGUMENT,
                    "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
                )
            result = response.results.add()
            _name(result.model_spec, servable, task.model_spec.signature_name)
            if task.method_name == _CLASSIFY:
                for x in _examples(request.input):
                    result.classification_result.classifications.add().classes.add(score=servable.compute(x))
            elif task.method_name == _REGRESS:
                for x in _examples(request.input):
                    result.regression_result.regressions.add(value=servable.compute(x))
            else:
                raise ServingError(GrpcStatus.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}")
        return response

    def get_model_metadata(self, request: Any) -> Any:
        if not request.HasField("model_spec"):
            raise ServingError(GrpcStatus.INVALID_ARGUMENT, "Missing ModelSpec")
        if not request.metadata_field:
            raise ServingError(
                GrpcStatus.INVALID_ARGUMENT, "GetModelMetadataRequest must specify at least one metadata_field"
            )
        for name in request.metadata_field:
            if name != "signature_def":
                raise ServingError(GrpcStatus.INVALID_ARGUMENT, f"Metadata field {name} is not supported")
        servable = self.catalogue.servable(request.model_spec)
        response = messages.GetModelMetadataResponse()
        response.metadata["signature_def"].Pack(servable.signatures())
        _name(response.model_spec, servable, "")
        return response

    def get_model_status(self, request: Any) -> Any:
        if not request.HasField("model_spec"):
            raise ServingError(GrpcStatus.INVALID_ARGUMENT, "Missing ModelSpec")
        response = messages.GetModelStatusResponse()
        for version in sorted(self.catalogue.versions(request.model_spec), reverse=True):
            response.model_version_status.add(version=version, state="AVAILABLE").status.SetInParent()
        return response

    def reload_config(self, request: Any) -> Any:
        self.catalogue.replace(request.config)
        response = messages.ReloadConfigResponse()
        response.status.SetInParent()
        return response


def _model_of(request: Any) -> str:
    if hasattr(request, "tasks"):
        return request.tasks[0].model_spec.name if request.tasks else ""
    return request.model_spec.name if hasattr(request, "model_spec") else ""


def _name(spec: Any, servable: Servable, signature: str) -> None:
    spec.name = servable.name
    spec.version.value = servable.version
    spec.signature_name = signature


def _examples(given: Any) -> list[float]:
    """The feature `x` of every example. Raises ServingError."""
    kind = given.WhichOneof("kind")
    if kind is None or not getattr(given, kind).examples:
        raise ServingError(GrpcStatus.INVALID_ARGUMENT, "Input is empty.")
    values = []
    for example in getattr(given, kind).examples:
        feature = example.features.feature["x"]
        if len(feature.float_list.value) != 1:
            raise ServingError(
                GrpcStatus.INVALID_ARGUMENT, "Name: <unknown>, Feature: x (data type: float) is required"
            )
        values.append(feature.float_list.value[0])
    return values
