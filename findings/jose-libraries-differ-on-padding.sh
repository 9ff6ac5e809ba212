#!/usr/bin/env bash
# Tokens whose base64url has padding, as AWS load balancers make them: of six Python libraries four take them.
#
# Expected: RFC 7515 section 2 leaves out all '=' characters, and AWS warns that standard libraries are not compatible
#   with the padding of its load balancers' tokens: so they all refuse them, as malformed.
# Happens: PyJWT, python-jose, Authlib and jwskate verify such a token, whose signature is over the padded text.
#   jwcrypto decodes the parts, padding and all, verifies over them encoded anew without it, and says that the
#   signature is bad, as if the key were wrong. joserfc, which replaces authlib.jose, says that the header is invalid.
# Since: PyJWT 2.15.1, python-jose 3.5.0, Authlib 1.9.10, jwskate 0.12.2; jwcrypto 1.6.1, joserfc 1.8.0.
# Matters: a service behind such a load balancer that moves from authlib.jose to joserfc, as its deprecation warning
#   says, loses all its users; one on jwcrypto looks for a key that is right.
# Source: jwcrypto/jws.py, JWS.deserialize; joserfc/util.py, urlsafe_b64decode; RFC 7515 section 2; Elastic Load
#   Balancing, "Authenticate users using an Application Load Balancer", user claims encoding.
set -euo pipefail
version=${1:-1.8.0}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check "joserfc==$version" PyJWT==2.15.1 jwcrypto==1.6.1 \
    python-jose==3.5.0 Authlib==1.9.10 jwskate==0.12.2 cryptography==50.0.2 \
    || { echo "cannot install the packages" >&2; exit 2; }
timeout 60 "$dir/venv/bin/python" -W ignore - <<'PY'
import base64
import importlib.metadata
import json
import sys

import authlib.jose
import joserfc.errors
import joserfc.jwk
import joserfc.jwt
import jose.jwt
import jwcrypto.jwk
import jwcrypto.jws
import jwcrypto.jwt
import jwskate
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

PRIVATE = ec.generate_private_key(ec.SECP256R1())
PEM = PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
TEXT = PEM.decode()
PARTS = ({"alg": "ES256", "kid": "ab"}, {"sub": "alice"})


REFUSES = {"joserfc": "DecodeError", "jwcrypto": "InvalidJWSSignature"}


def token(padding):
    def text(data):
        encoded = base64.urlsafe_b64encode(data)
        return (encoded if padding else encoded.rstrip(b"=")).decode()

    signed = ".".join(text(json.dumps(part).encode()) for part in PARTS)
    numbers = decode_dss_signature(PRIVATE.sign(signed.encode(), ec.ECDSA(SHA256())))
    return signed + "." + text(b"".join(number.to_bytes(32, "big") for number in numbers))


def by_jwskate(compact):
    signed = jwskate.SignedJwt(compact)
    return signed.sub if signed.verify_signature(jwskate.Jwk.from_pem(PEM), alg="ES256") else None


libraries = {
    "PyJWT": lambda compact: jwt.decode(compact, TEXT, algorithms=["ES256"])["sub"],
    "jwcrypto": lambda compact: json.loads(jwcrypto.jwt.JWT(jwt=compact, key=jwcrypto.jwk.JWK.from_pem(PEM)).claims)["sub"],
    "python-jose": lambda compact: jose.jwt.decode(compact, TEXT, algorithms=["ES256"])["sub"],
    "Authlib": lambda compact: authlib.jose.jwt.decode(compact, TEXT)["sub"],
    "jwskate": by_jwskate,
    "joserfc": lambda compact: joserfc.jwt.decode(compact, joserfc.jwk.ECKey.import_key(TEXT)).claims["sub"],
}
for name, verify in libraries.items():
    for padding in (False, True):
        try:
            said = verify(token(padding))
        except (joserfc.errors.DecodeError, jwcrypto.jws.InvalidJWSSignature) as error:
            said = type(error).__name__
        print(f"{name:11} {importlib.metadata.version(name):7} {'padded' if padding else 'without padding':15} {said}")
        if said != (REFUSES.get(name, "alice") if padding else "alice"):
            sys.exit(f"changed: {name}")
PY
