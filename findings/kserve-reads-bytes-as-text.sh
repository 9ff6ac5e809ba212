#!/usr/bin/env bash
# KServe's Python server hands a model text over REST and bytes over gRPC, and over REST refuses bytes that are no text.
#
# Expected: a BYTES tensor of the Open Inference Protocol holds bytes. KServe supports the binary tensor data extension:
#   behind the JSON comes each element as "a 4-byte unsigned integer giving the length followed by the actual bytes";
#   gRPC has the same form in raw_input_contents. So both give the model the same elements.
# Happens: a model gets one element from Triton's client and tells its length and type:
#   - over gRPC it is `bytes`, whatever it holds.
#   - over REST, in binary, it is `str`: "é" has length 2 in gRPC and 1 here, and comparing it to bytes is False.
#   - over REST, the first four bytes of a JPEG are answered 500, 'Failed to encode "b'\xff\xd8\xff\xe0'" using UTF-8.
#     Please use binary_data=True, if you want to pass a byte array', which is how they were sent.
# Since: kserve 0.21.0 with tritonclient 2.73.0.
# Matters: images, audio and serialized tf.Examples are sent as BYTES. A model that is tested over gRPC fails over REST,
#   for some inputs only; and the hint sends one to look at the client, where nothing is wrong.
# Source: kserve/protocol/infer_type.py, InferRequest.from_bytes: the binary data are read to an array, which is set
#   again with set_data_from_numpy(..., binary_data=False), the form for JSON; from_grpc keeps the raw contents.
set -euo pipefail
version=${1:-0.21.0}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check "kserve==$version" "tritonclient[http,grpc]==2.73.0" ||
    { echo "cannot install the packages" >&2; exit 2; }
cat >server.py <<'PY'
import sys

import numpy
from kserve import InferOutput, InferResponse, Model, ModelServer


class Measure(Model):
    """Answers with the length of its input's only element, and whether that is bytes."""

    def __init__(self):
        super().__init__("measure")
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        [element] = payload.inputs[0].as_numpy()
        output = InferOutput("output", [2], "INT64")
        output.set_data_from_numpy(numpy.array([len(element), isinstance(element, bytes)], numpy.int64))
        return InferResponse(payload.id, "measure", [output])


ModelServer(http_port=int(sys.argv[1]), grpc_port=int(sys.argv[2]), workers=1).start([Measure()])
PY
timeout 120 venv/bin/python - <<'PY'
import socket
import subprocess
import sys
import time
from importlib.metadata import version

import numpy
import tritonclient.grpc
import tritonclient.http
import tritonclient.utils

# What is sent, and what the model sees of it over REST and gRPC.
CASES = {
    b"text": ("4 str", "4 bytes"),
    "é".encode(): ("1 str", "2 bytes"),
    b"\xff\xd8\xff\xe0": ("refused", "4 bytes"),
}


def ask(module, client, element):
    tensor = module.InferInput("input", [1], "BYTES")
    tensor.set_data_from_numpy(numpy.array([element], object))  # binary, also over REST
    try:
        length, is_bytes = client.infer("measure", [tensor], request_id="1").as_numpy("output")
    except tritonclient.utils.InferenceServerException as error:
        return f"refused: {error}"
    return f"{length} {'bytes' if is_bytes else 'str'}"


listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
ports = [listener.getsockname()[1] for listener in listeners]
for listener in listeners:
    listener.close()
command = [sys.executable, "server.py", *map(str, ports)]
server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
try:
    rest = tritonclient.http.InferenceServerClient(f"127.0.0.1:{ports[0]}")
    grpc = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{ports[1]}")
    for _ in range(600):
        try:
            if rest.is_model_ready("measure") and grpc.is_model_ready("measure"):
                break
        except (OSError, tritonclient.utils.InferenceServerException):
            pass  # it does not listen yet
        time.sleep(0.1)
    print(f"kserve {version('kserve')}, tritonclient {version('tritonclient')}")
    changed = []
    for element, expected in CASES.items():
        seen = ask(tritonclient.http, rest, element), ask(tritonclient.grpc, grpc, element)
        for transport, result, wanted in zip(("REST", "gRPC"), seen, expected):
            print(f"{element!r:20} {transport} {result}")
            if not result.startswith(wanted):
                changed.append(f"{element!r} over {transport}: expected {wanted}")
finally:
    server.kill()
    server.wait()
sys.exit("changed: " + "; ".join(changed) if changed else 0)
PY
