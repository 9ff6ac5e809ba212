"""Who asks: join tokens, service-account tokens and certificates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.control.attestation import PREFIX, REASONS, Attestation, JoinToken, Proof, make_token, redeem_token
from meshproxy.control.authority import RequestRefused
from meshproxy.control.service_accounts import PodIdentity
from meshproxy.control_api import IssueRequest
from meshproxy.identity.caller import Workload
from tests.control.pod_tokens import POD

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

    def waiting_tokens(self, now: float) -> list[JoinToken]:
        return [token for token in self.tokens.values() if token.expires > now]


def workload(not_after: float = 2_000.0) -> Workload:
    return Workload(ID, "m.example", "models", "resnet", not_after)


class KnownPod:
    """A cluster that knows one token."""

    async def identify(self, token: str) -> PodIdentity:
        if token != "of-resnet-0":
            raise RequestRefused("token-unauthenticated", "unknown")
        return POD


async def attest(store: MemoryTokens, peer: Workload | None, token: str, now: float = NOW) -> str:
    """Who shows a join token, or a certificate."""
    return (await Attestation(store, "m.example").attest(IssueRequest(b"", token), peer, now)).spiffe_id


async def refusal(store: MemoryTokens, peer: Workload | None, token: str, now: float = NOW) -> tuple[str, str]:
    with pytest.raises(RequestRefused) as caught:
        await attest(store, peer, token, now)
    assert caught.value.reason in REASONS
    return caught.value.reason, caught.value.message


async def test_a_token_works_once() -> None:
    store = MemoryTokens()
    token = make_token(store, ID, NOW, 60.0)
    assert await attest(store, None, token, NOW + 59.0) == ID
    assert await refusal(store, None, token) == (
        "join-token",
        "the join token is not known, or was used before: make another one",
    )


async def test_a_token_expires_and_cannot_be_tried_again() -> None:
    store = MemoryTokens()
    token = make_token(store, ID, NOW, 60.0)
    assert (await refusal(store, None, token, NOW + 60.0))[1] == "the join token has expired: make another one"
    assert "not known" in (await refusal(store, None, token, NOW))[1]


def test_the_token_itself_is_not_kept() -> None:
    store = MemoryTokens()
    token = make_token(store, ID, NOW, 60.0)
    assert token.startswith(PREFIX)
    assert token not in repr(store.tokens)
    assert make_token(store, ID, NOW, 60.0) != token


async def test_a_certificate_is_renewed_for_the_same_identity() -> None:
    assert await attest(MemoryTokens(), workload(), "", NOW) == ID
    assert (await refusal(MemoryTokens(), workload(not_after=NOW), ""))[0] == "expired"
    assert (await refusal(MemoryTokens(), None, ""))[0] == "unattested"


async def test_a_token_comes_before_the_certificate() -> None:
    """A workload that is given another identity shows the token of the new one, over the connection of the old one."""
    store = MemoryTokens()
    other = "spiffe://m.example/ns/models/sa/other"
    assert await attest(store, workload(), make_token(store, other, NOW, 60.0), NOW) == other


async def test_a_pod_shows_the_token_of_its_service_account() -> None:
    attestation = Attestation(MemoryTokens(), "m.example", KnownPod())
    for peer in (None, workload(not_after=NOW)):  # also once the certificate has expired
        attested = await attestation.attest(IssueRequest(b"", service_account_token="of-resnet-0"), peer, NOW)
        assert (attested.spiffe_id, attested.by, attested.pod) == (ID, Proof.SERVICE_ACCOUNT_TOKEN, POD)
        assert attested.paced_as == f"{ID} pod {POD.pod_uid}"
    with pytest.raises(RequestRefused, match="unknown"):
        await attestation.attest(IssueRequest(b"", service_account_token="other"), workload(), NOW)


async def test_service_account_tokens_that_are_not_expected() -> None:
    request = IssueRequest(b"", service_account_token="of-resnet-0")
    with pytest.raises(RequestRefused, match="start it with --token-review") as caught:
        await Attestation(MemoryTokens(), "m.example").attest(request, None, NOW)
    assert caught.value.reason == "unattested"
    both = IssueRequest(b"", "mpj1-x", "of-resnet-0")
    with pytest.raises(RequestRefused, match="two tokens"):
        await Attestation(MemoryTokens(), "m.example", KnownPod()).attest(both, None, NOW)


@given(st.text(max_size=200))
def test_other_texts_are_no_tokens(text: str) -> None:
    with pytest.raises(RequestRefused):
        redeem_token(MemoryTokens(), text, NOW)
