from __future__ import annotations

import struct
from typing import Any

import pytest

from meshproxy.devtools import messages
from meshproxy.devtools.models import (
    HTTP_STATUS,
    Catalogue,
    Model,
    Servable,
    ServingError,
    float_tensor,
    floats_of,
    predict_request,
)
from meshproxy.refusal import GrpcStatus


def catalogue() -> Catalogue:
    return Catalogue([Model("half_plus_two", (1, 2), {"stable": 1, "canary": 2}), Model("lonely", (7,))])


def spec(name: str, version: int | None = None, label: str | None = None) -> Any:
    found = messages.ModelSpec(name=name)
    if version is not None:
        found.version.value = version
    if label is not None:
        found.version_label = label
    return found


@pytest.mark.parametrize(
    ("asked", "version"),
    [
        (spec("half_plus_two"), 2),
        (spec("half_plus_two", version=1), 1),
        (spec("half_plus_two", label="stable"), 1),
        (spec("half_plus_two", label="canary"), 2),
        (spec("lonely"), 7),
    ],
)
def test_a_spec_means_one_version(asked: Any, version: int) -> None:
    assert catalogue().servable(asked).version == version


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        (spec("none"), GrpcStatus.NOT_FOUND, "Servable not found for request: Latest(none)"),
        (spec("none", version=1), GrpcStatus.NOT_FOUND, "Servable not found for request: Specific(none, 1)"),
        (spec("lonely", version=0), GrpcStatus.NOT_FOUND, "Servable not found for request: Specific(lonely, 0)"),
        (spec("lonely", label="x"), GrpcStatus.INVALID_ARGUMENT, "Unrecognized servable version label: x"),
    ],
)
def test_what_is_not_loaded_is_told_in_tensorflow_servings_words(asked: Any, status: GrpcStatus, words: str) -> None:
    with pytest.raises(ServingError, match=words.replace("(", r"\(").replace(")", r"\)")) as caught:
        catalogue().servable(asked)
    assert caught.value.status is status


def test_status_of_a_model_lists_its_versions() -> None:
    assert catalogue().versions(spec("half_plus_two")) == (1, 2)
    assert catalogue().versions(spec("half_plus_two", label="canary")) == (2,)
    with pytest.raises(ServingError, match="Could not find any versions of model none"):
        catalogue().versions(spec("none"))
    with pytest.raises(ServingError, match="Could not find version 9 of model lonely"):
        catalogue().versions(spec("lonely", version=9))


def test_reload_replaces_the_whole_set() -> None:
    models = catalogue()
    config = messages.ReloadConfigRequest().config
    config.model_config_list.config.add(name="half_plus_two").version_labels["stable"] = 2
    config.model_config_list.config.add(name="new")
    models.replace(config)
    assert models.names() == ["half_plus_two", "new"]
    assert models.servable(spec("half_plus_two", label="stable")).version == 2
    assert models.servable(spec("new")).version == 1


def test_the_version_shows_in_the_answer() -> None:
    assert Servable("m", 1).compute(2.0) == 3.0  # half plus two
    assert Servable("m", 2).compute(2.0) == 4.0


def test_packed_and_unpacked_tensors_answer_in_kind() -> None:
    servable = Servable("m", 1)
    plain = servable.predict("", float_tensor([1.0, 2.0, 5.0]))
    assert list(plain.float_val) == [2.5, 3.0, 4.5]
    packed = servable.predict("serving_default", float_tensor(struct.pack("<3f", 1, 2, 5)))
    assert packed.tensor_content == struct.pack("<3f", 2.5, 3.0, 4.5)
    assert packed.tensor_shape.dim[0].size == 3


def test_size_and_echo_cost_nothing() -> None:
    tensor = float_tensor(bytes(4096))
    assert list(Servable("m", 1).predict("size", tensor).int64_val) == [4096]
    assert Servable("m", 1).predict("echo", tensor) is tensor


def test_tensors_that_lie_are_refused() -> None:
    wrong_type = messages.TensorProto(dtype=messages.DT_INT64, int64_val=[1])
    odd = messages.TensorProto(dtype=messages.DT_FLOAT, tensor_content=b"123")
    shape = float_tensor([1.0, 2.0])
    shape.tensor_shape.dim[0].size = 3
    for tensor in (wrong_type, odd, shape):
        with pytest.raises(ServingError):
            floats_of(tensor)
    with pytest.raises(ServingError, match="not found in signature def"):
        Servable("m", 1).predict("nope", float_tensor([1.0]))


def test_json_keeps_its_nesting_and_refuses_what_is_no_number() -> None:
    assert Servable("m", 1).predict_json("", [[2, 4.0], []]) == [[3.0, 4.0], []]
    for wrong in ("text", True, None, {"x": 1}):
        with pytest.raises(ServingError, match="not of expected type: float"):
            Servable("m", 1).predict_json("", [wrong])


def test_every_status_has_an_http_code() -> None:
    assert set(HTTP_STATUS) == set(GrpcStatus)


def test_predict_request_names_what_it_is_told() -> None:
    assert predict_request("m", [1.0]).model_spec.WhichOneof("version_choice") is None
    assert predict_request("m", [1.0], version=0).model_spec.version.value == 0
    request = predict_request("m", bytes(8), label="canary", signature="size")
    assert (request.model_spec.version_label, request.model_spec.signature_name) == ("canary", "size")
    assert request.inputs["x"].tensor_content == bytes(8)
