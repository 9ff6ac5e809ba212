"""Decisions about calls of which logs do not tell everything: the claims of the token and the headers are in no line.

Each claim, and each header, that subjects of the compared policies ask about is a question. `Questions` puts a claim
(or header) of its own in the place of each, so that the ordinary `Policy` decides for any set of answers; `worlds`
lists the sets that matter for one caller and call. What is decided alike in all of them is certain, whatever the token
held. Answers are taken as independent of each other: that may leave open what a careful reader could tell, and
never the other way round.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, TypeAlias

from msgspec.structs import replace

from meshproxy.config.ip_blocks import address_of
from meshproxy.identity.caller import Caller, Token
from meshproxy.identity.claims import ClaimMatch
from meshproxy.identity.iam import is_role
from meshproxy.policy.conditions import claim_in_words
from meshproxy.policy.decide import Policy

if TYPE_CHECKING:
    from meshproxy.codec.events import Headers
    from meshproxy.identity.claims import ClaimPath, Wanted
    from meshproxy.inference.call import Call
    from meshproxy.policy.rules import Subject

MOST_WORLDS = 1_024
"""Sets of answers that are tried for one caller and call: 30 ms. Beyond that the decision is not known."""
UNCLEAR_CLAIM = "unclear"
"""A claim of another type than `True`, which is what a question wants: it cannot be compared."""

Key: TypeAlias = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """Something about a token or a request that a line does not tell."""

    name: str
    """Of the claim or header that stands for it."""
    words: str
    """For people: `claim groups: "finance"`."""
    is_header: bool
    issuer: str | None
    """Whose tokens it is about; None for headers, and for claims beside an IAM role."""


@dataclass(frozen=True, slots=True)
class World:
    """A caller and headers as they may have been: arguments of `Policy.decide`."""

    answers: tuple[ClaimMatch, ...]
    """To the questions, in their order."""
    caller: Caller
    headers: Headers


class Questions:
    """All questions of some policies, and these policies asking them.

    Args:
        policies: to be compared with each other. Equal claims and headers are one question in all of them.

    Attributes:
        policies: the same ones, with questions in place of claims and headers.
    """

    def __init__(self, policies: Sequence[Policy]) -> None:
        self._questions: dict[Key, Question] = {}
        self._actions: dict[str, set[bool]] = {}
        """By question: whether a subject that asks it is of a binding that allows."""
        self._tokens: dict[Key, Token] = {}
        self.policies = [self._asking(policy) for policy in policies]

    def _asking(self, policy: Policy) -> Policy:
        bindings = [
            replace(
                binding,
                subjects=tuple(self._ask(subject, binding.action == "allow") for subject in binding.subjects),
            )
            for binding in policy.bindings
        ]
        return Policy(policy.roles, bindings, models=policy.models)

    def _ask(self, subject: Subject, is_allow: bool) -> Subject:
        claims: tuple[tuple[ClaimPath, Wanted], ...] = tuple(
            (self._claim(subject.issuer, name, wanted, is_allow), True) for name, wanted in subject.claims
        )
        conditions = subject.conditions
        if conditions is not None and conditions.headers:
            asked = {self._header(rule.words, is_allow): "1" for rule in conditions.headers}
            conditions = conditions.with_headers(asked)
        return replace(subject, claims=claims, conditions=conditions)

    def _claim(self, issuer: str | None, path: ClaimPath, wanted: Wanted, is_allow: bool) -> str:
        # 1 and True are equal in Python, and different claims.
        key = ("claim", issuer, path, type(wanted), wanted)
        return self._question(key, f"claim {claim_in_words(path, wanted)}", issuer, is_allow)

    def _header(self, words: str, is_allow: bool) -> str:
        return self._question(("header", words), words, None, is_allow)

    def _question(self, key: Key, words: str, issuer: str | None, is_allow: bool) -> str:
        question = self._questions.get(key)
        if question is None:
            question = Question(f"q{len(self._questions)}", words, key[0] == "header", issuer)
            self._questions[key] = question
        self._actions.setdefault(question.name, set()).add(is_allow)
        return question.name

    def about(self, caller: Caller, call: Call, remote: str) -> list[Question]:
        """The questions on which decisions about this caller and call depend.

        Args:
            caller: its token without claims; None if it sent none.
            remote: as of `Policy.decide`.
        """
        asked: set[str] = set()
        address = address_of(remote)
        for policy in self.policies:
            for _, subject in policy.subjects_about(caller, call):
                if subject.conditions is not None:
                    if subject.conditions.match_address(address) is False:
                        continue
                    asked.update(rule.name for rule in subject.conditions.headers)
                if caller.token is not None and (subject.issuer, subject.iam_role) != (None, None):
                    asked.update(str(name) for name, _ in _claims_about(subject, caller.token))
        return [question for question in self._questions.values() if question.name in asked]

    def worlds(self, caller: Caller, questions: Sequence[Question]) -> Iterator[World] | None:
        """The caller with every set of answers to these questions; None if they are too many."""
        choices = [self._choices(question) for question in questions]
        count = 1
        for each in choices:
            count *= len(each)
        return self._worlds(caller, questions, choices) if count <= MOST_WORLDS else None

    def _worlds(
        self, caller: Caller, questions: Sequence[Question], choices: Sequence[Sequence[ClaimMatch]]
    ) -> Iterator[World]:
        for answers in product(*choices):
            headers: list[tuple[bytes, bytes]] = []
            claims: dict[str, object] = {}
            for question, answer in zip(questions, answers, strict=True):
                if question.is_header:
                    headers += [(question.name.encode(), b"1")] * _TIMES[answer]
                elif answer is not ClaimMatch.NO:
                    claims[question.name] = True if answer is ClaimMatch.YES else UNCLEAR_CLAIM
            yield World(answers, self.with_claims(caller, claims), tuple(headers))

    def with_claims(self, caller: Caller, claims: Mapping[str, object]) -> Caller:
        """The caller with these answers in its token. Equal ones are one token, by which decisions are memoised."""
        token = caller.token
        if token is None:
            return caller
        key = (token.issuer, token.iam_role, *sorted((name, str(value)) for name, value in claims.items()))
        known = self._tokens.get(key)
        if known is None:
            known = self._tokens[key] = replace(token, claims=claims)
        return replace(caller, token=known)

    def _choices(self, question: Question) -> tuple[ClaimMatch, ...]:
        """What a claim or header that cannot be compared does is what its absence does to bindings that allow, and what
        its presence does to those that deny: it is a case of its own only where both ask."""
        if len(self._actions[question.name]) > 1:
            return (ClaimMatch.NO, ClaimMatch.UNCLEAR, ClaimMatch.YES)
        return (ClaimMatch.NO, ClaimMatch.YES)


_TIMES = {ClaimMatch.NO: 0, ClaimMatch.YES: 1, ClaimMatch.UNCLEAR: 2}
"""How often a header is there: what occurs twice cannot be compared."""


def _claims_about(subject: Subject, token: Token) -> Iterable[tuple[ClaimPath, Wanted]]:
    """What a subject asks about a token of which everything else is known."""
    if subject.issuer is not None and token.issuer != subject.issuer:
        return ()
    if subject.iam_role is not None and is_role(subject.iam_role, token.iam_role) is False:
        return ()
    return subject.claims
