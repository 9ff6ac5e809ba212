#!/usr/bin/env bash
# PyJWT ties a JWK that names no algorithm to one algorithm: an RSA key to RS256, whatever the list allows.
#
# Expected: `alg` of a JWK is optional (RFC 7517, section 4.4); without it the key serves every
#   algorithm of its type, and the list given to decode decides.
# Happens: PyJWK fills in RS256 for RSA. A PS256 or RS512 token is refused ("does not match the
#   key's algorithm") even with algorithms=["PS256"], and nothing in the key set says why. The same
#   token with the same key as `PyJWK(...).key` is accepted. PyJWKClient gives PyJWK objects.
# Since: a failure of the signature check in 2.10.1 and 2.12.1 (a TypeError in 2.8.0); the message
#   about the algorithm in 2.15.1.
# Matters: an issuer that leaves `alg` out of its key set works with RS256 and stops working when it
#   moves to PS256, although every service widened its allowed list first, and although a proxy in
#   front of them (or joserfc) still accepts the token.
# Source: jwt/api_jwk.py, PyJWK.__init__ (algorithm by kty and crv); jwt/api_jws.py,
#   PyJWS._verify_signature.
set -euo pipefail
version=${1:-2.15.1}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check "PyJWT==$version" cryptography==50.0.2 joserfc==1.8.0 ||
    { echo "cannot install the packages" >&2; exit 2; }
timeout 60 "$dir/venv/bin/python" - <<'PY'
import json
import sys

import joserfc
import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc import jwk, jws

private = rsa.generate_private_key(65537, 2048)
public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(private.public_key()))
del public["key_ops"]
print("PyJWT", jwt.__version__, "joserfc", joserfc.__version__, "members of the JWK:", sorted(public))
for algorithm in ("RS256", "RS512", "PS256"):
    token = jwt.encode({"sub": "client"}, private, algorithm=algorithm)
    for what, refused, verify in (
            ("PyJWK", algorithm != "RS256", lambda: jwt.decode(token, jwt.PyJWK(public), algorithms=[algorithm])),
            ("PyJWK.key", False, lambda: jwt.decode(token, jwt.PyJWK(public).key, algorithms=[algorithm])),
            ("joserfc", False, lambda: jws.deserialize_compact(token, jwk.RSAKey.import_key(public), algorithms=[algorithm]))):
        try:
            verify()
            verdict = "accepted"
        except jwt.InvalidTokenError as error:
            verdict = f"{type(error).__name__}: {error}"
        print(f"{algorithm} {what:10} {verdict}")
        if (verdict != "accepted") != refused:
            sys.exit(f"changed: {algorithm} with {what} was expected to be {'refused' if refused else 'accepted'}")
PY
