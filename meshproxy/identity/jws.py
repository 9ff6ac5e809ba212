"""Signatures of tokens (JWS): verification with public keys, one row for each algorithm.

Sources: RFC 7518 section 3.1 (RS, PS, ES), RFC 8037 section 3.1 (EdDSA). `none` and the symmetric algorithms are not in
the table: a key that verifies those could also sign. `cryptography` does the arithmetic; the form of a signature is
checked here: its exact length, and `r || s` of fixed width for ECDSA (RFC 7518 section 3.4), where `cryptography` wants
DER. Why not a JWT library: docs/decisions/0005-tokens-verified-with-cryptography.md.

`cryptography` is imported by the first of `verifier` and `make_public_key`: a sidecar without a token issuer does
not pay for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache
from typing import Any

import msgspec

Verify = Callable[[Any, bytes, bytes], bool]
"""(public key, message, signature) -> whether the signature is of this key over this message."""


class Form(Enum):
    """How a signature is padded and encoded."""

    PKCS1 = "RSASSA-PKCS1-v1_5"
    PSS = "RSASSA-PSS, MGF1 with the same digest, salt as long as the digest"
    ECDSA = "r || s, each as long as a coordinate"
    EDDSA = "64 octets (RFC 8032 section 5.1.6)"


class Algorithm(msgspec.Struct, frozen=True):
    """One row: what an `alg` means.

    Attributes:
        kty: type of its keys.
        crv: their curve; None for RSA.
        form: of its signatures.
        digest: of the message, as `cryptography` names it; None where the form has its own.
        size: octets of one coordinate of the curve, or of an Ed25519 key; 0 for RSA.
    """

    kty: str
    crv: str | None
    form: Form
    digest: str | None
    size: int = 0


ALGORITHMS: Mapping[str, Algorithm] = {
    "RS256": Algorithm("RSA", None, Form.PKCS1, "SHA256"),
    "RS384": Algorithm("RSA", None, Form.PKCS1, "SHA384"),
    "RS512": Algorithm("RSA", None, Form.PKCS1, "SHA512"),
    "PS256": Algorithm("RSA", None, Form.PSS, "SHA256"),
    "PS384": Algorithm("RSA", None, Form.PSS, "SHA384"),
    "PS512": Algorithm("RSA", None, Form.PSS, "SHA512"),
    "ES256": Algorithm("EC", "P-256", Form.ECDSA, "SHA256", 32),
    "ES384": Algorithm("EC", "P-384", Form.ECDSA, "SHA384", 48),
    "ES512": Algorithm("EC", "P-521", Form.ECDSA, "SHA512", 66),
    "EdDSA": Algorithm("OKP", "Ed25519", Form.EDDSA, None, 32),
}

_SYNONYMS = {"Ed25519": "EdDSA"}
"""RFC 9864 section 2.2 deprecates `EdDSA` for the name of the curve. With an Ed25519 key both are the same."""


def canonical_name(algorithm: str) -> str:
    """The name under which `ALGORITHMS` has an `alg`; the name itself if that is another or none of them."""
    return _SYNONYMS.get(algorithm, algorithm)


@cache
def verifier(name: str) -> Verify:
    """The verification of one of `ALGORITHMS`. The first call imports `cryptography`: 8 MB, 20 ms of CPU, and the first
    with curves more of it: 12 ms."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    def holds(verify: Callable[..., None], *arguments: object) -> bool:
        try:
            verify(*arguments)
        except InvalidSignature:
            return False
        return True

    def rsa_with(pad: padding.AsymmetricPadding, digest: hashes.HashAlgorithm) -> Verify:
        def verify(key: Any, message: bytes, signature: bytes) -> bool:
            return len(signature) == (key.key_size + 7) // 8 and holds(key.verify, signature, message, pad, digest)

        return verify

    def ecdsa_with(size: int, digest: hashes.HashAlgorithm) -> Verify:
        scheme = ec.ECDSA(digest)

        def verify(key: Any, message: bytes, signature: bytes) -> bool:
            if len(signature) != 2 * size:
                return False
            r, s = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
            return holds(key.verify, encode_dss_signature(r, s), message, scheme)

        return verify

    def eddsa(key: Any, message: bytes, signature: bytes) -> bool:
        return len(signature) == 64 and holds(key.verify, signature, message)

    algorithm = ALGORITHMS[name]
    if algorithm.digest is None:
        return eddsa
    digest: hashes.HashAlgorithm = getattr(hashes, algorithm.digest)()
    if algorithm.form is Form.ECDSA:
        return ecdsa_with(algorithm.size, digest)
    if algorithm.form is Form.PSS:
        return rsa_with(padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
    return rsa_with(padding.PKCS1v15(), digest)


def make_public_key(curve: str | None, numbers: tuple[int, ...]) -> object:
    """A public key of `cryptography`.

    Args:
        curve: `crv` of the key (RFC 7518 section 6.2.1.1, RFC 8037 section 2); None for RSA.
        numbers: RSA: modulus and exponent; EC: the coordinates x and y; Ed25519: the octets of x as one big-endian
            number.

    Raises:
        ValueError: the numbers are not a key, the point is not on its curve, or this OpenSSL lacks the curve.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    curves: dict[str | None, type[ec.EllipticCurve]] = {
        "P-256": ec.SECP256R1,
        "P-384": ec.SECP384R1,
        "P-521": ec.SECP521R1,
    }
    try:
        if curve is None:
            modulus, exponent = numbers
            return rsa.RSAPublicNumbers(exponent, modulus).public_key()
        if curve == "Ed25519":
            return ed25519.Ed25519PublicKey.from_public_bytes(numbers[0].to_bytes(32, "big"))
        x, y = numbers
        return ec.EllipticCurvePublicNumbers(x, y, curves[curve]()).public_key()
    except UnsupportedAlgorithm:
        raise ValueError("its type or curve is not supported by this build of OpenSSL") from None
    except ValueError:
        raise ValueError("not a valid key, or a point that is not on its curve") from None
