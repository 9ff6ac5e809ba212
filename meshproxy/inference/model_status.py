"""TensorFlow Serving's GetModelStatus: health checks ask it over REST or gRPC for the versions that can be called, and
whether it is loading one.

It answers 200, or OK, while a model is still LOADING (tensorflow/serving#1754): only the states say that.
Source: tensorflow_serving/apis/{model,get_model_status}.proto

    message ModelSpec { string name = 1; ... }
    message GetModelStatusRequest { ModelSpec model_spec = 1; }
    message GetModelStatusResponse { repeated ModelVersionStatus model_version_status = 1; }
    message ModelVersionStatus { int64 version = 1; State state = 2; StatusProto status = 3; }
"""

from __future__ import annotations

import msgspec

from meshproxy.codec.grpc import frame
from meshproxy.inference.call import ModelRef, Verb
from meshproxy.inference.protobuf import LENGTH, VARINT, FieldWalker, as_int64, malformed
from meshproxy.inference.surface import ModelVersions
from meshproxy.inference.tfserving_rest import build_target
from meshproxy.inference.unary import read_message, write_bytes, write_text

METHOD = b"/tensorflow.serving.ModelService/GetModelStatus"
LOADING, AVAILABLE = 20, 30
"""ModelVersionStatus.State."""

_VERSION_STATUS = 1 << 3 | LENGTH
_VERSION = 1 << 3 | VARINT
_STATE = 2 << 3 | VARINT


def rest_target(model: str) -> bytes:
    """The target of the GET."""
    return build_target(Verb.STATUS, ModelRef(model))


class _VersionStatus(msgspec.Struct):
    """int64 is text in JSON (https://protobuf.dev/programming-guides/json); others write numbers."""

    version: str | int = 0
    state: str = "UNKNOWN"


class _Answer(msgspec.Struct):
    model_version_status: tuple[_VersionStatus, ...] = ()


_decode = msgspec.json.Decoder(_Answer).decode


def read_json(body: bytes) -> ModelVersions:
    """An answer over REST.

    Raises:
        Refusal: MALFORMED_MESSAGE.
    """
    try:
        statuses = _decode(body).model_version_status
        return ModelVersions(
            _in_order({int(each.version) for each in statuses if each.state == "AVAILABLE"}),
            any(each.state == "LOADING" for each in statuses),
        )
    except (ValueError, RecursionError):  # msgspec's own are ValueErrors, too
        raise malformed("the model's status is not the JSON that it should be") from None


def write_request(model: str) -> bytes:
    """The body that asks for a model over gRPC."""
    return frame(write_bytes(1, write_text(1, model)))


def read_response(body: bytes) -> ModelVersions:
    """An answer over gRPC.

    Raises:
        Refusal: MALFORMED_MESSAGE, SCAN_LIMIT or UNSUPPORTED_ENCODING.
    """
    walker = FieldWalker()
    available: set[int] = set()
    is_loading = False
    for _, status in walker.read(read_message(body), (_VERSION_STATUS,), 0):
        assert isinstance(status, bytes)
        version = state = 0
        for tag, number in walker.read(status, (_VERSION, _STATE), 1):
            assert isinstance(number, int)
            if tag == _VERSION:
                version = as_int64(number)
            else:
                state = number
        if state == AVAILABLE:
            available.add(version)
        is_loading |= state == LOADING
    return ModelVersions(_in_order(available), is_loading)


def _in_order(versions: set[int]) -> tuple[str, ...]:
    return tuple(map(str, sorted(versions)))
