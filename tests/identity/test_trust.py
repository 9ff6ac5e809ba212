"""Which authority may speak for which trust domain, with chains of literals; `test_mesh_context` has real ones."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization

from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.identity.peer import PeerRefused, PeerRole, read_key_identifier
from meshproxy.identity.trust import Trust, check_distinct
from tests.identity.lookalikes import lookalike

OURS, THEIRS = DevelopmentCA.create("ours.example"), DevelopmentCA.create("theirs.example")
NOW = OURS.certificate.not_valid_before_utc.timestamp() + 6 * 3_600.0
"""While certificates are valid that are issued now, or later in a run of these tests."""


def der(authority: DevelopmentCA) -> bytes:
    return authority.certificate.public_bytes(serialization.Encoding.DER)


BOTH = Trust({"ours.example": (der(OURS),), "theirs.example": (der(THEIRS),)})


def identified(trust: Trust, leaf: bytes, *authorities: bytes) -> str:
    return trust.identify(leaf, lambda: (leaf, *authorities), NOW, PeerRole.CLIENT).spiffe_id


def refused(trust: Trust, leaf: bytes, *authorities: bytes) -> str:
    with pytest.raises(PeerRefused) as caught:
        identified(trust, leaf, *authorities)
    assert caught.value.message.isprintable()
    return caught.value.reason


@pytest.mark.parametrize("authority", [OURS, THEIRS])
def test_an_authority_speaks_for_its_own_trust_domain(authority: DevelopmentCA) -> None:
    name = f"spiffe://{authority.trust_domain}/ns/a/sa/b"
    assert identified(BOTH, authority.issue(name).der, der(authority)) == name


@pytest.mark.parametrize(("authority", "other"), [(OURS, THEIRS), (THEIRS, OURS)])
def test_an_authority_does_not_speak_for_another_trust_domain(authority: DevelopmentCA, other: DevelopmentCA) -> None:
    leaf = authority.issue(f"spiffe://{other.trust_domain}/ns/a/sa/b").der
    assert refused(BOTH, leaf, der(authority)) == "wrong-authority"
    assert refused(BOTH, leaf) == "wrong-authority"  # nothing is known of the chain


def test_the_authority_of_the_trust_domain_may_be_in_the_middle_of_the_chain() -> None:
    leaf = OURS.issue("spiffe://ours.example/ns/a/sa/b").der
    assert identified(BOTH, leaf, b"intermediate", der(OURS), der(THEIRS))


def test_a_leaf_does_not_vouch_for_itself() -> None:
    leaf = THEIRS.issue("spiffe://ours.example/ns/a/sa/b").der
    trust = Trust({"ours.example": (leaf,), "theirs.example": (der(THEIRS),)})
    assert refused(trust, leaf, der(THEIRS)) == "wrong-authority"


def test_a_trust_domain_without_a_bundle_is_refused_by_its_name() -> None:
    leaf = THEIRS.issue("spiffe://third.example/ns/a/sa/b").der
    assert refused(BOTH, leaf, der(THEIRS)) == "trust-domain"
    assert refused(Trust({}), leaf, der(THEIRS)) == "trust-domain"


def test_with_one_trust_domain_the_chain_is_not_looked_at() -> None:
    def chain() -> list[bytes]:
        raise AssertionError

    trust = Trust({"ours.example": (der(OURS),)})
    leaf = OURS.issue("spiffe://ours.example/ns/a/sa/b").der
    assert trust.identify(leaf, chain, NOW, PeerRole.CLIENT).trust_domain == "ours.example"


class TestDistinct:
    def looks_like(self, authority: DevelopmentCA, *, identifier: bytes | None) -> bytes:
        """A self-signed authority of another key."""
        return lookalike(authority, identifier).public_bytes(serialization.Encoding.DER)

    def test_authorities_of_their_own(self) -> None:
        check_distinct((der(THEIRS),), [(der(OURS),)])
        check_distinct((self.looks_like(OURS, identifier=b"another"),), [(der(OURS),)])

    def test_one_authority_of_both(self) -> None:
        check_distinct((der(OURS),), [(der(OURS),)])

    def test_another_certificate_with_the_same_key_identifier(self) -> None:
        copy = self.looks_like(OURS, identifier=read_key_identifier(der(OURS)))
        with pytest.raises(ValueError, match="same certificate must be in both bundles"):
            check_distinct((der(THEIRS), copy), [(der(OURS),)])
        check_distinct((copy, der(OURS)), [])  # its own business

    def test_none_without_a_key_identifier(self) -> None:
        with pytest.raises(ValueError, match="no subject key identifier"):
            check_distinct((self.looks_like(OURS, identifier=None),), [])
        with pytest.raises(ValueError, match="no subject key identifier"):
            check_distinct((b"not DER",), [])
