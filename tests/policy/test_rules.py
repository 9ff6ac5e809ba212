"""The two questions: does a rule fit a model, does a subject fit a caller."""

from __future__ import annotations

from typing import Any

import pytest

from meshproxy.identity.caller import NOBODY, Caller, Token, Workload
from meshproxy.inference.call import ModelRef, Verb
from meshproxy.policy.rules import Fit, Rule, Subject, SubjectMatch

QUOTER = Workload("spiffe://d.example/ns/pricing/sa/quoter", "d.example", "pricing", "quoter", 1e12)


def rule(**fields: Any) -> Rule:
    given = {"verbs": {Verb.PREDICT}, "versions": (), "labels": (), "signatures": (), **fields}
    sets = {name: frozenset(given[name]) for name in ("verbs", "versions", "labels", "signatures")}
    return Rule(index=0, models=tuple(given.get("models", ("*",))), **sets)


def subject(**fields: Any) -> Subject:
    nothing: dict[str, Any] = {"spiffe_id": None, "namespace": None, "issuer": None, "claims": (), "iam_role": None}
    return Subject(**{"trust_domain": "d.example", **nothing, **fields})


def token(issuer: str = "corp", iam_role: str | None = None, **claims: object) -> Token:
    return Token(issuer, "alice", claims, 1e12, iam_role)


@pytest.mark.parametrize(
    ("fields", "model", "fit"),
    [
        ({}, ModelRef("a"), Fit.YES),
        ({"verbs": {Verb.CLASSIFY}}, ModelRef("a"), Fit.NO),
        ({"versions": {"3"}}, ModelRef("a", version="3"), Fit.YES),
        ({"versions": {"3"}}, ModelRef("a", version="4"), Fit.NO),
        ({"versions": {"3"}}, ModelRef("a"), Fit.UNDETERMINED),
        ({"versions": {"3"}}, ModelRef("a", label="stable"), Fit.UNDETERMINED),
        ({"versions": {"0"}}, ModelRef("a", version="0"), Fit.YES),
        ({"labels": {"stable"}}, ModelRef("a", label="stable"), Fit.YES),
        ({"labels": {"stable"}}, ModelRef("a", label="canary"), Fit.NO),
        ({"labels": {"stable"}}, ModelRef("a", version="3"), Fit.UNDETERMINED),
        ({"signatures": {"s"}}, ModelRef("a", signature="s"), Fit.YES),
        ({"signatures": {"s"}}, ModelRef("a", signature="t"), Fit.NO),
        ({"signatures": {"s"}}, ModelRef("a"), Fit.UNDETERMINED),
        # What is told and does not fit settles it, whatever else is not told.
        ({"versions": {"3"}, "signatures": {"s"}}, ModelRef("a", version="4"), Fit.NO),
        ({"versions": {"3"}, "signatures": {"s"}}, ModelRef("a", signature="t"), Fit.NO),
        ({"versions": {"3"}, "signatures": {"s"}}, ModelRef("a", version="3"), Fit.UNDETERMINED),
    ],
)
def test_a_rule_and_a_model(fields: dict[str, Any], model: ModelRef, fit: Fit) -> None:
    assert rule(**fields).fit(Verb.PREDICT, model) is fit


@pytest.mark.parametrize(
    ("fields", "fit"),
    [
        ({"models": ("*",)}, Fit.YES),
        ({"models": ("a", "*")}, Fit.YES),
        ({"models": ("a*",)}, Fit.UNDETERMINED),
        ({"models": ("?*",)}, Fit.UNDETERMINED),
        ({"models": ("*",), "versions": {"1"}}, Fit.UNDETERMINED),
        ({"models": ("*",), "labels": {"x"}}, Fit.UNDETERMINED),
        ({"models": ("*",), "signatures": {"x"}}, Fit.UNDETERMINED),
        ({"models": ("*",), "verbs": {Verb.METRICS}}, Fit.NO),
    ],
)
def test_a_rule_and_the_server_as_a_whole(fields: dict[str, Any], fit: Fit) -> None:
    assert rule(**{"verbs": {Verb.RELOAD}, **fields}).fit_server(Verb.RELOAD) is fit


@pytest.mark.parametrize(
    ("fields", "caller", "standing"),
    [
        ({"spiffe_id": QUOTER.spiffe_id}, Caller(QUOTER), SubjectMatch.YES),
        ({"spiffe_id": QUOTER.spiffe_id + "2"}, Caller(QUOTER), SubjectMatch.NO),
        ({"spiffe_id": QUOTER.spiffe_id}, NOBODY, SubjectMatch.NO),
        ({"namespace": "pricing"}, Caller(QUOTER), SubjectMatch.YES),
        ({"namespace": "pricing", "trust_domain": "other"}, Caller(QUOTER), SubjectMatch.NO),
        ({"namespace": "pricin"}, Caller(QUOTER), SubjectMatch.NO),
        ({"namespace": "pricing"}, NOBODY, SubjectMatch.NO),
        ({"issuer": "corp"}, Caller(None, token()), SubjectMatch.YES),
        ({"issuer": "corp"}, Caller(None, token("other")), SubjectMatch.NO),
        ({"issuer": "corp"}, Caller(QUOTER), SubjectMatch.NEEDS_TOKEN),
        ({"iam_role": "r"}, Caller(None, token(iam_role="r")), SubjectMatch.YES),
        ({"iam_role": "r"}, Caller(None, token(iam_role=None)), SubjectMatch.NO),
        ({"iam_role": "r"}, NOBODY, SubjectMatch.NEEDS_TOKEN),
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
