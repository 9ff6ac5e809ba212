from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshproxy.telemetry.endpoint_labels import EndpointLabels
from meshproxy.telemetry.metrics import OTHER


def test_those_that_are_there_keep_their_names() -> None:
    labels = EndpointLabels(lambda server, endpoint: None, most=2)
    assert [labels.read("a", name) for name in ("x", "y", "z", "x")] == ["x", "y", OTHER, "x"]


def test_one_of_another_server_is_another() -> None:
    labels = EndpointLabels(lambda server, endpoint: None, most=1)
    assert (labels.read("a", "x"), labels.read("b", "x")) == ("x", OTHER)


def test_whoever_is_gone_longest_makes_room_and_only_when_it_is_needed() -> None:
    forgotten: list[tuple[str, str]] = []
    labels = EndpointLabels(lambda server, endpoint: forgotten.append((server, endpoint)), most=3)
    for name in ("x", "y", "z"):
        labels.read("a", name)
    labels.removed("a", "y")
    labels.removed("a", "x")
    assert forgotten == []
    assert labels.read("a", "new") == "new"
    assert forgotten == [("a", "y")]
    assert labels.read("a", "y") == "y"
    assert forgotten == [("a", "y"), ("a", "x")]


def test_one_that_comes_back_is_not_gone() -> None:
    labels = EndpointLabels(lambda server, endpoint: None, most=1)
    labels.read("a", "x")
    labels.removed("a", "x")
    labels.added("a", "x")
    assert labels.read("a", "y") == OTHER


def test_one_that_never_counted_for_anything_is_not_remembered() -> None:
    labels = EndpointLabels(lambda server, endpoint: None, most=1)
    labels.removed("a", "x")
    assert labels.read("a", "y") == "y"


@given(st.lists(st.tuples(st.sampled_from(["read", "added", "removed"]), st.sampled_from("abcdef")), max_size=60))
def test_there_are_never_more_than_the_bound(steps: list[tuple[str, str]]) -> None:
    shown: set[str] = set()
    labels = EndpointLabels(lambda server, endpoint: shown.remove(endpoint), most=3)
    for step, name in steps:
        value = getattr(labels, step)("a", name)
        if step == "read" and value != OTHER:
            assert value == name
            shown.add(name)
        assert len(shown) <= 3
