#!/usr/bin/env bash
# uvloop, as asyncio, closes a connection whose TLS handshake fails without sending the alert that says why.
#
# Expected: a server that refuses a client, because it has no certificate or offers TLS 1.2 only, sends
#   the alert that OpenSSL has written for it (RFC 8446 section 6.2: certificate_required,
#   protocol_version), as a blocking server with the same SSLContext does.
# Happens: the connection ends with a bare FIN or RST. OpenSSL's record with the alert is in the outgoing
#   MemoryBIO when do_handshake raises, and both libraries abort the transport without writing it. In the
#   other direction it is the same: a client that refuses the server's certificate says nothing, so the
#   server cannot tell unknown_ca from a client that has left.
# Since: seen in uvloop 0.19.0, 0.21.0 and 0.23.0, and in asyncio of Python 3.11, 3.13 and 3.15.
# Matters: mutual TLS between sidecars. Whoever calls without a certificate, or with one of another
#   authority, reads "unexpected EOF" or "connection reset" and looks for a network that is broken; a
#   server's log cannot say that its own certificate was not trusted. Subclass ssl.SSLObject
#   (SSLContext.sslobject_class) and send what the BIO holds when do_handshake fails.
# Source: uvloop/sslproto.pyx, SSLProtocol._on_handshake_complete; asyncio/sslproto.py, the same.
set -euo pipefail
version=${1:-0.23.0}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check "uvloop==$version" trustme==1.2.1 ||
    { echo "cannot install the packages" >&2; exit 2; }
timeout 60 "$dir/venv/bin/python" - <<'PY'
import asyncio
import socket
import ssl
import sys
import threading

import trustme
import uvloop

authority = trustme.CA()
server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server.minimum_version = ssl.TLSVersion.TLSv1_3
server.verify_mode = ssl.CERT_REQUIRED
authority.configure_trust(server)
authority.issue_cert("server.example").configure_cert(server)


def client(newest):
    """Of someone without a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = newest
    authority.configure_trust(context)
    return context


CASES = {"no certificate": ssl.TLSVersion.TLSv1_3, "TLS 1.2": ssl.TLSVersion.TLSv1_2}


def ask(port, context):
    """What the client is told: the name of the alert, or "nothing"."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as plain:
            with context.wrap_socket(plain, server_hostname="server.example") as tls:
                tls.recv(1)
    except ssl.SSLError as error:
        return error.reason if "ALERT" in (error.reason or "") else "nothing"
    except OSError:
        pass
    return "nothing"


def blocking():
    """The answers of a server that uses sockets that block."""
    found = {}
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            for _ in CASES:
                accepted = listening.accept()[0]
                try:
                    server.wrap_socket(accepted, server_side=True).close()
                except OSError:
                    accepted.close()

        thread = threading.Thread(target=serve)
        thread.start()
        for name, newest in CASES.items():
            found[name] = ask(listening.getsockname()[1], client(newest))
        thread.join()
    return found


async def looped():
    """The answers of a server of the event loop that runs this."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: None)
    serving = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=server)
    port = serving.sockets[0].getsockname()[1]
    found = {name: await asyncio.to_thread(ask, port, client(newest)) for name, newest in CASES.items()}
    serving.close()
    return found


print("uvloop", uvloop.__version__, "Python", sys.version.split()[0])
found = {"blocking": blocking()}
for name, new_loop in (("asyncio", asyncio.new_event_loop), ("uvloop", uvloop.new_event_loop)):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        found[name] = runner.run(looped())
for name, told in found.items():
    print(f"{name:9} {told}")
if "nothing" in found["blocking"].values():
    sys.exit("changed: a blocking server sends no alert either")
if set(found["uvloop"].values()) != {"nothing"}:
    sys.exit("changed: uvloop sends the alert")
PY
