from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.injection.inject import Injected, inject
from meshproxy.injection.record import STATUS
from meshproxy.injection.uninject import uninject
from tests.injection.pods import BEFORE_SIDECARS, SETTINGS, apply_patch, injected, pod, pods


@given(content=pods(), native=st.booleans())
@settings(max_examples=40)
def test_it_is_the_inverse(content: Any, native: bool) -> None:
    result = inject(content, "serving", SETTINGS if native else BEFORE_SIDECARS)
    if isinstance(result, Injected):
        back = uninject(result.pod)
        assert back is not None
        assert back.pod == content == apply_patch(result.pod, [operation for operation, _ in back.steps])


@pytest.mark.parametrize(
    "before",
    [
        {"spec": pod()["spec"]},
        {**pod(), "metadata": None},
        {**pod(), "metadata": {"name": "a", "annotations": None}},
        pod(annotations={}),
        pod(initContainers=[], volumes=None),
        pod(container={"lifecycle": {}}),
        pod(container={"lifecycle": None}),
    ],
)
def test_what_was_absent_or_empty_is_so_again(before: Any) -> None:
    back = uninject(injected(before).pod)
    assert back is not None
    assert back.pod == before


def test_changes_that_were_made_since_stay() -> None:
    after = injected(pod()).pod
    after["spec"]["initContainers"].append({"name": "fetch"})
    after["spec"]["volumes"].insert(0, {"name": "models"})
    after["metadata"]["annotations"]["a"] = "b"
    after["spec"]["containers"][0]["lifecycle"]["postStart"] = {}
    back = uninject(after)
    assert back is not None
    expected = pod(annotations={"a": "b"}, container={"lifecycle": {"postStart": {}}})
    expected["spec"] |= {"initContainers": [{"name": "fetch"}], "volumes": [{"name": "models"}]}
    assert back.pod == expected


def test_what_has_been_taken_away_since_is_not_missed() -> None:
    after = injected(pod()).pod
    after["spec"]["containers"][0]["name"] = "another"
    del after["spec"]["volumes"], after["spec"]["initContainers"], after["spec"]["terminationGracePeriodSeconds"]
    back = uninject(after)
    assert back is not None
    assert "annotations" not in back.pod["metadata"]


def test_what_no_injector_has_changed() -> None:
    assert uninject(pod()) is None
    assert uninject(pod(initContainers=[{"name": "meshproxy"}])) is None


@pytest.mark.parametrize(
    "record",
    [
        "",
        "{}",
        json.dumps({"version": "1", "made": [], "was": [[["spec", "hostNetwork"], "true"]]}),
        json.dumps({"version": "1", "made": [["spec", "containers", "a", "image"]], "was": []}),
        json.dumps({"version": "1", "made": [], "was": [[["spec", "volumes"], "{"]]}),
        json.dumps({"version": "1", "made": [], "was": [[[], "a"]]}),
    ],
)
def test_a_record_that_was_changed_changes_nothing(record: str) -> None:
    after = copy.deepcopy(injected(pod()).pod)
    after["metadata"]["annotations"][STATUS] = record
    with pytest.raises(ValueError, match="not as it was written"):
        uninject(after)
