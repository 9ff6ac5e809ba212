"""Bearer tokens: from the bytes of an `authorization` field to a verified `Token`, or a refusal (RFC 6750, 7519, 9068).

The order is: shape, header, issuer, claims, key, signature. Everything is checked before the signature that can be,
since that is the expensive part; nothing is trusted before it. Where each check is made, and why:
docs/decisions/0005-tokens-verified-with-cryptography.md. What was verified is remembered by its exact bytes for at most
five minutes, so a client that repeats its token costs a look-up (0.1 us) instead of a verification (40 us for RS256, 85
for ES256, of which the signature is 20 and 65: short enough for the event loop). Bad tokens are not remembered: an
attacker can vary them for nothing, and most are refused before the signature.

A token is accepted in one form only. Input that could be read in two ways is refused, whether or not its signature is
good, because the issuer's own libraries or the next hop may read it the other way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import MappingProxyType

from meshproxy.identity.cache_misses import CacheMisses
from meshproxy.identity.caller import Token
from meshproxy.identity.callers import ISSUER as CALLERS
from meshproxy.identity.callers import IdentityWanted, KnownCallers
from meshproxy.identity.claims import ClaimMatch, ClaimPath, Wanted, find_text, match_claim
from meshproxy.identity.iam import iam_role, is_sts_issuer
from meshproxy.identity.jose import decode_base64url, load_object, memory_bytes
from meshproxy.identity.jwk import KID_CHARACTERS, Key
from meshproxy.identity.jws import canonical_name
from meshproxy.identity.key_budget import Ask
from meshproxy.identity.keys import IssuerKeys
from meshproxy.identity.load_balancer import decode_padded, read_header
from meshproxy.identity.presigned import PREFIX
from meshproxy.refusal import Reason, Refusal

TOKEN_BYTES = 16_384
"""Tokens with hundreds of groups reach 8 KiB."""
SUBJECT_CHARACTERS = 1_024
NO_KEY = Key(None, frozenset(), (), None)
"""Of what no key of an issuer has verified."""
REMEMBERED = 300.0
"""Seconds for which a verified token is remembered."""
REMEMBERED_TOKENS = 2_048
REMEMBERED_BYTES = 16_777_216
"""Tokens remembered, and the memory that they take together at most, 11 KB with 20 short claims. Only an issuer can
fill it."""

CHALLENGE = "Bearer"
"""The value of `www-authenticate` for a request without a token (RFC 6750 section 3.1)."""

# RFC 9068 section 2.1, RFC 7519 section 5.1 and JWT-SVID section 2.3 (JOSE is any compact JWS, RFC 7515 section 4.1.9),
# in any case and with or without `application/`. Another type is another
# use of the same key: an ID token's logout, a DPoP proof, a security event.
_TYPES = frozenset({"jwt", "at+jwt", "jose"})
# Members that change how a token is to be read (RFC 7515 section 4.1, RFC 7797). Those that bring a key along (jku,
# jwk, x5u, x5c) are ignored like any other: some issuers send them, and the key is always one that the issuer
# publishes.
_HEADER_REFUSED = frozenset({"crit", "b64", "zip", "enc", "cty"})
# NumericDate; the year 9999.
_LATEST = 253_402_300_799


class KeysWanted(Exception):
    """A token names a key that is not known, or its signature does not fit the key, and the issuer may be asked for its
    keys now. Await `KeyRefresher.refresh` (`sidecar/key_refresher.py`) once and call `verify` again, which then
    decides."""

    def __init__(self, issuer: str, identity: IdentityWanted | None = None) -> None:
        super().__init__(issuer)
        self.issuer = issuer
        self.identity = identity
        """No key is wanted, but the word of AWS STS on who signed a request."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """A trusted token issuer of the `MeshConfig`."""

    name: str
    url: str
    """The `iss` of its tokens, compared character for character."""
    audiences: frozenset[str]
    """A token must be for one of these. Empty: its tokens have no `aud`; `required_claims` say what they are for."""
    keys: IssuerKeys
    leeway: float = 60.0
    """Seconds that its clock and ours may differ."""
    max_lifetime: float = 86_400.0
    """The longest from `iat` to `exp`, in seconds."""
    required_claims: tuple[tuple[ClaimPath, Wanted], ...] = ()
    """Claims that every token must have, and what they must be."""
    subject_fallback: ClaimPath | None = None
    """The claim that names the subject of a token without `sub`, or with an empty one."""
    place: str | None = None
    """Where its tokens are (`credential`); None: in `authorization`."""
    load_balancers: frozenset[str] = frozenset()
    """ARNs of those whose word is taken for the issuer's; empty: it makes its tokens itself."""
    is_sts: bool = field(init=False)

    def __post_init__(self) -> None:
        if not self.audiences and not self.required_claims:
            raise ValueError(f"issuer {self.name}: tokens for any audience would be accepted")
        object.__setattr__(self, "is_sts", is_sts_issuer(self.url))


def credential(place: str, value: bytes) -> bytes:
    """What `TokenVerifier.verify` takes for a token that is not in `authorization`: unlike the value of any field, it
    begins with a line feed.

    Args:
        place: names header or cookie.
        value: the token, with or without `Bearer` before it.
    """
    return b"\n%b %b" % (place.encode(), value[7:].lstrip(b" ") if value[:7].lower() == b"bearer " else value)


class TokenVerifier:
    """Verifies tokens of a fixed set of issuers. Belongs to one snapshot; the issuers' keys live on beyond it."""

    __slots__ = (
        "_balanced",
        "_balanced_places",
        "_callers",
        "_issuers",
        "_misses",
        "_remembered",
        "_remembered_bytes",
    )

    def __init__(
        self, issuers: Iterable[Issuer], misses: CacheMisses | None = None, callers: KnownCallers | None = None
    ) -> None:
        """
        Args:
            issuers: whose tokens are accepted.
            misses: counts what was not remembered.
            callers: knows pre-signed requests; None: they are refused.
        """
        self._callers = callers
        issuers = tuple(issuers)
        self._issuers = {issuer.url: issuer for issuer in issuers if not issuer.load_balancers}
        self._balanced = {(arn, issuer.url): issuer for issuer in issuers for arn in issuer.load_balancers}
        self._balanced_places = frozenset(issuer.place for issuer in issuers if issuer.load_balancers)
        self._misses = misses if misses is not None else CacheMisses()
        self._remembered: dict[bytes, tuple[Token, float, Key]] = {}
        self._remembered_bytes = 0

    def verify(self, authorization: bytes, now: float) -> Token:
        """The token in the value of an `authorization` field. The same bytes give the same object while remembered.

        Args:
            authorization: the whole value, or a `credential`. A request with two of them must be refused before.
            now: seconds since the epoch.

        Raises:
            Refusal: UNAUTHENTICATED with a challenge (RFC 6750 section 3), or KEYS_UNAVAILABLE.
            KeysWanted: the key may have been rotated in: refresh once, then call again.
        """
        found = self._remembered.get(authorization)
        if found is None and authorization[6:8] == b"  ":  # one space or more (RFC 9110 section 11.4)
            return self.verify(authorization[:7] + authorization[7:].lstrip(b" "), now)
        if found is not None:
            token, until, key = found
            if now < until and not key.is_retired:
                return token
            self._forget(authorization)
        self._misses.tokens += 1
        token, key, until = self._verify(authorization, now)
        self._remember(authorization, token, min(until, now + REMEMBERED), key)
        return token

    def _verify(self, authorization: bytes, now: float) -> tuple[Token, Key, float]:
        """The token, the key that verified it, and the moment from which it is refused."""
        place, compact = _split(authorization)
        if self._callers is not None and place is None and compact.startswith(PREFIX):
            try:
                token, expires = self._callers.find(compact, now)
            except IdentityWanted as wanted:
                raise KeysWanted(CALLERS, wanted) from None
            return token, NO_KEY, expires
        if len(compact) > TOKEN_BYTES:
            raise _refused(f"The token is larger than {TOKEN_BYTES} bytes.")
        parts = compact.split(b".")
        if len(parts) == 5:  # RFC 7516 section 9
            raise _refused("The token is encrypted (JWE): get one from its issuer that is signed only.")
        if len(parts) != 3 or not all(parts):
            raise _refused("The token is not a signed JWT of three parts.")
        is_balanced = place in self._balanced_places
        decode = decode_padded if is_balanced else decode_base64url
        header = _loaded(_decoded(parts[0], "header", decode), "header")
        algorithm, kid = _read_header(header)
        payload = _decoded(parts[1], "payload", decode)
        claims = _loaded(payload, "payload")
        try:
            signature = decode(parts[2])
        except ValueError:
            raise _refused("The signature of the token is not base64url.") from None

        if is_balanced:
            issuer, expires = self._check_balancer(header, kid, claims, now)
        else:
            issuer, expires = self._check_issuer(claims, now, place)
        _check_required(claims, issuer)
        subject = _find_subject(claims, issuer)
        if "cnf" in claims:
            # RFC 7800: the token is bound to a key whose proof we do not ask for (DPoP, RFC 9449; mTLS, RFC 8705).
            raise _refused("The token is bound to a key (cnf): only plain bearer tokens are accepted.")
        role = None
        if issuer.is_sts and claims.get("sub") == subject:
            try:
                role = iam_role(subject, claims)
            except ValueError:
                raise _refused("The token names two AWS accounts.") from None

        key = _find_key(issuer, kid, algorithm, now)
        if not key.verify(algorithm, compact[: -len(parts[2]) - 1], signature):
            # The issuer may have replaced the key under the same kid.
            if issuer.keys.ask(kid, now, is_known=True) is Ask.WAIT:
                raise KeysWanted(issuer.name)
            raise _refused("The token signature is invalid.")
        size = memory_bytes(payload) + len(authorization)
        token = Token(issuer.name, subject, MappingProxyType(claims), expires, role, size)
        return token, key, expires + issuer.leeway

    def _check_issuer(self, claims: dict[str, object], now: float, place: str | None) -> tuple[Issuer, float]:
        """Whose token it is, and until when it is valid."""
        iss = claims.get("iss")
        issuer = self._issuers.get(iss) if isinstance(iss, str) else None
        if issuer is None:
            raise _refused("The token issuer (iss) is not one of this mesh.")
        if issuer.place != place:
            raise _refused(f"Tokens of this issuer are taken from {issuer.place or 'the authorization field'} only.")
        expires = _check_times(claims, issuer, now)
        _check_audience(claims, issuer)
        return issuer, expires

    def _check_balancer(
        self, header: dict[str, object], kid: str | None, claims: dict[str, object], now: float
    ) -> tuple[Issuer, float]:
        """The same of what a load balancer says. The times are in the header, and of their beginning it says nothing;
        a payload may have its own end."""
        try:
            said = read_header(header, kid, claims)
        except ValueError as error:
            raise _refused(f"The token {error}.") from None
        issuer = self._balanced.get((said.balancer, said.issuer))
        if issuer is None:
            raise _refused("The load balancer (signer) of the token, or its issuer (iss), is not one of this mesh.")
        if said.client not in issuer.audiences:
            raise _refused("The client of the token is not one of this mesh.")
        expires = _date(header, "exp")
        if "exp" in claims:
            expires = min(expires, _date(claims, "exp"))
        if now >= expires + issuer.leeway:
            raise _refused("The token has expired: get a new one.")
        if expires - now > issuer.max_lifetime + issuer.leeway:
            raise _refused(f"The token is valid for more than {issuer.max_lifetime:.0f} seconds.")
        return issuer, expires

    def _remember(self, authorization: bytes, token: Token, until: float, key: Key) -> None:
        self._remembered[authorization] = (token, until, key)
        self._remembered_bytes += token.size
        while len(self._remembered) > REMEMBERED_TOKENS or self._remembered_bytes > REMEMBERED_BYTES:
            self._forget(next(iter(self._remembered)))  # the oldest

    def _forget(self, authorization: bytes) -> None:
        token, _, _ = self._remembered.pop(authorization)
        self._remembered_bytes -= token.size


def _split(authorization: bytes) -> tuple[str | None, bytes]:
    """The place that the token was in, None for `authorization`, and the token."""
    if authorization[:1] == b"\n":
        place, _, compact = authorization[1:].rpartition(b" ")
        return place.decode("latin-1"), compact
    if authorization[:7].lower() != b"bearer ":
        raise _refused("The authorization field holds no bearer token: send 'Bearer', a space, the token.")
    return None, authorization[7:]


def _refused(why: str) -> Refusal:
    """`why` contains nothing of the token, so it needs no quoting in the challenge."""
    return Refusal(
        Reason.UNAUTHENTICATED, why, challenge=f'{CHALLENGE} error="invalid_token", error_description="{why}"'
    )


def _decoded(part: bytes, name: str, decode: Callable[[bytes], bytes]) -> bytes:
    try:
        return decode(part)
    except ValueError as error:
        raise _unreadable(name, error) from None


def _loaded(text: bytes, name: str) -> dict[str, object]:
    try:
        return load_object(text)
    except ValueError as error:
        raise _unreadable(name, error) from None


def _unreadable(name: str, error: ValueError) -> Refusal:
    return _refused(f"The {name} of the token cannot be read: {error}.")


def _read_header(header: dict[str, object]) -> tuple[str, str | None]:
    """Algorithm and key id (RFC 7515 section 4.1). Unknown members are ignored, as it requires."""
    if found := _HEADER_REFUSED & header.keys():
        raise _refused(f"The token header contains an extension ({', '.join(sorted(found))}) that is not supported.")
    algorithm = header.get("alg")
    if not isinstance(algorithm, str):
        raise _refused("The token has no algorithm (alg).")
    algorithm = canonical_name(algorithm)
    kind = header.get("typ", "jwt")
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in _TYPES:
        raise _refused("The token type (typ) is not JWT, at+jwt or JOSE.")
    kid = header.get("kid")
    if kid is not None and not (isinstance(kid, str) and 0 < len(kid) <= KID_CHARACTERS and kid.isprintable()):
        raise _refused("The key id (kid) of the token is not a short printable text.")
    return algorithm, kid


def _check_times(claims: dict[str, object], issuer: Issuer, now: float) -> float:
    """exp, iat and nbf (RFC 7519 section 4.1); returns exp."""
    expires, issued = _date(claims, "exp"), _date(claims, "iat")
    starts = _date(claims, "nbf") if "nbf" in claims else issued
    if now >= expires + issuer.leeway:
        raise _refused("The token has expired: get a new one.")
    if max(issued, starts) > now + issuer.leeway:
        raise _refused("The token is not valid yet: compare the clocks of the issuer and of this host.")
    if not 0 < expires - issued <= issuer.max_lifetime:
        raise _refused(f"The token lifetime (iat to exp) is not between 0 and {issuer.max_lifetime:.0f} seconds.")
    return expires


def _date(claims: dict[str, object], name: str) -> float:
    """A NumericDate: a JSON number, not a text with one, and not a truth value, which Python counts among numbers."""
    value = claims.get(name)
    if type(value) not in (int, float) or not 0 <= value <= _LATEST:  # type: ignore[operator]
        raise _refused(f"The token has no {name}, or it is not a date.")
    return float(value)  # type: ignore[arg-type]


def _check_audience(claims: dict[str, object], issuer: Issuer) -> None:
    """That the token is for us: aud, one text or a list of them (RFC 7519 section 4.1.3)."""
    if claims.get("aud") == []:  # Hydra's, where the client has asked for none. It is there, so it has to name us.
        raise _refused("The token audience (aud) is empty: its client must ask the issuer for one of this mesh.")
    if issuer.audiences:
        aud = claims.get("aud")
        audiences = [aud] if isinstance(aud, str) else aud
        if not isinstance(audiences, list) or not all(isinstance(audience, str) for audience in audiences):
            raise _refused("The token has no audience (aud).")
        if issuer.audiences.isdisjoint(audiences):
            raise _refused("The token audience (aud) is not one of this mesh.")
    elif "aud" in claims:
        # The same section: a recipient that the claim does not name must refuse the token.
        raise _refused("The token is for an audience (aud), and tokens of its issuer are taken without one only.")


def _check_required(claims: dict[str, object], issuer: Issuer) -> None:
    for name, wanted in issuer.required_claims:
        if match_claim(claims, name, wanted) is not ClaimMatch.YES:
            raise _refused("The token lacks a claim that is required of its issuer's tokens.")


def _find_subject(claims: dict[str, object], issuer: Issuer) -> str:
    subject = claims.get("sub")
    if subject in (None, "") and issuer.subject_fallback is not None:
        subject = find_text(claims, issuer.subject_fallback)
    if not isinstance(subject, str) or not 0 < len(subject) <= SUBJECT_CHARACTERS or not subject.isprintable():
        raise _refused("The token subject (sub) is missing or not a short printable text.")
    return subject


def _find_key(issuer: Issuer, kid: str | None, algorithm: str, now: float) -> Key:
    keys = issuer.keys
    if algorithm not in keys.algorithms:
        raise _refused("The token algorithm (alg) is not accepted for its issuer.")
    key = keys.find(kid, algorithm)
    if key is None:
        match keys.ask(kid, now):
            case Ask.WAIT:
                raise KeysWanted(issuer.name)
            case Ask.LATER:
                what = "names a key that is not known yet" if keys.has_keys else "cannot be verified yet"
                raise Refusal(
                    Reason.KEYS_UNAVAILABLE,
                    f"The token {what}, and the keys of issuer {issuer.name} will be fetched soon: retry.",
                    retry_after=keys.retry_after(now),
                )
            case Ask.NEVER:
                if kid is None:
                    raise _refused("The token names no key (kid), and not exactly one of its issuer fits.")
                if keys.keys is not None and kid in keys.keys.unused_ids:
                    raise _refused("The token is signed with a key that is not used here: the sidecar's log says why.")
                raise _refused("The token is signed with an unknown key: its issuer does not publish it.")
    if algorithm not in key.algorithms:
        raise _refused("The token algorithm (alg) does not match its key.")
    return key
