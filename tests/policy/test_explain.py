"""Explanations: they agree with decisions, and say what a person needs."""

from __future__ import annotations

from meshproxy.config import fields, schema
from meshproxy.config.load import load
from meshproxy.identity.caller import ANONYMOUS, Caller, Token, Workload
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.policy.compile import compile_policy
from meshproxy.policy.decide import Permit
from meshproxy.policy.explain import describe, explain
from meshproxy.refusal import Reason, Refusal

DOCUMENTS = load(["deploy/examples/first.yaml"])
POLICY = compile_policy(DOCUMENTS.roles, DOCUMENTS.bindings, "dev.example")
QUOTER = Workload("spiffe://dev.example/ns/pricing/sa/quoter", "dev.example", "pricing", "quoter", 1e12)
NIGHTLY = Workload("spiffe://dev.example/ns/batch/sa/nightly", "dev.example", "batch", "nightly", 1e12)
PREDICT = Call(Verb.PREDICT, (ModelRef("half_plus_two"),))


def test_what_permits() -> None:
    found = explain(POLICY, Caller(NIGHTLY), PREDICT)
    assert found.decision == Permit("finance-team")
    (step,) = found.steps
    assert (step.binding, step.action, step.role, step.applies) == ("finance-team", "allow", "finance-reader", True)
    assert (step.caller, step.call) == (("subjects[1] matches",), ("rules[0] matches",))


def test_why_a_caller_does_not_fit() -> None:
    found = explain(POLICY, Caller(QUOTER), PREDICT)
    assert isinstance(found.decision, Refusal)
    assert found.decision.reason is Reason.UNAUTHENTICATED
    assert not found.steps[0].applies
    assert found.steps[0].caller[0] == "subjects[0]: needs a token, and none was sent"
    assert "the workload is spiffe://dev.example/ns/pricing/sa/quoter, not spiffe" in found.steps[0].caller[1]
    poor = Token("corp", "alice", {"groups": ["sales"]}, 1e12)
    (step,) = explain(POLICY, Caller(QUOTER, poor), PREDICT).steps
    assert step.caller[0] == 'subjects[0]: the token lacks the claim groups: "finance"'
    (step,) = explain(POLICY, Caller(QUOTER, Token("other", "alice", {}, 1e12)), PREDICT).steps
    assert step.caller[0] == "subjects[0]: the token is from other, not corp"
    (step,) = explain(POLICY, ANONYMOUS, PREDICT).steps
    assert step.caller[0].startswith("subjects[0]: the workload is unknown")


def policy(
    action: str, rule: schema.Rule, **subject: object
) -> tuple[list[schema.ModelRole], list[schema.ModelRoleBinding]]:
    role = schema.ModelRole(metadata=schema.Metadata(name="r"), spec=schema.RoleSpec(rules=(rule,)))
    who = fields.BindingSubject(**(subject or {"workload": fields.WorkloadSubject(namespace="pricing")}))  # type: ignore[arg-type]
    spec = schema.BindingSpec(role="r", subjects=(who,), action=action)  # type: ignore[arg-type]
    return [role], [schema.ModelRoleBinding(metadata=schema.Metadata(name="b"), spec=spec)]


def test_why_a_call_does_not_fit() -> None:
    rule = schema.Rule(models=("a*",), verbs=("predict", "reload"), versions=("3",), signatures=("s",))
    for action, applies in (("allow", False), ("deny", True), ("audit", True)):
        compiled = compile_policy(*policy(action, rule), "dev.example")
        (step,) = explain(compiled, Caller(QUOTER), Call(Verb.PREDICT, (ModelRef("ab"),))).steps
        assert step.applies is applies
        assert "the call names no version and no signature" in step.call[0]
        assert ("counts as a match" in step.call[0]) is applies
        (step,) = explain(compiled, Caller(QUOTER), Call(Verb.RELOAD)).steps
        assert step.applies is applies
        assert "server as a whole" in step.call[0]
        (step,) = explain(
            compiled, Caller(QUOTER), Call(Verb.PREDICT, (ModelRef("b", "3"), ModelRef("a", "3", None, "s")))
        ).steps
        assert step.applies is True
        assert step.call == ('"b": no rule covers predict on model "b", version 3', '"a": rules[0] matches')


def test_roles_of_aws() -> None:
    rule = schema.Rule(models=("*",), verbs=("predict",))
    arn = "arn:aws:iam::123456789012:role/r"
    compiled = compile_policy(*policy("allow", rule, iam_role=arn), "dev.example")
    (step,) = explain(compiled, Caller(None, Token("sts", "x", {}, 1e12)), PREDICT).steps
    assert step.caller == (f"subjects[0]: the IAM role is unknown, not {arn}",)


def test_calls_in_words() -> None:
    assert describe(Call(Verb.RELOAD)) == "reload on the server as a whole"
    call = Call(Verb.MULTI_INFERENCE, (ModelRef("a", "3"), ModelRef("b", label="x", signature="s")))
    assert describe(call) == 'multi-inference on model "a", version 3, model "b", label x, signature s'


def test_why_a_claim_cannot_be_evaluated() -> None:
    subject = fields.TokenSubject(issuer="corp", claims={"realm.roles": "x"})
    caller = Caller(None, Token("corp", "alice", {"realm": "x"}, 1e12))
    for action, applies in (("allow", False), ("deny", True), ("audit", True)):
        rule = schema.Rule(models=("a",), verbs=("predict",))
        compiled = compile_policy(*policy(action, rule, token=subject), "dev.example")
        (step,) = explain(compiled, caller, Call(Verb.PREDICT, (ModelRef("a"),))).steps
        assert step.applies is applies
        assert step.caller[0].startswith('subjects[0]: the claim realm.roles: "x" cannot be evaluated: ')
        assert step.caller[0].endswith(f", which counts as a match for {action}") is applies


def test_patterns_of_claims_in_words() -> None:
    rule = schema.Rule(models=("a",), verbs=("predict",))
    claims = {
        "groups": fields.ClaimPattern(any_of=("finance", fields.TextMatch(prefix="team-"))),
        "mail": fields.ClaimPattern(suffix="@corp.example"),
    }
    compiled = compile_policy(
        *policy("allow", rule, token=fields.TokenSubject(issuer="corp", claims=claims)), "dev.example"
    )
    caller = Caller(None, Token("corp", "alice", {"groups": ["sales"], "mail": "a@corp.example"}, 1e12))
    (step,) = explain(compiled, caller, Call(Verb.PREDICT, (ModelRef("a"),))).steps
    assert step.caller == ('subjects[0]: the token lacks the claim groups: any of "finance", prefix "team-"',)


def test_why_a_condition_does_not_hold() -> None:
    rule = schema.Rule(models=("a",), verbs=("predict",))
    subject: dict[str, object] = {"ip_blocks": ("10.0.0.0/8",), "headers": {"x-a": fields.TextMatch(prefix="t")}}
    words = 'ipBlocks 10.0.0.0/8; header x-a: prefix "t"'
    call = Call(Verb.PREDICT, (ModelRef("a"),))
    for action, applies in (("allow", False), ("deny", True), ("audit", True)):
        compiled = compile_policy(*policy(action, rule, **subject), "dev.example")
        (step,) = explain(compiled, ANONYMOUS, call, "10.0.0.1:1", ((b"x-a", b"t1"),)).steps
        assert (step.applies, step.caller) == (True, ("subjects[0] matches",))
        (step,) = explain(compiled, ANONYMOUS, call, "192.0.2.1:1", ((b"x-a", b"t1"),)).steps
        assert (step.applies, step.caller) == (
            False,
            (f"subjects[0]: the request does not meet the condition {words}",),
        )
        (step,) = explain(compiled, ANONYMOUS, call, "", ((b"x-a", b"t1"),)).steps
        assert step.applies is applies
        assert step.caller[0].startswith(f"subjects[0]: the condition {words} cannot be evaluated: ")
        assert step.caller[0].endswith(f", which counts as a match for {action}") is applies


def test_a_token_and_a_condition() -> None:
    rule = schema.Rule(models=("a",), verbs=("predict",))
    subject: dict[str, object] = {"ip_blocks": ("10.0.0.0/8",), "token": fields.TokenSubject(issuer="corp")}
    compiled = compile_policy(*policy("allow", rule, **subject), "dev.example")
    call = Call(Verb.PREDICT, (ModelRef("a"),))
    (step,) = explain(compiled, ANONYMOUS, call, "10.0.0.1:1", ()).steps
    assert step.caller == ("subjects[0]: needs a token, and none was sent",)
    (step,) = explain(compiled, Caller(None, Token("corp", "a", {}, 1e12)), call, "", ()).steps
    assert "cannot be evaluated: the address is not known" in step.caller[0]
