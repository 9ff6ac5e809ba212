from __future__ import annotations

import pytest

from meshproxy.devtools.node.fields import command_line, environment, expand, field_of
from meshproxy.devtools.node.spec import Container, Env

POD = {
    "metadata": {"name": "web-1", "namespace": "serving", "uid": "u", "labels": {"a.b/c": "d"}},
    "spec": {"nodeName": "node-1", "serviceAccountName": "web"},
    "status": {"podIP": "10.78.1.1"},
}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("metadata.name", "web-1"),
        ("metadata.labels['a.b/c']", "d"),
        ("metadata.annotations['a']", ""),
        ("spec.nodeName", "node-1"),
        ("status.podIP", "10.78.1.1"),
        ("status.hostIP", ""),
    ],
)
def test_fields(path: str, expected: str) -> None:
    assert field_of(POD, path) == expected


@pytest.mark.parametrize("path", ["metadata.ownerReferences", "metadata", "limits.cpu"])
def test_a_field_that_is_not_offered(path: str) -> None:
    with pytest.raises(ValueError, match="no field"):
        field_of(POD, path)


def test_variables_may_name_those_before() -> None:
    own = Env("NAME", value_from={"fieldRef": {"fieldPath": "metadata.name"}})
    container = Container("a", env=(own, Env("GREETING", "hello $(NAME) $(HOST)")))
    expected = {"HOST": "h", "NAME": "web-1", "GREETING": "hello web-1 h"}
    assert environment(container, POD, {"HOST": "h"}) == expected


def test_references() -> None:
    assert expand("$(A) $$(A) $(B) $A", {"A": "1"}) == "1 $(A) $(B) $A"


def test_a_command_takes_the_place_of_the_images() -> None:
    entry = ("serve", "--all")
    assert command_line(Container("a", args=("--port=$(P)",)), entry, {"P": "1"}) == ["serve", "--all", "--port=1"]
    assert command_line(Container("a", command=("sh",), args=("-c",)), entry, {}) == ["sh", "-c"]
