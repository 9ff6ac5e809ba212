"""Which claim a path means, and whether it has a value: yes, no, or unclear."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.config.fields import ClaimPattern, TextMatch
from meshproxy.identity.claims import ClaimMatch, ClaimPath, Wanted, find_text, is_one_text, match_claim, texts_of_claim

YES, NO, UNCLEAR = ClaimMatch.YES, ClaimMatch.NO, ClaimMatch.UNCLEAR

KUBERNETES: dict[str, object] = {
    "kubernetes.io": {"namespace": "pricing", "serviceaccount": {"name": "quoter", "uid": "1"}}
}
"""Of a token of a service account (Kubernetes 1.37)."""


@pytest.mark.parametrize(
    ("claims", "name", "wanted", "match"),
    [
        ({"g": "x"}, "g", "x", YES),
        ({"g": "X"}, "g", "x", NO),
        ({"g": ["a", "x"]}, "g", "x", YES),
        ({"g": ["xx"]}, "g", "x", NO),
        ({"g": []}, "g", "x", NO),
        ({"g": "xyz"}, "g", "x", NO),
        ({"g": "x y"}, "g", "x", NO),
        ({}, "g", "x", NO),
        ({"g": None}, "g", "x", NO),
        ({"g": [None]}, "g", "x", NO),
        ({"n": 1}, "n", 1, YES),
        ({"n": 2}, "n", 1, NO),
        ({"b": [True]}, "b", True, YES),
        # Types differ: the document and the issuer mean different things.
        ({"g": {"x": 1}}, "g", "x", UNCLEAR),
        ({"g": [["x"]]}, "g", "x", UNCLEAR),
        ({"g": ["a", 1]}, "g", "x", UNCLEAR),
        ({"g": ["x", 1]}, "g", "x", YES),
        ({"n": True}, "n", 1, UNCLEAR),
        ({"n": 1}, "n", True, UNCLEAR),
        ({"n": 1.0}, "n", 1, UNCLEAR),
        ({"n": "1"}, "n", 1, UNCLEAR),
        ({"b": "true"}, "b", True, UNCLEAR),
        # Paths: the longest name that exists, at each level.
        ({"realm": {"roles": ["x"]}}, "realm.roles", "x", YES),
        ({"realm.roles": "x"}, "realm.roles", "x", YES),
        ({"a.b": {"c": "x"}}, "a.b.c", "x", YES),
        ({"a": {"b.c": "x"}}, "a.b.c", "x", YES),
        ({"a.b": {"c.d": "x"}}, "a.b.c.d", "x", YES),
        ({"": {"a": "x"}}, ".a", "x", YES),
        ({"https://corp/g": "x"}, "https://corp/g", "x", YES),
        ({"https://corp.example/g": {"team": ["x"]}}, "https://corp.example/g.team", "x", YES),
        ({"https://corp": {"example/g": "x"}}, "https://corp.example/g", "x", YES),  # as Keycloak splits it
        ({"resource_access": {"my.app": {"roles": ["x"]}}}, "resource_access.my.app.roles", "x", YES),
        (KUBERNETES, "kubernetes.io.namespace", "pricing", YES),
        (KUBERNETES, "kubernetes.io.namespace", "batch", NO),
        (KUBERNETES, "kubernetes.io.serviceaccount.name", "quoter", YES),
        (KUBERNETES, "kubernetes.io.pod.name", "quoter", NO),
        ({"realm": {}}, "realm.roles", "x", NO),
        ({"realm": None}, "realm.roles", "x", NO),
        # Paths that lead to nothing that could be compared.
        (KUBERNETES, "kubernetes.io", "pricing", UNCLEAR),
        (KUBERNETES, "kubernetes.io.namespace.name", "pricing", UNCLEAR),
        ({"realm": [{"roles": "x"}]}, "realm.roles", "x", UNCLEAR),
        ({"realm": "x"}, "realm.roles", "x", UNCLEAR),
        # Two readings: the longest name counts, and another one is never overlooked.
        ({"a.b": "x", "a": {"b": "y"}}, "a.b", "x", YES),
        ({"a.b": "y", "a": {"b": "x"}}, "a.b", "x", UNCLEAR),
        ({"a.b": "y", "a": {"b": "z"}}, "a.b", "x", NO),
        ({"a.b": {}, "a": {"b": {"c": "x"}}}, "a.b.c", "x", UNCLEAR),
        ({"a.b": "y", "a": "z"}, "a.b", "x", UNCLEAR),
    ],
)
def test_a_claim_and_a_value(claims: dict[str, object], name: str, wanted: Wanted, match: ClaimMatch) -> None:
    assert match_claim(claims, name, wanted) is match


@pytest.mark.parametrize("name", ["scope", "scp"])
@pytest.mark.parametrize(
    ("found", "wanted", "match"),
    [
        ("openid models.predict", "models.predict", YES),
        ("models.predict", "models.predict", YES),
        ("openid models.predict email", "email openid", YES),
        (["openid", "models.predict"], "models.predict", YES),
        (["openid", "models.predict"], "models.predict openid", YES),
        ("openid models.predict.all", "models.predict", NO),
        ("openid  email", "models.predict", NO),
        ("openid", "openid email", NO),
        ("OPENID", "openid", NO),
        ("", "openid", NO),
        ([], "openid", NO),
        (None, "openid", NO),
        # Words that are separated in a way that no specification has.
        ("openid,models.predict", "models.predict", UNCLEAR),
        ("openid\tmodels.predict", "models.predict", UNCLEAR),
        ("openid\u00a0models.predict", "models.predict", UNCLEAR),
        (["openid models.predict"], "models.predict", UNCLEAR),
        ("openid", "", UNCLEAR),
        ("5", 5, UNCLEAR),
        (5, "5", UNCLEAR),
        ({"openid": True}, "openid", UNCLEAR),
        (["openid", 5], "email", UNCLEAR),
    ],
)
def test_a_scope_is_words(name: str, found: object, wanted: Wanted, match: ClaimMatch) -> None:
    assert match_claim({name: found}, name, wanted) is match


def test_a_scope_elsewhere_is_text() -> None:
    assert match_claim({"a": {"scope": "x y"}}, "a.scope", "x") is NO
    assert match_claim({"scope": "x y"}, "scope.x", "y") is UNCLEAR


def like(**fields: Any) -> ClaimPattern:
    return ClaimPattern(**fields)


@pytest.mark.parametrize(
    ("claims", "name", "wanted", "match"),
    [
        ({"g": "team-a"}, "g", like(prefix="team-"), YES),
        ({"g": "Team-a"}, "g", like(prefix="team-"), NO),
        ({"g": ["x", "team-a"]}, "g", like(prefix="team-"), YES),
        ({"g": []}, "g", like(prefix="team-"), NO),
        ({}, "g", like(prefix="team-"), NO),
        ({"g": None}, "g", like(prefix="team-"), NO),
        ({"mail": "a@corp.example"}, "mail", like(suffix="@corp.example"), YES),
        ({"mail": "a@corp.example.evil"}, "mail", like(suffix="@corp.example"), NO),
        ({"g": "a-team-b"}, "g", like(contains="team"), YES),
        ({"g": "team-12"}, "g", like(regex="team-[0-9]+"), YES),
        ({"g": "team-1x"}, "g", like(regex="team-[0-9]+"), NO),
        ({"g": "x"}, "g", like(exact="x"), YES),
        ({"realm": {"roles": ["team-a"]}}, "realm.roles", like(prefix="team-"), YES),
        # What is no text begins with nothing.
        ({"g": 5}, "g", like(prefix="5"), UNCLEAR),
        ({"g": True}, "g", like(prefix="t"), UNCLEAR),
        ({"g": ["x", 5]}, "g", like(prefix="5"), UNCLEAR),
        ({"g": ["5", 5]}, "g", like(prefix="5"), YES),
        ({"g": {"team-a": 1}}, "g", like(prefix="team-"), UNCLEAR),
        ({"g": "x"}, "g.a", like(prefix="team-"), UNCLEAR),
        ({"a.b": "x", "a": {"b": "team-a"}}, "a.b", like(prefix="team-"), UNCLEAR),
        # Presence.
        ({"g": "x"}, "g", like(present=True), YES),
        ({"g": []}, "g", like(present=True), YES),
        ({"g": False}, "g", like(present=True), YES),
        ({"g": {}}, "g", like(present=True), YES),
        ({}, "g", like(present=True), NO),
        ({"g": None}, "g", like(present=True), NO),
        ({"g": "x"}, "g.a", like(present=True), UNCLEAR),
        ({"a.b": None, "a": {"b": 1}}, "a.b", like(present=True), UNCLEAR),
        ({"g": "x"}, "g", like(present=False), NO),
        ({}, "g", like(present=False), YES),
        ({"g": None}, "g", like(present=False), YES),
        ({"g": "x"}, "g.a", like(present=False), UNCLEAR),
        ({"a.b": None, "a": {"b": 1}}, "a.b", like(present=False), UNCLEAR),
        # All of, any of.
        ({"g": ["a", "b", "c"]}, "g", like(all_of=("a", "b")), YES),
        ({"g": ["a", "c"]}, "g", like(all_of=("a", "b")), NO),
        ({"g": "a"}, "g", like(all_of=("a", "a")), YES),
        ({"g": ["team-a", "admin"]}, "g", like(all_of=("admin", TextMatch(prefix="team-"))), YES),
        ({"g": ["a", 1]}, "g", like(all_of=("a", "b")), UNCLEAR),
        ({"g": ["c", 1]}, "g", like(all_of=(2, "b")), UNCLEAR),
        ({"g": "b"}, "g", like(any_of=("a", "b")), YES),
        ({"g": ["x", "b"]}, "g", like(any_of=("a", "b")), YES),
        ({"g": "c"}, "g", like(any_of=("a", "b")), NO),
        ({}, "g", like(any_of=("a", "b")), NO),
        ({"g": 1}, "g", like(any_of=("1", 1)), YES),
        ({"g": 1}, "g", like(any_of=("1", 2)), UNCLEAR),
        ({"g": "team-x"}, "g", like(any_of=("a", TextMatch(prefix="team-"))), YES),
        ({}, "g", like(any_of=("a", TextMatch(present=False))), YES),
        # Words of a scope.
        ({"scope": "openid models:read"}, "scope", like(prefix="models:"), YES),
        ({"scope": "openid xmodels:read"}, "scope", like(prefix="models:"), NO),
        ({"scope": "openid"}, "scope", like(suffix="openid models"), NO),
        ({"scope": "openid,models:read"}, "scope", like(prefix="models:"), UNCLEAR),
        ({"scp": ["a", "models:read"]}, "scp", like(prefix="models:"), YES),
        ({"scp": ["a models:read"]}, "scp", like(prefix="models:"), UNCLEAR),
        ({"scp": ["a", 5]}, "scp", like(prefix="models:"), UNCLEAR),
        ({"scope": "a b c"}, "scope", like(all_of=("a", "c")), YES),
        ({"scope": "a b"}, "scope", like(all_of=("a", "c")), NO),
        ({"scope": "a b"}, "scope", like(any_of=("c", "b")), YES),
        ({"scope": ""}, "scope", like(present=True), YES),
        ({}, "scope", like(present=True), NO),
        ({}, "scope", like(present=False), YES),
        ({}, "scope", like(prefix="a"), NO),
        ({"scope": ""}, "scope", like(regex=".*"), NO),
        ({"scope": "openid email x"}, "scope", like(exact="email openid"), YES),
        ({"scp": ["openid", "email"]}, "scp", like(any_of=("x", TextMatch(exact="openid email"))), YES),
        ({"scope": "openid"}, "scope", like(exact="openid email"), NO),
        # No word is like this, but the whole text is.
        ({"scope": "openid email x"}, "scope", like(regex=".* email .*"), UNCLEAR),
        ({"scope": "openid email x"}, "scope", like(contains="openid email"), UNCLEAR),
        ({"scp": ["openid", "email"]}, "scp", like(prefix="openid em"), UNCLEAR),
        ({"scope": "openid email"}, "scope", like(suffix="id models"), NO),
        ({"scope": 5}, "scope", like(prefix="5"), UNCLEAR),
    ],
)
def test_a_claim_and_a_pattern(claims: dict[str, object], name: str, wanted: ClaimPattern, match: ClaimMatch) -> None:
    assert match_claim(claims, name, wanted) is match


def test_text_at_a_path() -> None:
    assert find_text({"client_id": "app"}, "client_id") == "app"
    assert find_text({"a.b": {"c": "app"}}, "a.b.c") == "app"
    for claims in ({}, {"client_id": 5}, {"client_id": ["app"]}, {"client_id": None}):
        assert find_text(claims, "client_id") is None
    assert find_text({"a.b": "x", "a": {"b": "y"}}, "a.b") is None


# --- against all readings of a path, written as plainly as can be -----------------------------------------------------

NAMES = st.sampled_from(["a", "b", "a.b", "b.a", "a.b.a", "", "a/b:c"])
SCALARS = st.sampled_from(["x", "y", 1, 1.0, True, False, None, "x y", "1"])
VALUES = st.recursive(
    SCALARS | st.lists(SCALARS, max_size=2), lambda inner: st.dictionaries(NAMES, inner, max_size=3), max_leaves=8
)
CLAIMS = st.dictionaries(NAMES, VALUES, max_size=4)
PATHS = st.lists(st.sampled_from(["a", "b", "", "a/b:c"]), min_size=1, max_size=5).map(".".join)
WANTED = st.sampled_from(["x", "y", "1", 1, True, False])


def all_readings(members: object, path: str) -> Iterator[object]:
    """Everything that `path` reaches when its dots are parts of names in every way that the claims allow."""
    if not isinstance(members, Mapping):
        return
    parts = path.split(".")
    for count in range(1, len(parts) + 1):
        name, rest = ".".join(parts[:count]), ".".join(parts[count:])
        if name in members:
            if count == len(parts):
                yield members[name]
            else:
                yield from all_readings(members[name], rest)


def holds(found: object, wanted: Wanted) -> bool:
    items = found if isinstance(found, list) else [found]
    return any(type(item) is type(wanted) and item == wanted for item in items)


@given(CLAIMS, PATHS, WANTED)
def test_no_reading_that_has_the_value_is_overlooked(claims: dict[str, Any], path: str, wanted: Wanted) -> None:
    """A value that some reader of the token finds at the path never counts as absent: a deny would let it through."""
    found = list(all_readings(claims, path))
    match = match_claim(claims, path, wanted)
    if any(holds(each, wanted) for each in found):
        assert match is not NO
    if match is YES:
        assert any(holds(each, wanted) for each in found)
    if any(isinstance(each, dict) for each in found):
        assert match is not NO


@given(CLAIMS, PATHS, WANTED)
def test_members_that_the_path_does_not_name_change_nothing(claims: dict[str, Any], path: str, wanted: Wanted) -> None:
    assert match_claim({**claims, "other": "x"}, path, wanted) is match_claim(claims, path, wanted)


@given(CLAIMS, PATHS, WANTED)
def test_the_order_of_members_changes_nothing(claims: dict[str, Any], path: str, wanted: Wanted) -> None:
    def turned(value: object) -> object:
        return {name: turned(value[name]) for name in reversed(value)} if isinstance(value, dict) else value

    other = turned(claims)
    assert isinstance(other, dict)
    assert json.dumps(other, sort_keys=True) == json.dumps(claims, sort_keys=True)
    assert match_claim(other, path, wanted) is match_claim(claims, path, wanted)


@pytest.mark.parametrize(
    ("claims", "path", "wanted", "match"),
    [
        ({"resource_access": {"my.app": {"roles": ["x"]}}}, ("resource_access", "my.app", "roles"), "x", YES),
        ({"https://corp/g": "x"}, ("https://corp/g",), "x", YES),
        ({"a.b": "x"}, ("a", "b"), "x", NO),
        ({"a": {"b": "y"}, "a.b": "x"}, ("a", "b"), "x", NO),  # with dots it would be unclear
        ({"a": "x"}, ("a", "b"), "x", UNCLEAR),
        ({"a": ["x"]}, ("a", "b"), "x", UNCLEAR),
        ({"a": None}, ("a", "b"), "x", NO),
        ({"a": {"b": None}}, ("a", "b"), "x", NO),
        ({"a": {"b": None}}, ("a", "b"), ClaimPattern(present=False), YES),
        ({"scope": "a b"}, ("scope",), "b", YES),
        ({"x": {"scope": "a b"}}, ("x", "scope"), "b", NO),
        ({"x": {"scope": "a b"}}, ("x", "scope"), ClaimPattern(exact="b", words=True), YES),
        ({"permissions": "read write"}, "permissions", ClaimPattern(all_of=("write", "read"), words=True), YES),
        ({"permissions": "read"}, "permissions", ClaimPattern(all_of=("write", "read"), words=True), NO),
        ({"permissions": "read,write"}, "permissions", ClaimPattern(exact="write", words=True), UNCLEAR),
        ({"permissions": ["read", "write"]}, "permissions", ClaimPattern(any_of=("write",), words=True), YES),
        ({"permissions": "models:read"}, "permissions", ClaimPattern(prefix="models:", words=True), YES),
        ({"permissions": 5}, "permissions", ClaimPattern(exact="5", words=True), UNCLEAR),
        ({}, "permissions", ClaimPattern(exact="5", words=True), NO),
    ],
)
def test_a_list_of_names_and_words(
    claims: dict[str, object], path: ClaimPath, wanted: Wanted, match: ClaimMatch
) -> None:
    assert match_claim(claims, path, wanted) is match


OVERAGE: dict[str, object] = {"_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {"endpoint": "https://x"}}}
"""Of a token of Microsoft Entra ID whose user is in 200 groups and more."""


@pytest.mark.parametrize(
    ("claims", "path", "wanted", "match"),
    [
        (OVERAGE, "groups", "a", UNCLEAR),
        (OVERAGE, ("groups",), "a", UNCLEAR),
        (OVERAGE, "groups.x", "a", UNCLEAR),
        (OVERAGE, "groups", ClaimPattern(present=True), UNCLEAR),
        (OVERAGE, "groups", ClaimPattern(present=False), UNCLEAR),
        (OVERAGE, "groups", ClaimPattern(exact="a", words=True), UNCLEAR),
        (OVERAGE, "roles", "a", NO),
        (OVERAGE, "groupsx", "a", NO),
        ({**OVERAGE, "groups": ["a"]}, "groups", "a", YES),
        ({"_claim_names": "groups"}, "groups", "a", NO),
        # In the implicit flow.
        ({"hasgroups": True}, "groups", "a", UNCLEAR),
        ({"hasgroups": "true"}, ("groups",), ClaimPattern(prefix="a"), UNCLEAR),
        ({"hasgroups": True}, "roles", "a", NO),
        ({"hasgroups": False}, "groups", "a", NO),
        ({"hasgroups": True, "groups": ["b"]}, "groups", "a", NO),
    ],
)
def test_a_claim_that_another_server_has(
    claims: dict[str, object], path: ClaimPath, wanted: Wanted, match: ClaimMatch
) -> None:
    """A deny for a group must not be escaped by being in very many."""
    assert match_claim(claims, path, wanted) is match


@given(CLAIMS, PATHS, st.sampled_from(["x", "y", "1", "x y"]))
def test_a_text_that_the_claim_is_not_among_its_texts(claims: dict[str, Any], path: str, wanted: str) -> None:
    assert is_one_text(path, wanted)
    texts = texts_of_claim(claims, path)
    if texts is not None:
        assert (match_claim(claims, path, wanted) is NO) is (wanted not in texts)


def test_texts_of_a_claim() -> None:
    assert texts_of_claim({"g": ["a", None, "b"]}, "g") == {"a", "b"}
    assert texts_of_claim({"a.b": "x", "a": {"b": "y"}}, "a.b") == {"x", "y"}
    assert texts_of_claim({"g": None}, "h") == set()
    for claims in ({"g": ["a", 1]}, {"g": {"h": "a"}}, {"_claim_names": {"g": "src1"}}):
        assert texts_of_claim(claims, "g") is None
    assert not is_one_text("scope", "x")
    assert not is_one_text(("scp",), "x")
    assert not is_one_text("g", 1)
