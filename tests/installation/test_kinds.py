"""The kinds that are checked are those that are made."""

from __future__ import annotations

import pytest

from meshproxy.installation.choices import CertManager, Choices, Injection
from meshproxy.installation.kinds import VERBS, ObjectKind, Plan, Right, all_rights, escalations, kind_of, kinds
from meshproxy.installation.parts import Part, installation
from meshproxy.installation.rights import RBAC
from tests.injection.pods import SETTINGS
from tests.installation.test_choices import choices


@pytest.mark.parametrize(
    ("made", "plan"),
    [
        (choices(), Plan()),
        (choices(cert_manager=CertManager("ClusterIssuer", "ca")), Plan(cert_manager=True)),
        (choices(injection=Injection.POLICY, trust_bundle=SETTINGS.trust_bundle), Plan(Injection.POLICY)),
        (choices(injection=Injection.NONE), Plan(Injection.NONE)),
    ],
    ids=["webhook", "cert-manager", "policy", "none"],
)
def test_each_kind_that_is_made_is_known(made: Choices, plan: Plan) -> None:
    objects = {(each["apiVersion"], each["kind"], "namespace" in each["metadata"]) for each in installation(made)}
    assert objects == {(kind.api_version, kind.kind, kind.is_namespaced) for kind in kinds(plan)}


def test_names() -> None:
    kind = ObjectKind("apps/v1", "Deployment", "deployments", is_namespaced=True)
    assert (kind.full_name, kind.right("get", "mesh")) == (
        "deployments.apps",
        Right("get", "apps", "deployments", "mesh"),
    )
    kind = ObjectKind("v1", "Namespace", "namespaces")
    assert (kind.full_name, kind.right("get", "mesh")) == ("namespaces", Right("get", "", "namespaces"))


def test_rights() -> None:
    plan = Plan(namespace="mesh")
    rights = all_rights(plan)
    assert len(rights) == len(set(rights)) == len(kinds(plan)) * len(VERBS) + len(escalations("mesh"))
    assert Right("escalate", "rbac.authorization.k8s.io", "roles", "mesh") in rights


def test_paths() -> None:
    service, role = (
        kind_of({"apiVersion": version, "kind": kind})
        for version, kind in (("v1", "Service"), (f"{RBAC}/v1", "ClusterRole"))
    )
    assert service.path() == "/api/v1/services"
    assert service.path("mesh", "x") == "/api/v1/namespaces/mesh/services/x"
    assert role.path("mesh", "x") == "/apis/rbac.authorization.k8s.io/v1/clusterroles/x"


def test_every_object_has_a_kind() -> None:
    for each in installation(choices(), list(Part)):
        assert kind_of(each).is_namespaced is ("namespace" in each["metadata"])
