#!/usr/bin/env bash
# grpcio takes no padding, which HTTP/2 allows: one option of Node's http2, on either side, fails every call.
#
# Expected: HEADERS and DATA may be padded (RFC 9113 sections 6.1 and 6.2); "the total number of padding octets is
#   determined by the value of the Pad Length field", and the receiver takes them off.
# Happens: calls between grpcio and Node's http2, which speaks enough of gRPC here for one call, with its option
#   `paddingStrategy`:
#   - PADDING_STRATEGY_NONE: status 0, in both directions.
#   - PADDING_STRATEGY_ALIGNED and PADDING_STRATEGY_MAX: status 13 (INTERNAL), "Failed parsing HTTP/2" with an error of
#     HPACK, as the length and the padding are read as fields. Padding of DATA is known to fail (grpc issue 9779).
#   - grpc-js, client and server: status 0 with all of them.
# Since: seen in grpcio 1.85.3, beside @grpc/grpc-js 1.14.7 and Node 20.
# Matters: whoever turns padding on, to hide lengths (RFC 9113 section 10.7), loses callers and servers in Python, C++,
#   Ruby and PHP, and the errors speak of corrupt fields.
# Source: grpc core, src/core/ext/transport/chttp2/transport/frame_data.cc (DATA: no flag but END_STREAM) and parsing.cc
#   (HEADERS: no look at the PADDED flag).
set -euo pipefail
version=${1:-1.85.3}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check "grpcio==$version" ||
    { echo "cannot install the packages" >&2; exit 2; }
npm install --silent --no-audit --no-fund @grpc/grpc-js@1.14.7 >log 2>&1 || { cat log >&2; exit 2; }
cat >padding_server.js <<'JS'
const http2 = require("http2");
const server = http2.createServer({ paddingStrategy: http2.constants[process.argv[2]] });
server.on("sessionError", () => {});
server.on("stream", (stream) => {
  stream.on("error", () => {});
  stream.respond({ ":status": 200, "content-type": "application/grpc" }, { waitForTrailers: true });
  stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "0" }));
  stream.end(Buffer.from("\0\0\0\0\5hello"));
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
JS
cat >padding_client.js <<'JS'
const http2 = require("http2");
const [, , port, strategy] = process.argv;
const session = http2.connect(`http://127.0.0.1:${port}`, { paddingStrategy: http2.constants[strategy] });
const path = "/example.Service/Method";
const head = { ":method": "POST", ":path": path, "content-type": "application/grpc", te: "trailers" };
const stream = session.request(head);
const show = (fields) => "grpc-status" in fields && console.log(fields["grpc-status"], fields["grpc-message"] ?? "");
stream.on("response", show).on("trailers", show).on("close", () => session.destroy()).resume();
stream.end(Buffer.from("\0\0\0\0\5hello"));
JS
cat >grpc_js_server.js <<'JS'
const grpc = require("@grpc/grpc-js");
const same = (bytes) => bytes;
const method = { path: "/example.Service/Method", requestStream: false, responseStream: false,
  requestSerialize: same, requestDeserialize: same, responseSerialize: same, responseDeserialize: same };
const server = new grpc.Server();
server.addService({ Method: method }, { Method: (call, answer) => answer(null, call.request) });
server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (_, port) => console.log(port));
JS
cat >grpc_js_client.js <<'JS'
const grpc = require("@grpc/grpc-js");
const same = (bytes) => bytes;
const client = new grpc.Client(`127.0.0.1:${process.argv[2]}`, grpc.credentials.createInsecure());
const limit = { deadline: Date.now() + 10000 };
client.makeUnaryRequest("/example.Service/Method", same, same, Buffer.alloc(0), limit, (error) => {
  console.log(error ? `${error.code} ${error.details}` : "0");
  client.close();
});
JS
timeout 90 venv/bin/python - <<'PY'
import contextlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc

METHOD = "/example.Service/Method"
STRATEGIES = ("PADDING_STRATEGY_NONE", "PADDING_STRATEGY_ALIGNED", "PADDING_STRATEGY_MAX")


def run(*command):
    return subprocess.run(["node", *command], capture_output=True, text=True, timeout=30).stdout.strip()


@contextlib.contextmanager
def serving(*command):
    with subprocess.Popen(["node", *command], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def by_grpcio(port):
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary(METHOD)(b"", timeout=10)
        except grpc.RpcError as error:
            return f"{error.code().value[0]} {error.details()}"
        return "0"


handler = grpc.unary_unary_rpc_method_handler(lambda request, _: request)
server = grpc.server(
    ThreadPoolExecutor(1), handlers=[grpc.method_handlers_generic_handler("example.Service", {"Method": handler})]
)
grpcio_port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(f"grpcio {grpc.__version__}, grpc-js 1.14.7")
changed = []
with serving("grpc_js_server.js") as grpc_js_port:
    for strategy in STRATEGIES:
        with serving("padding_server.js", strategy) as port:
            seen = {"grpcio client": by_grpcio(port), "grpc-js client": run("grpc_js_client.js", port)}
        for name, port in (("grpcio server", grpcio_port), ("grpc-js server", grpc_js_port)):
            seen[name] = run("padding_client.js", str(port), strategy)
        for peer, result in seen.items():
            print(f"{strategy:25} {peer:14} {result}")
            is_failing = "grpcio" in peer and strategy != "PADDING_STRATEGY_NONE"
            if result.split()[:1] != ["13" if is_failing else "0"]:
                changed.append(f"{peer}, {strategy}")
server.stop(None)
sys.exit("changed: " + "; ".join(changed) if changed else 0)
PY
