"""Files of expectations, and what a policy does about them."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.config import schema
from meshproxy.config.fields import BindingSubject, WorkloadSubject
from meshproxy.config.load import load
from meshproxy.config.problems import ConfigError
from meshproxy.policy.compile import compile_policy
from meshproxy.policy.expectations import Case, Result, check, read_expectations

DOCUMENTS = load(["deploy/examples/access.yaml"])
POLICY = compile_policy(DOCUMENTS.roles, DOCUMENTS.bindings, "dev.example")


def read(*rows: str) -> list[Case]:
    text = "expectations:\n" + "".join(f"- {{{row}}}\n" for row in rows)
    return read_expectations(Path("e.yaml"), text.encode())


def answers(*rows: str) -> list[Result]:
    return check(POLICY, "dev.example", read(*rows))


CALL = "model: m, verbs: [predict]"


@pytest.mark.parametrize(
    ("who", "answer", "rule"),
    [
        ("workload: {namespace: a, serviceAccount: quoter}", "allow", "callers"),
        ("workload: {spiffeId: 'spiffe://dev.example/ns/team-b/sa/x'}", "allow", "callers"),
        (
            "workload: {trustDomain: legacy.example, namespace: batch, serviceAccount: night}, address: 10.20.0.1",
            "allow",
            "callers",
        ),
        ("workload: {trustDomain: legacy.example, namespace: batch, serviceAccount: night}", "deny", "default-deny"),
        ("token: {issuer: corp, claims: {groups: [finance, level-2], scope: predict}}", "allow", "callers"),
        ("token: {issuer: corp, claims: {groups: [finance, level-2], scope: x, guest: 1}}", "deny", "no-guests"),
        (
            "workload: {namespace: edge, serviceAccount: gateway}, headers: {x-client-tier: free}",
            "deny",
            "no-guests",
        ),
        ("address: '::1'", "deny", "default-deny"),
    ],
)
def test_callers(who: str, answer: str, rule: str) -> None:
    (result,) = answers(f"{who}, {CALL}, expect: {answer}, by: {rule}")
    assert (result.answer, result.rule, result.holds) == (answer, rule, True)
    other = "deny" if answer == "allow" else "allow"
    (result,) = answers(f"{who}, {CALL}, expect: {other}")
    assert not result.holds
    assert result.difference == f"expected {other}, got {answer} by {rule}"
    (result,) = answers(f"{who}, {CALL}, expect: {answer}, by: another")
    assert not result.holds


def test_each_verb_is_a_case() -> None:
    cases = read(
        "name: two, model: m, version: 3, verbs: [predict, status], expect: deny", "verbs: [reload], expect: deny"
    )
    assert [(case.name, case.line) for case in cases] == [
        ('two: predict on model "m", version 3', 2),
        ('two: status on model "m", version 3', 2),
        ("reload on the server as a whole", 3),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f"{CALL}, expect: maybe", r"e.yaml:2: expectations\[0\].expect: expected one of allow, part, deny"),
        (f"{CALL}, expect: deny, modle: x", 'did you mean "model"'),
        ("verbs: [predict], expect: deny", 'expected "model"'),
        ("verbs: [reload], expect: deny, version: 3", 'are of a "model"'),
        (f"{CALL}, version: 3, label: x, expect: deny", "a version or a label"),
        (f"{CALL}, expect: deny, address: here", "is not an IP address"),
        (f"{CALL}, expect: deny, workload: {{namespace: a}}", 'expected "namespace" and "serviceAccount"'),
        (f"{CALL}, expect: deny, workload: {{namespace: a, spiffeId: 'spiffe://a/b'}}", "names a workload completely"),
        (f"{CALL}, expect: deny, iamRole: 'arn:aws:iam::123456789012:role/r'", 'expected "token"'),
        (f"{CALL}", "expect: is missing"),
        ("]", "not YAML"),
    ],
)
def test_problems(row: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(row)


def test_files_without_any() -> None:
    for content, message in (
        (b"", "no expectations here"),
        (b"\xff", "not UTF-8"),
        (b"expectations: []", "empty list"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_expectations(Path("e.yaml"), content)


@settings(max_examples=40)
@given(st.text(alphabet=st.sampled_from("expctaions:\n-{}[], modlverbsxp"), max_size=60))
def test_nothing_else_is_raised(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert read_expectations(Path("e.yaml"), b"expectations:\n" + text.encode())


def test_a_part_of_an_answer_is_neither_allowed_nor_denied() -> None:
    rule = schema.Rule(("fraud",), ("status", "metadata"), versions=("3",))
    role = schema.ModelRole(metadata=schema.Metadata("r"), spec=schema.RoleSpec((rule,)))
    subjects = (BindingSubject(workload=WorkloadSubject(namespace="web")),)
    binding = schema.ModelRoleBinding(metadata=schema.Metadata("b"), spec=schema.BindingSpec("r", subjects))
    policy = compile_policy([role], [binding], "d")
    who = "workload: {namespace: web, serviceAccount: s}, model: fraud"
    rows = [
        f"{who}, verbs: [status], expect: part, by: b",
        f"{who}, verbs: [status], version: '3', expect: allow, by: b",
        f"{who}, verbs: [status], version: '4', expect: deny, by: default-deny",
        f"{who}, verbs: [metadata], expect: deny",
    ]
    assert all(result.holds for result in check(policy, "d", read(*rows)))
    for wrong in ("allow", "deny"):
        (result,) = check(policy, "d", read(f"{who}, verbs: [status], expect: {wrong}"))
        assert (result.holds, result.difference) == (False, f"expected {wrong}, got part by b")
