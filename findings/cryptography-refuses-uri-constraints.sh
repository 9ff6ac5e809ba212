#!/usr/bin/env bash
# cryptography's X.509 verifier refuses every SPIFFE chain whose authority is limited to its trust domain.
#
# Expected: the client verifier takes URI names (it returns them as subjects), so it either evaluates
#   a URI name constraint, or refuses only names outside it.
# Happens: as soon as an authority on the path has a permitted subtree of URI type and the leaf has a
#   URI name, verification ends with "unsupported name constraint", for a leaf inside the
#   subtree too. The OpenSSL inside the same wheel evaluates the constraint and accepts; so does Go
#   1.26. A DNS constraint with a leading dot (".mesh.example"), which OpenSSL and Go take, is
#   "malformed DNS name constraint". Without constraints the same leaf is accepted.
# Since: seen in 45.0.7, 46.0.3 and 50.0.2 (older releases were not tried).
# Matters: a name constraint is how a federated or intermediate SPIFFE authority is kept to its
#   trust domain. A proxy that checks peers with this verifier loses all of them on the day the
#   authority is limited, while the TLS handshake itself still succeeds. It fails closed.
# Source: cryptography, src/rust/cryptography-x509-verification/src/lib.rs, evaluation of a single
#   name constraint against a single name (DNS, IP and e-mail have a branch each, URI has none).
set -euo pipefail
version=${1:-50.0.2}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check "cryptography==$version" pyOpenSSL==26.4.0 ||
    { echo "cannot install the packages" >&2; exit 2; }
timeout 60 "$dir/venv/bin/python" - <<'PY'
import datetime
import sys

import cryptography
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from OpenSSL import SSL, crypto

NOW = datetime.datetime.now(datetime.timezone.utc)
HOUR = datetime.timedelta(hours=1)
AUTHORITY, WORKLOAD = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
ISSUER, SUBJECT = (x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, n)]) for n in ("Authority", "Workload"))
SPIFFE = x509.UniformResourceIdentifier("spiffe://mesh.example/ns/models/sa/client")


def certificate(subject, key, extensions):
    serial = x509.random_serial_number()
    builder = x509.CertificateBuilder(ISSUER, subject, key.public_key(), serial, NOW - HOUR, NOW + HOUR)
    ca = key is AUTHORITY
    usage = x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)
    extensions = [(x509.BasicConstraints(ca, None), True), (usage, True),
                  (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False), *extensions]
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(AUTHORITY, hashes.SHA256())


def verify(permitted, name):
    constraints = [(x509.NameConstraints([permitted], None), True)] if permitted else []
    root = certificate(ISSUER, AUTHORITY, constraints)
    leaf = certificate(SUBJECT, WORKLOAD, [
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(AUTHORITY.public_key()), False),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False), (x509.SubjectAlternativeName([name]), False)])
    store = crypto.X509Store()
    store.add_cert(crypto.X509.from_cryptography(root))
    verdicts = []
    for check in (lambda: PolicyBuilder().store(Store([root])).time(NOW).build_client_verifier().verify(leaf, []),
                  lambda: crypto.X509StoreContext(store, crypto.X509.from_cryptography(leaf)).verify_certificate()):
        try:
            check()
            verdicts.append("accepted")
        except (VerificationError, crypto.X509StoreContextError) as error:
            verdicts.append(str(error).removeprefix("validation failed: candidates exhausted: "))
    return verdicts


URI, DNS = x509.UniformResourceIdentifier, x509.DNSName
print("cryptography", cryptography.__version__, "with", SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode())
for permitted, name, expected in (
        (None, SPIFFE, ["accepted", "accepted"]),
        (URI("mesh.example"), SPIFFE, ["unsupported name constraint", "accepted"]),
        (URI("other.example"), SPIFFE, ["unsupported name constraint", "permitted subtree violation"]),
        (DNS("mesh.example"), DNS("a.mesh.example"), ["accepted", "accepted"]),
        (DNS(".mesh.example"), DNS("a.mesh.example"), ["malformed DNS name constraint: .mesh.example", "accepted"])):
    verdicts = verify(permitted, name)
    print(f"permitted {permitted and permitted.value}, leaf {name.value}")
    print(f"    cryptography: {verdicts[0]}\n    OpenSSL: {verdicts[1]}")
    if verdicts != expected:
        sys.exit(f"changed: expected {expected}")
PY
