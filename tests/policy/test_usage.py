"""What calls that happened made use of."""

from __future__ import annotations

from meshproxy.config import schema
from meshproxy.config.fields import BindingSubject, WorkloadSubject
from meshproxy.config.load import load
from meshproxy.identity.caller import Caller, Token, workload_of
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.policy.compare import Observed, Verdict
from meshproxy.policy.compile import compile_policy
from meshproxy.policy.usage import count_usage

DOCUMENTS = load(["deploy/examples/access.yaml"])
POLICY = compile_policy(DOCUMENTS.roles, DOCUMENTS.bindings, "dev.example")
TEAM = Caller(workload_of("spiffe://dev.example/ns/team-a/sa/web"))
GUEST = Caller(None, Token("corp", "g", {}, 1e12))
PREDICT = Call(Verb.PREDICT, (ModelRef("m"),))


def test_bindings_subjects_roles_and_rules() -> None:
    usage = count_usage(
        POLICY,
        [
            (Observed(TEAM, PREDICT, recorded=Verdict(True, "callers")), 3),
            (Observed(GUEST, PREDICT, recorded=Verdict(False, "no-guests")), 2),
            (Observed(GUEST, PREDICT, recorded=Verdict(False, "default-deny")), 1),
            (Observed(TEAM, PREDICT, recorded=Verdict(True, "callers, gone"), audits=("old",)), 1),
            (Observed(TEAM, PREDICT), 9),
        ],
    )
    assert (usage.allowed, usage.denied) == (4, 3)
    assert usage.bindings == {"callers": 4, "no-guests": 2}
    assert usage.subjects == {("callers", 1): 4, ("no-guests", 0): 2}
    assert usage.roles == {"predictor": 6}
    assert usage.rules == {("predictor", 0): 6}
    assert usage.gone == {"gone": 1, "old": 1}


def test_a_call_about_the_server_uses_rules_with_its_verb() -> None:
    reload = Observed(TEAM, Call(Verb.RELOAD), recorded=Verdict(True, "callers"))
    assert count_usage(POLICY, [(reload, 1)]).rules == {}


def test_a_rule_of_which_a_part_was_seen_is_used() -> None:
    """The record has the call, which names no version; the rule does."""
    rules = (schema.Rule(("m",), ("status",), versions=("3",)), schema.Rule(("m",), ("metadata",), signatures=("s",)))
    role = schema.ModelRole(metadata=schema.Metadata("r"), spec=schema.RoleSpec(rules))
    subjects = (BindingSubject(workload=WorkloadSubject(namespace="team-a")),)
    binding = schema.ModelRoleBinding(metadata=schema.Metadata("b"), spec=schema.BindingSpec("r", subjects))
    policy = compile_policy([role], [binding], "dev.example")
    for verb, place in ((Verb.STATUS, 0), (Verb.METADATA, 1)):
        permit = policy.decide_partly(TEAM, call := Call(verb, (ModelRef("m"),)))
        assert permit is not None
        usage = count_usage(policy, [(Observed(TEAM, call, recorded=Verdict(True, permit.rule)), 1)])
        assert usage.rules == {("r", place): 1}
