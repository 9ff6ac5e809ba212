"""The shapes of answers: what a newer control plane adds, an older reader ignores, and the other way round."""

from __future__ import annotations

import inspect

import msgspec

from meshproxy.control.status import SidecarState
from meshproxy.web import shapes
from meshproxy.web.shapes import API_VERSION, Shape, Sync


def test_every_answer_says_what_it_is() -> None:
    answers = {"Model", "Certificates", "Configuration", "Denials", "Session"}
    for name, each in inspect.getmembers(shapes, inspect.isclass):
        if issubclass(each, Shape) and each is not Shape:
            fields = {field.name: field for field in msgspec.structs.fields(each)}
            assert ("api_version" in fields) == (name in answers), name
            if name in answers:
                assert (fields["api_version"].default, fields["kind"].default) == (API_VERSION, name)


def test_states_are_those_of_the_control_plane() -> None:
    assert {state.value for state in Sync} == {state.value for state in SidecarState}
