"""Where a field that stands in the wrong place belongs."""

from __future__ import annotations

import pytest

from meshproxy.config import reference
from meshproxy.config.elsewhere import MOST, elsewhere
from tests.config.conftest import Check, document, said


@pytest.mark.parametrize(
    ("name", "kind", "places"),
    [
        ("retries", "ModelServer", "ModelRoute.spec"),
        ("mtls", "Sidecar", "MeshConfig.spec"),
        ("timeout", "ModelServer", "ModelRoute.spec and ModelServer.spec.health"),
        ("timeout", "MeshConfig", "ModelRoute.spec"),
        ("server", "Sidecar", "ModelRoute.spec, Sidecar.spec.inbound and Sidecar.spec.outbound"),
        ("weight", "ModelRoute", "ModelRoute.spec.split[]"),
    ],
)
def test_the_nearest_and_those_of_the_same_kind(name: str, kind: str, places: str) -> None:
    assert elsewhere(name, kind) == f': "{name}" is a field of {places}'
    for place in places.replace(" and ", ", ").split(", "):
        assert reference.find(f"{place}.{name}")[1] is not None


@pytest.mark.parametrize(
    ("name", "why"),
    [("noSuch", "nowhere"), ("port", "too deep"), ("file", "too deep"), ("version", "in many places")],
)
def test_nothing_that_would_mislead(name: str, why: str) -> None:
    assert elsewhere(name, "ModelRole") == "", why


def test_never_more_than_a_line_has_room_for() -> None:
    names = {field.name for kind in reference.kinds().values() for field in reference.fields(kind)}
    assert all(elsewhere(name, kind).count(".spec") <= MOST for name in names for kind in reference.kinds())


def test_in_a_message(check: Check) -> None:
    (found,) = said(check(document("ModelServer", "a", "{endpoints: [{rest: 'a:1'}], retries: {}}")), "MP0202")
    assert found.endswith('spec.retries: no such field: "retries" is a field of ModelRoute.spec')
