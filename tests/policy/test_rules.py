"""The two questions: does a rule match a model, does a subject match a caller."""

from __future__ import annotations

from typing import Any

import pytest

from meshproxy.identity.caller import ANONYMOUS, Caller, Token, Workload
from meshproxy.inference.call import ModelRef, Verb
from meshproxy.policy.rules import Rule, RuleMatch, Subject, SubjectMatch

QUOTER = Workload("spiffe://d.example/ns/pricing/sa/quoter", "d.example", "pricing", "quoter", 1e12)


def rule(**fields: Any) -> Rule:
    given = {"verbs": {Verb.PREDICT}, "versions": (), "labels": (), "signatures": (), **fields}
    sets = {name: frozenset(given[name]) for name in ("verbs", "versions", "labels", "signatures")}
    return Rule(index=0, models=tuple(given.get("models", ("*",))), **sets)


def subject(**fields: Any) -> Subject:
    names_workloads = not fields.keys().isdisjoint(("namespace", "service_account"))
    given: dict[str, Any] = {
        "spiffe_id": None,
        "trust_domain": "d.example" if names_workloads else None,
        "namespace": None,
        "service_account": None,
        "issuer": None,
        "claims": (),
        "iam_role": None,
    }
    return Subject(**{**given, **fields})


def token(issuer: str = "corp", iam_role: str | None = None, **claims: object) -> Token:
    return Token(issuer, "alice", claims, 1e12, iam_role)


@pytest.mark.parametrize(
    ("verb", "fields", "model", "fit"),
    [
        (Verb.METADATA, {"signatures": {"s"}}, ModelRef("a", signature="s"), RuleMatch.UNDETERMINED),
        (Verb.METADATA, {"signatures": {"s"}}, ModelRef("a", signature="t"), RuleMatch.UNDETERMINED),
        (Verb.METADATA, {"labels": {"stable"}}, ModelRef("a", label="stable"), RuleMatch.YES),
        (Verb.METADATA, {"versions": {"3"}}, ModelRef("a", version="3"), RuleMatch.YES),
        (Verb.STATUS, {"signatures": {"s"}}, ModelRef("a", signature="s"), RuleMatch.UNDETERMINED),
        (Verb.STATUS, {"labels": {"stable"}}, ModelRef("a", label="stable"), RuleMatch.UNDETERMINED),
        (Verb.STATUS, {"labels": {"stable"}}, ModelRef("a", label="canary"), RuleMatch.UNDETERMINED),
        (Verb.STATUS, {"versions": {"3"}}, ModelRef("a", version="3"), RuleMatch.YES),
        (Verb.STATUS, {"versions": {"3"}}, ModelRef("a", version="4"), RuleMatch.NO),
        (Verb.STATUS, {"versions": {"3"}}, ModelRef("a"), RuleMatch.UNDETERMINED),
    ],
)
def test_an_answer_that_shows_more_than_was_asked_for(
    verb: Verb, fields: dict[str, Any], model: ModelRef, fit: RuleMatch
) -> None:
    assert rule(verbs={verb}, **fields).match(verb, model) is fit


@pytest.mark.parametrize(
    ("fields", "model", "fit"),
    [
        ({}, ModelRef("a"), RuleMatch.YES),
        ({"verbs": {Verb.CLASSIFY}}, ModelRef("a"), RuleMatch.NO),
        ({"versions": {"3"}}, ModelRef("a", version="3"), RuleMatch.YES),
        ({"versions": {"3"}}, ModelRef("a", version="4"), RuleMatch.NO),
        ({"versions": {"3"}}, ModelRef("a"), RuleMatch.UNDETERMINED),
        ({"versions": {"3"}}, ModelRef("a", label="stable"), RuleMatch.UNDETERMINED),
        ({"versions": {"0"}}, ModelRef("a", version="0"), RuleMatch.YES),
        ({"labels": {"stable"}}, ModelRef("a", label="stable"), RuleMatch.YES),
        ({"labels": {"stable"}}, ModelRef("a", label="canary"), RuleMatch.NO),
        ({"labels": {"stable"}}, ModelRef("a", version="3"), RuleMatch.UNDETERMINED),
        ({"signatures": {"s"}}, ModelRef("a", signature="s"), RuleMatch.YES),
        ({"signatures": {"s"}}, ModelRef("a", signature="t"), RuleMatch.NO),
        ({"signatures": {"s"}}, ModelRef("a"), RuleMatch.UNDETERMINED),
        # A named value that does not match decides, whatever else is unknown.
        ({"versions": {"3"}, "signatures": {"s"}}, ModelRef("a", version="4"), RuleMatch.NO),
        ({"versions": {"3"}, "signatures": {"s"}}, ModelRef("a", signature="t"), RuleMatch.NO),
        ({"versions": {"3"}, "signatures": {"s"}}, ModelRef("a", version="3"), RuleMatch.UNDETERMINED),
    ],
)
def test_a_rule_and_a_model(fields: dict[str, Any], model: ModelRef, fit: RuleMatch) -> None:
    assert rule(**fields).match(Verb.PREDICT, model) is fit


@pytest.mark.parametrize(
    ("fields", "fit"),
    [
        ({"models": ("*",)}, RuleMatch.YES),
        ({"models": ("a", "*")}, RuleMatch.YES),
        ({"models": ("a*",)}, RuleMatch.UNDETERMINED),
        ({"models": ("?*",)}, RuleMatch.UNDETERMINED),
        ({"models": ("*",), "versions": {"1"}}, RuleMatch.UNDETERMINED),
        ({"models": ("*",), "labels": {"x"}}, RuleMatch.UNDETERMINED),
        ({"models": ("*",), "signatures": {"x"}}, RuleMatch.UNDETERMINED),
        ({"models": ("*",), "verbs": {Verb.METRICS}}, RuleMatch.NO),
    ],
)
def test_a_rule_and_the_server_as_a_whole(fields: dict[str, Any], fit: RuleMatch) -> None:
    assert rule(**{"verbs": {Verb.RELOAD}, **fields}).match_server(Verb.RELOAD) is fit


@pytest.mark.parametrize(
    ("fields", "caller", "standing"),
    [
        ({"spiffe_id": QUOTER.spiffe_id}, Caller(QUOTER), SubjectMatch.YES),
        ({"spiffe_id": QUOTER.spiffe_id + "2"}, Caller(QUOTER), SubjectMatch.NO),
        ({"spiffe_id": QUOTER.spiffe_id}, ANONYMOUS, SubjectMatch.NO),
        ({"namespace": "pricing"}, Caller(QUOTER), SubjectMatch.YES),
        ({"namespace": "pri*"}, Caller(QUOTER), SubjectMatch.YES),
        ({"namespace": "pri"}, Caller(QUOTER), SubjectMatch.NO),
        ({"service_account": "quoter"}, Caller(QUOTER), SubjectMatch.YES),
        ({"service_account": "quote?"}, Caller(QUOTER), SubjectMatch.YES),
        ({"service_account": "quote"}, Caller(QUOTER), SubjectMatch.NO),
        ({"namespace": "pri*", "service_account": "other*"}, Caller(QUOTER), SubjectMatch.NO),
        ({"namespace": "*"}, Caller(Workload("spiffe://d.example/x", "d.example", None, None, 1e12)), SubjectMatch.NO),
        ({"trust_domain": "d.example"}, Caller(QUOTER), SubjectMatch.YES),
        ({"trust_domain": "d"}, Caller(QUOTER), SubjectMatch.NO),
        ({"trust_domain": "d.example"}, ANONYMOUS, SubjectMatch.NO),
        ({"namespace": "pricing", "trust_domain": "other"}, Caller(QUOTER), SubjectMatch.NO),
        ({"namespace": "pricin"}, Caller(QUOTER), SubjectMatch.NO),
        ({"namespace": "pricing"}, ANONYMOUS, SubjectMatch.NO),
        ({"issuer": "corp"}, Caller(None, token()), SubjectMatch.YES),
        ({"issuer": "corp"}, Caller(None, token("other")), SubjectMatch.NO),
        ({"issuer": "corp"}, Caller(QUOTER), SubjectMatch.NEEDS_TOKEN),
        ({"iam_role": "r"}, Caller(None, token(iam_role="r")), SubjectMatch.YES),
        ({"iam_role": "r"}, Caller(None, token(iam_role=None)), SubjectMatch.NO),
        ({"iam_role": "r"}, ANONYMOUS, SubjectMatch.NEEDS_TOKEN),
        ({"iam_role": ":role/a/r"}, Caller(None, token(iam_role=":role/r")), SubjectMatch.UNDETERMINED),
        ({"iam_role": ":role/r"}, Caller(None, token(iam_role=":role/a/r")), SubjectMatch.UNDETERMINED),
        ({"iam_role": ":role/a/r", "issuer": "x"}, Caller(None, token(iam_role=":role/r")), SubjectMatch.NO),
        ({"issuer": "corp", "iam_role": "r"}, Caller(None, token("sts", "r")), SubjectMatch.NO),
        ({"issuer": "corp", "claims": (("g", "x"),)}, Caller(None, token(g="x")), SubjectMatch.YES),
        ({"issuer": "corp", "claims": (("g", "x"), ("h", "y"))}, Caller(None, token(g="x")), SubjectMatch.NO),
        # A claim that cannot be compared is neither a match nor none, unless another claim settles it.
        ({"issuer": "corp", "claims": (("g", "x"),)}, Caller(None, token(g={"x": 1})), SubjectMatch.UNDETERMINED),
        (
            {"issuer": "corp", "claims": (("g", "x"), ("h", "y"))},
            Caller(None, token(g={}, h="y")),
            SubjectMatch.UNDETERMINED,
        ),
        ({"issuer": "corp", "claims": (("g", "x"), ("h", "y"))}, Caller(None, token(g={}, h="z")), SubjectMatch.NO),
        ({"issuer": "corp", "claims": (("g", "x"),)}, Caller(None, token("other", g={})), SubjectMatch.NO),
        ({"namespace": "pricing", "issuer": "corp"}, Caller(None, token()), SubjectMatch.NO),
        ({"namespace": "other", "issuer": "corp"}, Caller(QUOTER), SubjectMatch.NO),
    ],
)
def test_a_subject_and_a_caller(fields: dict[str, Any], caller: Caller, standing: SubjectMatch) -> None:
    assert subject(**fields).match(caller) is standing
