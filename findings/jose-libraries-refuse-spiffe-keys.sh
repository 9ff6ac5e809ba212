#!/usr/bin/env bash
# The keys of a SPIFFE trust bundle are a JWK set that three of five JOSE libraries cannot use: `use` is "jwt-svid".
#
# Expected: a JWT-SVID is an ordinary JWT and the bundle an ordinary JWK set, so a service without a SPIFFE library
#   verifies one by its bundle endpoint. RFC 7517 section 4.2 permits other values of `use` than "sig" and "enc".
# Happens: one key, one token; the only difference is "use" in the key. With "sig" all verify it. With "jwt-svid", which
#   SPIFFE requires ("Representation in the SPIFFE Bundle" of its JWT-SVID document):
#   - joserfc refuses the whole set, also if the key it needs says "sig" and only another one (an X.509 authority of
#     the same bundle, "x509-svid") does not.
#   - Authlib takes the set and refuses the key.
#   - jwcrypto says that the key is missing.
#   - PyJWT and python-jose do not look at `use`.
# Since: joserfc 1.8.0, Authlib 1.9.10, jwcrypto 1.6.1, PyJWT 2.15.1, python-jose 3.5.0.
# Matters: tokens of SPIRE and of meshes with a SPIFFE bundle endpoint are verified by one service and not by another;
#   SPIRE's OIDC discovery provider, which publishes the same keys without "use", is the way round it.
# Source: joserfc/registry.py, the choices of `use`; authlib/jose/rfc7517/base_key.py, check_key_op; jwcrypto/jwk.py.
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
import authlib.jose.errors
import joserfc.errors
import joserfc.jwk
import joserfc.jwt
import jose.exceptions
import jose.jwt
import jwcrypto.common
import jwcrypto.jwk
import jwcrypto.jwt
import jwt
from cryptography.hazmat.primitives.asymmetric import ec

PRIVATE = ec.generate_private_key(ec.SECP256R1())
POINT = PRIVATE.public_key().public_numbers()
CLAIMS = {"sub": "spiffe://example.org/ns/prod/sa/web", "aud": ["model"], "exp": 4_102_444_800}
TOKEN = jwt.encode(CLAIMS, PRIVATE, algorithm="ES256", headers={"kid": "one"})


def text(number):
    return base64.urlsafe_b64encode(number.to_bytes(32, "big")).rstrip(b"=").decode()


def key(use, kid="one"):
    return {"kty": "EC", "crv": "P-256", "kid": kid, "use": use, "x": text(POINT.x), "y": text(POINT.y)}


def by_pyjwt(keys):
    jwt.decode(TOKEN, jwt.PyJWKSet.from_dict(keys)["one"].key, algorithms=["ES256"], audience="model")


def by_joserfc(keys):
    joserfc.jwt.decode(TOKEN, joserfc.jwk.KeySet.import_key_set(keys), algorithms=["ES256"])


def by_authlib(keys):
    authlib.jose.JsonWebToken(["ES256"]).decode(TOKEN, authlib.jose.JsonWebKey.import_key_set(keys))


def by_jwcrypto(keys):
    jwcrypto.jwt.JWT(jwt=TOKEN, key=jwcrypto.jwk.JWKSet.from_json(json.dumps(keys)), algs=["ES256"])


def by_python_jose(keys):
    jose.jwt.decode(TOKEN, keys, algorithms=["ES256"], audience="model")


SETS = {
    "sig": [key("sig")],
    "sig beside x509-svid": [key("sig"), key("x509-svid", "two")],
    "jwt-svid": [key("jwt-svid")],
}
EVERY = set(SETS)
libraries = {
    "PyJWT": (by_pyjwt, EVERY),
    "python-jose": (by_python_jose, EVERY),
    "jwcrypto": (by_jwcrypto, EVERY - {"jwt-svid"}),
    "Authlib": (by_authlib, EVERY - {"jwt-svid"}),
    "joserfc": (by_joserfc, {"sig"}),
}
refusals = (
    jwt.PyJWTError,
    jose.exceptions.JOSEError,
    jwcrypto.common.JWException,
    authlib.jose.errors.JoseError,
    joserfc.errors.JoseError,
)
print({name: importlib.metadata.version(name) for name in libraries})
for name, (verify, taken) in libraries.items():
    for uses, keys in SETS.items():
        try:
            verify({"keys": keys})
            verdict = "accepted"
        except refusals as error:
            verdict = f"{type(error).__name__}: {error}"
        print(f"{name:12} {uses:21} {verdict}")
        if (verdict == "accepted") != (uses in taken):
            sys.exit(f"changed: {name}, use {uses}")
PY
