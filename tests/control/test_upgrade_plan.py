"""Answers of an API server, and what is said of them."""

from __future__ import annotations

import base64
import copy
from collections.abc import Callable
from typing import Any

import pytest

from meshproxy.config import crds, schema
from meshproxy.control.finding import Unknown
from meshproxy.control.fleet import Level
from meshproxy.control.upgrade_plan import (
    Absent,
    Action,
    Answer,
    Applied,
    Danger,
    LeftOver,
    Refused,
    Upgrade,
    diff,
    roots_in,
    upgrade,
)
from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.injection.policies import injection_policies
from meshproxy.installation.choices import Injection
from meshproxy.installation.kinds import kind_of
from meshproxy.installation.parts import installation
from tests.injection.pods import SETTINGS
from tests.installation.test_choices import choices

IMAGE = "registry.example.com/meshproxy"
SERVICE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "s", "namespace": "mesh"},
    "spec": {"a": "b"},
}
ROLE = crds.definition(schema.ModelRole)


def deployment(**chosen: Any) -> Any:
    objects = installation(choices(**chosen))
    return next(each for each in objects if each["kind"] == "Deployment")


def judge(wanted: Any, answer: Answer) -> Upgrade:
    return upgrade([wanted], [answer], [], "0.1.0")


def applied(live: Any, wanted: Any) -> Upgrade:
    return judge(wanted, Applied(live, wanted))


def test_a_control_plane_without_a_version() -> None:
    before = deployment(image=f"{IMAGE}:latest")
    del before["metadata"]["labels"]
    assert upgrade([deployment()], [Applied(before, deployment())], [], "0.9.0").dangers == ()


def one(found: Upgrade) -> Danger:
    (danger,) = found.dangers
    return danger


def changed(content: Any, change: Callable[[Any], object]) -> Any:
    made = copy.deepcopy(content)
    change(made)
    return made


@pytest.mark.parametrize(
    ("answer", "action", "text", "status"),
    [
        (Absent(), Action.CREATE, "", 1),
        (Applied(SERVICE, SERVICE), Action.UNCHANGED, "", 0),
        (Refused("no"), Action.REFUSED, "no", 2),
        (Unknown("may not"), Action.UNKNOWN, "may not", 2),
    ],
    ids=["absent", "the same", "refused", "unknown"],
)
def test_what_becomes_of_an_object(answer: Answer, action: Action, text: str, status: int) -> None:
    found = judge(SERVICE, answer)
    (change,) = found.changes
    assert (change.action, change.text, change.shown) == (action, text, "services/s --namespace mesh")
    assert found.status == status


def test_a_difference() -> None:
    live = SERVICE | {"spec": {"a": "b", "c": ["d", "e"]}}
    found = applied(live, SERVICE | {"spec": {"a": "x", "c": ["d"]}})
    (change,) = found.changes
    assert change.action is Action.CHANGE
    assert change.text.splitlines() == [
        "--- live", "+++ applied", "@@ -4,7 +4,6 @@", "   name: s", "   namespace: mesh", " spec:", "-  a: b",
        "+  a: x",
        "   c:", "   - d", "-  - e",
    ]  # fmt: skip
    assert found.status == 1


def test_what_the_server_adds_is_no_difference() -> None:
    live = copy.deepcopy(SERVICE) | {"status": {"loadBalancer": {}}}
    live["metadata"] |= {
        "uid": "1", "resourceVersion": "7", "generation": 2, "creationTimestamp": "2026-01-01T00:00:00Z",
        "managedFields": [{"manager": "kubectl"}],
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
    }  # fmt: skip
    assert diff(live, SERVICE) == ""
    live["metadata"]["annotations"]["other"] = "kept"
    lines = [line for line in diff(live, SERVICE).splitlines()[2:] if line[0] in "+-"]
    assert lines == ["-  annotations:", "-    other: kept"]


def test_the_order_of_members_is_no_difference() -> None:
    live = {name: SERVICE[name] for name in reversed(SERVICE)}
    assert diff(live, SERVICE) == ""
    text = diff(live | {"spec": {"c": [{"b": 1, "a": 2}]}}, SERVICE | {"spec": {"c": [{"a": 3, "b": 1}]}})
    assert [line for line in text.splitlines()[2:] if line[0] in "+-"] == ["-  - a: 2", "+  - a: 3"]


def test_values_of_secrets_are_never_shown() -> None:
    def secret(**data: str) -> Any:
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": data, "stringData": {}}

    text = diff(secret(same="c2FtZQ==", key="b2xk", gone="Z29uZQ=="), secret(same="c2FtZQ==", key="bmV3", new="bmV3"))
    assert not [value for value in ("c2FtZQ", "b2xk", "bmV3", "Z29uZQ") if value in text]
    assert [line for line in text.splitlines() if line[0] in "+-"] == [
        "--- live", "+++ applied", "-  gone: '***'", "-  key: '*** (before)'", "+  key: '*** (after)'", "+  new: '***'",
    ]  # fmt: skip
    assert diff(secret(a="b"), secret(a="b")) == ""


def test_what_is_left_over() -> None:
    found = upgrade([], [], [LeftOver(kind_of(SERVICE), "old", "mesh")], "0.1.0")
    (change,) = found.changes
    assert (change.action, change.shown) == (Action.LEFT_OVER, "services/old --namespace mesh")
    assert (found.status, found.dangers) == (1, ())


def test_a_kind_that_is_left_over_is_not_to_be_deleted_lightly() -> None:
    danger = one(upgrade([], [], [LeftOver(kind_of(ROLE), "modelrollouts.meshproxy.dev")], "0.1.0"))
    assert danger.level is Level.WARNING
    assert danger.text.startswith("modelrollouts.meshproxy.dev is no kind of this release")


def test_a_control_plane_in_another_namespace_is_not_to_be_deleted() -> None:
    """Whoever forgets --control-namespace would be told to delete the mesh."""
    found = upgrade([], [], [LeftOver(kind_of(deployment()), "meshproxy-control", "mesh")], "0.1.0")
    danger = one(found)
    assert (danger.level, found.status) == (Level.ERROR, 2)
    assert danger.hint.endswith("--control-namespace mesh")


def test_nobody_knows_what_is_left_over() -> None:
    found = upgrade([], [], Unknown("the API server answered 403"), "0.1.0")
    assert (one(found).level, found.status) == (Level.ERROR, 2)


@pytest.mark.parametrize("is_taken", [True, False])
def test_a_version_that_is_stored(is_taken: bool) -> None:
    """The API server refuses it, too."""
    live = ROLE | {"status": {"storedVersions": ["v0"]}}
    found = judge(ROLE, Applied(live, ROLE) if is_taken else Refused("status.storedVersions[0]: Invalid value", live))
    danger = one(found)
    assert (danger.level, found.status) == (Level.ERROR, 2)
    assert "objects are stored as v0" in danger.text


def test_a_definition_that_is_refused_and_not_there() -> None:
    assert judge(ROLE, Refused("no")).dangers == ()


def test_fields_that_objects_lose() -> None:
    def add(live: Any) -> None:
        properties = live["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
        properties["spec"]["properties"]["owner"] = {"type": "string"}

    found = applied(changed(ROLE, add), ROLE)
    assert one(found).text == "modelroles.meshproxy.dev: objects lose these fields: spec.owner"
    assert (one(found).level, found.status) == (Level.WARNING, 1)


@pytest.mark.parametrize(
    ("live", "wanted", "software", "says", "level"),
    [
        ("0.1.0", "0.2.0", "0.2.0", None, None),
        ("0.2.0", "0.1.3", "0.1.0", None, None),
        ("0.1.0", "0.3.0", "0.3.0", "the control plane goes from 0.1.0 to 0.3.0", Level.ERROR),
        ("1.0.0", "0.9.0", "0.9.0", "the control plane goes from 1.0.0 to 0.9.0", Level.ERROR),
        ("v0.1.0@sha256:00", "v0.3.0@sha256:00", "0.3.0", "the control plane goes from 0.1.0 to 0.3.0", Level.ERROR),
        ("0.3.0", "0.3.0", "0.1.0", "the image is of 0.3.0, and these objects are of 0.1.0", Level.WARNING),
        ("latest", "main", "0.2.0", None, None),
        ("latest", "main", "0.3.0", "the control plane goes from 0.1.0 to 0.3.0", Level.ERROR),  # by its label
    ],
)
def test_versions(live: str, wanted: str, software: str, says: str | None, level: Level | None) -> None:
    before, after = (deployment(image=f"{IMAGE}:{tag}") for tag in (live, wanted))
    before["metadata"]["labels"]["app.kubernetes.io/version"] = "0.1.0"
    found = upgrade([after], [Applied(before, after)], [], software)
    assert [each.level for each in found.dangers] == ([level] if level else [])
    assert all(each.text.startswith(says or "-") for each in found.dangers)


@pytest.mark.parametrize(
    ("chosen", "flags"),
    [
        ({"trust_domain": "other.example"}, ["--trust-domain", "--spiffe-id"]),
        ({"service_account": "other"}, ["--spiffe-id"]),
    ],
    ids=["trust domain", "service account"],
)
def test_who_is_who(chosen: dict[str, str], flags: list[str]) -> None:
    found = applied(deployment(), deployment(**chosen))
    assert [each.text.split(" ")[0] for each in found.dangers] == flags
    assert {each.level for each in found.dangers} == {Level.ERROR}


def test_a_trust_domain_among_the_documents() -> None:
    mesh = {
        "apiVersion": "meshproxy.dev/v1alpha1",
        "kind": "MeshConfig",
        "metadata": {"name": "mesh", "namespace": "m"},
    }
    before, after = (mesh | {"spec": {"trustDomain": domain}} for domain in ("a.example", "b.example"))
    assert one(applied(before, after)).text.startswith("trustDomain changes from a.example to b.example")
    assert applied(before, before).dangers == ()


def roots(number: int) -> str:
    return "".join(DevelopmentCA.create("prod.example").bundle_pem.decode() for _ in range(number))


ONE, TWO = roots(1), roots(2)


@pytest.mark.parametrize(
    ("before", "after", "level"),
    [
        (ONE, ONE, None),
        (ONE, ONE + TWO, Level.WARNING),
        (ONE + TWO, ONE, Level.ERROR),
        (ONE, TWO, Level.ERROR),
    ],
    ids=["the same", "one comes", "one goes", "another"],
)
def test_roots_of_a_webhook(before: str, after: str, level: Level | None) -> None:
    objects = installation(choices())
    webhook = next(each for each in objects if each["kind"] == "MutatingWebhookConfiguration")

    def bundle(text: str) -> Any:
        coded = base64.b64encode(text.encode()).decode()
        return changed(webhook, lambda each: each["webhooks"][0]["clientConfig"].update(caBundle=coded))

    found = applied(bundle(before), bundle(after))
    assert [each.level for each in found.dangers] == ([level] if level else [])


def test_roots_of_a_policy() -> None:
    """They stand in a text in an expression."""
    policy = injection_policies(SETTINGS)[0]
    assert roots_in(policy) == roots_in({"text": SETTINGS.trust_bundle})
    assert len(roots_in(policy)) == 1
    objects = installation(choices(injection=Injection.POLICY, trust_bundle=ONE))
    other = next(each for each in objects if each["kind"] == "MutatingAdmissionPolicy")
    assert one(applied(policy, other)).level is Level.ERROR


def test_a_bundle_that_is_none() -> None:
    assert roots_in({"caBundle": "%", "other": [1, None, {"caBundle": "AA=="}]}) == frozenset()
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    assert roots_in({"text": f"{begin}AAAAA{end}"}) == frozenset()
