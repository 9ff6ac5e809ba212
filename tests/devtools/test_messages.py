from __future__ import annotations

import pytest

from meshproxy.devtools import messages

# Written by hand from the encoding page of protobuf.dev and the numbers in tensorflow_serving/apis.
PREDICT = bytes.fromhex(
    "0a 15"  # model_spec = 1
    "   0a 01 6d"  # name = 1: "m"
    "   12 02 08 03"  # version = 2, an Int64Value: value = 1: 3
    "   1a 0c 73657276696e675f61626364"  # signature_name = 3
    "12 0f"  # inputs = 2, one entry
    "   0a 01 78"  # key: "x"
    "   12 0a"  # value: TensorProto
    "      08 01"  # dtype = 1: DT_FLOAT
    "      2a 04 0000803f"  # float_val = 5, packed: 1.0
    "      2200"  # tensor_content = 4, empty
)


def test_predict_request_has_the_numbers_of_tensorflow_serving() -> None:
    request = messages.PredictRequest.FromString(PREDICT)
    assert request.model_spec.name == "m"
    assert request.model_spec.version.value == 3
    assert request.model_spec.signature_name == "serving_abcd"
    assert list(request.inputs["x"].float_val) == [1.0]
    assert request.inputs["x"].dtype == messages.DT_FLOAT


def test_version_and_label_exclude_each_other_and_the_last_wins() -> None:
    first = messages.ModelSpec(name="m")
    first.version.value = 2
    second = messages.ModelSpec(version_label="canary")
    merged = messages.ModelSpec.FromString(first.SerializeToString() + second.SerializeToString())
    assert merged.WhichOneof("version_choice") == "version_label"
    assert second.SerializeToString() == b"\x22\x06canary"


def test_metadata_travels_in_an_any() -> None:
    signatures = messages.SignatureDefMap()
    signatures.signature_def["serving_default"].method_name = "tensorflow/serving/predict"
    response = messages.GetModelMetadataResponse()
    response.metadata["signature_def"].Pack(signatures)
    assert response.metadata["signature_def"].type_url.endswith("/tensorflow.serving.SignatureDefMap")
    unpacked = messages.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(unpacked)
    assert unpacked == signatures


@pytest.mark.parametrize("path", list(messages.METHODS))
def test_every_method_has_messages_of_its_own_name(path: str) -> None:
    request, response = messages.METHODS[path]
    assert request().SerializeToString() == b""
    assert request.DESCRIPTOR.full_name.startswith("tensorflow.serving.")
    assert response.DESCRIPTOR.name.endswith("Response")


def test_an_unknown_message_has_no_class() -> None:
    with pytest.raises(KeyError):
        messages.message("tensorflow.serving.Nothing")
