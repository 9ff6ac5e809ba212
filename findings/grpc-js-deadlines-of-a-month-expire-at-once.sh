#!/usr/bin/env bash
# A call with more than 24.8 days to live is out of time when it reaches a gRPC server in Node.
#
# Expected: gRPC's PROTOCOL-HTTP2 has hours as a unit of `grpc-timeout`, up to 99999999H. A caller that sets a month, or
#   a year for "no limit", is served as one that sets an hour.
# Happens: 2^31 milliseconds are 24.8 days, and from there on, for a call that takes 100 ms:
#   - grpc-js keeps the lower 32 bits, with their sign: 25 or 30 days are DEADLINE_EXCEEDED at once, 50 days are read as
#     7 hours, 100 days as 14 hours, a year as 17 days. Without a warning.
#   - connect-es hands the number to setTimeout, which makes 1 ms of it: the handler's `signal` is aborted, while its
#     `timeoutMs()` says that there is a month left. Node prints a warning.
#   - grpcio's server reads all of them.
# Since: seen with @grpc/grpc-js 1.14.7, @connectrpc/connect-node 2.1.2, grpcio 1.85.3 (client and server).
# Matters: streams that are meant to stay open (watches, subscriptions) are given long deadlines by clients that insist
#   on one. They fail at once, or drop after hours that no one set, depending on the number of days only.
# Source: grpc-js, src/server-interceptors.ts (handleTimeoutHeader: `| 0`), whose client knows the limit of
#   the timer (src/deadline.ts); connect, src/protocol/signals.ts (createDeadlineSignal).
set -euo pipefail
version=${1:-1.14.7}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check grpcio==1.85.3 || { echo "cannot install the packages" >&2; exit 2; }
npm install --silent --no-audit --no-fund "@grpc/grpc-js@$version" @connectrpc/connect@2.1.2 @connectrpc/connect-node@2.1.2 \
    @bufbuild/protobuf@2.17.0 >log 2>&1 || { cat log >&2; exit 2; }
cat >grpc-js.cjs <<'JS'
const grpc = require("@grpc/grpc-js");
const same = (bytes) => bytes;
const method = { path: "/example.Service/Method", requestStream: false, responseStream: false,
  requestSerialize: same, requestDeserialize: same, responseSerialize: same, responseDeserialize: same };
const server = new grpc.Server();
server.addService({ Method: method }, {
  Method(call, answer) {
    const left = (call.getDeadline() - Date.now()) / 3600e3;
    setTimeout(() => answer(null, Buffer.from(left.toFixed(1))), 100);
  },
});
server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (_, port) => console.log(port));
JS
cat >connect-es.mjs <<'JS'
import http2 from "node:http2";
import { create } from "@bufbuild/protobuf";
import { StringValueSchema } from "@bufbuild/protobuf/wkt";
import { connectNodeAdapter } from "@connectrpc/connect-node";
const service = { kind: "service", typeName: "example.Service", name: "Service" };
const method = { kind: "rpc", methodKind: "unary", name: "Method", localName: "method", parent: service,
  input: StringValueSchema, output: StringValueSchema, idempotency: 0 };
Object.assign(service, { methods: [method], method: { method } });
const answer = async (request, context) => {
  const left = context.timeoutMs() / 3600e3;
  await new Promise((resolve) => setTimeout(resolve, 100));
  context.signal.throwIfAborted();
  return create(StringValueSchema, { value: left.toFixed(1) });
};
const server = http2.createServer(connectNodeAdapter({ routes: (router) => router.service(service, { method: answer }) }));
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
JS
timeout 120 venv/bin/python - <<'PY'
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import grpc

METHOD = "/example.Service/Method"
DAYS = (1, 24, 25, 30, 50, 100, 365)
# What a server makes of a number of days, in hours. None: DEADLINE_EXCEEDED.
EXPECTED = {
    "grpcio": {days: days * 24 for days in DAYS},
    "grpc-js": {1: 24, 24: 576, 25: None, 30: None, 50: 7, 100: 14, 365: 409},
    "connect-es": {1: 24, 24: 576, 25: None, 30: None, 50: None, 100: None, 365: None},
}
SLACK = 0.012
"""The share by which grpcio may round up what it sends."""


def call(port, days):
    """The hours that the server says are left, or None if it says that they are over."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            answer = channel.unary_unary(METHOD)(b"", timeout=days * 86400)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
            return None
    return float(answer[2:] if answer[:1] == b"\n" else answer)  # connect-es answers with a StringValue


def answer(request, context):
    left = context.time_remaining() / 3600
    time.sleep(0.1)
    return f"{left:.1f}".encode()


handler = grpc.method_handlers_generic_handler("example.Service", {"Method": grpc.unary_unary_rpc_method_handler(answer)})
server = grpc.server(ThreadPoolExecutor(1), handlers=[handler])
ports = {"grpcio": server.add_insecure_port("127.0.0.1:0")}
server.start()
processes = {}
changed = []
try:
    for name, file in (("grpc-js", "grpc-js.cjs"), ("connect-es", "connect-es.mjs")):
        processes[name] = subprocess.Popen(["node", "--no-warnings", file], stdout=subprocess.PIPE, text=True)
        ports[name] = int(processes[name].stdout.readline())
    for name, port in ports.items():
        for days in DAYS:
            hours, expected = call(port, days), EXPECTED[name][days]
            print(f"{name:10} {days:3} days: {'DEADLINE_EXCEEDED' if hours is None else f'{hours:.1f} hours left'}")
            if (hours is None) != (expected is None) or (hours and abs(hours - expected) > 1 + SLACK * days * 24):
                changed.append(f"{name}, {days} days: expected {expected}")
finally:
    for process in processes.values():
        process.kill()
    server.stop(None)
sys.exit("changed: " + "; ".join(changed) if changed else 0)
PY
