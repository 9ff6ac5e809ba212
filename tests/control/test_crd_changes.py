"""A definition in a cluster beside the one of this release."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from meshproxy import __version__
from meshproxy.config import crds, schema
from meshproxy.control.crd_changes import CrdChanges, Definition, changes_of

OURS = crds.definition(schema.ModelRole)


def changes(change: Callable[[Any], object]) -> CrdChanges:
    """Of a live definition that differs in this."""
    live = copy.deepcopy(OURS) | {"status": {"storedVersions": ["v1alpha1"]}}
    change(live)
    return changes_of(msgspec.convert(live, Definition), msgspec.convert(OURS, Definition))


def spec_of(live: Any) -> Any:
    return live["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]


def add(live: Any, *path: str) -> None:
    """A field that this release does not have."""
    at = spec_of(live)
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = {"type": "string"}


def test_the_same() -> None:
    assert changes(lambda live: None) == CrdChanges((), (), False, __version__)


def test_a_release_is_said_by_its_label() -> None:
    found = changes(lambda live: live["metadata"].update(labels={"app.kubernetes.io/version": "0.0.9"}))
    assert (found.release, found.is_different) == ("0.0.9", False)


@pytest.mark.parametrize(
    ("change", "says", "hint"),
    [
        (lambda live: live["metadata"].update(deletionTimestamp="2026-01-01T00:00:00Z"), "is being deleted", "wait"),
        (lambda live: live["spec"].update(scope="Cluster"), "its scope is Cluster", "kubectl delete crd modelroles.m"),
        (
            lambda live: live["status"].update(storedVersions=["v1alpha1", "v0"]),
            "objects are stored as v0, which this release does not have",
            "out of status.storedVersions of modelroles.meshproxy.dev",
        ),
    ],
    ids=["it is going", "another scope", "a version that is stored"],
)
def test_what_cannot_be_applied(change: Callable[[Any], object], says: str, hint: str) -> None:
    found = changes(change)
    assert says in found.blocking[0]
    assert hint in found.hint


@pytest.mark.parametrize(
    ("path", "lost"),
    [
        (("properties", "owner"), "spec.owner"),
        (("properties", "rules", "items", "properties", "owner"), "spec.rules[].owner"),
    ],
)
def test_fields_that_would_be_dropped(path: tuple[str, ...], lost: str) -> None:
    found = changes(lambda live: add(live, *path))
    assert (found.lost, found.is_different, found.blocking) == ((lost,), True, ())


def test_fields_that_are_new_lose_nothing() -> None:
    found = changes(lambda live: spec_of(live)["properties"].pop("rules"))
    assert (found.lost, found.is_different) == ((), True)


def test_what_keeps_everything_loses_nothing() -> None:
    live, ours = copy.deepcopy(OURS), copy.deepcopy(OURS)
    add(live, "properties", "owner")
    spec_of(ours)["x-kubernetes-preserve-unknown-fields"] = True
    found = changes_of(msgspec.convert(live, Definition), msgspec.convert(ours, Definition))
    assert (found.lost, found.is_different) == ((), True)


def test_maps_take_any_name() -> None:
    live, ours = copy.deepcopy(OURS), copy.deepcopy(OURS)
    spec_of(live)["properties"]["map"] = {"type": "object", "additionalProperties": {"properties": {"gone": {}}}}
    spec_of(ours)["properties"]["map"] = {"type": "object", "additionalProperties": {"properties": {}}}
    found = changes_of(msgspec.convert(live, Definition), msgspec.convert(ours, Definition))
    assert found.lost == ("spec.map.*.gone",)
    spec_of(live)["properties"]["map"] = {"type": "object", "properties": {"kept": {}}}
    found = changes_of(msgspec.convert(live, Definition), msgspec.convert(ours, Definition))
    assert found.lost == ()


def test_a_version_that_is_served_no_more_and_not_stored() -> None:
    found = changes(lambda live: live["spec"]["versions"].append({"name": "v0", "schema": {}}))
    assert found == CrdChanges((), (), False, __version__)
