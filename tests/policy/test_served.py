"""Model servers that list their models: which roles concern them, and what their sidecars decide."""

from __future__ import annotations

import pytest

from meshproxy.config.fields import BindingSubject, Metadata, WorkloadSubject
from meshproxy.config.schema import BindingSpec, ModelRole, ModelRoleBinding, RoleSpec, Rule
from meshproxy.identity.caller import Caller, workload_of
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.policy.compile import compile_policy
from meshproxy.policy.decide import DEFAULT_DENY, NOT_LISTED, Policy
from meshproxy.policy.served import concerns
from meshproxy.refusal import Reason, Refusal

CALLER = Caller(workload_of("spiffe://d/ns/n/sa/s"))


def role(name: str, *patterns: str, verb: str = "predict") -> ModelRole:
    return ModelRole(metadata=Metadata(name), spec=RoleSpec((Rule(patterns, (verb,)),)))  # type: ignore[arg-type]


def bind(name: str, action: str = "allow") -> ModelRoleBinding:
    subjects = (BindingSubject(workload=WorkloadSubject(namespace="n")),)
    spec = BindingSpec(name, subjects, action)  # type: ignore[arg-type]
    return ModelRoleBinding(metadata=Metadata(f"{action}-{name}"), spec=spec)


def denied(policy: Policy, *models: str, verb: Verb = Verb.PREDICT) -> str:
    with pytest.raises(Refusal) as raised:
        policy.decide(CALLER, Call(verb, tuple(map(ModelRef, models))))
    assert raised.value.reason is Reason.PERMISSION_DENIED
    return str(raised.value.rule)


@pytest.mark.parametrize(
    ("patterns", "is_about"),
    [(("a",), True), (("x", "b"), True), (("?",), True), (("*",), True), (("x", "a?"), False), (("A",), False)],
)
def test_a_role_that_is_about_a_listed_model(patterns: tuple[str, ...], is_about: bool) -> None:
    assert concerns(role("r", *patterns), frozenset({"a", "b"})) is is_about


def test_other_models_are_refused() -> None:
    policy = compile_policy([role("all", "*")], [bind("all"), bind("all", "audit")], "d", models=["a", "b"])
    assert policy.decide(CALLER, Call(Verb.PREDICT, (ModelRef("a"), ModelRef("b")))).rule == "allow-all"
    for models in (("c",), ("a", "c"), ("c", "a")):
        assert denied(policy, *models) == NOT_LISTED
    status = Call(Verb.STATUS, (ModelRef("c"),))
    assert policy.decide_partly(CALLER, status) is None
    assert not policy.may_see(CALLER, status, "1")


def test_without_roles_what_is_listed_is_denied() -> None:
    """The control plane sends none if none is about these models."""
    for roles, bindings in (([], []), ([role("other", "c")], [bind("other")])):
        policy = compile_policy(roles, bindings, "d", models=["a"])
        assert policy.roles == policy.bindings == ()
        assert denied(policy, "a") == DEFAULT_DENY
        assert denied(policy, "c") == NOT_LISTED
        assert denied(policy, verb=Verb.STATUS) == DEFAULT_DENY


def test_the_server_as_a_whole_is_the_listed_models() -> None:
    roles = [role("all", "*", verb="reload"), role("c", "c", verb="reload")]
    bindings = [bind("all"), bind("c", "deny")]
    assert denied(compile_policy(roles, bindings, "d"), verb=Verb.RELOAD) == "deny-c"
    assert denied(compile_policy(roles, bindings, "d", models=["a", "c"]), verb=Verb.RELOAD) == "deny-c"
    policy = compile_policy(roles, bindings, "d", models=["a"])
    assert policy.decide(CALLER, Call(Verb.RELOAD)).rule == "allow-all"
