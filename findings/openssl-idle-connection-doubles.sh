#!/usr/bin/env bash
# An idle TLS 1.3 connection holds twice the memory with OpenSSL 3.5 and later that it held with 3.1.
#
# Expected: what a connection holds while nothing is under way is a matter of its buffers, which
#   SSL_MODE_RELEASE_BUFFERS gives back; from one minor version of OpenSSL to another it hardly moves.
# Happens: both ends of a connection that has handshaken and carried 100 bytes hold 36 KiB with
#   OpenSSL 3.1.4, 49 with 3.3.2, 71 with 3.5.2 and 72 with 4.0.3, buffers released. About half of
#   the step to 3.5 goes if only X25519 is offered: the keys of X25519MLKEM768, which 3.5 offers and
#   prefers, stay with the connection after the handshake.
# Since: see above; the versions in the wheels of cryptography 41.0.7, 43.0.3, 45.0.7 and 50.0.2.
# Matters: sidecars and gateways hold thousands of idle connections. A base image with a newer
#   OpenSSL (Debian 13 has 3.5, Debian 12 has 3.0) takes some 15 KB more for each at a server, with
#   the same program and configuration.
# Source: measured; resident memory of 1,000 pairs over memory BIOs.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cat >"$dir/measure.py" <<'PY'
import datetime
import gc
import os

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto

RELEASE_BUFFERS = 0x10
PAIRS = 1000
key = ec.generate_private_key(ec.SECP256R1())
name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
now = datetime.datetime.now(datetime.timezone.utc)
day = datetime.timedelta(1)
builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
certificate = builder.serial_number(1).not_valid_before(now - day).not_valid_after(now + day).sign(key, hashes.SHA256())
server, client = SSL.Context(SSL.TLS_METHOD), SSL.Context(SSL.TLS_METHOD)
server.use_certificate(crypto.X509.from_cryptography(certificate))
server.use_privatekey(crypto.PKey.from_cryptography_key(key))
for context in (server, client):
    context.set_mode(RELEASE_BUFFERS)


def pair():
    ends = SSL.Connection(client, None), SSL.Connection(server, None)
    ends[0].set_connect_state()
    ends[1].set_accept_state()
    for _ in range(4):
        for end, other in (ends, ends[::-1]):
            try:
                end.do_handshake()
            except SSL.WantReadError:
                pass
            try:
                other.bio_write(end.bio_read(65536))
            except SSL.WantReadError:
                pass
    ends[0].send(b"x" * 100)
    ends[1].bio_write(ends[0].bio_read(65536))
    assert ends[1].recv(1000) == b"x" * 100
    assert ends[1].get_protocol_version_name() == "TLSv1.3"
    return ends


def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


kept = [pair() for _ in range(200)]
before = resident()
kept += [pair() for _ in range(PAIRS)]
print(SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode().split()[1], (resident() - before) // PAIRS)
PY
measure() {
    python3 -m venv "$dir/$1"
    "$dir/$1/bin/pip" install --quiet --disable-pip-version-check "cryptography==$1" "pyOpenSSL==$2" ||
        { echo "cannot install the packages" >&2; exit 2; }
    timeout 60 "$dir/$1/bin/python" "$dir/measure.py"
}
read -r old_version old < <(measure 41.0.7 23.3.0)
read -r new_version new < <(measure 50.0.2 26.4.0)
echo "OpenSSL $old_version: $old bytes for both ends of an idle connection; $new_version: $new bytes"
if ((new * 10 < old * 16)); then
    echo "changed: less than 1.6 times as much" >&2
    exit 1
fi
