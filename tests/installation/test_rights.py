from __future__ import annotations

from meshproxy.config import schema
from meshproxy.control import election
from meshproxy.installation.rights import NAME, SECRET, cluster_rules, join_tokens_name, namespace_rules, rights


def test_the_names_are_those_that_the_control_plane_uses() -> None:
    assert election.NAME == NAME
    (lease,) = (each for each in namespace_rules() if each["resources"] == ["leases"] and "resourceNames" in each)
    assert lease["resourceNames"] == [election.NAME]


def test_no_right_is_wider_than_a_verb_of_a_resource() -> None:
    rules = [*namespace_rules(), *cluster_rules()]
    for rule in rules:
        assert "*" not in {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
    # Nothing is written but statuses, the Lease, one Secret and what is recorded beside it, and nothing in other
    # namespaces but the question whether a token is good.
    writes = {
        (resource.rpartition("/")[2], verb)
        for rule in rules
        for resource in rule["resources"]
        for verb in rule["verbs"]
        if verb not in ("get", "list", "watch")
    }
    expected = {("status", "patch"), ("leases", "create"), ("leases", "update"), ("secrets", "create")}
    expected |= {("configmaps", "create"), ("configmaps", "patch"), ("secrets", "patch"), ("events", "create")}
    assert writes == expected | {("tokenreviews", "create")}
    # The authority itself is made, and not changed.
    secrets = {
        name: rule["verbs"]
        for rule in rules
        for name in rule.get("resourceNames", [])
        if "secrets" in rule["resources"]
    }
    assert secrets == {SECRET: ["get"], join_tokens_name(SECRET): ["get", "patch"]}
    assert len(namespace_rules()[0]["resources"]) == len(schema.KINDS)


def test_all_roles_are_given_to_the_service_account() -> None:
    found = rights("mesh", "planes")
    roles = {(each["kind"], each["metadata"]["name"]) for each in found if each["kind"].endswith("Role")}
    bindings = [each for each in found if each["kind"].endswith("Binding")]
    assert {(each["roleRef"]["kind"], each["roleRef"]["name"]) for each in bindings} == roles
    account = {"kind": "ServiceAccount", "name": "planes", "namespace": "mesh"}
    assert all(each["subjects"] == [account] for each in bindings)
    assert {"name": "planes", "namespace": "mesh"} in [each["metadata"] for each in found]
