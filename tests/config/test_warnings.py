"""What is suspicious about documents that can be used."""

from __future__ import annotations

import pytest

from meshproxy.config.check import Placed
from meshproxy.config.nodes import read_documents
from meshproxy.config.warnings import warn
from tests.config.conftest import Check, document, said

ISSUER = "{name: corp, issuer: 'https://corp.example', audiences: [mesh]}"


def warnings(claims: str, *more: str, action: str = "allow") -> list[str]:
    subjects = ", ".join(f"{{token: {{issuer: corp, claims: {each}}}}}" for each in (claims, *more))
    text = f"kind: ModelRoleBinding\nspec: {{role: r, action: {action}, subjects: [{subjects}]}}\n"
    (node,) = read_documents(text, lambda *_: None)
    return [str(each) for each in warn([Placed("ModelRoleBinding", "b", "f", node)])]


@pytest.mark.parametrize(
    "claims",
    [
        "{}",
        "{sub: alice, groups: finance, level: 3, admin: true}",
        "{kubernetes.io.namespace: pricing}",
        "{'https://corp.example/groups': finance}",
        "{realm_access.roles: x, realm_access.groups: y}",
        "{scope: models.predict}",
        "{scp: models.predict}",
        "{'a:b': x}",
        "{scopes: x y}",
        "{sub: {prefix: 'system:serviceaccount:'}, exp: {present: true}}",
        "{scope: {anyOf: [a, {prefix: 'models:'}]}, groups: {allOf: [1, true, x]}}",
        "{groups: {anyOf: [{present: false}, x]}, email: {allOf: [{present: false}]}}",
        "{groups: {allOf: [{present: true}, x]}}",
    ],
)
def test_ordinary_claims(claims: str) -> None:
    assert warnings(claims) == []


@pytest.mark.parametrize(
    ("claims", "field", "message"),
    [
        ("{sub.name: x}", "sub.name", '"sub" is never an object'),
        ("{scope.read: true}", "scope.read", '"scope" is never an object'),
        ("{exp.at: 1}", "exp.at", '"exp" is never an object'),
        ("{sub: 5}", "sub", '"sub" is text in tokens, and 5 is not'),
        ("{client_id: true}", "client_id", '"client_id" is text in tokens, and true is not'),
        ("{exp: never}", "exp", '"exp" is a number in tokens'),
        ("{realm..roles: x}", "realm..roles", "a part of the name between dots is empty"),
        ("{'$.realm': x}", "$.realm", "compared as it is written"),
        ("{'groups[0]': x}", "groups[0]", "compared as it is written"),
        ("{'kubernetes\\.io': x}", "kubernetes\\.io", "compared as it is written"),
        ("{scope: openid email}", "scope", "a scope is one word"),
        ("{scope: ''}", "scope", "a scope is one word"),
        ("{sub: {anyOf: [a, 5]}}", "sub", '"sub" is text in tokens, and 5 is not'),
        ("{exp: {prefix: '17'}}", "exp", '"exp" is a number in tokens, and "17" is not'),
        ("{scope: {allOf: [{prefix: a b}]}}", "scope", "a scope is one word"),
        ("{groups: {allOf: [{present: false}, x]}}", "groups", "allOf demands that the claim is absent and that"),
        ("{realm: x, realm.roles: y}", "realm.roles", 'of "realm" and "realm.roles", one cannot be evaluated'),
    ],
)
def test_suspicious_claims(claims: str, field: str, message: str) -> None:
    (found,) = warnings(claims)
    assert found.startswith(f"f:2: ModelRoleBinding/b: spec.subjects[0].token.claims.{field}: ")
    assert message in found


@pytest.mark.parametrize(
    ("action", "effect"),
    [("allow", "never matches"), ("deny", "counts as a match for deny"), ("audit", "counts as a match for audit")],
)
def test_a_warning_says_what_follows(action: str, effect: str) -> None:
    (found,) = warnings("{sub.name: x}", action=action)
    assert found.endswith(f"; what cannot be evaluated {effect}")


def test_a_claim_and_one_below_it_in_different_subjects() -> None:
    (found,) = warnings("{realm.roles: y}", "{realm: x}")
    assert "spec.subjects[1].token.claims.realm: " in found
    assert "(first at f:2)" in found


def test_claims_that_an_issuer_requires() -> None:
    text = (
        "kind: MeshConfig\nspec:\n  issuers:\n  - requiredClaims: {client_id: app}\n"
        "  - requiredClaims: {client_id: 5}\n  - {}\n"
        "  - requiredClaimPaths: [{path: [scope, a], exact: b}]\n"
        "  - requiredClaims: {client_id: {allOf: [app, {present: false}]}}\n"
    )
    (node,) = read_documents(text, lambda *_: None)
    found, by_path, never = [str(each) for each in warn([Placed("MeshConfig", "m", "f", node)])]
    assert found.startswith('f:5: MeshConfig/m: spec.issuers[1].requiredClaims.client_id: "client_id" is text')
    assert found.endswith("; tokens without this claim are refused")
    assert by_path.startswith("f:7: MeshConfig/m: spec.issuers[3].requiredClaimPaths[0]: ")
    assert never.startswith("f:8: MeshConfig/m: spec.issuers[4].requiredClaims.client_id: allOf demands")
    assert never.endswith("which is never so: all tokens are refused")


def test_identities_of_trust_domains_that_are_not_trusted() -> None:
    text = (
        "kind: MeshConfig\nspec: {trustDomain: ours, trustDomains: [{name: theirs}]}\n---\n"
        "kind: ModelRoleBinding\nspec:\n  subjects:\n"
        "  - workload: {spiffeId: spiffe://ours/a}\n  - workload: {spiffeId: spiffe://theirs/a}\n"
        "  - workload: {spiffeId: spiffe://strange/a}\n---\n"
        "kind: ModelServer\nspec: {workload: {spiffeId: spiffe://theirs/a/b}}\n---\n"
        "kind: ModelServer\nspec: {workload: {spiffeId: spiffe://their/a/b}}\n"
    )
    nodes = read_documents(text, lambda *_: None)
    kinds = ["MeshConfig", "ModelRoleBinding", "ModelServer", "ModelServer"]
    placed = [Placed(kind, "x", "f", node) for kind, node in zip(kinds, nodes, strict=True)]
    first, second = [str(each) for each in warn(placed)]
    assert first.startswith(
        'f:9: ModelRoleBinding/x: spec.subjects[2].workload.spiffeId: the mesh does not trust "strange"'
    )
    assert second.startswith('f:15: ModelServer/x: spec.workload.spiffeId: the mesh does not trust "their"')
    assert list(warn(placed[1:])) == []  # nothing says whom the mesh trusts


@pytest.mark.parametrize(("mode", "is_suspicious"), [("disabled", True), ("permissive", False), ("strict", False)])
def test_workloads_where_nobody_has_a_certificate(check: Check, mode: str, is_suspicious: bool) -> None:
    subjects = "[{token: {issuer: corp}}, {workload: {namespace: a}}]"
    found = check(
        document("MeshConfig", "m", f"{{trustDomain: ours, mtls: {mode}, issuers: [{ISSUER}]}}"),
        document("ModelRoleBinding", "b", f"{{role: r, action: deny, subjects: {subjects}}}"),
        document("ModelRoute", "t", "{models: [m], match: [{caller: {workload: {namespace: a}}}], timeout: 1s}"),
        is_partial=True,
    )
    why = "never matches, since the MeshConfig has mtls disabled: no caller has a workload identity"
    wanted = [
        f"9: ModelRoleBinding/b: spec.subjects[1].workload: {why}",
        f"14: ModelRoute/t: spec.match[0].caller.workload: {why}",
    ]
    assert said(found, "MP0514") == (wanted if is_suspicious else [])


def test_claims_that_a_list_of_names_finds() -> None:
    text = (
        "kind: MeshConfig\nspec: {issuers: [{name: cluster, issuer: https://kubernetes.default.svc}]}\n---\n"
        "kind: ModelRoleBinding\nspec:\n  action: deny\n  subjects:\n  - token:\n      issuer: cluster\n"
        "      claimPaths:\n"
        "      - {path: [kubernetes.io, namespace], anyOf: [ml]}\n"
        "      - {path: [sub, name], anyOf: [ml]}\n"
        "      - {path: [sub], anyOf: [5]}\n"
        "      - {path: [kubernetes, io, namespace], prefix: ml}\n"
        "      claims: {groups: a}\n"
    )
    nodes = read_documents(text, lambda *_: None)
    kinds = ["MeshConfig", "ModelRoleBinding"]
    placed = [Placed(kind, "x", "f", node) for kind, node in zip(kinds, nodes, strict=True)]
    found = [str(each).partition("spec.subjects[0].token.")[2] for each in warn(placed)]
    assert [each.partition(": ")[0] for each in found] == [
        "claims.groups",
        "claimPaths[1]",
        "claimPaths[2]",
        "claimPaths[3]",
    ]
    assert "never an object" in found[1]
    assert "is text in tokens, and 5 is not" in found[2]
    assert "no token of Kubernetes has" in found[3]


def in_namespaces(*namespaces: str | None, kind: str = "ModelRole") -> list[str]:
    """The warnings of documents in these namespaces; None: none is written."""
    placed = []
    for number, namespace in enumerate(namespaces):
        written = f", namespace: {namespace}" if namespace is not None else ""
        (node,) = read_documents(f"kind: {kind}\nmetadata: {{name: r{number}{written}}}\nspec: {{}}\n", lambda *_: None)
        placed.append(Placed(kind, f"r{number}", "f", node))
    return [str(each) for each in warn(placed)]


@pytest.mark.parametrize(
    "namespaces", [(), (None, None), ("mesh", None), ("mesh", "mesh"), ("null", "mesh", "null")], ids=str
)
def test_documents_of_one_namespace(namespaces: tuple[str | None, ...]) -> None:
    assert in_namespaces(*namespaces) == []


def test_a_document_in_another_namespace() -> None:
    (warning,) = in_namespaces("shop", "mesh", None, "mesh")
    assert 'ModelRole/r0: metadata.namespace: "shop", and ModelRole/r1 is in "mesh": with' in warning
    assert "ModelRole/r1" in in_namespaces("mesh", "shop")[0]  # of as many, the first are taken for right
    assert in_namespaces("shop", "mesh", kind="Sidecar") == []
