"""What is found without trying all against all rules and subjects tried one by one."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from meshproxy.config.fields import ClaimPattern, TextMatch
from meshproxy.config.globs import compile_glob
from meshproxy.identity.caller import Caller, Token, workload_of
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.policy.index import Index
from meshproxy.policy.rules import Binding, Rule, RuleMatch, Subject, SubjectMatch

ARN = "arn:aws:iam::123456789012:role/r"
IN_A_PATH = "arn:aws:iam::123456789012:role/team/r"
TEXTS = ["x", "y", ""]
VERBS = [Verb.PREDICT, Verb.STATUS, Verb.RELOAD]


@st.composite
def subjects(draw: st.DrawFn) -> Subject:
    spiffe_id = draw(st.sampled_from([None, None, None, "spiffe://d/ns/n/sa/s"]))
    domain = draw(st.sampled_from([None, None, "d"])) if spiffe_id is None else None
    names = st.sampled_from([None, "n", "s", "?", "m*"])
    wanted = st.sampled_from([*TEXTS, 1, True, TextMatch(prefix="x"), ClaimPattern(any_of=("x", "y")), "x y"])
    paths: Any = st.sampled_from(["g", "h", "a.b", ("a", "b"), "scope", ("scp",), ("a.b",)])
    issuer = draw(st.sampled_from([None, "corp", "corp", "other"]))
    return Subject(
        spiffe_id,
        domain,
        draw(names) if domain else None,
        draw(names) if domain else None,
        issuer,
        tuple(draw(st.lists(st.tuples(paths, wanted), max_size=2))) if issuer else (),
        draw(st.sampled_from([None, None, ARN, "arn:aws:iam::123456789012:role/s", IN_A_PATH])),
    )


ONE = st.sampled_from([*TEXTS, "x y", 1, True, None])
SOME = ONE | st.lists(ONE, max_size=2)
VALUE: Any = SOME | st.dictionaries(st.just("b"), SOME, max_size=1)
CLAIMS = st.dictionaries(st.sampled_from(["g", "h", "a", "a.b", "scope", "scp"]), VALUE, max_size=3)


@st.composite
def tokens(draw: st.DrawFn) -> Token | None:
    claims = draw(CLAIMS)
    if draw(st.booleans()):
        claims["_claim_names"] = {draw(st.sampled_from(["g", "a"])): "src1"}
    issuer = draw(st.sampled_from(["corp", "corp", "other", "sts"]))
    token = Token(issuer, "alice", claims, 1e12, draw(st.sampled_from([None, ARN, IN_A_PATH])))
    return token if draw(st.booleans()) else None


PATTERNS = ["a", "ab", "a*", "*b", "?b", "*"]
a_rule = st.builds(
    Rule,
    st.just(0),
    st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=2).map(tuple),
    st.frozensets(st.sampled_from(VERBS), min_size=1),
    st.sampled_from([frozenset(), frozenset("1")]),
    st.just(frozenset()),
    st.sampled_from([frozenset(), frozenset("s")]),
)
ROLES = 3
workloads = st.sampled_from(
    ["", "spiffe://d/ns/n/sa/s", "spiffe://d/ns/mm/sa/t", "spiffe://e/ns/n/sa/s", "spiffe://d/x"]
)
callers = st.builds(
    lambda spiffe_id, token: Caller(workload_of(spiffe_id) if spiffe_id else None, token), workloads, tokens()
)
models = st.builds(
    ModelRef,
    st.sampled_from(["a", "ab", "b", "*"]),
    st.sampled_from([None, "1", "2"]),
    st.none(),
    st.sampled_from([None, "s"]),
)


@given(
    st.lists(st.lists(a_rule, max_size=2), min_size=ROLES, max_size=ROLES),
    st.lists(st.tuples(st.integers(0, ROLES - 1), st.lists(subjects(), min_size=1, max_size=3)), max_size=5),
    st.lists(st.tuples(callers, st.sampled_from(VERBS), st.lists(models, max_size=2)), min_size=1, max_size=4),
)
def test_everything_that_matters_is_found(
    rules: list[list[Rule]],
    bound: list[tuple[int, list[Subject]]],
    asked: list[tuple[Caller, Verb, list[ModelRef]]],
) -> None:
    roles = [(f"role-{place}", each) for place, each in enumerate(rules)]
    bindings = [Binding(place, f"b{place}", "allow", role, tuple(each)) for place, (role, each) in enumerate(bound)]
    index = Index(roles, bindings)
    for caller, verb, named in asked:
        about = index.about_call(caller.workload, index.names_of(caller.token), Call(verb, tuple(named)))
        assert [model for model, _ in about.parts] == list(named or (None,))
        found = [(binding.name, subject) for binding, subject in about.subjects]
        assert len({(name, id(subject)) for name, subject in found}) == len(found)
        for model, rule_matches in about.parts:
            for binding in bindings:
                matches = [
                    rule.match(verb, model) if model is not None else rule.match_server(verb)
                    for rule in rules[binding.role]
                    if model is None or any(compile_glob(pattern)(model.name) for pattern in rule.models)
                ]
                best = max(matches, default=RuleMatch.NO)
                for subject in binding.subjects:
                    if best is not RuleMatch.NO and subject.match_caller(caller) is not SubjectMatch.NO:
                        assert (binding.name, subject) in found
                        assert rule_matches[binding.role] is best
        assert all(subject.matches_workload(caller.workload) for _, subject in found)


def test_what_a_decision_looks_at_is_what_both_sides_have() -> None:
    """One of 1,000 groups, of two models."""

    def of_group(text: str) -> Subject:
        return Subject(None, None, None, None, "corp", (("groups", text),), None)

    def about(model: str) -> Rule:
        return Rule(0, (model,), frozenset({Verb.PREDICT}), frozenset(), frozenset(), frozenset())

    roles = [(f"r{place}", [about(f"m{place % 2}*")]) for place in range(1_000)]
    bindings = [Binding(place, f"b{place}", "allow", place, (of_group(f"g{place}"),)) for place in range(1_000)]
    index = Index(roles, bindings)
    call = Call(Verb.PREDICT, (ModelRef("m1-x"),))

    def found(groups: object) -> list[str]:
        names = index.names_of(Token("corp", "alice", {"groups": groups}, 1e12))
        about = index.about_call(None, names, call)
        assert [len(rule_matches) for _, rule_matches in about.parts] == [len(about.subjects)]
        return sorted(binding.name for binding, _ in about.subjects)

    assert found(["g7", "g8", "g9", "else"]) == ["b7", "b9"]
    assert found("g7") == ["b7"]
    assert found([]) == []
    assert len(found(["g7", 7])) == 500  # cannot be compared
    assert len(index.about_call(None, index.names_of(None), call).subjects) == 500
