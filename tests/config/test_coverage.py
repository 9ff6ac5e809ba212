"""Whether one subject or role covers another."""

from __future__ import annotations

from typing import Any

import pytest

from meshproxy.config.coverage import covers, is_everyone, role_covers
from meshproxy.config.fields import (
    BindingSubject,
    ClaimPattern,
    Metadata,
    Subject,
    TokenSubject,
    WorkloadSubject,
)
from meshproxy.config.schema import ModelRole, RoleSpec, Rule


def workload(**fields: Any) -> Subject:
    return Subject(workload=WorkloadSubject(**fields))


def token(claims: dict[str, str | int | bool | ClaimPattern] | None = None, **more: Any) -> Subject:
    return Subject(token=TokenSubject(issuer="corp", claims=claims or {}), **more)


OPS = workload(namespace="ops")
ADMIN = workload(namespace="ops", service_account="admin")
ROLE_ARN = "arn:aws:iam::123456789012:role/quoter"


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        (OPS, OPS),
        (OPS, ADMIN),
        (OPS, workload(spiffe_id="spiffe://d/ns/ops/sa/admin")),
        (workload(namespace="*"), ADMIN),
        (workload(service_account="admin"), ADMIN),
        (workload(trust_domain="other"), workload(spiffe_id="spiffe://other/any/path")),
        (workload(trust_domain="other"), workload(trust_domain="other", namespace="ops")),
        (token(), token({"groups": "a"})),
        (token({"groups": "a"}), token({"groups": "a", "level": 3})),
        (token({"groups": ClaimPattern(any_of=("a", "b"))}), token({"groups": "a"})),
        (token({"groups": ClaimPattern(any_of=("a", "b"))}), token({"groups": ClaimPattern(any_of=("b",))})),
        (token({"groups": ClaimPattern(prefix="team-")}), token({"groups": "team-a"})),
        (token({"groups": ClaimPattern(present=True)}), token({"groups": "a"})),
        (BindingSubject(ip_blocks=("10.0.0.0/8",)), BindingSubject(ip_blocks=("10.1.0.0/16", "10.2.0.1/32"))),
        (BindingSubject(headers={"x-a": "1"}), BindingSubject(headers={"x-a": "1", "x-b": "2"})),
        (token(), token({"groups": "a"}, workload=WorkloadSubject(namespace="ops"))),
        (Subject(iam_role=ROLE_ARN), Subject(iam_role=ROLE_ARN)),
    ],
)
def test_covers(wide: Subject, narrow: Subject) -> None:
    assert covers(wide, narrow, "d")
    assert covers(narrow, wide, "d") == (wide == narrow)


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        (OPS, workload(namespace="dev")),
        (OPS, workload(spiffe_id="spiffe://d/other/ops/sa/admin")),
        (OPS, workload(namespace="ops", trust_domain="other")),
        (OPS, workload(spiffe_id="spiffe://other/ns/ops/sa/admin")),
        (workload(spiffe_id="spiffe://d/ns/ops/sa/admin"), OPS),
        (OPS, token()),
        (token({"groups": "a"}), token({"groups": "b"})),
        (token({"groups": "a"}), token()),
        (token({}, iam_role=ROLE_ARN), token()),
        (token({"level": 1}), token({"level": True})),
        (token({"groups": ClaimPattern(any_of=("a",))}), token({"groups": "b"})),
        (token({"groups": ClaimPattern(prefix="team-")}), token({"groups": "tea"})),
        (BindingSubject(ip_blocks=("10.0.0.0/8",)), BindingSubject(ip_blocks=("10.0.0.0/7",))),
        (BindingSubject(ip_blocks=("10.0.0.0/8",)), BindingSubject(ip_blocks=("fd00::/8",))),
        (BindingSubject(not_ip_blocks=("10.0.0.0/8",)), BindingSubject(ip_blocks=("11.0.0.0/8",))),
    ],
)
def test_does_not(wide: Subject, narrow: Subject) -> None:
    assert not covers(wide, narrow, "d")


def test_everyone() -> None:
    assert is_everyone(token()) == "every caller with a token of the issuer corp"
    assert is_everyone(workload(namespace="*")) == "every workload"
    assert is_everyone(workload(trust_domain="other")) == "every workload of the trust domain other"
    assert is_everyone(BindingSubject(ip_blocks=("0.0.0.0/0",))) == "every caller"
    assert is_everyone(BindingSubject(ip_blocks=("10.0.0.0/8",))) is None
    for somebody in (OPS, ADMIN, token({"groups": "a"}), token({}, iam_role=ROLE_ARN), Subject(iam_role=ROLE_ARN)):
        assert is_everyone(somebody) is None


def role(*rules: Rule) -> ModelRole:
    return ModelRole(metadata=Metadata("r"), spec=RoleSpec(rules))


@pytest.mark.parametrize(
    ("wide", "narrow", "expected"),
    [
        (Rule(("*",), ("predict", "status")), Rule(("m",), ("predict",)), True),
        (Rule(("m*",), ("predict",)), Rule(("m1", "m2"), ("predict",)), True),
        (Rule(("m*",), ("predict",)), Rule(("n",), ("predict",)), False),
        (Rule(("m*",), ("predict",)), Rule(("*",), ("predict",)), False),
        (Rule(("m",), ("predict",)), Rule(("m",), ("predict", "status")), False),
        (Rule(("m",), ("predict",), labels=("canary",)), Rule(("m",), ("predict",)), False),
        (Rule(("m",), ("predict",)), Rule(("m",), ("predict",), labels=("canary",)), True),
        (Rule(("m",), ("predict",), versions=("3",)), Rule(("m",), ("predict",), versions=("3",)), True),
    ],
)
def test_roles(wide: Rule, narrow: Rule, expected: bool) -> None:
    assert role_covers(role(wide), role(narrow)) is expected
    assert role_covers(role(Rule(("x",), ("status",)), wide), role(narrow)) is expected
