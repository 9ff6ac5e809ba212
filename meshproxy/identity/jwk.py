"""Public keys of a token issuer: what of a JWK set is taken, and the verification of a signature with it.

Signatures are verified by the `cryptography` package itself (docs/decisions/0005-tokens-without-pyjwt.md). It is
imported when the first key is read, so that a sidecar without an issuer does not load it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from meshproxy.identity.jose import decode_base64url, load_object

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

KEY_SET_BYTES = 262_144
KEYS = 64
"""Key sets of large issuers hold about ten."""
RSA_BITS = (2_048, 8_192)
"""The least that is safe (RFC 7518 section 3.3), and the most: a verification with 8,192 bits takes 0.3 ms."""
KID_CHARACTERS = 256

RSA_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
# Each curve has one algorithm, one digest and one length of coordinates (RFC 7518 section 3.4).
_CURVES = {
    "P-256": ("ES256", "SECP256R1", "SHA256", 32),
    "P-384": ("ES384", "SECP384R1", "SHA384", 48),
    "P-521": ("ES512", "SECP521R1", "SHA512", 66),
}
ALGORITHMS = RSA_ALGORITHMS | {"ES256", "ES384", "ES512", "EdDSA"}
"""All that can be allowed. `none` and the symmetric ones cannot: what verifies those could also sign."""

_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


class KeySetError(ValueError):
    """A document is no key set that anything could be verified with. The text says why, without quoting it."""


class Key:
    """One public key, with the algorithms that it may verify."""

    __slots__ = ("_verify", "algorithms", "is_retired", "kid", "material")

    def __init__(
        self,
        kid: str | None,
        algorithms: frozenset[str],
        material: tuple[object, ...],
        verify: Callable[[str, bytes, bytes], None],
    ) -> None:
        self.kid = kid
        self.algorithms = algorithms
        self.material = material
        """What makes two keys the same key."""
        self.is_retired = False
        """The issuer has taken it out of its set: nothing that it once verified counts any more."""
        self._verify = verify

    def verify(self, algorithm: str, message: bytes, signature: bytes) -> bool:
        """Whether the signature is of this key over the message, by one of `algorithms`."""
        from cryptography.exceptions import InvalidSignature

        if algorithm not in self.algorithms:
            return False
        try:
            self._verify(algorithm, message, signature)
        except (InvalidSignature, ValueError):
            return False
        return True


class KeySet:
    """The usable keys of one document."""

    __slots__ = ("_by_kid", "keys", "problems")

    def __init__(self, keys: tuple[Key, ...], problems: tuple[str, ...]) -> None:
        self.keys = keys
        self.problems = problems
        """Why the other keys of the document are not used, one line each."""
        self._by_kid = {key.kid: key for key in keys if key.kid is not None}

    def find(self, kid: str | None, algorithm: str) -> Key | None:
        """The key that a token means. One without a `kid` means the only key that fits, if there is only one: keys are
        never tried in turn."""
        if kid is not None:
            return self._by_kid.get(kid)
        fitting = [key for key in self.keys if algorithm in key.algorithms]
        return fitting[0] if len(fitting) == 1 else None


def read_key_set(document: bytes, algorithms: frozenset[str]) -> KeySet:
    """Read a JWK set (RFC 7517 section 5).

    A key that cannot be used is left out and the reason kept: issuers publish keys for encryption beside those for
    signatures. Two different keys of one `kid` are both left out, as nobody can say which one a token means.

    Raises:
        KeySetError: the document is broken, too large, or has no usable key.
    """
    if len(document) > KEY_SET_BYTES:
        raise KeySetError(f"the key set is larger than {KEY_SET_BYTES} bytes")
    try:
        members = load_object(document).get("keys")
    except ValueError as error:
        raise KeySetError(f"the key set cannot be read: {error}") from None
    if not isinstance(members, list):
        raise KeySetError('the key set has no list "keys"')
    if len(members) > KEYS:
        raise KeySetError(f"the key set has more than {KEYS} keys")

    keys: list[Key] = []
    problems: list[str] = []
    for number, member in enumerate(members, 1):
        try:
            keys.append(read_key(member, algorithms))
        except ValueError as error:
            problems.append(f"key {number}: {error}")
    usable: list[Key] = []
    for key in keys:
        same = [other for other in keys if other.kid == key.kid] if key.kid is not None else [key]
        if any(other.material != key.material or other.algorithms != key.algorithms for other in same):
            problems.append("two keys have the same kid: which of them is meant cannot be told")
        elif same[0] is key:
            usable.append(key)
    if not usable:
        raise KeySetError("the key set has no usable key" + "".join(f"; {problem}" for problem in problems[:3]))
    return KeySet(tuple(usable), tuple(problems))


def read_key(jwk: object, algorithms: frozenset[str]) -> Key:
    """Read one public key (RFC 7517 section 4, RFC 7518 section 6, RFC 8037 section 2).

    Args:
        jwk: a member of a key set.
        algorithms: what the issuer may sign with.

    Raises:
        ValueError: the key is not one for verifying, is weak, is broken, or does not fit the algorithms.
    """
    from cryptography.exceptions import UnsupportedAlgorithm

    if not isinstance(jwk, Mapping):
        raise ValueError("not an object")
    if jwk.get("kty") == "oct" or "k" in jwk:
        raise ValueError("symmetric: whoever can verify with it could sign with it")
    if not _PRIVATE.isdisjoint(jwk):
        raise ValueError("private: it is known to whoever reads the set, and must be replaced")
    kid = jwk.get("kid")
    if kid is not None and not (isinstance(kid, str) and 0 < len(kid) <= KID_CHARACTERS and kid.isprintable()):
        raise ValueError("the kid is not a short printable text")
    if jwk.get("use", "sig") != "sig":
        raise ValueError("not for signatures (use)")
    operations = jwk.get("key_ops", ["verify"])
    # RFC 7517 section 4.3: no operation twice, and none beside verify that is not about signatures.
    if operations not in (["verify"], ["sign", "verify"], ["verify", "sign"]):
        raise ValueError("not for verifying (key_ops)")

    try:
        material, fitting, verify = _read_public(jwk)
    except UnsupportedAlgorithm:
        raise ValueError("of a type or curve that this build of OpenSSL lacks") from None
    named = jwk.get("alg")
    if named is not None:
        fitting &= {named} if isinstance(named, str) else set()
    fitting &= algorithms
    if not fitting:
        raise ValueError("of an algorithm that the issuer may not use, or that is not the key's")
    return Key(kid, frozenset(fitting), material, verify)


def _read_public(
    jwk: Mapping[str, object],
) -> tuple[tuple[object, ...], frozenset[str], Callable[[str, bytes, bytes], None]]:
    """What the key is, the algorithms of its type, and its verification (raises InvalidSignature or ValueError)."""
    kty, crv = jwk.get("kty"), jwk.get("crv")
    if kty == "RSA":
        modulus, exponent = (int.from_bytes(_octets(jwk, name), "big") for name in ("n", "e"))
        if not RSA_BITS[0] <= modulus.bit_length() <= RSA_BITS[1]:
            raise ValueError(f"an RSA key of {modulus.bit_length()} bits: {RSA_BITS[0]} to {RSA_BITS[1]} are taken")
        # Even ones have no inverse; large ones only cost time.
        if not 3 <= exponent < 1 << 32 or not exponent & 1 or not modulus & 1:
            raise ValueError("an RSA key with a bad exponent or modulus")
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

        return ("RSA", modulus, exponent), RSA_ALGORITHMS, _verify_rsa(RSAPublicNumbers(exponent, modulus).public_key())
    if kty == "EC" and isinstance(crv, str) and crv in _CURVES:
        from cryptography.hazmat.primitives.asymmetric import ec

        algorithm, curve, digest, size = _CURVES[crv]
        x, y = _octets(jwk, "x", size), _octets(jwk, "y", size)
        point = ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), getattr(ec, curve)())
        try:
            public = point.public_key()
        except ValueError:
            raise ValueError("a point that is not on its curve") from None
        return (crv, x, y), frozenset({algorithm}), _verify_ec(public, digest, size)
    if kty == "OKP" and crv == "Ed25519":
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        x = _octets(jwk, "x", 32)
        return (crv, x), frozenset({"EdDSA"}), _verify_ed25519(Ed25519PublicKey.from_public_bytes(x))
    raise ValueError("of a type or curve that is not known")


def _octets(jwk: Mapping[str, object], name: str, size: int | None = None) -> bytes:
    text = jwk.get(name)
    if not isinstance(text, str):
        raise ValueError(f"without {name}")
    try:
        value = decode_base64url(text.encode())
    except ValueError as error:
        raise ValueError(f"{name} is {error}") from None
    if size is not None and len(value) != size:
        raise ValueError(f"{name} is not of {size} bytes")
    return value


def _verify_rsa(public: RSAPublicKey) -> Callable[[str, bytes, bytes], None]:
    from cryptography.hazmat.primitives.asymmetric import padding
    from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm

    algorithms: dict[str, tuple[padding.AsymmetricPadding, HashAlgorithm]] = {}
    for size, digest in (("256", SHA256()), ("384", SHA384()), ("512", SHA512())):
        algorithms[f"RS{size}"] = (padding.PKCS1v15(), digest)
        # RFC 7518 section 3.5: a salt as long as the digest, MGF1 with the same digest.
        algorithms[f"PS{size}"] = (padding.PSS(padding.MGF1(digest), digest.digest_size), digest)

    def verify(algorithm: str, message: bytes, signature: bytes) -> None:
        scheme, digest = algorithms[algorithm]
        public.verify(signature, message, scheme, digest)

    return verify


def _verify_ec(public: EllipticCurvePublicKey, digest: str, size: int) -> Callable[[str, bytes, bytes], None]:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    scheme = ECDSA(getattr(hashes, digest)())

    def verify(algorithm: str, message: bytes, signature: bytes) -> None:
        # RFC 7518 section 3.4: R and S side by side, each of the curve's length.
        if len(signature) != 2 * size:
            raise ValueError
        r, s = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
        public.verify(encode_dss_signature(r, s), message, scheme)

    return verify


def _verify_ed25519(public: Ed25519PublicKey) -> Callable[[str, bytes, bytes], None]:
    def verify(algorithm: str, message: bytes, signature: bytes) -> None:
        public.verify(signature, message)

    return verify
