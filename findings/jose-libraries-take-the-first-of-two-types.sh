#!/usr/bin/env bash
# Of two keys with one `kid` and different types, which RFC 7517 allows, four of six libraries see the first only.
#
# Expected: RFC 7517 section 4.5: keys SHOULD have distinct `kid` values, and "one example in which different keys might
#   use the same `kid` value is if they have different `kty` values but are considered to be equivalent alternatives".
#   A token says with `alg` which of the two is meant.
# Happens: a set has an RSA key and an EC key of one id, and there is a token of each. The token whose key comes first
#   is verified by all. The other one is verified by jwcrypto and by jose of npm, and refused by four:
#   - PyJWT: InvalidAlgorithmError, as PyJWKSet["one"] is the first key.
#   - joserfc: InvalidKeyTypeError.
#   - Authlib: KeyError(0), which is no error of Authlib's own.
#   - python-jose: JWKError, "Incorrect key type"; with distinct ids as well, as it does not look at them.
# Since: PyJWT 2.15.1, joserfc 1.8.0, Authlib 1.9.10, python-jose 3.5.0, jwcrypto 1.6.1; jose 6.2.18 (npm).
# Matters: an issuer that offers ES256 beside RS256 locks out half of its callers. Which half is decided by the order of
#   the set: a service works until the issuer writes its keys in another one.
# Source: jwt/api_jwk.py, PyJWKSet.__getitem__; joserfc/_keys.py, KeySet.get_by_kid; authlib/jose/rfc7517/key_set.py,
#   find_by_kid; jose/jws.py, _sig_matches_keys.
set -euo pipefail
version=${1:-2.15.1}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check "PyJWT==$version" joserfc==1.8.0 authlib==1.9.10 \
    jwcrypto==1.6.1 python-jose==3.5.0 cryptography==50.0.2 || { echo "cannot install the packages" >&2; exit 2; }
npm install --silent --no-audit --no-fund jose@6.2.18 >log 2>&1 || { cat log >&2; exit 2; }
cat >verify.mjs <<'JS'
import { createLocalJWKSet, jwtVerify } from "jose";
await jwtVerify(process.argv[2], createLocalJWKSet(JSON.parse(process.argv[3])));
JS
timeout 60 venv/bin/python -W ignore - <<'PY'
import importlib.metadata
import itertools
import json
import subprocess
import sys

import authlib.jose
import jose.jwt
import joserfc.jwk
import joserfc.jwt
import jwcrypto.jwk
import jwcrypto.jwt
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

ALGORITHMS = ["RS256", "ES256"]
PRIVATE = {"RSA": rsa.generate_private_key(65537, 2048), "EC": ec.generate_private_key(ec.SECP256R1())}
KEYS = {
    "RSA": RSAAlgorithm.to_jwk(PRIVATE["RSA"].public_key(), as_dict=True),
    "EC": ECAlgorithm.to_jwk(PRIVATE["EC"].public_key(), as_dict=True),
}
IDS = {"one id": {"RSA": "one", "EC": "one"}, "distinct ids": {"RSA": "one", "EC": "two"}}


def by_npm(token, keys):
    subprocess.run(["node", "verify.mjs", token, json.dumps(keys)], check=True, capture_output=True)


def by_pyjwt(token, keys):
    kid = jwt.get_unverified_header(token)["kid"]
    jwt.decode(token, jwt.PyJWKSet.from_dict(keys)[kid], algorithms=ALGORITHMS)


LIBRARIES = {
    "PyJWT": by_pyjwt,
    "joserfc": lambda token, keys: joserfc.jwt.decode(
        token, joserfc.jwk.KeySet.import_key_set(keys), algorithms=ALGORITHMS
    ),
    "python-jose": lambda token, keys: jose.jwt.decode(token, keys, algorithms=ALGORITHMS),
    "Authlib": lambda token, keys: authlib.jose.JsonWebToken(ALGORITHMS).decode(
        token, authlib.jose.JsonWebKey.import_key_set(keys)
    ),
    "jwcrypto": lambda token, keys: jwcrypto.jwt.JWT(
        jwt=token, key=jwcrypto.jwk.JWKSet.from_json(json.dumps(keys)), algs=ALGORITHMS
    ),
    "npm": by_npm,
}
REFUSALS = {
    "PyJWT": "InvalidAlgorithmError",
    "joserfc": "InvalidKeyTypeError",
    "python-jose": "JWKError",
    "Authlib": "KeyError",
}
print({name: importlib.metadata.version(name) for name in LIBRARIES if name != "npm"} | {"npm": "jose 6.2.18"})
changed = []
for (case, ids), order, algorithm in itertools.product(IDS.items(), (("RSA", "EC"), ("EC", "RSA")), ALGORITHMS):
    kind = "RSA" if algorithm == "RS256" else "EC"
    token = jwt.encode({"sub": "client", "exp": 4_102_444_800}, PRIVATE[kind], algorithm, {"kid": ids[kind]})
    for name, verify in LIBRARIES.items():
        try:
            verify(token, {"keys": [{"kid": ids[each], **KEYS[each]} for each in order]})
            verdict = shown = "accepted"
        except Exception as error:
            verdict, shown = type(error).__name__, repr(error)
        print(f"{case:12} {', '.join(order):7} {algorithm} {name:11} {shown}")
        is_refused = kind == order[1] and (case == "one id" or name == "python-jose")
        if verdict != (REFUSALS.get(name, "accepted") if is_refused else "accepted"):
            changed.append(f"{name}, {case}, {order}, {algorithm}: {verdict}")
sys.exit("changed: " + "; ".join(changed) if changed else 0)
PY
