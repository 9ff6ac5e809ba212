"""What load balancers of AWS say of people: read strictly, and believed of the balancers of the mesh only."""

from __future__ import annotations

import base64
import json
from time import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.devtools.issuer import DevelopmentIssuer, SigningKey
from meshproxy.identity.caller import Token
from meshproxy.identity.jwk import KEYS
from meshproxy.identity.key_budget import Ask
from meshproxy.identity.keys import NAMED_IDS, VERIFYING_IDS, IssuerKeys
from meshproxy.identity.load_balancer import decode_padded, keys_url, read_key
from meshproxy.identity.tokens import Issuer, KeysWanted, TokenVerifier, credential
from meshproxy.refusal import Reason, Refusal

NOW = float(int(time()))
BALANCER = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/models/50dc6c495c0c9188"
POOL = "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_Pool"
CLIENT = "4fmvht22tjrgd7d3k3tghttct7"
KID = "c2f80c8b-c05c-4068-af14-17299f7896b1"
PLACE = "header x-amzn-oidc-data"
KEY = ec.generate_private_key(ec.SECP256R1())
HEADER: dict[str, Any] = {
    "typ": "JWT", "kid": KID, "alg": "ES256", "iss": POOL, "client": CLIENT, "signer": BALANCER, "exp": int(NOW) + 120,
}  # fmt: skip
"""In the order of a load balancer's."""
CLAIMS: dict[str, Any] = {
    "sub": "23d498b2-3031-70d2-8a15-49dd886a087b",
    "email_verified": "true",
    "email": "alice@models.example",
    "username": "alice",
    "exp": int(NOW) + 120,
    "iss": POOL,
}


def pem_of(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def token(*, key: ec.EllipticCurvePrivateKey = KEY, without: str = "", **more: Any) -> bytes:
    """As a load balancer makes it. `more`: members of the header, or, with `claim_` before them, of the payload."""
    claims = {**CLAIMS, **{name[6:]: value for name, value in more.items() if name.startswith("claim_")}}
    header = {**HEADER, **{name: value for name, value in more.items() if not name.startswith("claim_")}}
    header.pop(without, None)
    claims.pop(without.removeprefix("claim_"), None) if without.startswith("claim_") else None
    signed = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()) for part in (header, claims))
    return signed + b"." + base64.urlsafe_b64encode(SigningKey(KID, "ES256", key).sign(signed))


def fresh_token(**more: Any) -> bytes:
    """The same for whoever looks at the clock: `NOW` may be minutes ago when a test runs."""
    expires = int(time()) + 120
    return token(**{"exp": expires, "claim_exp": expires, **more})


def known_keys(*pems: tuple[str, bytes]) -> IssuerKeys:
    keys = IssuerKeys("people", frozenset({"ES256"}), are_single=True)
    keys.begin()
    keys.take(json.dumps({"keys": [read_key(pem, kid) for kid, pem in pems]}).encode(), NOW, 0.5)
    return keys


def fetched(keys: IssuerKeys, published: dict[str, bytes]) -> None:
    """A fetch that AWS answers."""
    keys.begin()
    had = [read_key(published[kid], kid) for kid in keys.wanted_ids if kid in published]
    keys.take(json.dumps({"keys": had}).encode(), NOW, 0.5)


def verifier(keys: IssuerKeys | None = None, **more: Any) -> TokenVerifier:
    issuer = Issuer(
        **{
            "name": "people",
            "url": POOL,
            "audiences": frozenset({CLIENT}),
            "keys": keys or known_keys((KID, pem_of(KEY))),
            "place": PLACE,
            "load_balancers": frozenset({BALANCER}),
            **more,
        }
    )
    return TokenVerifier([issuer])


def verified(compact: bytes, **more: Any) -> Token:
    return verifier(**more).verify(credential(PLACE, compact), NOW)


def test_a_person_whom_a_load_balancer_has_signed_in() -> None:
    found = verified(token())
    assert (found.issuer, found.subject, found.expires) == ("people", CLAIMS["sub"], NOW + 120)
    assert found.claims["email"] == "alice@models.example"


def test_both_ends_count() -> None:
    assert verified(token(claim_exp=int(NOW) + 60)).expires == NOW + 60
    assert verified(token(without="claim_exp")).expires == NOW + 120


@pytest.mark.parametrize(
    ("compact", "why"),
    [
        (token(signer=BALANCER[:-1] + "9"), "load balancer"),
        (token(without="signer"), "has no signer"),
        (token(signer=7), "has no signer"),
        (token(iss=POOL + "x", claim_iss=POOL + "x"), "load balancer"),
        (token(iss=POOL + "x"), "two issuers"),
        (token(without="iss"), "has no iss"),
        (token(client="other"), "client"),
        (token(without="client"), "has no client"),
        (token(exp=int(NOW) - 61), "expired"),
        (token(claim_exp=int(NOW) - 61), "expired"),
        (token(exp=int(NOW) + 90_000, claim_exp=int(NOW) + 90_000), "more than"),
        (token(without="exp"), "exp"),
        (token(exp="soon"), "exp"),
        (token(kid="../../other"), "names no key"),
        (token(without="kid"), "names no key"),
        (token(alg="RS256"), "algorithm"),
        (token(crit=["exp"]), "extension"),
        (token(key=ec.generate_private_key(ec.SECP256R1())), "signature"),
        (token(without="claim_sub"), "subject"),
        (token().replace(b"=", b""), "signature"),  # what was signed has padding
        (token() + b"=", "base64url"),
    ],
)
def test_what_is_refused(compact: bytes, why: str) -> None:
    keys = known_keys((KID, pem_of(KEY)))
    if why == "signature":  # the key may have been replaced: asked for once
        with pytest.raises(KeysWanted):
            verified(compact, keys=keys)
        fetched(keys, {KID: pem_of(KEY)})
    with pytest.raises(Refusal) as caught:
        verified(compact, keys=keys)
    assert caught.value.reason is Reason.UNAUTHENTICATED
    assert why in caught.value.message


def test_places_are_kept_apart() -> None:
    """Not in `authorization`; and where load balancers put their tokens, no other is taken."""
    with pytest.raises(Refusal, match="cannot be read"):
        verifier().verify(b"Bearer " + token(), NOW)
    plain = Issuer("pool", POOL, frozenset({CLIENT}), known_keys((KID, pem_of(KEY))))
    balanced = Issuer(
        "people", POOL, frozenset({CLIENT}), plain.keys, place=PLACE, load_balancers=frozenset({BALANCER})
    )
    both = TokenVerifier([plain, balanced])
    assert both.verify(credential(PLACE, token()), NOW).issuer == "people"
    claims = {**CLAIMS, "aud": CLIENT, "iat": int(NOW)}
    jwt = DevelopmentIssuer(POOL).sign({"typ": None}, claims, SigningKey(KID, "ES256", KEY)).encode()
    assert both.verify(b"Bearer " + jwt, NOW).issuer == "pool"
    with pytest.raises(Refusal, match="has no signer"):
        both.verify(credential(PLACE, jwt), NOW)


def test_keys_are_had_when_they_are_named() -> None:
    """There are none at first, and that is no problem; another key of the region is another fetch."""
    keys = known_keys()
    assert keys.has_keys
    assert keys.wanted_ids == ()
    with pytest.raises(KeysWanted):
        verified(token(), keys=keys)
    keys.begin()
    assert keys.wanted_ids == (KID,)
    keys.take(json.dumps({"keys": [read_key(pem_of(KEY), KID)]}).encode(), NOW, 0.5)
    assert verified(token(), keys=keys).issuer == "people"
    with pytest.raises(KeysWanted):
        verified(token(kid="another"), keys=keys)
    keys.begin()
    assert keys.wanted_ids == (KID, "another")


def test_strangers_cannot_have_many_keys_fetched_at_once() -> None:
    keys = known_keys()
    for number in range(100):
        with pytest.raises((KeysWanted, Refusal)):
            verified(token(kid=f"made-up-{number}"), keys=keys)
    keys.begin()
    assert len(keys.wanted_ids) == NAMED_IDS


def test_a_key_that_was_not_looked_for_was_not_looked_for_in_vain() -> None:
    """Of more keys than one fetch takes, the others are the next one's."""
    keys = known_keys()
    for number in range(NAMED_IDS):
        keys.ask(f"made-up-{number}", NOW)
    assert keys.ask(KID, NOW) is Ask.WAIT
    fetched(keys, {KID: pem_of(KEY)})
    with pytest.raises(KeysWanted):
        verified(token(), keys=keys)
    fetched(keys, {KID: pem_of(KEY)})
    assert verified(token(), keys=keys).issuer == "people"


def test_fetches_that_fail_because_of_strangers_keys_are_followed_by_one_for_others() -> None:
    """Those that were looked for are last in the next attempt but one."""
    keys = known_keys()
    for number in range(NAMED_IDS):
        keys.ask(f"made-up-{number}", NOW)
    keys.begin()
    keys.fail("AWS is away", NOW, 0.5)
    with pytest.raises(Refusal, match="will be fetched soon"):
        verified(token(), keys=keys)
    keys.begin()
    keys.fail("AWS is away", NOW, 0.5)
    fetched(keys, {KID: pem_of(KEY)})
    assert verified(token(), keys=keys).issuer == "people"


def test_keys_of_other_balancers_do_not_pile_up() -> None:
    """Strangers can name every key that AWS has; those that verify nothing are forgotten before those that do."""
    keys = known_keys((KID, pem_of(KEY)))
    assert verified(token(), keys=keys).issuer == "people"
    theirs = pem_of(ec.generate_private_key(ec.SECP256R1()))
    published = {KID: pem_of(KEY), **{f"theirs-{number}": theirs for number in range(200)}}
    for first in range(0, 200, NAMED_IDS):
        for number in range(first, first + NAMED_IDS):
            keys.ask(f"theirs-{number}", NOW)
        fetched(keys, published)
        assert keys.problem is None
    assert keys.find(KID, "ES256") is not None
    assert len(keys.wanted_ids) == 1 + NAMED_IDS


def test_of_keys_that_verify_the_latest_are_kept() -> None:
    keys = known_keys()
    published = {f"key-{number}": pem_of(KEY) for number in range(2 * VERIFYING_IDS)}
    for kid in published:
        with pytest.raises((KeysWanted, Refusal)):
            verified(token(kid=kid), keys=keys)
        fetched(keys, published)
        assert verified(token(kid=kid), keys=keys).issuer == "people"
    fetched(keys, published)
    assert keys.wanted_ids == tuple(published)[-VERIFYING_IDS:]
    assert VERIFYING_IDS + 2 * NAMED_IDS <= KEYS


@pytest.mark.parametrize(
    ("partition", "region", "url"),
    [
        ("aws", "eu-central-1", "https://public-keys.auth.elb.eu-central-1.amazonaws.com"),
        ("aws-cn", "cn-north-1", "https://public-keys.auth.elb.cn-north-1.amazonaws.com.cn"),
        (
            "aws-us-gov",
            "us-gov-west-1",
            "https://s3-us-gov-west-1.amazonaws.com/aws-elb-public-keys-prod-us-gov-west-1",
        ),
    ],
)
def test_where_keys_are(partition: str, region: str, url: str) -> None:
    assert keys_url(BALANCER.replace("aws:", f"{partition}:", 1).replace("eu-central-1", region)) == url


def test_a_key_that_is_none_of_a_load_balancer() -> None:
    for pem in (b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"):
        with pytest.raises(ValueError, match="not a public key"):
            read_key(pem, KID)
    for key in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())):
        with pytest.raises(ValueError, match="not a key on P-256"):
            read_key(pem_of(key), KID)


@given(value=st.binary(max_size=40))
def test_padding_is_whole_or_none(value: bytes) -> None:
    padded = base64.urlsafe_b64encode(value)
    assert decode_padded(padded) == decode_padded(padded.rstrip(b"=")) == value
    for wrong in (padded + b"=", padded + b"====", padded[:-1] if padded.endswith(b"==") else padded + b"=="):
        with pytest.raises(ValueError, match="base64url"):
            decode_padded(wrong)


@given(text=st.binary(max_size=200) | st.binary(max_size=60).map(base64.urlsafe_b64encode))
def test_untrusted_bytes_are_refused_and_nothing_else(text: bytes) -> None:
    parts = [text, *token().split(b".")[1:]]
    for number in range(3):
        turned = parts[-number:] + parts[:-number]
        with pytest.raises((Refusal, KeysWanted)):
            verified(b".".join(turned))
