"""Roles by claims."""

from __future__ import annotations

import pytest

from meshproxy.web.permissions import Permission, Role, roles_of

VIEWER = Role("viewer", frozenset({Permission.GRAPH}), {"groups": "ml"})
SECURITY = Role("security", frozenset(Permission), {"groups": "security", "amr": "mfa"})


@pytest.mark.parametrize(
    ("claims", "names"),
    [
        ({"groups": ["ml", "x"]}, ["viewer"]),
        ({"groups": "ml"}, ["viewer"]),
        ({"groups": ["security"]}, []),
        ({"groups": ["security", "ml"], "amr": ["mfa"]}, ["viewer", "security"]),
        ({}, []),
        ({"groups": [{"ml": 1}]}, []),  # it cannot be compared: no role
    ],
)
def test_all_claims_of_a_role_must_fit(claims: dict[str, object], names: list[str]) -> None:
    assert [role.name for role in roles_of((VIEWER, SECURITY), claims)] == names
