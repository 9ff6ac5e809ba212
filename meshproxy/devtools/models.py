"""What the development model server serves: versions of tiny models, and how TensorFlow Serving finds one of them.

Every model computes `x / 2 + 1 + version`, so version 1 is the half_plus_two of TensorFlow Serving's own examples, and
the version that answered can be told from the answer. The signature `size` answers with the number of bytes of `x`,
`echo` with `x` itself: large tensors one way, and both ways, at no cost. Errors carry TensorFlow Serving's words.
"""

from __future__ import annotations

import array
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from meshproxy.devtools import messages
from meshproxy.refusal import GrpcStatus

DEFAULT_SIGNATURE = "serving_default"

# tensorflow_serving/model_servers/http_server.cc, ToHTTPStatusCode.
HTTP_STATUS = {
    GrpcStatus.OK: 200,
    GrpcStatus.CANCELLED: 499,
    GrpcStatus.UNKNOWN: 500,
    GrpcStatus.INVALID_ARGUMENT: 400,
    GrpcStatus.DEADLINE_EXCEEDED: 504,
    GrpcStatus.NOT_FOUND: 404,
    GrpcStatus.ALREADY_EXISTS: 409,
    GrpcStatus.PERMISSION_DENIED: 403,
    GrpcStatus.RESOURCE_EXHAUSTED: 429,
    GrpcStatus.FAILED_PRECONDITION: 400,
    GrpcStatus.ABORTED: 409,
    GrpcStatus.OUT_OF_RANGE: 400,
    GrpcStatus.UNIMPLEMENTED: 501,
    GrpcStatus.INTERNAL: 500,
    GrpcStatus.UNAVAILABLE: 503,
    GrpcStatus.DATA_LOSS: 500,
    GrpcStatus.UNAUTHENTICATED: 401,
}


class ServingError(Exception):
    """An error as TensorFlow Serving answers it: a status and a sentence."""

    def __init__(self, status: GrpcStatus, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True)
class Servable:
    """One version of one model, which can compute."""

    name: str
    version: int

    def compute(self, x: float) -> float:
        return x / 2 + 1 + self.version

    def predict(self, signature: str, x: Any) -> Any:
        """A TensorProto for a TensorProto. Raises ServingError."""
        if signature == "echo":
            return x
        y = messages.TensorProto(dtype=messages.DT_INT64 if signature == "size" else messages.DT_FLOAT)
        if signature == "size":
            y.tensor_shape.dim.add(size=1)
            y.int64_val.append(len(x.tensor_content) or 4 * len(x.float_val))
            return y
        self.check_signature(signature)
        y.tensor_shape.CopyFrom(x.tensor_shape)
        result = [self.compute(value) for value in floats_of(x)]
        if x.tensor_content:
            y.tensor_content = _little_endian(array.array("f", result)).tobytes()
        else:
            y.float_val.extend(result)
        return y

    def predict_json(self, signature: str, x: Any) -> Any:
        """Nested lists of numbers for nested lists of numbers. Raises ServingError."""
        if signature == "echo":
            return x
        self.check_signature(signature)
        return self._map(x)

    def _map(self, x: Any) -> Any:
        if isinstance(x, list):
            return [self._map(item) for item in x]
        if isinstance(x, bool) or not isinstance(x, int | float):
            raise ServingError(GrpcStatus.INVALID_ARGUMENT, f"JSON Value: {x!r} Type: not of expected type: float")
        return self.compute(x)

    def check_signature(self, signature: str) -> None:
        if signature not in ("", DEFAULT_SIGNATURE):
            raise ServingError(
                GrpcStatus.INVALID_ARGUMENT, f'Serving signature name: "{signature}" not found in signature def'
            )

    def signatures(self) -> Any:
        """The SignatureDefMap that GetModelMetadata answers with."""
        found = messages.SignatureDefMap()
        for name in (DEFAULT_SIGNATURE, "size", "echo"):
            signature = found.signature_def[name]
            signature.method_name = "tensorflow/serving/predict"
            for tensors, tensor, dtype in (
                (signature.inputs, "x", messages.DT_FLOAT),
                (signature.outputs, "y", messages.DT_INT64 if name == "size" else messages.DT_FLOAT),
            ):
                tensors[tensor].name = f"{name}_{tensor}:0"
                tensors[tensor].dtype = dtype
                tensors[tensor].tensor_shape.dim.add(size=-1)
        return found


@dataclass
class Model:
    """A name, its loaded versions, and labels that point at them."""

    name: str
    versions: tuple[int, ...]
    labels: Mapping[str, int] = field(default_factory=dict)


class Catalogue:
    """Every model that is served. Look-ups raise ServingError as `server_core.cc` and its managers do."""

    def __init__(self, models: list[Model]) -> None:
        self._models = {model.name: model for model in models}

    def names(self) -> list[str]:
        return list(self._models)

    def servable(self, spec: Any) -> Servable:
        """What a ModelSpec means; without version and label the newest version (`server_core.cc`)."""
        model = self._models.get(spec.name)
        choice = spec.WhichOneof("version_choice")
        if choice == "version_label":
            return Servable(spec.name, self._labelled(spec))
        if choice == "version":
            version = spec.version.value
            if model is None or version not in model.versions:
                raise ServingError(
                    GrpcStatus.NOT_FOUND, f"Servable not found for request: Specific({spec.name}, {version})"
                )
            return Servable(model.name, version)
        if model is None:
            raise ServingError(GrpcStatus.NOT_FOUND, f"Servable not found for request: Latest({spec.name})")
        return Servable(model.name, max(model.versions))

    def versions(self, spec: Any) -> tuple[int, ...]:
        """The versions that a status request means (`get_model_status_impl.cc`)."""
        model = self._models.get(spec.name)
        choice = spec.WhichOneof("version_choice")
        if choice is None:
            if model is None:
                raise ServingError(GrpcStatus.NOT_FOUND, f"Could not find any versions of model {spec.name}")
            return model.versions
        version = self._labelled(spec) if choice == "version_label" else spec.version.value
        if model is None or version not in model.versions:
            raise ServingError(GrpcStatus.NOT_FOUND, f"Could not find version {version} of model {spec.name}")
        return (version,)

    def _labelled(self, spec: Any) -> int:
        model = self._models.get(spec.name)
        if model is None or spec.version_label not in model.labels:
            raise ServingError(
                GrpcStatus.INVALID_ARGUMENT, f"Unrecognized servable version label: {spec.version_label}"
            )
        return model.labels[spec.version_label]

    def replace(self, config: Any) -> None:
        """HandleReloadConfigRequest: the whole set, as TensorFlow Serving does. New models get version 1."""
        kept = {}
        for wanted in config.model_config_list.config:
            known = self._models.get(wanted.name)
            labels = dict(wanted.version_labels)
            kept[wanted.name] = Model(wanted.name, known.versions if known else (1,), labels)
        self._models = kept


def floats_of(tensor: Any) -> list[float]:
    """The values of a DT_FLOAT tensor, flat. Raises ServingError if it is of another type or its shape disagrees."""
    if tensor.dtype != messages.DT_FLOAT:
        raise ServingError(GrpcStatus.INVALID_ARGUMENT, "expected tensor of type float")
    if tensor.tensor_content:
        if len(tensor.tensor_content) % 4:
            raise ServingError(GrpcStatus.INVALID_ARGUMENT, "tensor parsing error: x")
        values = _little_endian(array.array("f", tensor.tensor_content)).tolist()
    else:
        values = list(tensor.float_val)
    size = math.prod(dim.size for dim in tensor.tensor_shape.dim)
    if size != len(values):
        raise ServingError(GrpcStatus.INVALID_ARGUMENT, "tensor parsing error: x")
    return values


def float_tensor(values: list[float] | bytes) -> Any:
    """A one-dimensional DT_FLOAT TensorProto; bytes are taken as packed little-endian floats and stay packed."""
    tensor = messages.TensorProto(dtype=messages.DT_FLOAT)
    if isinstance(values, bytes):
        tensor.tensor_content = values
        tensor.tensor_shape.dim.add(size=len(values) // 4)
    else:
        tensor.float_val.extend(values)
        tensor.tensor_shape.dim.add(size=len(values))
    return tensor


def predict_request(
    name: str,
    x: list[float] | bytes,
    *,
    version: int | None = None,
    label: str | None = None,
    signature: str = "",
) -> Any:
    """A PredictRequest; version and label exclude each other, as in ModelSpec."""
    request = messages.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    request.inputs["x"].CopyFrom(float_tensor(x))
    return request


def _little_endian(values: array.array[float]) -> array.array[float]:
    if sys.byteorder == "big":
        values.byteswap()
    return values
