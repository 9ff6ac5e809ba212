"""A set that is checked again as it changes has the problems that it has when it is checked as a whole."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.config import checked_set as module
from meshproxy.config.check import Placed, check_set
from meshproxy.config.checked_set import CheckedSet
from meshproxy.config.nodes import Node
from meshproxy.devtools.local_mesh import document

names = st.sampled_from(["a", "b", "c"])
few = st.integers(0, 2)


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


callers = optional(
    workload=optional(trustDomain=names), token=optional(issuer=names), iamRole=names | st.just({"anything": 1})
)
targets = optional(server=names, version=st.sampled_from(["3", "text"]), weight=few, model=names)
directions = st.lists(st.sampled_from(["inbound", "outbound"]), unique=True, max_size=2)
specs: dict[str, st.SearchStrategy[Any]] = {
    "MeshConfig": optional(
        trustDomain=names,
        issuers=st.lists(optional(name=names), max_size=2),
        trustDomains=st.lists(optional(name=names), max_size=1),
        mtls=st.sampled_from(["strict", "disabled"]),
    ),
    "Sidecar": optional(
        inbound=optional(server=names),
        identity=optional(workloadApi=names),
        controlPlane=optional(documents=st.booleans()),
    ),
    "ModelServer": optional(
        hosts=st.lists(st.sampled_from(["a", "B", "h", "H."]), max_size=2),
        endpoints=st.lists(optional(sidecar=names), max_size=1),
        health=optional(check=st.sampled_from(["tcp", "model-status"])),
        service=optional(sidecar=names),
        workload=optional(trustDomain=names),
    ),
    "ModelRole": st.just({}),
    "ModelRoleBinding": optional(role=names, subjects=st.lists(callers, max_size=2)),
    "ModelRoute": optional(
        models=st.lists(names, max_size=2),
        match=st.lists(optional(caller=callers), max_size=1),
        directions=directions,
        server=names,
        split=st.lists(targets, max_size=2),
        mirror=targets,
        fallback=names | targets,
    ),
}
documents = st.one_of([st.builds(document, st.just(kind), spec, names) for kind, spec in specs.items()])
places = st.integers(0, 7)
steps = st.lists(st.dictionaries(places, st.none() | documents, min_size=1, max_size=3), max_size=8)
"""Each replaces the documents in some places, or removes them."""


def node(value: Any) -> Node:
    if isinstance(value, dict):
        return Node({name: node(each) for name, each in value.items()}, 1)
    return Node([node(each) for each in value] if isinstance(value, list) else value, 1)


def placed(given: Any) -> Placed:
    return Placed(given["kind"], given["metadata"]["name"], "f", node(given))


def change(checked: CheckedSet, there: dict[int, Placed], step: dict[int, Any]) -> None:
    """Take a step, in the set and in what is in it."""
    gone = [there.pop(place) for place in step if place in there]
    come = {place: placed(given) for place, given in step.items() if given is not None}
    there.update(come)
    checked.change(gone, {each: place for place, each in come.items()})


@given(steps, st.booleans())
def test_it_has_the_problems_of_the_whole_set(steps: list[dict[int, Any]], is_whole: bool) -> None:
    checked, there = CheckedSet(), dict[int, Placed]()
    for step in steps:
        change(checked, there, step)
        whole = [there[place] for place in sorted(there)]
        expected = list(check_set(whole, is_whole=is_whole, where="", needed=()))
        assert list(checked.problems(is_whole=is_whole)) == expected
        assert checked.has_any("ModelRole") == any(each.kind == "ModelRole" for each in whole)


@given(steps)
def test_nothing_is_remembered_of_what_is_gone(steps: list[dict[int, Any]]) -> None:
    checked, there = CheckedSet(), dict[int, Placed]()
    for step in steps:
        change(checked, there, step)
    change(checked, there, dict.fromkeys(list(there)))
    assert not any(remembered for name, remembered in vars(checked).items() if name != "_names")
    assert not any(checked._names._defined.values())


def test_a_change_costs_what_it_touches(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    check = module.check_references  # type: ignore[attr-defined]

    def watched(each: Placed, *others: Any) -> Any:
        seen.append(each.label)
        return check(each, *others)

    monkeypatch.setattr(module, "check_references", watched)
    checked = CheckedSet()
    everything = {}
    for number in range(100):
        name = f"m{number}"
        everything[f"a{number}"] = placed(document("ModelServer", {}, name))
        everything[f"b{number}"] = placed(document("ModelRole", {}, name))
        everything[f"c{number}"] = placed(document("ModelRoleBinding", {"role": name}, name))
        everything[f"d{number}"] = placed(document("ModelRoute", {"models": [name], "server": name}, name))
    checked.change([], {each: place for place, each in everything.items()})
    assert len(seen) == len(everything)
    seen.clear()
    changed = placed(document("ModelServer", {"hosts": ["h"]}, "m7"))
    checked.change([everything["a7"]], {changed: "a7"})
    assert sorted(seen) == ["ModelRoute/m7", "ModelServer/m7"]
    seen.clear()
    checked.change([everything["b7"]], {})
    assert seen == ["ModelRoleBinding/m7"]
    assert [problem.document for problem in checked.problems(is_whole=True)] == ["ModelRoleBinding/m7"]
