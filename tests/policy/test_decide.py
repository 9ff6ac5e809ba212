"""Decisions: literal cases, and the whole against a matcher written from the documentation, in straight loops."""

from __future__ import annotations

import contextlib
import gc
import sys
import tracemalloc
import weakref
from collections.abc import Callable
from fnmatch import fnmatchcase
from ipaddress import ip_address, ip_network
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from meshproxy.codec.events import Headers
from meshproxy.config import fields, schema
from meshproxy.config.ip_blocks import address_of
from meshproxy.identity.caller import ANONYMOUS, Caller, Token, Workload
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.policy import decide as module
from meshproxy.policy.compile import compile_policy, compile_subject
from meshproxy.policy.decide import CHALLENGE, DEFAULT_DENY, MOST_NAMES, NO_ROLES, NOT_LISTED, Permit, Policy
from meshproxy.policy.explain import explain
from meshproxy.policy.rules import SubjectMatch
from meshproxy.refusal import Reason, Refusal
from tests.thorough import tries

DOMAIN = "d.example"


def workload(namespace: str, account: str) -> Workload:
    return Workload(f"spiffe://{DOMAIN}/ns/{namespace}/sa/{account}", DOMAIN, namespace, account, 1e12)


def rule(*models: str, verbs: tuple[Any, ...] = ("predict",), **fields: Any) -> schema.Rule:
    return schema.Rule(models=models, verbs=verbs, **fields)


def role(name: str, *rules: schema.Rule) -> schema.ModelRole:
    return schema.ModelRole(metadata=schema.Metadata(name=name), spec=schema.RoleSpec(rules=rules))


def bind(
    name: str, to: str, *subjects: fields.BindingSubject, action: Literal["allow", "deny", "audit"] = "allow"
) -> schema.ModelRoleBinding:
    spec = schema.BindingSpec(role=to, subjects=subjects, action=action)
    return schema.ModelRoleBinding(metadata=schema.Metadata(name=name), spec=spec)


def of(**named: Any) -> fields.BindingSubject:
    return fields.BindingSubject(**named)


NS = of(workload=fields.WorkloadSubject(namespace="pricing"))
CORP = of(token=fields.TokenSubject(issuer="corp"))
BOTH = of(workload=fields.WorkloadSubject(namespace="pricing"), token=fields.TokenSubject(issuer="corp"))
QUOTER = Caller(workload("pricing", "quoter"))


def token(issuer: str = "corp", **claims: object) -> Token:
    return Token(issuer, "alice", claims, 1e12)


def call(*models: str | ModelRef, verb: Verb = Verb.PREDICT) -> Call:
    return Call(verb, tuple(ModelRef(model) if isinstance(model, str) else model for model in models))


def refused(policy: Policy, caller: Caller, what: Call, remote: str = "", headers: Headers | None = None) -> Refusal:
    with pytest.raises(Refusal) as raised:
        policy.decide(caller, what, remote, headers)
    return raised.value


def test_without_roles_everything_but_administration_is_permitted() -> None:
    policy = compile_policy([], [], DOMAIN)
    for verb in Verb:
        for models in ((), ("a",)):
            if verb.is_admin:
                refusal = refused(policy, ANONYMOUS, call(*models, verb=verb))
                assert (refusal.reason, refusal.rule) == (Reason.PERMISSION_DENIED, DEFAULT_DENY)
            else:
                assert policy.decide(ANONYMOUS, call(*models, verb=verb)) == Permit(NO_ROLES)


def test_a_role_that_nobody_has_denies_everything() -> None:
    policy = compile_policy([role("r", rule("*"))], [], DOMAIN)
    refusal = refused(policy, QUOTER, call("a"))
    assert (refusal.reason, refusal.rule) == (Reason.PERMISSION_DENIED, DEFAULT_DENY)


def test_deny_beats_allow_and_audit_decides_nothing() -> None:
    roles = [role("all", rule("*")), role("secret", rule("secret*"))]
    bindings = [
        bind("everything", "all", NS),
        bind("watch", "all", NS, action="audit"),
        bind("but-secrets", "secret", NS, action="deny"),
        bind("watch-others", "all", CORP, action="audit"),
    ]
    policy = compile_policy(roles, bindings, DOMAIN)
    assert policy.decide(QUOTER, call("public")) == Permit("everything", ("watch",))
    refusal = refused(policy, QUOTER, call("secret-1"))
    assert (refusal.reason, refusal.rule, refusal.audits) == (Reason.PERMISSION_DENIED, "but-secrets", ("watch",))
    assert refusal.challenge is None
    # Audited, though nothing else is about the caller.
    refusal = refused(policy, Caller(None, token()), call("public"))
    assert (refusal.rule, refusal.audits) == (DEFAULT_DENY, ("watch-others",))


def test_every_model_must_be_allowed_and_none_denied() -> None:
    roles = [role("a", rule("a")), role("b", rule("b")), role("c", rule("c"))]
    bindings = [
        bind("to-a", "a", NS),
        bind("to-b", "b", NS),
        bind("to-c", "c", NS),
        bind("no-c", "c", NS, action="deny"),
    ]
    policy = compile_policy(roles, bindings, DOMAIN)
    assert policy.decide(QUOTER, call("b", "a", "b")) == Permit("to-b, to-a")
    assert refused(policy, QUOTER, call("a", "x")).message == 'predict on model "x" is not permitted'
    assert refused(policy, QUOTER, call("x", "c")).rule == "no-c"
    # The memory does not take one set of models for another.
    assert policy.decide(QUOTER, call("a", "b")) == Permit("to-a, to-b")
    assert policy.decide(QUOTER, call("a")) == Permit("to-a")


def test_what_a_call_does_not_tell_counts_against_the_caller() -> None:
    roles = [role("all", rule("*")), role("v3", rule("m", versions=("3",))), role("sig", rule("m", signatures=("s",)))]
    allow = compile_policy(roles, [bind("v3", "v3", NS), bind("sig", "sig", NS)], DOMAIN)
    assert allow.decide(QUOTER, call(ModelRef("m", version="3"))).rule == "v3"
    assert allow.decide(QUOTER, call(ModelRef("m", signature="s"))).rule == "sig"
    for model in (ModelRef("m"), ModelRef("m", label="x"), ModelRef("m", version="4", signature="t")):
        assert refused(allow, QUOTER, call(model)).rule == DEFAULT_DENY
    deny = compile_policy(roles, [bind("all", "all", NS), bind("not-v3", "v3", NS, action="deny")], DOMAIN)
    assert deny.decide(QUOTER, call(ModelRef("m", version="4"))).rule == "all"
    for model in (ModelRef("m"), ModelRef("m", version="3"), ModelRef("m", label="x")):
        assert refused(deny, QUOTER, call(model)).rule == "not-v3"


def test_the_server_as_a_whole() -> None:
    reload = call(verb=Verb.RELOAD)
    narrow = role("narrow", rule("a*", verbs=("reload",)))
    policy = compile_policy([narrow], [bind("b", "narrow", NS)], DOMAIN)
    assert policy.decide(QUOTER, call("ab", verb=Verb.RELOAD)).rule == "b"
    refusal = refused(policy, QUOTER, reload)
    assert refusal.message == "reload on the server as a whole is not permitted"
    wide = role("wide", rule("*", verbs=("reload", "metrics")))
    policy = compile_policy([narrow, wide], [bind("w", "wide", NS)], DOMAIN)
    assert policy.decide(QUOTER, reload).rule == "w"
    assert refused(policy, QUOTER, call(verb=Verb.PROFILE)).rule == DEFAULT_DENY
    both = role("both", rule("*", verbs=("reload",)), rule("a*", verbs=("reload",)))
    assert compile_policy([both], [bind("b", "both", NS)], DOMAIN).decide(QUOTER, reload).rule == "b"
    policy = compile_policy([narrow, wide], [bind("w", "wide", NS), bind("n", "narrow", NS, action="deny")], DOMAIN)
    assert refused(policy, QUOTER, reload).rule == "n"
    assert policy.decide(QUOTER, call(verb=Verb.METRICS)).rule == "w"


@pytest.mark.parametrize(
    ("caller", "reason"),
    [
        (QUOTER, Reason.UNAUTHENTICATED),
        (Caller(QUOTER.workload, token("other")), Reason.PERMISSION_DENIED),
        (Caller(workload("elsewhere", "x")), Reason.PERMISSION_DENIED),
        (ANONYMOUS, Reason.PERMISSION_DENIED),
    ],
)
def test_a_token_is_asked_for_only_if_it_would_make_the_difference(caller: Caller, reason: Reason) -> None:
    policy = compile_policy([role("r", rule("a"))], [bind("b", "r", BOTH)], DOMAIN)
    refusal = refused(policy, caller, call("a"))
    assert refusal.reason is reason
    assert refusal.challenge == (CHALLENGE if reason is Reason.UNAUTHENTICATED else None)
    assert refused(policy, caller, call("b")).reason is Reason.PERMISSION_DENIED


def test_a_token_does_not_help_against_a_denial() -> None:
    bindings = [bind("b", "r", BOTH), bind("no", "r", NS, action="deny")]
    policy = compile_policy([role("r", rule("a"))], bindings, DOMAIN)
    assert refused(policy, QUOTER, call("a")).reason is Reason.PERMISSION_DENIED


def test_a_token_must_help_for_all_models() -> None:
    bindings = [bind("a", "a", BOTH), bind("b", "b", NS)]
    policy = compile_policy([role("a", rule("a")), role("b", rule("b"))], bindings, DOMAIN)
    assert refused(policy, QUOTER, call("b", "a")).reason is Reason.UNAUTHENTICATED
    assert refused(policy, QUOTER, call("a", "x")).reason is Reason.PERMISSION_DENIED


def test_the_answer_names_nothing_but_the_call() -> None:
    policy = compile_policy([role("hidden-role", rule("a"))], [bind("hidden-binding", "hidden-role", BOTH)], DOMAIN)
    model = ModelRef('x"\n\x1b' + "y" * 1_000, label="<b>")
    for what in (call("a"), call(model), call(verb=Verb.RELOAD)):
        message = refused(policy, QUOTER, what).message
        assert "hidden" not in message
        assert message.isprintable()
        assert len(message) < 200


def test_a_refusal_is_made_anew_each_time() -> None:
    policy = compile_policy([role("r", rule("a"))], [], DOMAIN)
    assert refused(policy, QUOTER, call("b")) is not refused(policy, QUOTER, call("b"))


def test_the_memory_is_bounded_and_lets_tokens_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMO_BYTES", 8 * 20_000)
    policy = compile_policy([role("r", rule("a"))], [bind("b", "r", CORP)], DOMAIN)

    class Watched(Token, frozen=True, weakref=True):
        pass

    first = Watched("corp", "alice", {}, 1e12, size=19_000)
    gone = weakref.ref(first)
    assert policy.decide(Caller(None, first), call("a")).rule == "b"
    del first
    gc.collect()
    assert gone() is not None
    for _ in range(8):
        policy.decide(Caller(None, Token("corp", "alice", {}, 1e12, size=19_000)), call("a"))
    gc.collect()
    assert gone() is None
    assert (len(policy._memo), len(policy._memo_tokens)) == (1, 1)
    assert policy._memo_bytes <= 20_000


def test_one_token_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMO_BYTES", 30_000)
    policy = compile_policy([role("r", rule("*"))], [bind("b", "r", NS)], DOMAIN)
    caller = Caller(QUOTER.workload, Token("corp", "alice", {}, 1e12, size=10_000))
    for number in range(15):
        policy.decide(caller, call(f"m{number}"))
    assert len(policy._memo) == 15


@pytest.mark.parametrize(
    "subject", [NS, of(ip_blocks=("10.0.0.0/8",)), of(headers={"x-a": "b"}, not_ip_blocks=("10.0.0.0/8",))]
)
@pytest.mark.parametrize("size", [1, 500])
def test_a_decision_takes_what_is_counted(size: int, subject: fields.BindingSubject) -> None:
    policy = compile_policy(
        [role("r", rule("a*")), role("x", rule("x*"))], [bind("b", "r", NS), bind("c", "x", subject)], DOMAIN
    )
    policy.decide(QUOTER, call("a"))
    tracemalloc.start()
    try:
        for number in range(1_000):
            with contextlib.suppress(Refusal):
                header = (b"x-a", str(number).encode())
                policy.decide(QUOTER, call("x" * size + str(number)), "10.0.0.1:1", (header, header))
        address_of.cache_clear()
        assert tracemalloc.get_traced_memory()[0] < policy._memo_bytes
    finally:
        tracemalloc.stop()


def test_long_names_and_many_are_not_remembered() -> None:
    policy = compile_policy([role("r", rule("*"))], [bind("b", "r", NS)], DOMAIN)
    policy.decide(QUOTER, call("x" * 100_000))
    policy.decide(QUOTER, call(ModelRef("x", label="y" * 100_000)))
    policy.decide(QUOTER, call(*["x" * 100] * 6))
    policy.decide(QUOTER, call(*["x"] * 9))
    assert len(policy._memo) == 0
    policy.decide(QUOTER, call("x"))
    assert len(policy._memo) == 1


def test_an_equal_token_is_another_token() -> None:
    """What is remembered is a decision about one verified token, not about what it looks like."""
    policy = compile_policy(
        [role("r", rule("a"))],
        [bind("b", "r", of(token=fields.TokenSubject(issuer="corp", claims={"g": "x"})))],
        DOMAIN,
    )
    assert policy.decide(Caller(None, token(g="x")), call("a")).rule == "b"
    assert refused(policy, Caller(None, token(g="y")), call("a")).reason is Reason.PERMISSION_DENIED


KUBERNETES: dict[str, object] = {"kubernetes.io": {"namespace": "pricing"}}


@pytest.mark.parametrize(
    ("claims", "wanted", "is_allowed", "is_denied"),
    [
        (KUBERNETES, {"kubernetes.io.namespace": "pricing"}, True, True),
        (KUBERNETES, {"kubernetes.io.namespace": "batch"}, False, False),
        (KUBERNETES, {"kubernetes.io.namespace.name": "pricing"}, False, True),
        ({"scope": "openid models.predict"}, {"scope": "models.predict"}, True, True),
        ({"scope": "openid,models.predict"}, {"scope": "models.predict"}, False, True),
        ({"realm": "x"}, {"realm.roles": "y"}, False, True),
        ({"level": "3"}, {"level": 3}, False, True),
        ({}, {"realm.roles": "y"}, False, False),
    ],
)
def test_what_cannot_be_evaluated_denies(
    claims: dict[str, Any], wanted: dict[str, str | int | bool], is_allowed: bool, is_denied: bool
) -> None:
    who, caller = of(token=fields.TokenSubject(issuer="corp", claims=wanted)), Caller(None, token(**claims))
    allow = compile_policy([role("r", rule("a"))], [bind("b", "r", who)], DOMAIN)
    if is_allowed:
        assert allow.decide(caller, call("a")).rule == "b"
    else:
        # A token was sent: another one is not asked for.
        assert refused(allow, caller, call("a")).reason is Reason.PERMISSION_DENIED
    bindings = [bind("all", "r", CORP), bind("no", "r", who, action="deny"), bind("seen", "r", who, action="audit")]
    deny = compile_policy([role("r", rule("a"))], bindings, DOMAIN)
    if is_denied:
        refusal = refused(deny, caller, call("a"))
        assert (refusal.rule, refusal.audits) == ("no", ("seen",))
    else:
        assert deny.decide(caller, call("a")) == Permit("all")


def _account(name: str) -> fields.BindingSubject:
    return of(workload=fields.WorkloadSubject(namespace="n", service_account=name))


def many_models() -> Policy:
    """10,000 rules over 1,000 models, each with a role and a binding of its own; all bindings are about one caller."""
    names = [f"model-{number}" for number in range(1_000)]
    roles = [role(name, *(rule(name, signatures=(f"s{place}",)) for place in range(10))) for name in names]
    return compile_policy(roles, [bind(name, name, _account("s7")) for name in names], DOMAIN)


def many_callers() -> Policy:
    """One role over all models, given to 10,000 service accounts one by one."""
    bindings = [bind(f"model-{number}", "r", _account(f"s{number}")) for number in range(10_000)]
    return compile_policy([role("r", rule("*"))], bindings, DOMAIN)


def many_conditions() -> Policy:
    """10,000 bindings of one role over all models, each for another tenant, who is named by a header."""
    roles = [role(f"r{number}", rule(f"model-{number}")) for number in range(10_000)]
    bindings = [
        bind(f"model-{number}", f"r{number}", of(headers={"x-tenant": f"t{number}"})) for number in range(10_000)
    ]
    return compile_policy(roles, bindings, DOMAIN)


def many_globs() -> Policy:
    """2,000 globs, of which two match, and a role for each."""
    globs = [*(f"model-{number}*" for number in range(1_000)), *(f"*-{number}" for number in range(1_000))]
    roles = [role(f"r{place}", rule(each)) for place, each in enumerate(globs)]
    return compile_policy(roles, [bind("model-7", each.metadata.name, _account("s7")) for each in roles], DOMAIN)


def many_groups() -> Policy:
    """One role, given to 10,000 groups one by one."""
    claims = [{"groups": f"g{number}"} for number in range(10_000)]
    bindings = [bind("model-7", "r", of(token=fields.TokenSubject(issuer="corp", claims=each))) for each in claims]
    return compile_policy([role("r", rule("*"))], bindings, DOMAIN)


@pytest.mark.parametrize(
    ("make", "most"),
    [(many_models, 60), (many_callers, 60), (many_conditions, 120), (many_globs, 60), (many_groups, 90)],
)
def test_ten_thousand_rules_are_looked_up_not_tried(make: Callable[[], Policy], most: int) -> None:
    """Counted, not timed: calls of functions for a decision that is not remembered. The way over the other side takes
    more than a thousand."""
    policy = make()
    count = 0

    def on_event(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    caller, what = Caller(workload("n", "s7"), token(groups=["g7", "else"])), call(ModelRef("model-7", signature="s3"))
    sys.setprofile(on_event)
    try:
        permit = policy.decide(caller, what, "10.0.0.1:1", ((b"x-tenant", b"t7"),))
    finally:
        sys.setprofile(None)
    assert permit.rule == "model-7"
    assert count < most


class TestConditions:
    OFFICE = of(workload=fields.WorkloadSubject(namespace="pricing"), ip_blocks=("10.0.0.0/8", "fd00::/8"))
    TENANT = of(headers={"x-tenant": fields.TextMatch(prefix="team-")})

    def policy(self, *bindings: schema.ModelRoleBinding) -> Policy:
        return compile_policy([role("r", rule("a"))], bindings, DOMAIN)

    def test_what_is_remembered_of_one_address_is_not_said_to_another(self) -> None:
        policy = self.policy(bind("office", "r", self.OFFICE))
        for _ in range(2):
            assert policy.decide(QUOTER, call("a"), "10.1.2.3:4", ()).rule == "office"
            assert policy.decide(QUOTER, call("a"), "[fd00::1]:4", ()).rule == "office"
            assert policy.decide(QUOTER, call("a"), "[::ffff:10.0.0.1]:4", ()).rule == "office"
            for remote in ("11.0.0.1:4", "[fe80::1%eth0]:4", "[2001:db8::1]:4", ""):
                assert refused(policy, QUOTER, call("a"), remote, ()).rule == DEFAULT_DENY

    def test_a_header_decides_each_call_anew(self) -> None:
        policy = self.policy(bind("teams", "r", self.TENANT))
        for _ in range(2):
            assert policy.decide(QUOTER, call("a"), "", ((b"x-tenant", b"team-1"), (b"accept", b"*/*"))).rule == "teams"
            for headers in ((), ((b"x-tenant", b"other"),), ((b"x-tenant", b"team-1"),) * 2, None):
                assert refused(policy, QUOTER, call("a"), "", headers).rule == DEFAULT_DENY

    @pytest.mark.parametrize(
        ("remote", "headers", "is_denied"),
        [
            ("192.0.2.1:1", (), False),
            ("10.0.0.1:1", (), True),
            ("", (), True),
            ("192.0.2.1:1", ((b"x-tenant", b"team-1"),), True),
            ("192.0.2.1:1", ((b"x-tenant", b"u"),), False),
            ("192.0.2.1:1", ((b"x-tenant", b"u"), (b"x-tenant", b"v")), True),
            ("192.0.2.1:1", ((b"x_tenant", b"team-1"),), True),
            ("192.0.2.1:1", None, True),
        ],
    )
    def test_what_cannot_be_evaluated_denies(self, remote: str, headers: Headers | None, is_denied: bool) -> None:
        policy = self.policy(bind("all", "r", NS), bind("no", "r", self.OFFICE, self.TENANT, action="deny"))
        if is_denied:
            assert refused(policy, QUOTER, call("a"), remote, headers).rule == "no"
        else:
            assert policy.decide(QUOTER, call("a"), remote, headers) == Permit("all")

    def test_the_conditions_that_decided_are_named(self) -> None:
        policy = self.policy(
            bind("office", "r", self.OFFICE),
            bind("teams", "r", self.TENANT, action="deny"),
            bind("seen", "r", of(not_ip_blocks=("10.0.0.0/16",)), action="audit"),
        )
        office = "office: ipBlocks 10.0.0.0/8, fd00::/8"
        assert policy.decide(QUOTER, call("a"), "10.0.0.1:1", ()).conditions == (office,)
        assert policy.decide(QUOTER, call("a"), "10.9.0.1:1", ()).conditions == (
            office,
            "seen: notIpBlocks 10.0.0.0/16",
        )
        denied = refused(policy, QUOTER, call("a"), "10.0.0.1:1", ((b"x-tenant", b"team-1"),))
        assert denied.conditions == ('teams: header x-tenant: prefix "team-"',)
        denied = refused(policy, QUOTER, call("a"), "10.0.0.1:1", ((b"x-tenant", b"u"),) * 2)
        assert denied.conditions == ('teams: header x-tenant: prefix "team-" (cannot be evaluated)',)
        denied = refused(policy, QUOTER, call("a"), "192.0.2.1:1", ())
        assert (denied.rule, denied.conditions) == (
            DEFAULT_DENY,
            (f"{office} (does not hold)", "seen: notIpBlocks 10.0.0.0/16"),
        )
        assert "10.0.0.0" not in denied.message

    def test_a_token_is_not_asked_for_where_the_condition_fails(self) -> None:
        subject = of(token=fields.TokenSubject(issuer="corp"), ip_blocks=("10.0.0.0/8",))
        policy = self.policy(bind("b", "r", subject))
        assert refused(policy, QUOTER, call("a"), "10.0.0.1:1", ()).reason is Reason.UNAUTHENTICATED
        for remote in ("192.0.2.1:1", ""):
            assert refused(policy, QUOTER, call("a"), remote, ()).reason is Reason.PERMISSION_DENIED
        assert policy.decide(Caller(None, token()), call("a"), "10.0.0.1:1", ()).rule == "b"

    def test_conditions_of_others_cost_nothing(self) -> None:
        """Of other callers, and of roles for other models: the decision is remembered by caller and call."""
        other = of(workload=fields.WorkloadSubject(namespace="other"), ip_blocks=("10.0.0.0/8",))
        roles = [role("r", rule("a")), role("b", rule("b"))]
        policy = compile_policy(
            roles, [bind("all", "r", NS), bind("x", "r", other), bind("y", "b", self.TENANT)], DOMAIN
        )
        for remote in ("10.0.0.1:1", "192.0.2.1:1"):
            assert policy.decide(QUOTER, call("a"), remote, ((b"x-tenant", remote.encode()),)).rule == "all"
        assert len(policy._memo) == 1

    def test_headers_that_matter_bound_what_is_remembered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MEMO_BYTES", 8 * module.MEMO_ENTRY_BYTES)
        policy = self.policy(bind("all", "r", NS), bind("no", "r", self.TENANT, action="deny"))
        for number in range(100):
            policy.decide(QUOTER, call("a"), f"10.0.0.{number}:1", ((b"x-other", b"%d" % number),))
        assert len(policy._memo) == 2  # what matters, and one decision
        for number in range(100):
            policy.decide(QUOTER, call("a"), "", ((b"x-tenant", b"%d" % number),))
        assert len(policy._memo) <= 8
        policy.decide(QUOTER, call("a"), "", ((b"x-tenant", b"x" * 1_000),))
        assert "x" * 1_000 not in str(policy._memo.keys())

    def test_values_that_no_condition_names_are_one(self) -> None:
        """A caller who varies a header is decided on from memory."""
        policy = self.policy(*(bind(f"b{number}", "r", of(headers={"x-tenant": f"t{number}"})) for number in range(9)))
        for number in range(100):
            refused(policy, QUOTER, call("a"), "", ((b"x-tenant", b"%d" % number),))
            refused(policy, QUOTER, call("a"), "", ((b"x-tenant", b"%d" % number), (b"x-tenant", b"t1")))
        assert len(policy._memo) == 3  # what matters, and two decisions
        assert policy.decide(QUOTER, call("a"), "", ((b"x-tenant", b"t7"),)).rule == "b7"


# --- the whole, against loops ----------------------------------------------------------------------------------------


class Loops:
    """What DESIGN and the reference say, read once more and written as plainly as can be."""

    def __init__(self, roles: list[schema.ModelRole], bindings: list[schema.ModelRoleBinding]) -> None:
        self.roles = {each.metadata.name: each for each in roles}
        self.bindings = bindings

    def decide(
        self, caller: Caller, what: Call, address: str, headers: Headers
    ) -> tuple[str, tuple[str, ...]] | tuple[Reason, str, tuple[str, ...]]:
        self.address, self.headers = address, headers
        if not self.roles and not what.verb.is_admin:
            return NO_ROLES, ()
        applies = {each.metadata.name: self.subject(each, caller, with_token=False) for each in self.bindings}
        audits = tuple(
            each.metadata.name
            for each in self.bindings
            if each.spec.action == "audit" and applies[each.metadata.name] and self.touches(each, what)
        )
        for each in self.bindings:
            if each.spec.action == "deny" and applies[each.metadata.name] and self.touches(each, what):
                return Reason.PERMISSION_DENIED, each.metadata.name, audits
        names = []
        for model in what.models or (None,):
            found = [
                each.metadata.name
                for each in self.bindings
                if each.spec.action == "allow" and applies[each.metadata.name] and self.covers(each, what.verb, model)
            ]
            if not found:
                break
            if found[0] not in names:
                names.append(found[0])
        else:
            return ", ".join(names), audits
        if caller.token is None and all(
            any(
                each.spec.action == "allow"
                and self.subject(each, caller, with_token=True)
                and self.covers(each, what.verb, model)
                for each in self.bindings
            )
            for model in what.models or (None,)
        ):
            return Reason.UNAUTHENTICATED, DEFAULT_DENY, audits
        return Reason.PERMISSION_DENIED, DEFAULT_DENY, audits

    def subject(self, binding: schema.ModelRoleBinding, caller: Caller, *, with_token: bool) -> bool:
        """Some subject fits; `with_token`: or would, if the caller sent the right token."""
        for each in binding.spec.subjects:
            fits = self.holds(each, unclear=binding.spec.action != "allow")
            if each.workload is not None:
                peer, wanted = caller.workload, each.workload
                if peer is None:
                    fits = False
                elif wanted.spiffe_id is not None:
                    fits = fits and peer.spiffe_id == wanted.spiffe_id
                else:
                    fits = fits and peer.trust_domain == (wanted.trust_domain or DOMAIN)
                    if wanted.namespace is not None:
                        fits = fits and peer.namespace is not None and fnmatchcase(peer.namespace, wanted.namespace)
                    if wanted.service_account is not None:
                        fits = fits and peer.service_account == wanted.service_account
            asks = each.token is not None or each.iam_role is not None
            if asks and caller.token is None:
                fits = fits and with_token
            elif asks and caller.token is not None:
                if each.token is not None:
                    fits = fits and caller.token.issuer == each.token.issuer
                    for name, value in each.token.claims.items():
                        held = caller.token.claims.get(name)
                        fits = fits and (value in held if isinstance(held, list) else held == value)
                if each.iam_role is not None:
                    fits = fits and caller.token.iam_role == each.iam_role
            if fits:
                return True
        return False

    def holds(self, subject: fields.BindingSubject, *, unclear: bool) -> bool:
        """Its conditions hold; `unclear`: or could."""
        address = ip_address(self.address)
        if subject.ip_blocks and not any(address in ip_network(block) for block in subject.ip_blocks):
            return False
        if any(address in ip_network(block) for block in subject.not_ip_blocks or ()):
            return False
        doubt = False
        for name, wanted in subject.headers.items():
            values = [value.decode() for key, value in self.headers if key.decode() == name]
            if isinstance(wanted, fields.TextMatch) and wanted.present is not None:
                if bool(values) is not wanted.present:
                    return False
            elif len(values) > 1:
                doubt = True
            elif not values:
                return False
            elif isinstance(wanted, str):
                if values[0] != wanted:
                    return False
            elif not values[0].startswith(str(wanted.prefix)):
                return False
        return unclear or not doubt

    def covers(self, binding: schema.ModelRoleBinding, verb: Verb, model: ModelRef | None) -> bool:
        all_versions, all_signatures = verb is Verb.STATUS, verb in {Verb.STATUS, Verb.METADATA}
        for each in self.roles[binding.spec.role].spec.rules:
            if verb.value not in each.verbs:
                continue
            if model is None:
                if "*" in each.models and not each.versions and not each.labels and not each.signatures:
                    return True
            elif (
                any(fnmatchcase(model.name, pattern) for pattern in each.models)
                and (not each.versions or model.version in each.versions)
                and (not each.labels or (model.label in each.labels and not all_versions))
                and (not each.signatures or (model.signature in each.signatures and not all_signatures))
            ):
                return True
        return False

    def touches(self, binding: schema.ModelRoleBinding, what: Call) -> bool:
        all_versions, all_signatures = what.verb is Verb.STATUS, what.verb in {Verb.STATUS, Verb.METADATA}
        for each in self.roles[binding.spec.role].spec.rules:
            if what.verb.value not in each.verbs:
                continue
            if not what.models:
                return True
            for model in what.models:
                if (
                    any(fnmatchcase(model.name, pattern) for pattern in each.models)
                    and (not each.versions or model.version is None or model.version in each.versions)
                    and (not each.labels or all_versions or model.label is None or model.label in each.labels)
                    and (
                        not each.signatures
                        or all_signatures
                        or model.signature is None
                        or model.signature in each.signatures
                    )
                ):
                    return True
        return False


NAMES = ["a", "ab", "b", "a.b"]
verbs = st.sampled_from([Verb.PREDICT, Verb.METADATA, Verb.STATUS, Verb.RELOAD])
rules = st.builds(
    lambda models, verbs, narrow, signatures: rule(*models, verbs=verbs, signatures=signatures, **narrow),
    st.lists(st.sampled_from([*NAMES, "*", "a*", "?", "a?b"]), min_size=1, max_size=2).map(tuple),
    st.lists(verbs.map(lambda verb: verb.value), min_size=1, max_size=3, unique=True).map(tuple),
    st.sampled_from([{}, {}, {"versions": ("1",)}, {"versions": ("1", "2")}, {"labels": ("x",)}]),
    st.sampled_from([(), (), ("s",)]),
)
workloads = st.sampled_from(
    [
        None,
        fields.WorkloadSubject(namespace="n"),
        fields.WorkloadSubject(namespace="n", service_account="s"),
        fields.WorkloadSubject(spiffe_id=f"spiffe://{DOMAIN}/ns/m/sa/s"),
        fields.WorkloadSubject(spiffe_id="spiffe://other/ns/n/sa/s"),
        fields.WorkloadSubject(namespace="n*"),
        fields.WorkloadSubject(service_account="s"),
        fields.WorkloadSubject(service_account="s", trust_domain="other"),
        fields.WorkloadSubject(trust_domain="other"),
        fields.WorkloadSubject(namespace="?", service_account="t"),
    ]
)
tokens = st.sampled_from(
    [
        None,
        None,
        fields.TokenSubject(issuer="corp"),
        fields.TokenSubject(issuer="corp", claims={"g": "x"}),
        fields.TokenSubject(issuer="corp", claims={"g": "x", "h": "y"}),
    ]
)
arns = st.sampled_from([None, None, "arn:aws:iam::123456789012:role/r"])
conditions = st.sampled_from(
    [
        {},
        {},
        {"ip_blocks": ("10.0.0.0/8", "fd00::/8")},
        {"not_ip_blocks": ("10.1.0.0/16",)},
        {"ip_blocks": ("10.0.0.0/8",), "not_ip_blocks": ("10.1.0.0/16",), "headers": {"x-a": "1"}},
        {"headers": {"x-a": "1", "x-b": fields.TextMatch(prefix="t")}},
        {"headers": {"x-a": fields.TextMatch(present=False)}},
        {"headers": {"x-b": fields.TextMatch(present=True)}},
    ]
)
subjects = st.builds(
    lambda workload, token, arn, more: (
        of(workload=workload, token=token, iam_role=arn, **more) if workload or token or arn or more else CORP
    ),
    workloads,
    tokens,
    arns,
    conditions,
)
addresses = st.sampled_from(["10.0.0.1", "10.1.0.1", "192.0.2.1", "fd00::1", "2001:db8::1"])
fields_sent = st.lists(
    st.sampled_from([(b"x-a", b"1"), (b"x-a", b"2"), (b"x-b", b"t1"), (b"x-b", b"u"), (b"x-c", b"1")]), max_size=3
).map(tuple)
callers = st.builds(
    Caller,
    st.sampled_from(
        [
            None,
            workload("n", "s"),
            workload("n", "t"),
            workload("m", "s"),
            Workload("spiffe://other/ns/n/sa/s", "other", "n", "s", 1e12),
            Workload(f"spiffe://{DOMAIN}/batch", DOMAIN, None, None, 1e12),
        ]
    ),
    st.sampled_from(
        [
            None,
            None,
            token(g="x"),
            token(g=["w", "x"], h="y"),
            token("other", g="x"),
            Token("sts", "r", {}, 1e12, "arn:aws:iam::123456789012:role/r"),
        ]
    ),
)
models = st.builds(
    lambda name, told, signature: ModelRef(name, signature=signature, **told),
    st.sampled_from([*NAMES, "*", "c"]),
    st.sampled_from([{}, {"version": "1"}, {"version": "3"}, {"label": "x"}, {"label": "z"}]),
    st.sampled_from([None, "s", "t"]),
)
calls = st.builds(Call, verbs, st.lists(models, max_size=3).map(tuple))


@st.composite
def documents(draw: st.DrawFn) -> tuple[list[schema.ModelRole], list[schema.ModelRoleBinding]]:
    roles = [
        role(f"role-{place}", *each)
        for place, each in enumerate(draw(st.lists(st.lists(rules, min_size=1, max_size=3), max_size=3)))
    ]
    if not roles:
        return [], []
    bindings = draw(
        st.lists(
            st.tuples(
                st.sampled_from(roles),
                st.lists(subjects, min_size=1, max_size=3),
                st.sampled_from(["allow", "allow", "deny", "audit"]),
            ),
            max_size=6,
        )
    )
    return roles, [
        bind(f"binding-{place}", to.metadata.name, *each, action=action)  # type: ignore[arg-type]
        for place, (to, each, action) in enumerate(bindings)
    ]


@settings(max_examples=tries(200))
@given(
    documents(),
    st.lists(st.tuples(callers, calls), min_size=1, max_size=4),
    st.lists(st.tuples(addresses, fields_sent), min_size=1, max_size=4),
)
def test_decisions_are_those_of_plain_loops(
    given_documents: tuple[list[schema.ModelRole], list[schema.ModelRoleBinding]],
    asked: list[tuple[Caller, Call]],
    circumstances: list[tuple[str, Headers]],
) -> None:
    policy, loops = compile_policy(*given_documents, DOMAIN), Loops(*given_documents)
    each_way = [(*question, *way) for question in asked for way in circumstances]
    for caller, what, address, headers in [*each_way, *each_way]:  # the second time from memory
        remote = f"[{address}]:1" if ":" in address else f"{address}:1"
        try:
            permit = policy.decide(caller, what, remote, headers)
            found: tuple[object, ...] = (permit.rule, permit.audits)
        except Refusal as refusal:
            found = (refusal.reason, refusal.rule, refusal.audits)
        assert found == loops.decide(caller, what, address, headers)
        steps = [step for step in explain(policy, caller, what, remote, headers).steps if step.applies]
        assert found[-1] == tuple(step.binding for step in steps if step.action == "audit")
        if denying := [step.binding for step in steps if step.action == "deny"]:
            assert found[:2] == (Reason.PERMISSION_DENIED, denying[0])
        elif isinstance(found[0], str) and found[0] != NO_ROLES:
            assert set(found[0].split(", ")) <= {step.binding for step in steps if step.action == "allow"}


@given(
    documents().filter(lambda found: bool(found[0])),
    st.sampled_from([("a",), ("a.b", "ab"), ("*", "b")]),
    st.lists(st.tuples(callers, calls, addresses, fields_sent), min_size=1, max_size=8),
)
def test_a_list_of_models_leaves_decisions_about_these_as_they_are(
    given_documents: tuple[list[schema.ModelRole], list[schema.ModelRoleBinding]],
    listed: tuple[str, ...],
    asked: list[tuple[Caller, Call, str, Headers]],
) -> None:
    """Whatever roles it leaves out: no denial is lost, and no audit."""
    whole, narrow = (compile_policy(*given_documents, DOMAIN, models=each) for each in ((), listed))
    about = [
        (caller, Call(each.verb, tuple([replace(model, name=name) for model in named])), address, headers)
        for caller, each, address, headers in asked
        for named in [each.models or (ModelRef(""),)]
        for name in listed
    ]
    for caller, what, address, headers in [*asked, *about]:
        request = caller, what, f"[{address}]:1" if ":" in address else f"{address}:1", headers
        found = decided(narrow, *request)
        if any(model.name not in listed for model in what.models):
            assert found[:3] == (Reason.PERMISSION_DENIED, NOT_LISTED, ())
            assert narrow.decide_partly(*request) is None
        elif what.models:
            assert found == decided(whole, *request)
            assert narrow.decide_partly(*request) == whole.decide_partly(*request)


def decided(policy: Policy, caller: Caller, what: Call, remote: str, headers: Headers) -> tuple[object, ...]:
    try:
        permit = policy.decide(caller, what, remote, headers)
    except Refusal as refusal:
        return refusal.reason, refusal.rule, refusal.audits, refusal.conditions
    return permit.rule, permit.audits, permit.conditions


# --- claims that cannot be evaluated ----------------------------------------------------------------------------------

names = st.sampled_from(["a", "b", "a.b", "scope", ""])
scalars = st.sampled_from(["x", "y", "x y", 1, 1.0, True, None])
values = st.recursive(
    scalars | st.lists(scalars, max_size=2), lambda inner: st.dictionaries(names, inner, max_size=2), max_leaves=6
)
asked = st.dictionaries(
    st.sampled_from(["a", "a.b", "a.b.a", "b.a", "scope", ".a"]), st.sampled_from(["x", "y", 1, True]), min_size=1
)


def is_evaluable(found: object, path: list[str], wanted: object) -> bool:
    """Whether the path has one meaning: one way through the token, to a value of the same type, or to
    nothing at all."""
    for count in range(len(path), 0, -1):
        name = ".".join(path[:count])
        assert isinstance(found, dict)
        if name not in found or found[name] is None:
            continue
        inner, rest = found[name], path[count:]
        if rest and not (isinstance(inner, dict) and is_evaluable(inner, rest, wanted)):
            return False
        items = inner if isinstance(inner, list) else [inner]
        if not rest and not all(item is None or type(item) is type(wanted) for item in items):
            return False
    return True


@settings(max_examples=tries(300))
@given(st.dictionaries(names, values, max_size=4), asked)
def test_no_deny_that_cannot_be_evaluated_lets_through(claims: dict[str, Any], wanted: dict[str, Any]) -> None:
    who, caller = of(token=fields.TokenSubject(issuer="corp", claims=wanted)), Caller(None, token(**claims))
    bindings = [bind("all", "r", CORP), bind("no", "r", who, action="deny")]
    policy = compile_policy([role("r", rule("a"))], bindings, DOMAIN)
    # One claim that is there and differs settles a subject: it demands all of them.
    settled = [
        SubjectMatch.NO
        for name, value in wanted.items()
        if is_evaluable(claims, name.split("."), value)
        and compile_subject(of(token=fields.TokenSubject(issuer="corp", claims={name: value})), DOMAIN).match(caller)
        is SubjectMatch.NO
    ]
    if not settled:
        assert refused(policy, caller, call("a")).rule == "no"
    # What denies when it is demanded never allows where it cannot be evaluated.
    allow = compile_policy([role("r", rule("a"))], [bind("yes", "r", who)], DOMAIN)
    try:
        allow.decide(caller, call("a"))
    except Refusal:
        return
    assert refused(policy, caller, call("a")).rule == "no"


def test_the_headers_that_a_decision_depends_on_are_known() -> None:
    bindings = (bind("b", "r", of(headers={"x-tenant": "a"})), bind("c", "r", NS, of(headers={"x_team": "b"})))
    assert compile_policy((role("r", rule("*")),), bindings, "dev.example").headers == {b"x-tenant", b"x-team"}
    assert compile_policy((role("r", rule("*")),), (bind("b", "r", NS),), "dev.example").headers == frozenset()


def test_what_a_decision_looks_at_is_remembered_for_a_workload_and_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ABOUT_SUBJECTS", 3)
    reader = role("reader", rule("fraud"))
    policy = compile_policy([reader], [bind("a", "reader", BOTH), bind("b", "reader", CORP)], DOMAIN)
    others = Caller(workload("other", "a"), token("corp"))
    for _ in range(2):
        for caller, expected in (
            (Caller(QUOTER.workload, token("corp")), "a"),
            (Caller(QUOTER.workload, token("corp", x=1)), "a"),
            (others, "b"),
            (Caller(None, token("corp")), "b"),
        ):
            assert policy.decide(caller, call("fraud")).rule == expected
        with pytest.raises(Refusal):
            policy.decide(Caller(QUOTER.workload, token("else")), call("fraud"))
        assert len(policy._about_memo) == 3
    many = compile_policy([reader], [bind(name, "reader", CORP) for name in "abc"], DOMAIN)
    assert many.decide(others, call("fraud")).rule == "a"
    assert len(many._about_memo) == 0  # three subjects and a role
    policy.decide(others, call("fraud", *["fraud"] * 9))
    assert len(policy._about_memo) == 3
    monkeypatch.setattr(module, "MEMO_BYTES", policy._memo_bytes)
    policy.decide(Caller(workload("third", "a"), token("corp")), call("fraud"))
    assert len(policy._about_memo) <= 1
    assert policy._memo_bytes <= module.MEMO_BYTES


# --- parts of answers ------------------------------------------------------------------------------------------------


VERSIONED = role("versioned", rule("fraud", verbs=("status", "metadata"), versions=("3", "4"), signatures=()))
SIGNED = role("signed", rule("fraud", verbs=("metadata",), signatures=("score",)))
ALL = role("all", rule("fraud", verbs=("status", "metadata")))
SECRET = role(
    "secret", rule("fraud", verbs=("status",), versions=("9",)), rule("*", verbs=("metadata",), signatures=("debug",))
)
LABELLED = role("labelled", rule("fraud", verbs=("status",), labels=("canary",)))


def seen(policy: Policy, what: Call, *names: str, caller: Caller = QUOTER, **more: Any) -> list[str]:
    """The parts that the caller may see of the answer to a call that is refused."""
    with pytest.raises(Refusal):
        policy.decide(caller, what, **more)
    found = [name for name in names if policy.may_see(caller, what, name, **more)]
    assert (policy.decide_partly(caller, what, **more) is not None) is bool(found)
    return found


def made(*bindings: schema.ModelRoleBinding) -> Policy:
    return compile_policy([VERSIONED, SIGNED, ALL, SECRET, LABELLED], bindings, DOMAIN)


STATUS_OF_ALL = call("fraud", verb=Verb.STATUS)
METADATA = call("fraud", verb=Verb.METADATA)


def test_versions_of_a_status() -> None:
    policy = made(bind("a", "versioned", NS))
    assert seen(policy, STATUS_OF_ALL, "1", "3", "4", "9") == ["3", "4"]
    permit = policy.decide_partly(QUOTER, STATUS_OF_ALL)
    assert permit is not None
    assert (permit.rule, permit.conditions) == ("a", ("only the versions that the caller may see",))
    assert seen(policy, call(ModelRef("fraud", label="stable"), verb=Verb.STATUS), "3", "5") == ["3"]
    assert seen(policy, call("other", verb=Verb.STATUS), "3") == []
    assert seen(policy, STATUS_OF_ALL, "3", caller=Caller(workload("other", "a"))) == []
    one = call(ModelRef("fraud", version="9"), verb=Verb.STATUS)  # names its part
    with pytest.raises(Refusal):
        policy.decide(QUOTER, one)
    assert policy.decide_partly(QUOTER, one) is None


def test_a_denied_part() -> None:
    policy = made(bind("a", "all", NS), bind("b", "secret", NS, action="deny"))
    assert seen(policy, STATUS_OF_ALL, "3", "9") == ["3"]
    assert seen(policy, METADATA, "score", "debug") == ["score"]
    assert seen(made(bind("a", "all", NS), bind("b", "all", NS, action="deny")), STATUS_OF_ALL, "3") == []


def test_signatures_of_metadata() -> None:
    assert seen(made(bind("a", "signed", NS)), METADATA, "score", "debug") == ["score"]
    assert seen(made(bind("a", "signed", NS)), STATUS_OF_ALL, "3") == []


def test_what_a_part_does_not_tell_counts_against_the_caller() -> None:
    """Labels of a status, and the version of metadata that name none."""
    assert seen(made(bind("a", "labelled", NS)), STATUS_OF_ALL, "3") == []
    assert seen(made(bind("a", "all", NS), bind("b", "labelled", NS, action="deny")), STATUS_OF_ALL, "3") == []
    assert seen(made(bind("a", "versioned", NS)), METADATA, "score") == []


def test_parts_and_conditions() -> None:
    here = fields.BindingSubject(workload=fields.WorkloadSubject(namespace="pricing"), ip_blocks=("10.0.0.0/8",))
    policy = made(bind("a", "versioned", here))
    assert seen(policy, STATUS_OF_ALL, "3", remote="10.0.0.1:1", headers=()) == ["3"]
    assert seen(policy, STATUS_OF_ALL, "3", remote="11.0.0.1:1", headers=()) == []


@settings(max_examples=tries(60))
@given(st.data())
def test_a_part_is_seen_by_whoever_may_ask_for_it_alone(data: st.DataObject) -> None:
    roles = [VERSIONED, SIGNED, ALL, SECRET, LABELLED]
    bindings = [
        bind(
            f"b{place}",
            data.draw(st.sampled_from(roles)).metadata.name,
            NS,
            action=data.draw(st.sampled_from(["allow", "deny", "audit"])),
        )
        for place in range(data.draw(st.integers(1, 4)))
    ]
    policy = compile_policy(roles, bindings, DOMAIN)
    for version in ("3", "4", "7", "9"):
        try:
            policy.decide(QUOTER, call(ModelRef("fraud", version=version), verb=Verb.STATUS))
        except Refusal:
            assert not policy.may_see(QUOTER, STATUS_OF_ALL, version)
        else:
            assert policy.may_see(QUOTER, STATUS_OF_ALL, version)


def test_the_whole_call_is_audited_although_a_part_is_seen() -> None:
    """The part that is found first is not the one that the audit is about."""
    watched = role("watched", rule("fraud", verbs=("status",), versions=("4",)))
    bindings = [bind("a", "versioned", NS), bind("w", "watched", NS, action="audit")]
    policy = compile_policy([VERSIONED, watched], bindings, DOMAIN)
    for _ in "ab":  # the second time it is remembered
        permit = policy.decide_partly(QUOTER, STATUS_OF_ALL)
        assert permit is not None
        assert permit.audits == ("w",)


def test_versions_of_others_hide_none_of_the_caller_s() -> None:
    others = [role(f"r{n}", rule("fraud", verbs=("status",), versions=(f"1{n}",))) for n in range(MOST_NAMES + 1)]
    more = rule("fraud", verbs=("predict",), versions=tuple(str(n) for n in range(MOST_NAMES + 1)))
    mine = role("mine", more, rule("fraud", verbs=("status",), versions=("99",)))
    policy = compile_policy([*others, mine], [bind("a", "mine", NS)], DOMAIN)
    assert seen(policy, STATUS_OF_ALL, "1", "10", "99") == ["99"]
