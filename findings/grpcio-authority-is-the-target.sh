#!/usr/bin/env bash
# grpcio builds :authority from the whole target: an address list or a socket's path.
#
# Expected: one address's host:port for a target with several addresses, "localhost" for a Unix
#   socket (grpcio itself sent that in 1.50).
# Happens: `ipv4:A:P,B:P` sends `:authority: A:P,B:P`, which is no host:port of RFC 3986 (the port
#   is not a number); `unix:/dir/name` sends the percent-encoded path, `dir%2Fname`, and
#   `unix-abstract:name` the socket's name. The option grpc.default_authority replaces all three.
# Since: the list in 1.50.0, 1.60.2, 1.71.0 and 1.85.3; the path in 1.60.2 and later (1.50.0 sends
#   localhost), so this script fails there.
# Matters: a strict proxy refuses such calls as malformed, and one that routes by authority finds
#   no route, although the client only followed the documented target syntax. The path of a
#   socket in the client's file system ends up in access logs and traces.
# Source: grpc core, src/core/resolver/resolver_factory.h, ResolverFactory::GetDefaultAuthority,
#   which src/core/resolver/sockaddr/sockaddr_resolver.cc does not override.
set -euo pipefail
version=${1:-1.85.3}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check "grpcio==$version" h2==4.4.1 ||
    { echo "cannot install the packages" >&2; exit 2; }
cd "$dir"
timeout 90 "$dir/venv/bin/python" - <<'PY'
import os
import socket
import sys
import threading
import urllib.parse

import grpc
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived

seen = []


def serve(connection):
    http2 = H2Connection(H2Configuration(client_side=False, header_encoding="ascii"))
    http2.initiate_connection()
    connection.sendall(http2.data_to_send())
    while data := connection.recv(65536):
        for event in http2.receive_data(data):
            if isinstance(event, RequestReceived):
                seen.append(dict(event.headers)[":authority"])
                answer = {":status": "200", "content-type": "application/grpc", "grpc-status": "5"}
                http2.send_headers(event.stream_id, list(answer.items()), end_stream=True)
        connection.sendall(http2.data_to_send())


def listen(family, address):
    listener = socket.socket(family)
    listener.bind(address)
    listener.listen()

    def accept():
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()


port = listen(socket.AF_INET, ("127.0.0.1", 0))[1]
path = os.path.abspath("server.sock")
listen(socket.AF_UNIX, path)
both = f"127.0.0.1:{port},127.0.0.1:{port}"
calls = [(f"ipv4:{both}", (), both), (f"unix:{path}", (), urllib.parse.quote(path[1:], safe="")),
         (f"unix:{path}", (("grpc.default_authority", "models.example"),), "models.example")]
print("grpcio", grpc.__version__)
for target, options, expected in calls:
    with grpc.insecure_channel(target, options=options) as channel:
        try:
            channel.unary_unary("/example.Service/Method")(b"", timeout=20)
        except grpc.RpcError as error:
            print(f"{target} {dict(options) or ''}\n    :authority {seen[-1:]} ({error.code().name})")
    if seen[-1:] != [expected]:
        sys.exit(f"changed: {target} sends {seen[-1:]}, expected {expected}")
PY
