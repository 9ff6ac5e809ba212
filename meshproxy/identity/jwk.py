"""Public keys of a token issuer: what of a JWK set is taken, and the verification of a signature with it.

PyJWT builds the keys and verifies the signatures; what it gets has been checked here before, more strictly than it
would (docs/decisions/0005-tokens-checked-before-pyjwt.md). It is imported by `load_algorithms`, at the latest when the
first key is read, so that a sidecar without an issuer does not pay for it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from meshproxy.identity.jose import decode_base64url, load_object

if TYPE_CHECKING:
    from jwt.algorithms import Algorithm

KEY_SET_BYTES = 262_144
KEYS = 64
"""Key sets of large issuers hold about ten."""
RSA_BITS = (2_048, 8_192)
"""The least that is safe (RFC 7518 section 3.3), and the most: a verification with 8,192 bits takes 0.25 ms."""
KID_CHARACTERS = 256

RSA_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
# Each curve has one algorithm and one length of coordinates (RFC 7518 sections 3.4 and 6.2.1). PyJWT's algorithms
# verify with a key of any curve: with ES256 also one of P-384, over SHA-256.
_CURVES = {"P-256": ("ES256", 32), "P-384": ("ES384", 48), "P-521": ("ES512", 66)}
ALGORITHMS = RSA_ALGORITHMS | {"ES256", "ES384", "ES512", "EdDSA"}
"""All that can be allowed. `none` and the symmetric ones cannot: what verifies those could also sign."""

_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_PUBLIC = frozenset({"kty", "crv", "n", "e", "x", "y"})


@cache
def load_algorithms() -> Mapping[str, Algorithm]:
    """PyJWT's algorithms, those of `ALGORITHMS`, by their names. The first call imports it: 9 MB, 40 ms of CPU."""
    _import_jwt()
    from jwt.algorithms import get_default_algorithms

    known = get_default_algorithms()
    return {name: known[name] for name in ALGORITHMS}


def _import_jwt() -> None:
    """Import PyJWT without its fetcher of keys, in whose place `sidecar.fetch` stands: it would bring urllib.request
    and all that is under it, 1.5 MB of a sidecar's 50. If PyJWT wants more of it one day, it gets all of it."""
    if "jwt" in sys.modules:
        return
    fetcher = ModuleType("jwt.jwks_client")
    fetcher.PyJWKClient = None  # type: ignore[attr-defined]
    sys.modules[fetcher.__name__] = fetcher
    try:
        import_module("jwt")
    except ImportError:
        del sys.modules[fetcher.__name__]
        import_module("jwt")
    else:
        del sys.modules[fetcher.__name__]  # whoever asks for it by name gets the real one


class KeySetError(ValueError):
    """A document is no key set that anything could be verified with. The text says why, without quoting it."""


class Key:
    """One public key, with the algorithms that it may verify."""

    __slots__ = ("_public", "algorithms", "is_retired", "kid", "material")

    def __init__(
        self, kid: str | None, algorithms: frozenset[str], material: tuple[object, ...], public: object
    ) -> None:
        self.kid = kid
        self.algorithms = algorithms
        self.material = material
        """What makes two keys the same key."""
        self.is_retired = False
        """The issuer has taken it out of its set: nothing that it once verified counts any more."""
        self._public = public

    def verify(self, algorithm: str, message: bytes, signature: bytes) -> bool:
        """Whether the signature is of this key over the message, by one of `algorithms`."""
        return algorithm in self.algorithms and load_algorithms()[algorithm].verify(message, self._public, signature)


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

    material, fitting = _read_material(jwk)
    named = jwk.get("alg")
    if named is not None:
        fitting &= {named} if isinstance(named, str) else set()
    fitting &= algorithms
    if not fitting:
        raise ValueError("of an algorithm that the issuer may not use, or that is not the key's")
    return Key(kid, frozenset(fitting), material, _build(jwk, next(iter(fitting))))


def _read_material(jwk: Mapping[str, object]) -> tuple[tuple[object, ...], frozenset[str]]:
    """What the key is made of, and the algorithms of its type."""
    kty, crv = jwk.get("kty"), jwk.get("crv")
    if kty == "RSA":
        modulus, exponent = (int.from_bytes(_octets(jwk, name), "big") for name in ("n", "e"))
        if not RSA_BITS[0] <= modulus.bit_length() <= RSA_BITS[1]:
            raise ValueError(f"an RSA key of {modulus.bit_length()} bits: {RSA_BITS[0]} to {RSA_BITS[1]} are taken")
        # Even ones have no inverse; large ones only cost time.
        if not 3 <= exponent < 1 << 32 or not exponent & 1 or not modulus & 1:
            raise ValueError("an RSA key with a bad exponent or modulus")
        return ("RSA", modulus, exponent), RSA_ALGORITHMS
    if kty == "EC" and isinstance(crv, str) and crv in _CURVES:
        algorithm, size = _CURVES[crv]
        return (crv, _octets(jwk, "x", size), _octets(jwk, "y", size)), frozenset({algorithm})
    if kty == "OKP" and crv == "Ed25519":
        return (crv, _octets(jwk, "x", 32)), frozenset({"EdDSA"})
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


def _build(jwk: Mapping[str, object], algorithm: str) -> object:
    """PyJWT's public key. It sees only the members that have been read, so that no other can change what it makes."""
    from cryptography.exceptions import UnsupportedAlgorithm

    _import_jwt()
    from jwt import PyJWK
    from jwt.exceptions import PyJWTError

    try:
        return PyJWK({name: jwk[name] for name in _PUBLIC & jwk.keys()}, algorithm).key
    except UnsupportedAlgorithm:
        raise ValueError("of a type or curve that this build of OpenSSL lacks") from None
    except PyJWTError:
        raise ValueError("a point that is not on its curve, or numbers that are no key") from None
