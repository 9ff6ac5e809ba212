"""What is worked out is counted, what is remembered is not, and a reload goes on with the same counts."""

from __future__ import annotations

from contextlib import suppress

from meshproxy.identity.cache_misses import CacheMisses
from meshproxy.identity.caller import ANONYMOUS
from meshproxy.identity.tokens import Issuer, TokenVerifier
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.policy.decide import Policy
from meshproxy.refusal import Refusal
from tests.identity.test_tokens import CORP, NOW, keys_of


def test_tokens() -> None:
    misses = CacheMisses()
    issuer = Issuer("corp", CORP.issuer, frozenset({"models"}), keys_of(CORP))
    sent = b"Bearer " + CORP.token("alice").encode()
    for reloads in (1, 2):
        verifier = TokenVerifier([issuer], misses)
        for _ in range(3):
            verifier.verify(sent, NOW)
        assert misses == CacheMisses(tokens=reloads)
    for refused in (3, 4):  # is not remembered
        with suppress(Refusal):
            verifier.verify(b"Bearer x", NOW)
        assert misses.tokens == refused


def test_decisions() -> None:
    misses = CacheMisses()
    for reloads in (1, 2):
        policy = Policy([], [], misses)
        for _ in range(3):
            with suppress(Refusal):
                policy.decide(ANONYMOUS, Call(Verb.PREDICT, (ModelRef("m"),)))
        assert misses == CacheMisses(decisions=reloads)
