"""What TensorFlow Serving's operations can do: what is None here is refused or left out by the proxy."""

from __future__ import annotations

import pytest

from meshproxy.codec.grpc import frame
from meshproxy.inference.body_scan import DEFAULT_LIMITS
from meshproxy.inference.call import Chosen, Verb
from meshproxy.inference.surface import Comparison, Operation, Tolerance
from meshproxy.inference.surfaces import SURFACES
from meshproxy.inference.tfserving import TENSORFLOW_SERVING
from meshproxy.inference.unary import write_bytes

PREDICTION = b"/tensorflow.serving.PredictionService/"
SPEC = write_bytes(1, write_bytes(1, b"m"))
INFERENCE = (Verb.PREDICT, Verb.CLASSIFY, Verb.REGRESS, Verb.MULTI_INFERENCE)


def rest(method: bytes, target: bytes) -> Operation:
    return SURFACES.find_rest(method, target)


OPERATIONS = [
    *TENSORFLOW_SERVING.methods.values(),
    *(rest(b"POST", b"/v1/models/m:" + word) for word in (b"predict", b"classify", b"regress")),
    rest(b"GET", b"/v1/models/m"),
    rest(b"GET", b"/v1/models/m/metadata"),
    rest(b"GET", b"/monitoring/prometheus/metrics"),
    SURFACES.find_grpc(b"/tensorflow.ProfilerService/Profile"),
]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.target.decode())
def test_every_operation_names_its_model_or_scans_for_it(operation: Operation) -> None:
    assert (operation.call is None) == (operation.scan is not None)
    assert operation.call is None or operation.call.verb is operation.verb
    is_inference = operation.verb in INFERENCE
    assert (operation.count_examples is not None) == is_inference
    assert (operation.compare is not None) == is_inference
    names_one = is_inference or operation.verb in (Verb.METADATA, Verb.STATUS)
    assert operation.can_rewrite == names_one
    assert operation.can_rewrite == ((operation.rewrite_body or operation.rewrite_target) is not None)


def test_a_grpc_predict_by_its_operation() -> None:
    operation = SURFACES.find_grpc(PREDICTION + b"Predict")
    assert SURFACES.find_grpc(PREDICTION + b"Predict") is operation
    assert operation.scan is not None
    assert operation.rewrite_body is not None
    assert operation.count_examples is not None
    assert operation.compare is not None
    assert operation.affinity_key is not None
    shape = write_bytes(2, write_bytes(2, b"\x08\x05"))
    body = frame(SPEC + write_bytes(2, write_bytes(1, b"x") + write_bytes(2, shape)) + write_bytes(6, b"me"))
    call = operation.scan(None, DEFAULT_LIMITS).feed(body, True)
    assert call is not None
    assert (call.verb, call.models[0].name) == (Verb.PREDICT, "m")
    rewriter = operation.rewrite_body(call, Chosen(version="3"), 1000, None, DEFAULT_LIMITS)
    again = operation.scan(None, DEFAULT_LIMITS).feed(rewriter.feed(body, True), True)
    assert again is not None
    assert again.models[0].version == "3"
    count = operation.count_examples(None, DEFAULT_LIMITS)
    count.feed(body, True)
    assert count.count == 5
    assert operation.affinity_key(body) == b"me"
    assert operation.compare(b"a", b"a", Tolerance()) == Comparison(True)
    assert operation.compare(b"a", b"b", Tolerance()) != Comparison(True)


def test_a_rest_predict_by_its_operation() -> None:
    operation = rest(b"POST", b"/v1/models/m/versions/2:predict")
    assert operation.rewrite_target is not None
    assert operation.count_examples is not None
    assert operation.compare is not None
    assert operation.call is not None
    assert operation.affinity_key is None
    assert operation.rewrite_target(operation.call, Chosen(version="3")) == b"/v1/models/m/versions/3:predict"
    count = operation.count_examples(b"gzip", DEFAULT_LIMITS)
    count.feed(b'{"instances": [1, 2, 3]}', True)
    assert count.count == 3
    assert operation.compare(b'{"predictions": [1.0]}', b'{"predictions": [1]}', Tolerance()) == Comparison(True)


def test_only_a_predict_has_a_client_id() -> None:
    assert [each.verb for each in OPERATIONS if each.affinity_key is not None] == [Verb.PREDICT]
