"""Comparisons of policies: held against what both really decide, with all that a line does not tell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.config import fields, schema
from meshproxy.identity.caller import ANONYMOUS, Caller, Token, Workload
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.policy.compare import Change, Observed, Outcome, Verdict, compare
from meshproxy.policy.compile import compile_policy
from meshproxy.policy.decide import Policy
from meshproxy.policy.possible import MOST_WORLDS
from meshproxy.refusal import Refusal
from tests.thorough import tries

DOMAIN = "d.example"
QUOTER = Workload(f"spiffe://{DOMAIN}/ns/pricing/sa/quoter", DOMAIN, "pricing", "quoter", 1e12)
NIGHTLY = Workload(f"spiffe://{DOMAIN}/ns/batch/sa/nightly", DOMAIN, "batch", "nightly", 1e12)
PREDICT = Call(Verb.PREDICT, (ModelRef("m"),))
WHO = fields.WorkloadSubject(namespace="pricing")
FINANCE = fields.TokenSubject(issuer="corp", claims={"groups": "finance"})
Action = Literal["allow", "deny", "audit"]


def policy(*bindings: tuple[Action, fields.BindingSubject], **rule: Any) -> Policy:
    """Each binding has a role of its own, `r0`, over the model m, to predict unless `verbs` are given."""
    roles, bound = [], []
    for index, (action, subject) in enumerate(bindings):
        made = schema.Rule(**{"models": ("m",), "verbs": ("predict",), **rule})
        name = f"r{index}"
        roles.append(schema.ModelRole(metadata=schema.Metadata(name=name), spec=schema.RoleSpec(rules=(made,))))
        spec = schema.BindingSpec(role=name, subjects=(subject,), action=action)
        bound.append(schema.ModelRoleBinding(metadata=schema.Metadata(name=f"b{index}"), spec=spec))
    return compile_policy(roles, bound, DOMAIN)


def policy_of(bindings: list[tuple[Action, fields.BindingSubject]]) -> Policy:
    return policy(*bindings)


def subject(**named: Any) -> fields.BindingSubject:
    return fields.BindingSubject(**named)


def change(old: Policy, new: Policy, observed: Observed) -> Change | None:
    """What is different; None: nothing."""
    found = compare(old, new, [(observed, 3)])
    assert sum(found.counts.values()) == 3
    return found.changes[0] if found.changes else None


ANYBODY = policy(("allow", subject(workload=WHO)))
WITH_TOKEN = policy(("allow", subject(workload=WHO, token=FINANCE)))


def test_what_needs_no_claims_is_certain() -> None:
    lost = change(ANYBODY, WITH_TOKEN, Observed(Caller(QUOTER), PREDICT))
    assert lost is not None
    assert (lost.outcome, lost.calls) == (Outcome.LOSES, 3)
    assert str(lost.old) == "allowed by b0"
    assert lost.new == Verdict(False, "default-deny")
    gained = change(WITH_TOKEN, ANYBODY, Observed(Caller(QUOTER), PREDICT))
    assert gained is not None
    assert gained.outcome is Outcome.GAINS
    assert change(ANYBODY, WITH_TOKEN, Observed(Caller(NIGHTLY), PREDICT)) is None


def test_a_record_tells_what_a_token_held() -> None:
    alice = Caller(QUOTER, Token("corp", "alice", {}, 1e12))
    unknown = change(ANYBODY, WITH_TOKEN, Observed(alice, PREDICT))
    assert unknown is not None
    assert (unknown.outcome, unknown.new) == (Outcome.MAY_LOSE, None)
    assert unknown.depends == ('claim groups: "finance"',)
    # She was allowed by a binding that demands the claim: so she had it, and keeps her access.
    sales = fields.TokenSubject(issuer="corp", claims={"groups": "sales"})
    both = policy(("allow", subject(token=FINANCE)), ("allow", subject(token=sales)))
    as_finance = Observed(alice, PREDICT, recorded=Verdict(True, "b0"))
    assert change(both, WITH_TOKEN, as_finance) is None
    as_sales = change(both, WITH_TOKEN, replace(as_finance, recorded=Verdict(True, "b1")))
    assert as_sales is not None
    assert as_sales.outcome is Outcome.LOSES


def test_a_part_of_the_answer_is_access() -> None:
    part = policy(("allow", subject(workload=WHO)), verbs=("status",), versions=("3",))
    status = Observed(Caller(QUOTER), Call(Verb.STATUS, (ModelRef("m"),)), recorded=Verdict(True, "b0"))
    assert change(part, part, status) is None
    lost = change(part, ANYBODY, status)
    assert lost is not None
    assert lost.outcome is Outcome.LOSES


def test_a_record_of_another_policy_is_not_believed() -> None:
    found = compare(ANYBODY, ANYBODY, [(Observed(Caller(QUOTER), PREDICT, recorded=Verdict(True, "gone")), 2)])
    assert (found.counts[Outcome.SAME], found.contradicted) == (2, 2)


def test_a_signature_that_is_not_known_may_be_any() -> None:
    signed = policy(("allow", subject(workload=WHO)), signatures=("s",))
    found = change(ANYBODY, signed, Observed(Caller(QUOTER), PREDICT, is_signature_known=False))
    assert found is not None
    assert (found.outcome, found.depends) == (Outcome.MAY_LOSE, ("the signature of the call",))
    named = Observed(Caller(QUOTER), Call(Verb.PREDICT, (ModelRef("m", signature="s"),)))
    assert change(ANYBODY, signed, named) is None
    status = Observed(Caller(QUOTER), Call(Verb.STATUS, (ModelRef("m"),)), is_signature_known=False)
    assert change(ANYBODY, signed, status) is None


def test_too_many_claims() -> None:
    many = {f"c{number}": "x" for number in range(MOST_WORLDS.bit_length())}
    demanding = policy(("allow", subject(token=fields.TokenSubject(issuer="corp", claims=many))))
    found = change(ANYBODY, demanding, Observed(Caller(QUOTER, Token("corp", "a", {}, 1e12)), PREDICT))
    assert found is not None
    assert found.outcome is Outcome.UNKNOWN
    # Another issuer's token has none of them.
    assert change(ANYBODY, demanding, Observed(Caller(QUOTER, Token("o", "a", {}, 1e12)), PREDICT)) is not None


def test_conditions_on_the_address_and_on_headers() -> None:
    inside = policy(("allow", subject(workload=WHO, ip_blocks=("10.0.0.0/8",))))
    assert change(ANYBODY, inside, Observed(Caller(QUOTER), PREDICT, address="10.1.2.3:4")) is None
    outside = change(ANYBODY, inside, Observed(Caller(QUOTER), PREDICT, address="192.0.2.1:4"))
    assert outside is not None
    assert outside.outcome is Outcome.LOSES
    header = policy(("allow", subject(workload=WHO, headers={"x-tenant": "a"})))
    found = change(ANYBODY, header, Observed(Caller(QUOTER), PREDICT))
    assert found is not None
    assert (found.outcome, found.depends) == (Outcome.MAY_LOSE, ('header x-tenant: "a"',))


# Against what is really decided

CLAIMS = st.sampled_from([{"g": "a"}, {"g": "b"}, {"h": True}, {"g": "a", "h": True}, {"g": 1}])
SUBJECTS = st.builds(
    subject,
    workload=st.sampled_from([WHO, fields.WorkloadSubject(service_account="*")]),
    token=st.one_of(st.none(), st.builds(fields.TokenSubject, issuer=st.sampled_from(["corp", "o"]), claims=CLAIMS)),
    ip_blocks=st.sampled_from([None, None, ("10.0.0.0/8",)]),
    headers=st.sampled_from([{}, {}, {"x-t": "a"}, {"x-t": fields.TextMatch(present=False)}]),
) | st.builds(
    lambda issuer, claims: subject(token=fields.TokenSubject(issuer=issuer, claims=claims)),
    st.sampled_from(["corp", "o"]),
    CLAIMS,
)
ACTIONS: tuple[Action, ...] = ("allow", "allow", "deny", "audit")
POLICIES = st.lists(st.tuples(st.sampled_from(ACTIONS), SUBJECTS), min_size=1, max_size=3).map(policy_of)
TOKENS = st.builds(
    lambda issuer, claims: Token(issuer, "alice", claims, 1e12),
    st.sampled_from(["corp", "o"]),
    st.fixed_dictionaries(
        {}, optional={"g": st.sampled_from(["a", "b", 1, ["a", "b"]]), "h": st.sampled_from([True, "x"])}
    ),
)
HEADERS = st.lists(st.sampled_from([(b"x-t", b"a"), (b"x-t", b"b")]), max_size=2).map(tuple)


def verdict(compiled: Policy, caller: Caller, address: str, headers: tuple[tuple[bytes, bytes], ...]) -> Verdict:
    try:
        return Verdict(True, compiled.decide(caller, PREDICT, address, headers).rule)
    except Refusal as refusal:
        return Verdict(False, refusal.rule or "")


POSSIBLE = {
    Outcome.SAME: {0},
    Outcome.GAINS: {1},
    Outcome.LOSES: {-1},
    Outcome.MAY_GAIN: {0, 1},
    Outcome.MAY_LOSE: {0, -1},
    Outcome.UNKNOWN: {0, 1, -1},
}


@settings(max_examples=tries(60), deadline=None)
@given(
    old=POLICIES,
    new=POLICIES,
    workload=st.sampled_from([QUOTER, NIGHTLY, None]),
    token=st.none() | TOKENS,
    address=st.sampled_from(["", "10.0.0.1:1", "192.0.2.1:1"]),
    headers=HEADERS,
    is_recorded=st.booleans(),
)
def test_what_is_said_holds_for_the_token_that_was_really_sent(
    old: Policy,
    new: Policy,
    workload: Workload | None,
    token: Token | None,
    address: str,
    headers: tuple[tuple[bytes, bytes], ...],
    is_recorded: bool,
) -> None:
    caller = Caller(workload, token)
    before, after = (verdict(each, caller, address, headers) for each in (old, new))
    known = Caller(workload, msgspec.structs.replace(token, claims={}) if token is not None else None)
    observed = Observed(known, PREDICT, address=address, recorded=before if is_recorded else None)
    found = compare(old, new, [(observed, 1)])
    (outcome,) = [outcome for outcome, count in found.counts.items() if count]
    assert after.permitted - before.permitted in POSSIBLE[outcome]
    assert not found.contradicted
    for change in found.changes:
        assert change.old in (None, before)
        assert change.new in (None, after)


def test_nobody_is_a_caller_too() -> None:
    assert change(ANYBODY, WITH_TOKEN, Observed(ANONYMOUS, PREDICT)) is None
