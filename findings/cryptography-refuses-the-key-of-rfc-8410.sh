#!/usr/bin/env bash
# The second example key of RFC 8410, which brings its public key: cryptography, and what is built on it, refuse it.
#
# Expected: RFC 5958 section 2 has an optional public key in PKCS#8, and RFC 8410 section 10.3 an Ed25519 key so, beside
#   the same key without. Rust's ring and rcgen (0.14.10) write all their Ed25519 keys so. Libraries read both.
# Happens: cryptography reads the first only: "Could not deserialize key data. The data may be in an incorrect format,
#   it may be encrypted ...". So do PyJWT, joserfc and jwcrypto. pyOpenSSL reads both, with the OpenSSL 4.0 of the very
#   same wheel, and so do pycryptodome and asyncssh. (OpenSSL 3.0, and with it Node 20, cannot.)
# Since: cryptography 50.0.2, PyJWT 2.15.1, joserfc 1.8.0, jwcrypto 1.6.1; pyOpenSSL 26.4.0, pycryptodome 4.4.0,
#   asyncssh 2.24.1.
# Matters: an identity or a signing key that a Rust program has made cannot be read by a Python one beside it, and the
#   message sends people after the format and a password of a file that is whole.
# Source: cryptography, src/rust/cryptography-key-parsing/src/pkcs8.rs (version 0 only); RFC 5958 section 2; RFC 8410
#   sections 7 and 10.3; ring, src/ec/curve25519/ed25519/signing.rs, generate_pkcs8.
set -euo pipefail
version=${1:-50.0.2}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check "cryptography==$version" PyJWT==2.15.1 joserfc==1.8.0 \
    jwcrypto==1.6.1 pyOpenSSL==26.4.0 pycryptodome==4.4.0 asyncssh==2.24.1 \
    || { echo "cannot install the packages" >&2; exit 2; }
timeout 60 "$dir/venv/bin/python" -W ignore - <<'PY'
import importlib.metadata
import sys

import asyncssh
import joserfc.jwk
import jwcrypto.jwk
import jwt
from Crypto.PublicKey import ECC
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import crypto

KEYS = {
    "without": "MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC",
    "with": "MHICAQEwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhCoB8wHQYKKoZIhvcNAQkJFDEPDA1DdXJkbGUg"
    "Q2hhaXJzgSEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=",
}
LIBRARIES = {
    "cryptography": (lambda pem: load_pem_private_key(pem, None), False),
    "PyJWT": (lambda pem: jwt.encode({"sub": "alice"}, pem, "EdDSA"), False),
    "joserfc": (joserfc.jwk.OKPKey.import_key, False),
    "jwcrypto": (jwcrypto.jwk.JWK.from_pem, False),
    "pyOpenSSL": (lambda pem: crypto.load_privatekey(crypto.FILETYPE_PEM, pem), True),
    "pycryptodome": (lambda pem: ECC.import_key(pem.decode()), True),
    "asyncssh": (asyncssh.import_private_key, True),
}
for name, (read, reads_both) in LIBRARIES.items():
    for which, key in KEYS.items():
        edge = "-----{} PRIVATE KEY-----"
        try:
            read("\n".join([edge.format("BEGIN"), key, edge.format("END"), ""]).encode())
        except ValueError as error:
            said = str(error).partition(".")[0]
        else:
            said = "reads it"
        print(f"{name:12} {importlib.metadata.version(name):7} {which:7} its public key: {said}")
        wanted = reads_both or which == "without"
        if (said == "reads it") != wanted:
            sys.exit(f"changed: {name}")
PY
