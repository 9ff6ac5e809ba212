"""Which authorities may identify the workloads of which trust domain.

A TLS context has one set of authorities, and verifies a chain that ends in any of them. With several trust domains that
says nothing about the SPIFFE id: an authority of one domain can sign a certificate that names another, so their bundles
must be kept apart (SPIFFE Federation section 6). The chain that TLS has verified must therefore also hold an authority
of the trust domain that the leaf names (docs/decisions/0015-chains-of-several-trust-domains.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from meshproxy.identity.caller import Workload
from meshproxy.identity.peer import PeerRefused, PeerRole, other_trust_domain, read_key_identifier, read_svid

Bundle = tuple[bytes, ...]
"""The authorities of one trust domain: certificates, DER."""


class Trust(msgspec.Struct, frozen=True):
    """The trust domains whose workloads are accepted, each with its own authorities. Immutable: it belongs to the TLS
    contexts whose handshakes verify with these authorities."""

    bundles: Mapping[str, Bundle]
    """By trust domain."""

    def identify(self, leaf: bytes, chain: Callable[[], Sequence[bytes]], now: float, role: PeerRole) -> Workload:
        """The workload of a peer whose chain TLS has verified with the authorities of all bundles together.

        Args:
            leaf: the peer's certificate, DER.
            chain: gives the verified chain, DER: the leaf, intermediates, and the authority that TLS trusted.
            now: seconds since the epoch.
            role: what the peer is to us.

        Raises:
            PeerRefused: as of `read_peer`; `wrong-authority` if no authority of the trust domain is in the chain.
        """
        workload = read_svid(leaf, now, role)
        bundle = self.bundles.get(workload.trust_domain)
        if bundle is None:
            raise other_trust_domain(workload.trust_domain, self.bundles)
        # With one bundle, TLS had no other authority to trust.
        if len(self.bundles) > 1 and not contains_authority(chain(), bundle):
            raise PeerRefused(
                "wrong-authority",
                f"the certificate names trust domain {workload.trust_domain}, and no authority of that domain's bundle "
                "has signed it: check whose authority issued it, and whether the bundle is complete",
            )
        return workload


def contains_authority(chain: Sequence[bytes], bundle: Bundle) -> bool:
    """Whether a verified chain, whose first certificate is the leaf, goes through an authority of the bundle. Each part
    of a verified chain is verified: others may follow that authority."""
    return not frozenset(chain[1:]).isdisjoint(bundle)


def check_distinct(bundle: Bundle, others: Iterable[Bundle]) -> None:
    """Check that TLS can tell the authorities of a trust domain from those of others.

    OpenSSL looks for an authority by its name and key identifier, and takes the first that fits without trying a second
    one. A domain could thus keep the certificates of another from being verified, by an authority that looks the same.

    Raises:
        ValueError: an authority has no key identifier, or shares it with a different certificate of another domain.
    """
    known: dict[bytes | None, set[bytes]] = {}
    for der in {der for other in others for der in other}:
        known.setdefault(_identifier(der), set()).add(der)
    for der in bundle:
        identifier = _identifier(der)
        if identifier is None:
            raise ValueError("an authority has no subject key identifier, which tells it from those of other domains")
        if der not in known.get(identifier, {der}):
            raise ValueError(
                "an authority has the subject key identifier of another trust domain's: if both are one authority, the "
                "same certificate must be in both bundles"
            )


def _identifier(der: bytes) -> bytes | None:
    try:
        return read_key_identifier(der)
    except PeerRefused:
        return None
