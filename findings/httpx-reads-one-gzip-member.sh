#!/usr/bin/env bash
# httpx reads the first gzip member of a body and drops the rest without a word.
#
# Expected: a gzip body is a sequence of members (RFC 1952 section 2.2; RFC 9110 section 8.4.1.3 names
#   that format). aiohttp, urllib3 and gzip of the standard library read all of them.
# Happens: httpx and httpx2 decode the first member. What follows is neither decoded nor an error: a
#   response is short, and a stream that goes on as one member for each flush shows its first piece
#   and then nothing, for as long as the connection lives.
# Since: seen in httpx 0.28.1 and httpx2 2.16.2.
# Matters: kube-apiserver 1.37 (WatchListCompression, on by default) answers a watch with bookmarks as
#   one member per flush to whoever accepts gzip, which httpx does by default. A controller on httpx
#   sees the initial objects, and never a change. Send `accept-encoding: identity`.
# Source: httpx/_decoders.py, GZipDecoder: one zlib.decompressobj, whose unused_data is not looked at.
set -euo pipefail
version=${1:-2.16.2}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check "httpx2==$version" httpx==0.28.1 aiohttp==3.14.5 urllib3==2.6.3 ||
    { echo "cannot install the packages" >&2; exit 2; }
timeout 60 "$dir/venv/bin/python" - <<'PY'
import asyncio
import gzip
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import aiohttp
import httpx
import httpx2
import urllib3

MEMBERS = [gzip.compress(b"first\n"), gzip.compress(b"second\n"), gzip.compress(b"third\n")]
BODY = b"".join(MEMBERS)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-encoding", "gzip")
        self.send_header("content-length", str(len(BODY)))
        self.end_headers()
        for member in MEMBERS:
            self.wfile.write(member)
            self.wfile.flush()

    def log_message(self, *arguments):
        pass


async def by_aiohttp(url):
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return await answer.read()


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/"
whole = gzip.decompress(BODY)
seen = {
    f"httpx {httpx.__version__}": httpx.get(url, trust_env=False).content,
    f"httpx2 {httpx2.__version__}": httpx2.get(url, trust_env=False).content,
    f"aiohttp {aiohttp.__version__}": asyncio.run(by_aiohttp(url)),
    f"urllib3 {urllib3.__version__}": urllib3.request("GET", url).data,
    "gzip of Python": whole,
}
for name, body in seen.items():
    print(f"{name:16} {body!r}")
for name, body in seen.items():
    expected = b"first\n" if name.startswith("httpx") else whole
    if body != expected:
        sys.exit(f"changed: {name} was expected to read {expected!r}")
PY
