"""What the policies hold; that they work is shown by tests/e2e."""

from __future__ import annotations

import re
from typing import Any

import pytest

from meshproxy.injection.policies import ENFORCE, enforcement_policies, injection_policies
from tests.injection.pods import SETTINGS, injected, pod

OBJECTS = [*injection_policies(SETTINGS), *enforcement_policies("meshproxy")]


def test_every_policy_is_bound_and_every_binding_has_one() -> None:
    policies = {(each["kind"], each["metadata"]["name"]) for each in OBJECTS if not each["kind"].endswith("Binding")}
    bound = {
        (each["kind"].removesuffix("Binding"), each["spec"]["policyName"])
        for each in OBJECTS
        if each["kind"].endswith("Binding")
    }
    assert policies == bound
    assert len({(each["kind"], each["metadata"]["name"]) for each in OBJECTS}) == len(OBJECTS)


def test_the_sidecar_is_that_of_the_injector() -> None:
    (policy,) = (each for each in OBJECTS if each["kind"] == "MutatingAdmissionPolicy")
    variables = {each["name"]: each["expression"] for each in policy["spec"]["variables"]}
    wanted = injected(pod()).pod["spec"]["initContainers"][0]
    for word in (wanted["image"], *wanted["args"], "/readyz", "runAsNonRoot"):
        assert f'"{word}"' in variables["sidecar"]
    assert policy["spec"]["reinvocationPolicy"] == "Never"


def test_it_fails_closed_and_messages_are_short() -> None:
    for each in OBJECTS:
        if "failurePolicy" in each["spec"]:
            assert each["spec"]["failurePolicy"] == "Fail"
        for validation in each["spec"].get("validations", ()):
            assert validation["message"].isprintable()
            assert len(validation["message"]) <= 256


@pytest.mark.parametrize(
    ("image", "program", "is_one"),
    [
        ("tensorflow/serving", "", True),
        ("registry.example.com/tensorflow/serving:2.19.0", "", True),
        ("registry.example.com/tensorflow-serving@sha256:0", "", True),
        ("tf-serving-resnet:1", "", True),
        ("example.com/serving", "", False),
        ("tf-serving/tool", "", False),
        ("example.com/models", "tensorflow_model_server", True),
        ("example.com/models", "/usr/bin/tensorflow_model_server", True),
        ("example.com/models", "/usr/bin/tensorflow_model_server_old", False),
        ("example.com/models", "my_tensorflow_model_server", False),
    ],
)
def test_the_expression_knows_a_model_server_as_the_injector_does(image: str, program: str, is_one: bool) -> None:
    (policy,) = (each for each in OBJECTS if each["kind"] == "MutatingAdmissionPolicy")
    (servers,) = (each["expression"] for each in policy["spec"]["variables"] if each["name"] == "servers")
    of_image, of_program = re.findall(r'matches\("(.*?)"\)', servers)
    assert (re.search(of_image, image) is not None or re.search(of_program, program) is not None) is is_one
    content: Any = pod(container={"image": image, "command": [program]})
    assert (
        "mesh" in str(injected(content).pod["spec"]["initContainers"][0]["ports"][0]["name"].split("-")[-1])
    ) is is_one


def test_who_enforces() -> None:
    bindings = [each for each in enforcement_policies("mesh") if each["kind"].endswith("Binding")]
    assert [each["spec"]["validationActions"] for each in bindings] == [["Deny"], ["Warn"]]
    for binding in bindings:
        enforce, outside = binding["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"]
        assert enforce == {"key": ENFORCE, "operator": "In", "values": ["true"]}
        assert "mesh" in outside["values"]
