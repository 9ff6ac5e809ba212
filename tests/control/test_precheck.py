"""Findings before an installation, one fact at a time."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest

from meshproxy.config import crds, schema
from meshproxy.control.crd_changes import Definition
from meshproxy.control.finding import Finding, Unknown, worst
from meshproxy.control.fleet import Level
from meshproxy.control.precheck import LEVEL_LABEL, Facts, Namespace, Node, Object, notes, precheck
from meshproxy.installation.choices import Injection
from meshproxy.installation.kinds import Plan, Right, all_rights
from tests.control.fake_cluster import served

PLAN = Plan()
FORBIDDEN = Unknown("the API server answered 403: no")
ROLE = "modelroles.meshproxy.dev"


def facts(plan: Plan = PLAN, **more: Any) -> Facts:
    """Of a cluster in which all is well, but for `more`."""
    found = Facts(
        release="v1.37.2",
        clock_ahead=0.2,
        served={path.split("/", 2)[2]: frozenset(names) for path, names in served().items()},
        rights=dict.fromkeys(all_rights(plan), True),
        definitions={crds.definition_name(kind): None for kind in schema.KINDS},
        documents={crds.definition_name(kind): [] for kind in schema.KINDS},
        misled_pods=[],
        namespaces=[Namespace("default", {}, {})],
        nodes=[Node("one", "v1.37.2", has_ipv6=True)],
        token_review="",
    )
    return dataclasses.replace(found, **more)


def namespace(name: str, labels: dict[str, str] | None = None, annotations: dict[str, str] | None = None) -> Namespace:
    """One whose pods get sidecars."""
    return Namespace(name, {"meshproxy.dev/inject": "enabled"} | (labels or {}), annotations or {})


def bad(found: Facts | Unknown, plan: Plan = PLAN) -> list[Finding]:
    findings = precheck(found, plan)
    assert all(bool(each.problem) == bool(each.level) == bool(each.hint) for each in findings)
    assert len({each.check for each in findings}) == len(findings)
    return [each for each in findings if each.level]


def one(found: Facts | Unknown, plan: Plan = PLAN) -> Finding:
    (finding,) = bad(found, plan)
    return finding


@pytest.mark.parametrize(
    "plan", [PLAN, Plan(Injection.POLICY), Plan(cert_manager=True, capture=True), Plan(kubernetes=(1, 28))], ids=str
)
def test_a_cluster_that_lacks_nothing(plan: Plan) -> None:
    assert worst(precheck(facts(plan), plan)) is Level.WELL


def test_no_answer() -> None:
    finding = one(Unknown("no answer (ConnectError: refused)"))
    assert (finding.level, finding.problem) == (Level.ERROR, "no answer (ConnectError: refused)")
    assert notes(Unknown("no answer"), PLAN) == []


@pytest.mark.parametrize(
    ("release", "plan", "problem"),
    [
        ("v1.30.0", PLAN, ""),
        ("v1.29.9", PLAN, "it is v1.29.9, and ValidatingAdmissionPolicy is there in v1 from 1.30 on"),
        ("v1.36.0-gke.1", Plan(Injection.POLICY), ""),
        ("v1.35.1", Plan(Injection.POLICY), "it is v1.35.1, and MutatingAdmissionPolicy is there in v1 from 1.36 on"),
    ],
)
def test_releases(release: str, plan: Plan, problem: str) -> None:
    found = bad(facts(plan, release=release), plan)
    assert [(each.level, each.problem) for each in found] == ([(Level.ERROR, problem)] if problem else [])


@pytest.mark.parametrize("release", [FORBIDDEN, "main"])
def test_a_release_that_is_not_known(release: str | Unknown) -> None:
    finding = one(facts(release=release))
    assert finding.level is Level.WARNING
    assert finding.problem.startswith("not known: ")


@pytest.mark.parametrize(
    ("ahead", "level"), [(40.0, Level.WARNING), (-400.0, Level.ERROR), (Unknown("no Date"), Level.WARNING)]
)
def test_clocks(ahead: float | Unknown, level: Level) -> None:
    assert one(facts(clock_ahead=ahead)).level is level


@pytest.mark.parametrize(
    ("api_version", "resources", "plan", "problem", "hint"),
    [
        (
            *("admissionregistration.k8s.io/v1", {"mutatingwebhookconfigurations"}, PLAN),
            *("without validatingadmissionpolicies, validatingadmissionpolicybindings", "upgrade the cluster"),
        ),
        ("cert-manager.io/v1", set(), Plan(cert_manager=True), "neither this group nor this version is there", "inst"),
        ("v1", {"services", "namespaces"}, PLAN, "without serviceaccounts", "--runtime-config"),
    ],
    ids=["policies", "cert-manager", "the core"],
)
def test_what_is_not_served(api_version: str, resources: set[str], plan: Plan, problem: str, hint: str) -> None:
    found = facts(plan)
    finding = one(dataclasses.replace(found, served={**found.served, api_version: frozenset(resources)}), plan)
    assert (finding.level, finding.check, finding.problem) == (Level.ERROR, f"it serves {api_version}", problem)
    assert hint in finding.hint


def test_a_group_that_is_not_asked_for_is_not_missed() -> None:
    found = facts()
    assert bad(dataclasses.replace(found, served={**found.served, "cert-manager.io/v1": frozenset()})) == []


def test_what_cannot_be_discovered() -> None:
    found = facts()
    finding = one(dataclasses.replace(found, served={**found.served, "v1": FORBIDDEN}))
    assert (finding.level, finding.problem) == (Level.WARNING, f"not known: {FORBIDDEN.why}")


@pytest.mark.parametrize(("review", "level"), [("no", Level.ERROR), (FORBIDDEN, Level.WARNING)])
def test_token_reviews(review: str | Unknown, level: Level) -> None:
    assert one(facts(token_review=review)).level is level


def rights(**answers: bool | Unknown) -> Facts:
    """By verb and resource: `create__services`."""
    found = facts()
    changed = {}
    for right, answer in found.rights.items():
        changed[right] = answers.get(f"{right.verb}__{right.resource}", answer)
    return dataclasses.replace(found, rights=changed)


def test_rights_that_are_missing() -> None:
    finding = one(rights(create__services=False, patch__services=False, get__services=FORBIDDEN))
    assert (finding.level, finding.check) == (Level.ERROR, "you may apply services in meshproxy")
    assert finding.problem == "not allowed: create, patch"
    finding = one(rights(create__clusterroles=False))
    assert finding.check == "you may apply clusterroles.rbac.authorization.k8s.io"


def test_rights_of_which_nothing_is_known() -> None:
    finding = one(rights(create__services=FORBIDDEN))
    assert (finding.level, finding.problem) == (Level.WARNING, f"not known: {FORBIDDEN.why}")


@pytest.mark.parametrize(("answer", "says"), [(False, "not allowed: bind clusterroles"), (FORBIDDEN, "not known: ")])
def test_rights_to_give_away(answer: bool | Unknown, says: str) -> None:
    finding = one(rights(bind__clusterroles=answer))
    assert finding.level is Level.WARNING
    assert finding.problem.startswith(says)


def live(**more: Any) -> Any:
    return msgspec.convert(crds.definition(schema.ModelRole) | more, Definition)


def test_kinds_that_are_there_already() -> None:
    found = facts()
    assert bad(dataclasses.replace(found, definitions={**found.definitions, ROLE: live()})) == []


@pytest.mark.parametrize(
    ("definition", "level", "says"),
    [
        (live(status={"storedVersions": ["v0"]}), Level.ERROR, "objects are stored as v0"),
        (
            live(spec={"scope": "Namespaced", "versions": [{"name": "v1alpha1"}]}),
            *(Level.WARNING, "its schema is another one"),
        ),
        (
            live(
                metadata={"name": ROLE, "labels": {"app.kubernetes.io/version": "0.2.0"}},
                spec={
                    "scope": "Namespaced",
                    "versions": [
                        {"name": "v1alpha1", "schema": {"openAPIV3Schema": {"properties": {"spec": {}, "new": {}}}}}
                    ],
                },
            ),
            *(Level.WARNING, "these fields would be dropped from objects: new (it has the label of 0.2.0)"),
        ),
        (FORBIDDEN, Level.WARNING, "not known: "),
    ],
    ids=["stored", "another schema", "fields that would go", "forbidden"],
)
def test_kinds_that_are_in_the_way(definition: Definition | Unknown, level: Level, says: str) -> None:
    found = facts()
    finding = one(dataclasses.replace(found, definitions={**found.definitions, ROLE: definition}))
    assert finding.level is level
    assert finding.problem.startswith(says)


BINDING = "modelrolebindings.meshproxy.dev"


def test_documents_that_nobody_reads() -> None:
    objects = [Object("meshproxy", "team", {}), Object("shop", "no-nightly", {}), Object("mesh", "team", {})]
    found = facts()
    elsewhere = dataclasses.replace(found, documents={**found.documents, BINDING: objects, ROLE: FORBIDDEN})
    finding = one(elsewhere)
    assert (finding.level, finding.check) == (Level.WARNING, "all documents are in the namespace meshproxy")
    assert (
        finding.problem == f"no control plane of meshproxy reads {BINDING}/no-nightly in shop; {BINDING}/team in mesh"
    )
    plan = Plan(namespace="mesh")
    assert f"{BINDING}/team in meshproxy" in one(facts(plan, documents=elsewhere.documents), plan).problem


def test_documents_that_may_not_be_listed() -> None:
    found = facts()
    finding = one(dataclasses.replace(found, documents={**found.documents, ROLE: FORBIDDEN}))
    assert (finding.level, finding.problem) == (Level.WARNING, f"not known: {FORBIDDEN.why}")


def test_pods_with_a_word_that_nobody_reads() -> None:
    """The webhook refuses them in namespaces with the label; elsewhere it is not asked."""
    finding = one(facts(misled_pods=[Object("shop", "web-0", {"meshproxy.dev/inject": "true"})]))
    assert (finding.level, finding.check) == (Level.WARNING, "meshproxy.dev/inject of pods says enabled or disabled")
    assert finding.problem.endswith('web-0 in shop (label "true")')
    assert one(facts(misled_pods=FORBIDDEN)).problem == f"not known: {FORBIDDEN.why}"


def test_a_namespace_that_is_going() -> None:
    finding = one(facts(namespaces=[Namespace("meshproxy", {}, {}, is_ending=True), Namespace("x", {}, {}, True)]))
    assert (finding.level, finding.check) == (Level.ERROR, "the namespace meshproxy can be used")


@pytest.mark.parametrize(
    ("where", "mesh"),
    [
        (namespace("a", {"istio-injection": "enabled"}), "Istio"),
        (namespace("a", {"istio.io/rev": "canary"}), "Istio"),
        (namespace("a", {"istio.io/dataplane-mode": "ambient"}), "Istio ambient"),
        (namespace("a", annotations={"linkerd.io/inject": "enabled"}), "Linkerd"),
        (namespace("a", {"kuma.io/sidecar-injection": "true"}), "Kuma"),
        (namespace("a", {"istio-injection": "disabled"}), None),
        (namespace("a", annotations={"linkerd.io/inject": "disabled"}), None),
        (Namespace("a", {"istio-injection": "enabled"}, {}), None),
    ],
)
def test_two_meshes_in_one_namespace(where: Namespace, mesh: str | None) -> None:
    found = bad(facts(namespaces=[where]))
    expected = [(Level.WARNING, f"pods would get two sidecars: a ({mesh})")] if mesh else []
    assert [(each.level, each.problem) for each in found] == expected


@pytest.mark.parametrize(
    ("labels", "annotations", "wrong"),
    [
        ({"meshproxy.dev/inject": "true"}, {}, 'a (label "true")'),
        ({"meshproxy.dev/inject": ""}, {}, 'a (label "")'),
        ({"meshproxy.dev/inject": "Enabled"}, {}, 'a (label "Enabled")'),
        ({}, {"meshproxy.dev/inject": "enabled"}, "a (an annotation)"),
        ({"meshproxy.dev/inject": "disabled"}, {}, None),
        ({"meshproxy.dev/inject": "enabled"}, {}, None),
    ],
)
def test_a_namespace_that_nobody_injects(
    labels: dict[str, str], annotations: dict[str, str], wrong: str | None
) -> None:
    """The API server asks for `enabled` alone, and says nothing of other words."""
    found = bad(facts(namespaces=[Namespace("a", labels, annotations)]))
    expected = [(Level.WARNING, f"pods get no sidecars: {wrong}")] if wrong else []
    assert [(each.level, each.problem) for each in found] == expected


@pytest.mark.parametrize(
    ("level", "inject", "refused"),
    [
        ("restricted", "enabled", True),
        ("baseline", "enabled", True),
        ("privileged", "enabled", False),
        ("restricted", "", False),
        ("restricted", "disabled", False),
    ],
)
def test_capture_takes_a_namespace_that_admits_it(level: str, inject: str, refused: bool) -> None:
    labels = {"pod-security.kubernetes.io/enforce": level} | ({"meshproxy.dev/inject": inject} if inject else {})
    plan = Plan(capture=True)
    found = bad(facts(plan, namespaces=[Namespace("a", labels, {})]), plan)
    assert [each.problem for each in found] == (
        [f"its init container needs NET_ADMIN: a enforces {level}"] if refused else []
    )
    assert bad(facts(namespaces=[Namespace("a", labels, {})])) == []  # without capture, sidecars meet every level


def test_a_namespace_that_is_going_gets_no_more_pods() -> None:
    labels = {"meshproxy.dev/inject": "enabled", "istio-injection": "enabled", LEVEL_LABEL: "restricted"}
    plan = Plan(capture=True)
    for each in (labels, {"meshproxy.dev/inject": "true"}):
        assert bad(facts(plan, namespaces=[Namespace("a", each, {})]), plan)
        assert bad(facts(plan, namespaces=[Namespace("a", each, {}, is_ending=True)]), plan) == []


def test_namespaces_that_may_not_be_listed() -> None:
    plan = Plan(capture=True)
    found = bad(facts(plan, namespaces=FORBIDDEN), plan)
    assert [(each.level, each.section) for each in found] == [(Level.WARNING, "namespaces")] * 4


@pytest.mark.parametrize(
    ("kubelets", "level", "says"),
    [
        (("v1.29.0", "v1.37.1"), Level.WELL, ""),
        (("v1.28.9", "v1.37.1"), Level.WARNING, "1 of 2 do not, and pods with a sidecar do not start there: n0 has v1"),
        (("v1.28.9", "v1.27.0"), Level.ERROR, "2 of 2 do not"),
        (("", "v1.37.1"), Level.WARNING, "not known: no version can be read: n0 has ''"),
        ((), Level.WARNING, "not known: there are no nodes"),
    ],
)
def test_kubelets(kubelets: tuple[str, ...], level: Level, says: str) -> None:
    nodes = [Node(f"n{number}", kubelet, has_ipv6=True) for number, kubelet in enumerate(kubelets)]
    found = bad(facts(nodes=nodes))
    assert [each.level for each in found] == ([level] if level else [])
    assert all(each.problem.startswith(says) for each in found)
    assert bad(facts(nodes=nodes), Plan(kubernetes=(1, 28))) == []


def test_nodes_that_may_not_be_listed() -> None:
    assert one(facts(nodes=FORBIDDEN)).problem == f"not known: {FORBIDDEN.why}"


def unjudged(found: Facts, plan: Plan = PLAN) -> list[str]:
    return [each.what for each in notes(found, plan)]


def test_what_cannot_be_judged_from_here() -> None:
    webhook, plugin = "the API server reaches the webhook", "the network plugin enforces NetworkPolicies"
    assert unjudged(facts()) == [webhook, plugin]
    assert unjudged(facts(), Plan(Injection.POLICY)) == [plugin]
    assert "Pod Security" in unjudged(facts(), Plan(capture=True))[-1]


def test_ipv6_of_nodes() -> None:
    note = "the nodes' kernels have IPv6 (--listen [::])"
    without = [Node("a", "v1.37.2", has_ipv6=True), Node("b", "v1.37.2", has_ipv6=False)]
    for nodes in (without, [], FORBIDDEN):
        assert note in unjudged(facts(nodes=nodes))
        assert note not in unjudged(facts(nodes=nodes), Plan(listen="0.0.0.0"))
    assert note not in unjudged(facts())


def test_other_meshes_elsewhere() -> None:
    found = notes(facts(namespaces=[Namespace("shop", {"istio-injection": "enabled"}, {})]), PLAN)
    assert "shop (Istio)" in found[-1].text
    assert "namespaces" not in " ".join(unjudged(facts(namespaces=FORBIDDEN)))


def test_rights_are_asked_for_where_objects_are() -> None:
    plan = Plan(namespace="mesh")
    found = facts(plan)
    changed = {**found.rights, Right("create", "", "services", "mesh"): False}
    assert "services in mesh" in one(dataclasses.replace(found, rights=changed), plan).check
