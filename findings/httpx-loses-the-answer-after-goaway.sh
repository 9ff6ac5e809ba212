#!/usr/bin/env bash
# httpx over HTTP/2 loses the answer that a server promises with a graceful GOAWAY.
#
# Expected: GOAWAY with NO_ERROR lets requests up to its last stream id finish (RFC 9113, section 6.8);
#   2^31-1 is the usual first warning of a drain. The client reads the answer and then reconnects.
# Happens: h2, the codec under httpx, takes a GOAWAY in either direction as the end of the connection:
#   every later HEADERS, DATA or SETTINGS frame is a ProtocolError. In httpx the request in flight
#   fails although the server sends 200 right behind the GOAWAY; depending on what is read first this
#   is a RemoteProtocolError or a *Local*ProtocolError. httpx retries neither. A server built on h2
#   cannot drain either: after close_connection(last_stream_id=1) it cannot answer stream 1.
# Since: seen in httpx 0.28.1 (httpcore 1.0.9) with h2 4.4.1.
# Matters: a proxy that drains as Envoy and nginx do (GOAWAY, finish, close) fails requests of
#   Python callers at every rollout. LocalProtocolError sends the search to the wrong side. Such
#   callers should use HTTP/1.1, or retry what is safe to retry; a proxy can only close once idle.
# Source: h2/connection.py, H2ConnectionStateMachine._transitions (RECV_GOAWAY and SEND_GOAWAY lead to
#   CLOSED); httpcore/_sync/http2.py, HTTP2Connection._receive_events.
set -euo pipefail
version=${1:-0.28.1}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check "httpx==$version" httpcore==1.0.9 h2==4.4.1 ||
    { echo "cannot install the packages" >&2; exit 2; }
timeout 60 "$dir/venv/bin/python" - <<'PY'
import importlib.metadata
import socket
import sys
import threading

import httpx
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived
from h2.exceptions import ProtocolError
from hyperframe.frame import GoAwayFrame

WARNING = GoAwayFrame(0, last_stream_id=2**31 - 1, error_code=0).serialize()


def serve(connection):
    """Answer every request with 200; send the warning before the answer to /drain."""
    http2 = H2Connection(H2Configuration(client_side=False, header_encoding="ascii"))
    http2.initiate_connection()
    connection.sendall(http2.data_to_send())
    while data := connection.recv(65536):
        for event in http2.receive_data(data):
            if isinstance(event, RequestReceived):
                if dict(event.headers)[":path"] == "/drain":
                    connection.sendall(WARNING)
                http2.send_headers(event.stream_id, [(":status", "200")], end_stream=True)
        connection.sendall(http2.data_to_send())


def accept(listener):
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()


listener = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=accept, args=(listener,), daemon=True).start()
print({name: importlib.metadata.version(name) for name in ("httpx", "httpcore", "h2")})
outcomes = []
with httpx.Client(http1=False, http2=True, trust_env=False, timeout=20) as client:
    for path in ("/", "/drain", "/"):
        try:
            outcomes.append(str(client.get(f"http://127.0.0.1:{listener.getsockname()[1]}{path}").status_code))
        except httpx.ProtocolError as error:
            outcomes.append(f"{type(error).__name__}: {error}")
        print(f"GET {path:7} {outcomes[-1]}")
if outcomes[0] != "200" or "ProtocolError" not in outcomes[1] or outcomes[2] != "200":
    sys.exit("changed: expected 200, a protocol error, and 200")

server, client = H2Connection(H2Configuration(client_side=False)), H2Connection()
client.initiate_connection()
request = {":method": "GET", ":scheme": "http", ":authority": "a.example", ":path": "/"}
client.send_headers(1, list(request.items()), end_stream=True)
server.initiate_connection()
server.receive_data(client.data_to_send())
server.close_connection(last_stream_id=1)
try:
    server.send_headers(1, [(":status", "200")], end_stream=True)
    sys.exit("changed: h2 answers a stream that its GOAWAY promised to finish")
except ProtocolError as error:
    print("h2 as a server, answer to stream 1 after GOAWAY(1):", error)
PY
