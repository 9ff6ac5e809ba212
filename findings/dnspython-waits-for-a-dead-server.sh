#!/usr/bin/env bash
# dnspython waits two seconds for a name server whose host has already answered "port unreachable".
#
# Expected: when nothing listens on a name server's UDP port, the kernel reports the ICMP error at
#   once, and the resolver goes to the next server at once, as c-ares does and as dnspython does by TCP.
# Happens: dns.resolver and dns.asyncresolver send from unconnected sockets, to which Linux does not
#   report the error. Every lookup waits the full timeout (2 s) before it asks the second server, and
#   the next lookup does so again: a dead server is not remembered. With it alone, a lookup takes
#   its whole lifetime (5 s and more). A connected socket given to dns.query.udp is refused at once.
# Since: seen in 2.4.2, 2.6.1, 2.8.0 and 2.9.2.
# Matters: a restart of a node-local DNS cache is exactly this case. A sidecar that resolves its
#   upstreams through dnspython stalls each of them by two seconds, longer than many connect
#   timeouts, while programs on c-ares beside it notice nothing.
# Source: dns/query.py, udp (sendto without connect); dns/asyncquery.py, udp (make_socket gets a
#   destination only if the backend requires one); dns/resolver.py, Resolution.next_nameserver.
set -euo pipefail
version=${1:-2.9.2}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check "dnspython==$version" pycares==5.2.1 ||
    { echo "cannot install the packages" >&2; exit 2; }
timeout 90 "$dir/venv/bin/python" - <<'PY'
import asyncio
import contextlib
import socket
import sys
import threading
import time

import dns.asyncresolver
import dns.message
import dns.nameserver
import dns.query
import dns.resolver
import dns.rrset
import dns.version
import pycares

NAME = "models.example."
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 0))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
    unused.bind(("127.0.0.1", 0))
    PORTS = [unused.getsockname()[1], server.getsockname()[1]]


def serve():
    while True:
        wire, client = server.recvfrom(4096)
        answer = dns.message.make_response(dns.message.from_wire(wire))
        answer.answer.append(dns.rrset.from_text(NAME, 60, "IN", "A", "192.0.2.1"))
        server.sendto(answer.to_wire(), client)


def resolver(kind):
    found = kind(configure=False)
    found.nameservers = [dns.nameserver.Do53Nameserver("127.0.0.1", port) for port in PORTS]
    return found


def cares():
    done = threading.Event()
    channel = pycares.Channel(servers=[f"127.0.0.1:{port}" for port in PORTS], timeout=20, tries=1)
    channel.getaddrinfo(NAME, 80, family=socket.AF_INET, callback=lambda result, error: error or done.set())
    done.wait(30)


def connected():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", PORTS[0]))
        client.setblocking(False)
        with contextlib.suppress(ConnectionRefusedError):
            dns.query.udp(dns.message.make_query(NAME, "A"), "127.0.0.1", timeout=2, port=PORTS[0], sock=client)


threading.Thread(target=serve, daemon=True).start()
print("dnspython", dns.version.version, "pycares", pycares.__version__)
synchronous, asynchronous = resolver(dns.resolver.Resolver), resolver(dns.asyncresolver.Resolver)
for what, call, slow in (("sync", lambda: synchronous.resolve(NAME, "A"), True),
                         ("sync again", lambda: synchronous.resolve(NAME, "A"), True),
                         ("async", lambda: asyncio.run(asynchronous.resolve(NAME, "A")), True),
                         ("connected UDP socket", connected, False), ("c-ares", cares, False)):
    start = time.monotonic()
    call()
    took = time.monotonic() - start
    print(f"{what:22} {took:.3f} s")
    if (took > 1.5) != slow:
        sys.exit(f"changed: {what} was expected to be {'slow' if slow else 'fast'}")
PY
