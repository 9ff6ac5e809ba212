#!/usr/bin/env bash
# httpx loses the answer of an upload over HTTP/2 that a server refuses before its end, and waits until its read timeout.
#
# Expected: a server that answers before a request has ended may reset the stream with NO_ERROR to say that it needs no
#   more of it; clients must not discard the answer for that (RFC 9113 section 8.1).
# Happens: once the window of the stream is used up, httpcore waits for a larger one, which never comes for a stream that
#   was reset. It has read the answer and the reset meanwhile and looks at neither: ReadTimeout. A body that fits into the
#   window gets its answer. Without the reset it is the same; only a server that reads the whole upload is heard.
# Since: seen with httpx 0.28.1 and 0.29.0, httpcore 1.0.9, h2 4.4.1.
# Matters: proxies refuse before the body, for want of a right or a quota. A client sees a slow server, where it was told
#   403 at once, and may send the upload again.
# Source: httpcore, _async/http2.py and _sync/http2.py (_wait_for_outgoing_flow). HTTP/1.1 is not affected.
set -euo pipefail
version=${1:-0.28.1}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check "httpx[http2]==$version" httpcore==1.0.9 h2==4.4.1 ||
    { echo "cannot install the packages" >&2; exit 2; }
cat >"$dir/upload.py" <<'PY'
import contextlib
import socket
import sys
import threading

import httpx
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived


def answer(peer: socket.socket, how: str) -> None:
    server = H2Connection(H2Configuration(client_side=False))
    server.initiate_connection()
    peer.sendall(server.data_to_send())
    while data := peer.recv(65536):
        for event in server.receive_data(data):
            if isinstance(event, RequestReceived):
                server.send_headers(event.stream_id, [(":status", "403")], end_stream=True)
                if how == "reset":
                    server.reset_stream(event.stream_id, 0)
            elif isinstance(event, DataReceived) and how == "read":
                server.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        peer.sendall(server.data_to_send())


def serve(listener: socket.socket, how: str) -> None:
    with contextlib.suppress(ConnectionError):  # the client has given up
        answer(listener.accept()[0], how)


def upload(size: int, how: str) -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener, how), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with httpx.Client(http2=True, http1=False, trust_env=False, timeout=3) as client:
            try:
                return str(client.post(url, content=b"x" * size).status_code)
            except httpx.HTTPError as error:
                return type(error).__name__


CASES = {
    (1000, "leave"): "403",
    (200_000, "reset"): "ReadTimeout",
    (200_000, "leave"): "ReadTimeout",
    (200_000, "read"): "403",
}
said = {case: upload(*case) for case in CASES}
print(said)
if said != CASES:
    sys.exit(f"changed: expected {CASES}")
PY
timeout 60 "$dir/venv/bin/python" "$dir/upload.py"
