#!/usr/bin/env bash
# The name "Ed25519" (RFC 9864) splits the JOSE libraries: one key, one signature, three answers.
#
# Expected: RFC 9864 only adds a precise name for what EdDSA with an Ed25519 key always was, so
#   libraries of 2026 take both names, or at least keep reading a key that carries the new one.
# Happens: for the same key and signature, token and JWK may each say EdDSA or Ed25519 (or, the JWK,
#   nothing):
#   - PyJWT knows EdDSA only, and a JWK with "alg": "Ed25519" cannot even be loaded. A key set of
#     such keys fails with "Perhaps 'cryptography' is not installed?", though it is.
#   - joserfc knows both, but as two algorithms: the names in token and key must be equal.
#   - jwcrypto takes every combination.
# Since: PyJWT 2.15.1, joserfc 1.8.0, jwcrypto 1.6.1.
# Matters: issuers have begun to announce Ed25519 before EdDSA (node's oidc-provider 9). One that renames the algorithm in
#   its key set, with keys and tokens unchanged, is lost at once for services on PyJWT or joserfc and
#   not for others: a gateway and the service behind it disagree about the same token.
# Source: jwt/algorithms.py, get_default_algorithms, and jwt/api_jwk.py, PyJWKSet.__init__;
#   joserfc/_rfc7517/models.py, check_alg; jwcrypto/jwa.py, _Ed25519.
set -euo pipefail
version=${1:-2.15.1}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check "PyJWT==$version" joserfc==1.8.0 jwcrypto==1.6.1 \
    cryptography==50.0.2 || { echo "cannot install the packages" >&2; exit 2; }
timeout 60 "$dir/venv/bin/python" -W ignore - <<'PY'
import base64
import importlib.metadata
import json
import sys

import joserfc.errors
import joserfc.jwk
import joserfc.jws
import jwcrypto.jwk
import jwcrypto.jws
import jwt
from cryptography.hazmat.primitives.asymmetric import ed25519

NAMES = ["EdDSA", "Ed25519"]
PRIVATE = ed25519.Ed25519PrivateKey.generate()


def text(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def by_jwcrypto(token, key):
    signed = jwcrypto.jws.JWS()
    signed.allowed_algs = NAMES
    signed.deserialize(token, jwcrypto.jwk.JWK(**key))


libraries = {
    "PyJWT": lambda token, key: jwt.decode(token, jwt.PyJWKSet([key]).keys[0], algorithms=NAMES),
    "joserfc": lambda token, key: joserfc.jws.deserialize_compact(token, joserfc.jwk.OKPKey.import_key(key), algorithms=NAMES),
    "jwcrypto": by_jwcrypto,
}
accepted = {"PyJWT": {("EdDSA", None), ("EdDSA", "EdDSA")}, "jwcrypto": {(a, b) for a in NAMES for b in [None, *NAMES]},
            "joserfc": {("EdDSA", None), ("Ed25519", None), ("EdDSA", "EdDSA"), ("Ed25519", "Ed25519")}}
print({name: importlib.metadata.version(name) for name in libraries})
for name, verify in libraries.items():
    for in_token in NAMES:
        for in_key in [None, *NAMES]:
            head = text(json.dumps({"alg": in_token}).encode()) + "." + text(b'{"sub":"client"}')
            key = {"kty": "OKP", "crv": "Ed25519", "x": text(PRIVATE.public_key().public_bytes_raw())}
            key |= {"alg": in_key} if in_key else {}
            try:
                verify(f"{head}.{text(PRIVATE.sign(head.encode()))}", key)
                verdict = "accepted"
            except (jwt.PyJWTError, joserfc.errors.JoseError, jwcrypto.jws.InvalidJWSSignature) as error:
                verdict = f"{type(error).__name__}: {error}"
            print(f"{name:9} token {in_token:8} key {in_key!s:8} {verdict}")
            if (verdict == "accepted") != ((in_token, in_key) in accepted[name]):
                sys.exit(f"changed: {name}, token {in_token}, key {in_key}")
PY
