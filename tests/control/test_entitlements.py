"""Who may have which documents, and whose word counts: by identity, not by what a sidecar says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.config.fields import BindingSubject, Metadata, TokenSubject, WorkloadSubject
from meshproxy.config.rollouts import Arm, ModelRollout, RolloutSpec
from meshproxy.config.schema import BindingSpec, MeshConfig, MeshSpec, ModelRole, ModelRoleBinding, RoleSpec, Rule
from meshproxy.config.servers import Endpoint, ModelServer, ServerSpec, Service
from meshproxy.control.entitlements import Entitlements
from meshproxy.control.scope import Change, Held
from meshproxy.control_api import Scope
from meshproxy.identity.caller import Workload, workload_of

DOMAIN = "m.example"
MESH = MeshConfig(metadata=Metadata("m"), spec=MeshSpec(DOMAIN))


def server(name: str, workload: WorkloadSubject | None = None, service: str = "") -> Any:
    endpoints = () if service else (Endpoint(rest="127.0.0.1:1"),)
    found = Service(namespace=service, name="s", rest="rest") if service else None
    return ModelServer(metadata=Metadata(name), spec=ServerSpec(endpoints, service=found, workload=workload))


def account(namespace: str, name: str) -> WorkloadSubject:
    return WorkloadSubject(namespace=namespace, service_account=name)


def who(path: str, domain: str = DOMAIN) -> Workload:
    return workload_of(f"spiffe://{domain}/ns/{path.replace('/', '/sa/')}")


def held(*documents: Any) -> dict[str, Held]:
    return {each.key: each for each in (Held.of(document, f"{place}") for place, document in enumerate(documents))}


@pytest.mark.parametrize(
    ("scope", "workload", "problem"),
    [
        (Scope("", True), who("shop/checkout"), ""),  # outbound: as for everybody
        (Scope(), who("shop/checkout"), ""),
        (Scope("a"), who("serving/a"), ""),
        (Scope("b"), who("serving/a"), "that of spiffe://m.example/ns/serving/sa/b"),
        (Scope("a"), who("serving/other"), "no ModelServer names it"),
        (Scope("a"), who("serving/a", "other.example"), "no ModelServer names it"),
        (Scope("local"), who("serving/a"), ""),  # a server that names nobody, beside a workload that another one names
        (Scope("local"), who("shop/checkout"), "no ModelServer names it"),
        (Scope("local", True), who("shop/checkout"), "no ModelServer names it"),
        (Scope("missing"), who("shop/checkout"), "no ModelServer names it"),
        (Scope("missing"), who("serving/a"), ""),
        (Scope("plain"), who("models/any"), ""),  # the namespace of its Service
        (Scope("plain"), who("serving/a"), "that of models"),
        (Scope("a"), who("models/any"), "that of spiffe://m.example/ns/serving/sa/a"),
        (Scope("plain"), who("models/any", "other.example"), "no ModelServer names it"),
        (None, who("serving/a"), ""),
        (None, who("shop/checkout"), "all documents, as sidecars of its version do"),
        (Scope("x"), workload_of("spiffe://m.example/batch"), ""),
        (Scope("x"), workload_of("spiffe://m.example/other"), "no ModelServer names it"),
    ],
)
def test_what_an_identity_may_have(scope: Scope | None, workload: Workload, problem: str) -> None:
    documents = held(
        MESH,
        server("local"),
        server("a", account("serving", "a")),
        server("b", account("serving", "b")),
        server("plain", service="models"),
        server("x", WorkloadSubject(spiffe_id="spiffe://m.example/batch")),
    )
    found = Entitlements(documents).refusal(workload, scope)
    assert (problem in found) if problem else not found


def test_nobody_is_a_model_server_where_none_is_named() -> None:
    documents = held(MESH, server("local"))
    assert "Write its namespace and service account" in Entitlements(documents).refusal(who("a/b"), Scope("local"))
    assert not Entitlements({}).are_known


def rollout(stable: Arm, candidate: Arm) -> ModelRollout:
    return ModelRollout(metadata=Metadata("r"), spec=RolloutSpec("resnet", stable, candidate))


def role(*models: str) -> ModelRole:
    return ModelRole(metadata=Metadata("role"), spec=RoleSpec((Rule(models, ("predict",)),)))


def binding(subject: BindingSubject, action: Any = "allow", name: str = "b") -> ModelRoleBinding:
    return ModelRoleBinding(metadata=Metadata(name), spec=BindingSpec("role", (subject,), action))


def test_whose_word_counts_for_a_rollout() -> None:
    inner, outer = rollout(Arm("1"), Arm("2")), rollout(Arm(server="a"), Arm(server="b"))
    servers = server("a", account("serving", "a")), server("b", account("serving", "a"))
    caller = binding(BindingSubject(workload=account("shop", "checkout")))

    def may(path: str, *documents: Any) -> bool:
        return Entitlements(held(MESH, *servers, *documents)).may_report(who(path), "r")

    assert may("serving/a", inner)
    assert not may("shop/checkout", inner, role("resnet"), caller)
    assert not may("serving/a")  # there is none
    assert may("shop/checkout", outer)  # without roles everybody may call
    assert may("shop/checkout", outer, role("res*"), caller)
    assert not may("shop/other", outer, role("res*"), caller)
    assert not may("shop/checkout", outer, role("other"), caller)
    assert not may("shop/checkout", outer, role("*"), denied(caller))
    by_token = binding(BindingSubject(token=TokenSubject(issuer="corp")))
    assert may("shop/any", outer, role("*"), by_token)  # with a token that is not known here
    assert may("team-x/any", outer, role("*"), binding(BindingSubject(workload=WorkloadSubject(namespace="team-*"))))
    assert not may("shop/any", outer, role("*"), binding(BindingSubject(workload=WorkloadSubject(namespace="team-*"))))


def denied(allowed: ModelRoleBinding) -> ModelRoleBinding:
    return binding(allowed.spec.subjects[0], "deny")


WORKLOADS = (who("n/a"), who("n/b"), who("o/a"), who("n/a", "other.example"))
documents = st.lists(
    st.one_of(
        st.builds(
            server,
            st.sampled_from("stu"),
            st.sampled_from([None, account("n", "a"), account("o", "a")]),
            st.sampled_from(["", "n", "o"]),
        ),
        st.builds(role, st.sampled_from(["resnet", "x"])),
        st.builds(binding, st.sampled_from([BindingSubject(workload=account("n", "a"))])),
        st.sampled_from([DOMAIN, "other.example"]).map(lambda d: MeshConfig(metadata=Metadata("m"), spec=MeshSpec(d))),
    ),
    max_size=6,
).map(lambda found: {each.key: each for each in (Held.of(document, "1") for document in found)})


@given(st.lists(documents, min_size=1, max_size=4))
def test_following_changes_is_the_same_as_reading_anew(sets: list[dict[str, Held]]) -> None:
    live: dict[str, Held] = {}
    following = Entitlements(live)
    for after in sets:
        before = dict(live)
        live.clear()
        live.update(after)
        keys = [key for key in {**before, **after} if before.get(key) is not after.get(key)]
        following.follow([Change(key, before.get(key), after.get(key)) for key in keys])
        anew = Entitlements(after)
        for workload in WORKLOADS:
            assert following.is_server(workload) == anew.is_server(workload)
            assert following.may_call(workload, "resnet") == anew.may_call(workload, "resnet")
            for name in "stu":
                assert following.refusal(workload, Scope(name)) == anew.refusal(workload, Scope(name))
