#!/usr/bin/env bash
# A gRPC server answers some calls of a burst CANCELLED, although nobody has cancelled them.
#
# Expected: calls beyond what a server works on wait, or are refused with RESOURCE_EXHAUSTED (as
#   `maximum_concurrent_rpcs` does) or UNAVAILABLE, which clients take as a reason to try again.
# Happens: while more than 1,000 calls have arrived that no handler has been given yet, each further
#   call is dropped by chance, the more of them wait the likelier, and each from 3,000 on. It ends
#   with status CANCELLED and the message "CANCELLED", as if the client had cancelled it. Retry
#   policies do not name that status, most metrics of errors leave it out, and the handler never
#   sees the call. The limits are two channel arguments that the guides do not mention.
# Since: grpcio 1.82.1; seen up to 1.85.3, in `grpc.aio.server` and in `grpc.server`. 1.81.2 and older
#   releases (1.66.2, 1.70, 1.74, 1.76, 1.80) answer every call of the same burst.
# Matters: load tests and batch clients start thousands of calls in one moment. A proxy, or a model
#   server that waits for a batch, sees failures that look like impatient clients, and blames the
#   wrong side.
# Mend: grpc.server.max_pending_requests and grpc.server.max_pending_requests_hard_limit.
# Source: grpc, src/core/server/server.h: random early detection for requests that wait for a match.
set -euo pipefail
version=${1:-1.85.3}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check "grpcio==$version" ||
    { echo "cannot install the packages" >&2; exit 2; }
timeout 120 "$dir/venv/bin/python" - <<'PY'
import asyncio
import collections
import sys

import grpc

CALLS = 3_000
RAISED = [("grpc.server.max_pending_requests", 100_000), ("grpc.server.max_pending_requests_hard_limit", 100_000)]


async def burst(options):
    """What becomes of calls that are started in one moment, and how many of them the handler has seen."""
    seen = 0

    async def handle(request, context):
        nonlocal seen
        seen += 1
        return request

    method = grpc.unary_unary_rpc_method_handler(handle)
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Say": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    async def call(say):
        try:
            return await say(b"hello", timeout=60)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        say = channel.unary_unary("/test.Echo/Say")
        ended = collections.Counter(await asyncio.gather(*(call(say) for _ in range(CALLS))))
    await server.stop(None)
    return dict(ended), seen


usual, seen = asyncio.run(burst([]))
print(f"grpcio {grpc.__version__}, {CALLS} calls at once: {usual}; seen by the handler: {seen}")
raised, _ = asyncio.run(burst(RAISED))
print(f"with the two limits raised: {raised}")
dropped = usual.get("CANCELLED: CANCELLED", 0)
if not dropped or usual.get(b"hello", 0) + dropped != CALLS or seen != CALLS - dropped or raised != {b"hello": CALLS}:
    sys.exit("changed: some calls were expected to end CANCELLED, and none with the limits raised")
PY
