"""What an AWS Application Load Balancer says of the person that it has signed in: the header `x-amzn-oidc-data`.

Nearly a JWT (Elastic Load Balancing, "Authenticate users using an Application Load Balancer", user claims encoding).
Its parts are base64url with padding, and signed with it. Who issued it, for which client and until when stands in the
header, beside `signer`, the ARN of the balancer: every account's balancers sign with keys of the same place, so the
signature alone says nothing. The keys are those of ES256, each behind a URL of its own (`keys_url`, and the `kid`), as
PEM.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from meshproxy.identity.jose import decode_base64url, encode_base64url

ALGORITHM = "ES256"
KEY_BYTES = 4_096
"""Of a key in PEM; such a key has 178."""
MEMBER_CHARACTERS = 2_048
"""Of a text in the header."""

_KEY_ID = re.compile(r"[A-Za-z0-9-]{1,64}")


class SignedIn(msgspec.Struct, frozen=True):
    """What the header of a token says, before anything of it is verified."""

    balancer: str
    """The ARN."""
    issuer: str
    """The identity provider."""
    client: str
    """The id that the balancer has at the provider."""


def read_header(header: Mapping[str, object], kid: str | None, claims: Mapping[str, object]) -> SignedIn:
    """
    Args:
        header: of the token.
        kid: its key.
        claims: its payload: what the provider says of the person.

    Raises:
        ValueError: it is not of a load balancer, or names two issuers. Says nothing of the token.
    """
    if kid is None or not _KEY_ID.fullmatch(kid):
        raise ValueError("names no key (kid) of a load balancer")
    texts = []
    for name in ("signer", "iss", "client"):
        value = header.get(name)
        if not isinstance(value, str) or not 0 < len(value) <= MEMBER_CHARACTERS:
            raise ValueError(f"has no {name} in its header, as those of a load balancer have")
        texts.append(value)
    balancer, issuer, client = texts
    if claims.get("iss", issuer) != issuer:
        raise ValueError("names two issuers (iss)")
    return SignedIn(balancer, issuer, client)


def keys_url(arn: str) -> str:
    """Where the public keys of a balancer's region are, one below it for each `kid`.

    Args:
        arn: as `values.read_load_balancer` takes it.
    """
    _, partition, _, region, *_ = arn.split(":")
    if partition == "aws-us-gov":
        return f"https://s3-{region}.amazonaws.com/aws-elb-public-keys-prod-{region}"
    return f"https://public-keys.auth.elb.{region}.amazonaws.com{'.cn' if partition == 'aws-cn' else ''}"


def decode_padded(text: bytes) -> bytes:
    """base64url with its padding, or all without (it may go one day). Raises ValueError."""
    bare = text.rstrip(b"=")
    if len(bare) != len(text) and len(text) != len(bare) + -len(bare) % 4:
        raise ValueError("not base64url")
    return decode_base64url(bare)


def read_key(pem: bytes, kid: str) -> dict[str, str]:
    """A key as a JWK (RFC 7518 section 6.2.1).

    Raises:
        ValueError: it is not a public key on P-256.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("not a public key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("not a key on P-256")
    numbers = key.public_numbers()
    x, y = (encode_base64url(number.to_bytes(32, "big")).decode() for number in (numbers.x, numbers.y))
    return {"kty": "EC", "crv": "P-256", "alg": ALGORITHM, "use": "sig", "kid": kid, "x": x, "y": y}
