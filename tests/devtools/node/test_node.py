"""The nodes themselves need an API server: tests/e2e/test_node.py."""

from __future__ import annotations

from typing import Any

from meshproxy.devtools.node.node import choose


def node(name: str, **spec: Any) -> Any:
    return {"metadata": {"name": name}, "spec": spec}


def pods(*names: str | None) -> Any:
    return [{"spec": {"nodeName": name} if name else {}} for name in names]


def test_the_node_that_has_the_fewest_pods() -> None:
    nodes = [node("a"), node("b")]
    assert choose(nodes, []) == "a"
    assert choose(nodes, pods("a", None, "elsewhere")) == "b"


def test_a_cordoned_node_takes_none() -> None:
    assert choose([node("a", unschedulable=True), node("b")], pods("b", "b")) == "b"
    assert choose([node("a", unschedulable=True)], []) is None
