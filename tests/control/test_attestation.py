"""Who asks: join tokens and certificates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.control.attestation import PREFIX, REASONS, JoinToken, attest, make_token, redeem_token
from meshproxy.control.authority import RequestRefused
from meshproxy.identity.caller import Workload

NOW = 1_000.0
ID = "spiffe://m.example/ns/models/sa/resnet"


class MemoryTokens:
    """Join tokens in memory (`attestation.TokenStore`)."""

    def __init__(self) -> None:
        self.tokens: dict[str, JoinToken] = {}

    def add_token(self, digest: str, token: JoinToken, now: float) -> None:
        self.tokens[digest] = token

    def take_token(self, digest: str) -> JoinToken | None:
        return self.tokens.pop(digest, None)


def workload(not_after: float = 2_000.0) -> Workload:
    return Workload(ID, "m.example", "models", "resnet", not_after)


def refusal(store: MemoryTokens, peer: Workload | None, token: str, now: float = NOW) -> tuple[str, str]:
    with pytest.raises(RequestRefused) as caught:
        attest(store, peer, token, now)
    assert caught.value.reason in REASONS
    return caught.value.reason, caught.value.message


def test_a_token_works_once() -> None:
    store = MemoryTokens()
    token = make_token(store, ID, NOW, 60.0)
    assert attest(store, None, token, NOW + 59.0) == ID
    assert refusal(store, None, token) == (
        "join-token",
        "the join token is not known, or was used before: make another one",
    )


def test_a_token_expires_and_cannot_be_tried_again() -> None:
    store = MemoryTokens()
    token = make_token(store, ID, NOW, 60.0)
    assert refusal(store, None, token, NOW + 60.0)[1] == "the join token has expired: make another one"
    assert "not known" in refusal(store, None, token, NOW)[1]


def test_the_token_itself_is_not_kept() -> None:
    store = MemoryTokens()
    token = make_token(store, ID, NOW, 60.0)
    assert token.startswith(PREFIX)
    assert token not in repr(store.tokens)
    assert make_token(store, ID, NOW, 60.0) != token


def test_a_certificate_is_renewed_for_the_same_identity() -> None:
    assert attest(MemoryTokens(), workload(), "", NOW) == ID
    assert refusal(MemoryTokens(), workload(not_after=NOW), "")[0] == "expired"
    assert refusal(MemoryTokens(), None, "")[0] == "unattested"


def test_a_token_comes_before_the_certificate() -> None:
    """A workload that is given another identity shows the token of the new one, over the connection of the old one."""
    store = MemoryTokens()
    other = "spiffe://m.example/ns/models/sa/other"
    assert attest(store, workload(), make_token(store, other, NOW, 60.0), NOW) == other


@given(st.text(max_size=200))
def test_other_texts_are_no_tokens(text: str) -> None:
    with pytest.raises(RequestRefused):
        redeem_token(MemoryTokens(), text, NOW)
