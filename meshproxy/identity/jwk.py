"""Public keys of a token issuer: which keys of a JWK set are accepted, and for which algorithms.

Everything is checked before `cryptography` makes a key of it (`jws.make_public_key`), which sees numbers only.
"""

from __future__ import annotations

from collections.abc import Mapping

from meshproxy.identity.jose import BOM, decode_base64url, load_object
from meshproxy.identity.jws import ALGORITHMS as _ROWS
from meshproxy.identity.jws import canonical_name, make_public_key, verifier

KEY_SET_BYTES = 262_144
KEYS = 64
"""Key sets of large issuers hold about ten."""
RSA_BITS = (2_048, 8_192)
"""The least that is safe (RFC 7518 section 3.3), and the most: a verification with 8,192 bits takes 0.25 ms."""
KID_CHARACTERS = 256

ALGORITHMS = frozenset(_ROWS)
"""All that an issuer may be allowed to sign with, by their canonical names."""
RSA_ALGORITHMS = frozenset(name for name, row in _ROWS.items() if row.kty == "RSA")
# Each curve has one algorithm and one length of coordinates (RFC 7518 sections 3.4 and 6.2.1).
_CURVES = {(row.kty, row.crv): (name, row.size) for name, row in _ROWS.items() if row.crv is not None}

_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


class KeySetError(ValueError):
    """A document is not a key set with a usable key. The message says why, without quoting the document."""


class Key:
    """One public key, with the algorithms that it may verify."""

    __slots__ = ("_public", "algorithms", "has_verified", "is_retired", "kid", "material")

    def __init__(
        self, kid: str | None, algorithms: frozenset[str], material: tuple[object, ...], public: object
    ) -> None:
        self.kid = kid
        self.algorithms = algorithms
        self.material = material
        """Curve and numbers: two keys with the same are the same key."""
        self.is_retired = False
        """The issuer has removed it from its set: tokens that it verified are not valid any more."""
        self.has_verified = False
        """A token was signed with it."""
        self._public = public

    def verify(self, algorithm: str, message: bytes, signature: bytes) -> bool:
        """Whether the signature is of this key over the message, by one of `algorithms`."""
        is_valid = algorithm in self.algorithms and verifier(algorithm)(self._public, message, signature)
        self.has_verified = self.has_verified or is_valid
        return is_valid


class KeySet:
    """The usable keys of one document."""

    __slots__ = ("_by_kid", "keys", "problems", "unused_ids")

    def __init__(self, keys: tuple[Key, ...], problems: tuple[str, ...], unused_ids: frozenset[str]) -> None:
        self.keys = keys
        self.problems = problems
        """Why the other keys of the document are not used, one line each."""
        self.unused_ids = unused_ids
        """The `kid` of those, as far as they have one."""
        self._by_kid: dict[tuple[str, str], Key] = {}
        for key in keys:
            for algorithm in key.algorithms if key.kid is not None else ():
                self._by_kid.setdefault((key.kid, algorithm), key)  # type: ignore[arg-type]

    def find(self, kid: str | None, algorithm: str) -> Key | None:
        """The key that a token means. One without a `kid` means the only key that fits, if there is only one: keys are
        never tried in turn."""
        if kid is not None:
            found = self._by_kid.get((kid, algorithm))
            return found or next((key for key in self.keys if key.kid == kid), None)
        fitting = [key for key in self.keys if algorithm in key.algorithms]
        return fitting[0] if len(fitting) == 1 else None


def read_key_set(document: bytes, algorithms: frozenset[str], *, may_be_empty: bool = False) -> KeySet:
    """Read a JWK set (RFC 7517 section 5).

    A key that cannot be used is left out and the reason kept: issuers publish keys for encryption beside those for
    signatures. Two different keys with the same `kid` are both ignored, as a token would be ambiguous, unless its
    algorithm tells them apart (RFC 7517 section 4.5).

    Args:
        document: JSON.
        algorithms: what the issuer may sign with.
        may_be_empty: a set without a usable key is one.

    Raises:
        KeySetError: the document is broken, too large, or has no usable key.
    """
    if len(document) > KEY_SET_BYTES:
        raise KeySetError(f"the key set is larger than {KEY_SET_BYTES} bytes")
    try:
        members = load_object(document.removeprefix(BOM)).get("keys")
    except ValueError as error:
        raise KeySetError(f"the key set cannot be read: {error}") from None
    if not isinstance(members, list):
        raise KeySetError('the key set has no list "keys"')
    if len(members) > KEYS:
        raise KeySetError(f"the key set has more than {KEYS} keys")

    keys: dict[int, Key] = {}
    problems: list[str] = []
    unused: set[str | None] = set()
    for number, member in enumerate(members, 1):
        try:
            keys[number] = read_key(member, algorithms)
        except ValueError as error:
            problems.append(f"key {number}: {error}")
            unused.add(_kid(member))
    usable: list[Key] = []
    for number, key in keys.items():
        same = [other for other in keys.values() if other.kid == key.kid] if key.kid is not None else [key]
        if any(other.material != key.material and other.algorithms & key.algorithms for other in same):
            problems.append(f"key {number}: another one has the same kid, so neither is used")
            unused.add(key.kid)
        elif key.kid is None or not any(other in usable and other.algorithms >= key.algorithms for other in same):
            usable.append(key)
    if not usable and not may_be_empty:
        raise KeySetError("the key set has no usable key" + "".join(f"; {problem}" for problem in problems[:3]))
    return KeySet(tuple(usable), tuple(problems), frozenset(kid for kid in unused if kid is not None))


def _kid(member: object) -> str | None:
    kid = member.get("kid") if isinstance(member, dict) else None
    return kid if isinstance(kid, str) else None


def read_key(jwk: object, algorithms: frozenset[str]) -> Key:
    """Read one public key (RFC 7517 section 4, RFC 7518 section 6, RFC 8037 section 2).

    Args:
        jwk: a member of a key set.
        algorithms: what the issuer may sign with.

    Raises:
        ValueError: the key is not one for verifying, is weak, is broken, or does not fit the algorithms.
    """
    if not isinstance(jwk, Mapping):
        raise ValueError("not an object")
    jwk = {name: member for name, member in jwk.items() if member is not None}  # some serializers write them all
    if jwk.get("kty") == "oct" or "k" in jwk:
        raise ValueError("symmetric: a key that verifies could also sign")
    if not _PRIVATE.isdisjoint(jwk):
        raise ValueError("private: everyone who can read the set knows it; replace the key")
    kid = jwk.get("kid")
    if kid is not None and not (isinstance(kid, str) and 0 < len(kid) <= KID_CHARACTERS and kid.isprintable()):
        raise ValueError("the kid is not a short printable text")
    if jwk.get("use", "sig") != "sig":
        raise ValueError("not for signatures (use)")
    operations = jwk.get("key_ops", ["verify"])
    # RFC 7517 section 4.3: no operation twice, and none beside verify that is not about signatures.
    if operations not in (["verify"], ["sign", "verify"], ["verify", "sign"]):
        raise ValueError("not for verifying (key_ops)")

    curve, numbers, fitting = _read_numbers(jwk)
    named = jwk.get("alg")
    if named is not None:
        fitting &= {canonical_name(named)} if isinstance(named, str) else set()
    fitting &= algorithms
    if not fitting:
        raise ValueError("its algorithm is not accepted for the issuer, or does not fit the key")
    return Key(kid, frozenset(fitting), (curve, *numbers), make_public_key(curve, numbers))


def _read_numbers(jwk: Mapping[str, object]) -> tuple[str | None, tuple[int, ...], frozenset[str]]:
    """Curve, numbers (`jws.make_public_key`), and the algorithms of the key's type."""
    kty, crv = jwk.get("kty"), jwk.get("crv")
    if kty == "RSA":
        modulus, exponent = _number(jwk, "n"), _number(jwk, "e")
        if not RSA_BITS[0] <= modulus.bit_length() <= RSA_BITS[1]:
            raise ValueError(f"an RSA key of {modulus.bit_length()} bits: {RSA_BITS[0]} to {RSA_BITS[1]} are accepted")
        # Even ones have no inverse; large ones only cost time.
        if not 3 <= exponent < 1 << 32 or not exponent & 1 or not modulus & 1:
            raise ValueError("an RSA key with a bad exponent or modulus")
        return None, (modulus, exponent), RSA_ALGORITHMS
    if isinstance(kty, str) and isinstance(crv, str) and (kty, crv) in _CURVES:
        algorithm, size = _CURVES[kty, crv]
        names = ("x", "y") if kty == "EC" else ("x",)
        return crv, tuple(_number(jwk, name, size) for name in names), frozenset({algorithm})
    raise ValueError("its type or curve is not supported")


def _number(jwk: Mapping[str, object], name: str, size: int | None = None) -> int:
    """A member of octets as one big-endian number; `size` is their exact count."""
    text = jwk.get(name)
    if not isinstance(text, str):
        raise ValueError(f"{name} is missing")
    try:
        value = decode_base64url(text.encode())
    except ValueError as error:
        raise ValueError(f"{name} is {error}") from None
    if size is not None and len(value) != size:
        raise ValueError(f"{name} is not {size} bytes long")
    return int.from_bytes(value, "big")
