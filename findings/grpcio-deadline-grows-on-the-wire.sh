#!/usr/bin/env bash
# grpcio announces a deadline later than its own, and a very distant deadline fails at once.
#
# Expected: grpc-timeout carries the time left, exact or rounded down (grpc-go, grpc-java and
#   grpc-js send it in micro- or milliseconds), and timeout=inf means no deadline.
# Happens: three significant digits, rounded up, so the server and every proxy on the path believe
#   they have up to 1 % more time than the caller waits: 1005 s becomes 1010S, 100100 s 1670M.
#   The ceiling is 27000H. A deadline past the range of int64 nanoseconds (the year 2262), infinity
#   included, ends the call with DEADLINE_EXCEEDED before anything is sent.
# Since: seen in grpcio 1.50.0, 1.60.2, 1.71.0 and 1.85.3.
# Matters: a proxy that derives its own deadline from the header gives up after the client did, and
#   records a cancelled call instead of a timeout. A call that never reaches the proxy cannot be
#   found in its log although the client's status is one a proxy also writes.
# Source: grpc core, src/core/ext/transport/chttp2/transport/timeout_encoding.cc,
#   Timeout::FromMillis and Timeout::FromSeconds; grpcio, grpc/_channel.py, _deadline.
set -euo pipefail
version=${1:-1.85.3}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check "grpcio==$version" h2==4.4.1 ||
    { echo "cannot install the packages" >&2; exit 2; }
timeout 90 "$dir/venv/bin/python" - <<'PY'
import socket
import sys
import threading

import grpc
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived

requests = []


def serve(connection):
    http2 = H2Connection(H2Configuration(client_side=False, header_encoding="ascii"))
    http2.initiate_connection()
    connection.sendall(http2.data_to_send())
    while data := connection.recv(65536):
        for event in http2.receive_data(data):
            if isinstance(event, RequestReceived):
                requests.append(dict(event.headers))
                answer = {":status": "200", "content-type": "application/grpc", "grpc-status": "5"}
                http2.send_headers(event.stream_id, list(answer.items()), end_stream=True)
        connection.sendall(http2.data_to_send())


def accept(listener):
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()


listener = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=accept, args=(listener,), daemon=True).start()
expected = {1005: "1010S", 3605: "3610S", 100100: "1670M", 2**31: "27000H", 8e9: None, float("inf"): None}
print("grpcio", grpc.__version__)
changed = []
for seconds, wire in expected.items():
    requests.clear()
    with grpc.insecure_channel(f"127.0.0.1:{listener.getsockname()[1]}") as channel:
        try:
            channel.unary_unary("/example.Service/Method")(b"", timeout=seconds)
        except grpc.RpcError as error:
            code = error.code().name
    seen = requests[0]["grpc-timeout"] if requests else None
    print(f"timeout={seconds:<12g} grpc-timeout: {seen}, client's status {code}")
    if seen != wire or code != ("NOT_FOUND" if wire else "DEADLINE_EXCEEDED"):
        changed.append(f"timeout={seconds}: expected {wire} on the wire, got {seen} and {code}")
sys.exit("changed: " + "; ".join(changed) if changed else 0)
PY
