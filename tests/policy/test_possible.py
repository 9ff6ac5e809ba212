"""Questions about what a line does not tell. What comes of them is tested in test_compare.py."""

from __future__ import annotations

from meshproxy.config import fields, schema
from meshproxy.config.fields import ClaimPattern
from meshproxy.identity.caller import Caller, Token
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.policy.compile import compile_policy
from meshproxy.policy.decide import Policy
from meshproxy.policy.possible import Questions

PREDICT = Call(Verb.PREDICT, (ModelRef("m"),))
ALICE = Caller(None, Token("corp", "alice", {}, 1e12))


def policy(**actions: fields.BindingSubject) -> Policy:
    """Bindings by action."""
    rule = schema.Rule(models=("m",), verbs=("predict",))
    role = schema.ModelRole(metadata=schema.Metadata(name="r"), spec=schema.RoleSpec(rules=(rule,)))
    bindings = [
        schema.ModelRoleBinding(
            metadata=schema.Metadata(name=action),
            spec=schema.BindingSpec(role="r", subjects=(subject,), action=action),  # type: ignore[arg-type]
        )
        for action, subject in actions.items()
    ]
    return compile_policy([role], bindings, "d.example")


def token(issuer: str = "corp", **claims: str | int | bool | ClaimPattern) -> fields.BindingSubject:
    return fields.BindingSubject(token=fields.TokenSubject(issuer=issuer, claims=claims))


def test_equal_claims_are_one_question_and_others_are_not() -> None:
    questions = Questions([policy(allow=token(g="x", n=1)), policy(allow=token(g="x", n=True))])
    assert [question.words for question in questions.about(ALICE, PREDICT, "")] == [
        'claim g: "x"',
        "claim n: 1",
        "claim n: true",
    ]


def test_only_what_is_about_the_caller_is_asked() -> None:
    inside = fields.BindingSubject(ip_blocks=("10.0.0.0/8",), headers={"x-a": "1"})
    questions = Questions([policy(allow=token("other", g="x"), deny=inside)])
    assert questions.about(ALICE, PREDICT, "192.0.2.1:0") == []
    assert [question.words for question in questions.about(ALICE, PREDICT, "")] == ['header x-a: "1"']
    assert questions.about(ALICE, Call(Verb.PREDICT, (ModelRef("n"),)), "") == []


def test_what_cannot_be_compared_is_a_case_where_both_actions_ask() -> None:
    for asked, worlds in (({"allow": token(g="x")}, 2), ({"allow": token(g="x"), "deny": token(g="x")}, 3)):
        questions = Questions([policy(**asked)])
        found = questions.worlds(ALICE, questions.about(ALICE, PREDICT, ""))
        assert found is not None
        assert len(list(found)) == worlds


def test_equal_answers_are_one_token() -> None:
    """Decisions are memoised by it."""
    questions = Questions([policy(allow=token(g="x"))])
    assert questions.with_claims(ALICE, {"q0": True}).token is questions.with_claims(ALICE, {"q0": True}).token
    assert questions.with_claims(Caller(), {"q0": True}) == Caller()
