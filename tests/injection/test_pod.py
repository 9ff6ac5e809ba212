from __future__ import annotations

from typing import Any

import pytest

from meshproxy.injection.pod import Container, read_pod
from tests.injection.pods import pod


@pytest.mark.parametrize(
    "container",
    [
        {"image": "tensorflow/serving"},
        {"image": "tensorflow/serving:2.19.0-gpu"},
        {"image": "registry.example.com:5000/mirror/tensorflow/serving@sha256:0"},
        {"image": "registry.example.com/tensorflow-serving:1"},
        {"image": "tf-serving-resnet"},
        {"image": "own", "command": ["/usr/bin/tensorflow_model_server", "--port=9000"]},
        {"image": "own", "ports": [{"containerPort": 8501}]},
    ],
)
def test_what_looks_like_a_model_server(container: dict[str, Any]) -> None:
    assert read_pod(pod(container=container)).spec.containers[0].is_model_server


@pytest.mark.parametrize("image", ["serving", "example/serving", "tensorflow/tensorflow", "registry/serving:1", ""])
def test_what_does_not(image: str) -> None:
    assert not Container("a", image).is_model_server


def test_flags_are_read_as_the_program_does() -> None:
    """The last one counts, and arguments follow the command."""
    container = Container("a", command=["server", "--port=1"], args=["--port=2", "--port", "3"])
    assert container.flag("port") == "2"
    assert container.flag("rest_api_port") is None


def test_null_is_nothing_and_other_fields_are_ignored() -> None:
    content = {
        "spec": {"containers": [{"name": "a", "ports": None, "x": 1}], "volumes": None, "y": []},
        "metadata": None,
    }
    read = read_pod(content)
    assert (read.annotations, read.meta.owner.kind, read.name) == ({}, "", "")


def test_names() -> None:
    assert read_pod({**pod(), "metadata": {"name": "a", "generateName": "b-"}}).name == "a"
    assert read_pod({**pod(), "metadata": {"generateName": "b-"}}).name == "b"


@pytest.mark.parametrize(
    "content", [None, [], {}, {"spec": {}}, {"spec": {"containers": {}}}, {"spec": {"containers": [1]}}]
)
def test_what_is_no_pod(content: Any) -> None:
    with pytest.raises(ValueError, match="this is no pod"):
        read_pod(content)
