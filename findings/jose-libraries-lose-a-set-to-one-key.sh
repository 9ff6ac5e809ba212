#!/usr/bin/env bash
# One key that a library does not know makes the whole JWK set unusable, each library with another key.
#
# Expected: RFC 7517 section 5: keys of a set that are not understood, by their type or a value, SHOULD be ignored. So
#   an issuer that adds a key of a new kind, beside those in use, disturbs nobody.
# Happens: the token's own key is the same in each set, and first; what a second key is decides who can read it:
#   - "kty": "AKP" (ML-DSA, draft-ietf-cose-dilithium): Authlib raises KeyError: 'AKP'.
#   - "kty": "EC" on a curve it has not heard of: joserfc raises KeyError with the curve's name.
#   - "use", "key_ops" or "alg" that joserfc has not heard of, or "alg": null: joserfc refuses the set.
#   - PyJWT, jwcrypto and python-jose verify the token beside all of them.
#   The KeyErrors are no errors of these libraries' own: `except JoseError` lets them pass.
# Since: joserfc 1.8.0, Authlib 1.9.10, jwcrypto 1.6.1, PyJWT 2.15.1, python-jose 3.5.0.
# Matters: an issuer that begins to announce post-quantum keys, years before it signs with them, locks every caller out
#   of a service on one of the two.
# Source: joserfc/_keys.py, KeySet.import_key_set, which skips an unknown `kty` only; authlib/jose/rfc7517/jwk.py,
#   import_key_set.
set -euo pipefail
version=${1:-1.8.0}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check "joserfc==$version" authlib==1.9.10 jwcrypto==1.6.1 \
    PyJWT==2.15.1 python-jose==3.5.0 cryptography==50.0.2 || { echo "cannot install the packages" >&2; exit 2; }
timeout 60 "$dir/venv/bin/python" -W ignore - <<'PY'
import base64
import importlib.metadata
import json
import sys

import authlib.jose
import joserfc.jwk
import joserfc.jwt
import jose.jwt
import jwcrypto.jwk
import jwcrypto.jwt
import jwt
from cryptography.hazmat.primitives.asymmetric import ec

PRIVATE = ec.generate_private_key(ec.SECP256R1())
POINT = PRIVATE.public_key().public_numbers()
TOKEN = jwt.encode({"sub": "client", "exp": 4_102_444_800}, PRIVATE, algorithm="ES256", headers={"kid": "one"})


def text(number):
    return base64.urlsafe_b64encode(number.to_bytes(32, "big")).rstrip(b"=").decode()


def key(kid, **members):
    return {"kty": "EC", "crv": "P-256", "kid": kid, "x": text(POINT.x), "y": text(POINT.y), **members}


libraries = {
    "PyJWT": lambda keys: jwt.decode(TOKEN, jwt.PyJWKSet.from_dict(keys)["one"].key, algorithms=["ES256"]),
    "joserfc": lambda keys: joserfc.jwt.decode(TOKEN, joserfc.jwk.KeySet.import_key_set(keys), algorithms=["ES256"]),
    "Authlib": lambda keys: authlib.jose.JsonWebToken(["ES256"]).decode(
        TOKEN, authlib.jose.JsonWebKey.import_key_set(keys)
    ),
    "jwcrypto": lambda keys: jwcrypto.jwt.JWT(
        jwt=TOKEN, key=jwcrypto.jwk.JWKSet.from_json(json.dumps(keys)), algs=["ES256"]
    ),
    "python-jose": lambda keys: jose.jwt.decode(TOKEN, keys, algorithms=["ES256"]),
}
SECOND = {
    "the same kind": (key("two"), {}),
    "another type": ({"kty": "AKP", "alg": "ML-DSA-44", "kid": "two", "pub": "AAAA"}, {"Authlib": "KeyError"}),
    "another curve": (key("two", crv="P-999"), {"joserfc": "KeyError"}),
    "another use": (key("two", use="tls"), {"joserfc": "KeyParameterError"}),
    "another operation": (key("two", key_ops=["verify", "attest"]), {"joserfc": "KeyParameterError"}),
    "no algorithm": (key("two", alg=None), {"joserfc": "KeyParameterError"}),
}
print({name: importlib.metadata.version(name) for name in libraries})
for second, (other, failing) in SECOND.items():
    for name, verify in libraries.items():
        try:
            verify({"keys": [key("one"), other]})
            verdict = "accepted"
        except Exception as error:
            verdict = type(error).__name__
            print(f"{second:18} {name:12} {verdict}: {error}")
        else:
            print(f"{second:18} {name:12} {verdict}")
        if verdict != failing.get(name, "accepted"):
            sys.exit(f"changed: {name}, beside a key with {second}")
PY
