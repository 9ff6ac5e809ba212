"""Documents to a policy."""

from __future__ import annotations

import pytest

from meshproxy.config import fields, schema
from meshproxy.identity.caller import Caller, Token, Workload
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.policy.compile import compile_policy
from meshproxy.refusal import Refusal

ROLE = schema.ModelRole(
    metadata=schema.Metadata(name="reader"),
    spec=schema.RoleSpec(rules=(schema.Rule(models=("a",), verbs=("predict",)),)),
)
PREDICT = Call(Verb.PREDICT, (ModelRef("a"),))


def binding(
    workload: fields.WorkloadSubject | None, role: str = "reader", token: fields.TokenSubject | None = None
) -> schema.ModelRoleBinding:
    subjects = (fields.BindingSubject(workload=workload, token=token),)
    return schema.ModelRoleBinding(
        metadata=schema.Metadata(name="b"), spec=schema.BindingSpec(role=role, subjects=subjects)
    )


def caller(path: str, domain: str = "d.example") -> Caller:
    _, namespace, _, account = path.split("/")
    return Caller(Workload(f"spiffe://{domain}/{path}", domain, namespace, account, 1e12))


@pytest.mark.parametrize(
    ("workload", "allowed", "denied"),
    [
        (
            fields.WorkloadSubject(namespace="n", service_account="s"),
            [caller("ns/n/sa/s")],
            [caller("ns/n/sa/s2"), caller("ns/n2/sa/s"), caller("ns/n/sa/s", "other")],
        ),
        (
            fields.WorkloadSubject(namespace="n"),
            [caller("ns/n/sa/s"), caller("ns/n/sa/t")],
            [caller("ns/n2/sa/s"), caller("ns/n/sa/s", "other")],
        ),
        (
            fields.WorkloadSubject(spiffe_id="spiffe://other/ns/n/sa/s"),
            [caller("ns/n/sa/s", "other")],
            [caller("ns/n/sa/s"), Caller()],
        ),
        # A dot in a service account is a dot (CVE-2020-16844 and its family).
        (
            fields.WorkloadSubject(namespace="n", service_account="a.b"),
            [caller("ns/n/sa/a.b")],
            [caller("ns/n/sa/axb"), caller("ns/n/sa/a/b".replace("a/b", "a-b"))],
        ),
    ],
)
def test_workloads(workload: fields.WorkloadSubject, allowed: list[Caller], denied: list[Caller]) -> None:
    policy = compile_policy([ROLE], [binding(workload)], "d.example")
    for each in allowed:
        assert policy.decide(each, PREDICT).rule == "b"
    for each in denied:
        with pytest.raises(Refusal):
            policy.decide(each, PREDICT)


def test_a_role_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="no ModelRole named other"):
        compile_policy([ROLE], [binding(fields.WorkloadSubject(namespace="n"), "other")], "d.example")


def test_claims_by_name_and_by_path() -> None:
    token = fields.TokenSubject(
        issuer="corp",
        claims={"groups": "a"},
        claim_paths=(fields.ClaimAtPath(path=("resource_access", "my.app", "roles"), exact="caller"),),
    )
    policy = compile_policy([ROLE], [binding(None, token=token)], "d.example")
    roles = {"my.app": {"roles": ["caller"]}}
    claims = {"groups": ["a"], "resource_access": roles}
    assert policy.decide(Caller(token=Token("corp", "x", claims, 0.0)), PREDICT).rule == "b"
    for lacking in (
        {"groups": ["a"]},
        {"resource_access": roles},
        {"groups": "a", "resource_access.my.app.roles": "caller"},
    ):
        with pytest.raises(Refusal):
            policy.decide(Caller(token=Token("corp", "x", lacking, 0.0)), PREDICT)
