#!/usr/bin/env bash
# grpcio and grpc-go fail a call whose binary metadata was joined with a comma, which gRPC lets a hop do.
#
# Expected: gRPC's PROTOCOL-HTTP2 says that values of one name may be joined with ",", and that implementations
#   "must split Binary-Headers on "," before decoding". So `x-bin: AAEC,AwQF` is the two values AAEC and AwQF.
# Happens: one call, answered with grpc-status 0. A comma in its first headers or in its trailers is INTERNAL for
#   grpcio ("illegal base64 encoding") and for grpc-go: a complete answer with status 0 is lost. grpclib takes it, as
#   one value of both run together, without a word. grpc-js splits. Two fields of that name are two values for all.
# Since: seen with grpcio 1.85.3, grpc-go 1.85.0, grpclib 0.4.9 and @grpc/grpc-js 1.14.7.
# Matters: joining fields of one name is right for HTTP (RFC 9110 section 5.3), and many libraries for HTTP hand them
#   over joined. A proxy that writes them out like this breaks calls with two values of a `-bin` name only. Keep
#   fields apart, whatever the specification permits.
# Source: grpc core, src/core/ext/transport/chttp2/transport/hpack_parser.cc (Unbase64); grpc-go,
#   internal/transport/http_util.go (decodeBinHeader); grpclib/metadata.py (decode_metadata).
set -euo pipefail
version=${1:-1.85.3}
dir=$(mktemp -d)
trap 'chmod -R u+w "$dir" && rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check "grpcio==$version" grpclib==0.4.9 h2==4.4.1 ||
    { echo "cannot install the packages" >&2; exit 2; }
cat >main.go <<'GO'
package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

func main() {
	limit, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	channel, err := grpc.NewClient("passthrough:///"+os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		panic(err)
	}
	var head, trailer metadata.MD
	err = channel.Invoke(limit, "/example.Service/Method", &emptypb.Empty{}, &emptypb.Empty{}, grpc.Header(&head), grpc.Trailer(&trailer))
	if err != nil {
		fmt.Println(strings.ToUpper(status.Code(err).String()))
		return
	}
	seen := []string{}
	for _, value := range append(head["x-bin"], trailer["x-bin"]...) {
		seen = append(seen, hex.EncodeToString([]byte(value)))
	}
	fmt.Println(strings.Join(seen, " "))
}
GO
cat >client.js <<'JS'
const grpc = require("@grpc/grpc-js");
const seen = [];
const add = (metadata) => metadata.get("x-bin").forEach((value) => seen.push(value.toString("hex")));
const same = (bytes) => bytes;
const client = new grpc.Client(process.argv[2], grpc.credentials.createInsecure());
const limit = { deadline: Date.now() + 10000 };
const call = client.makeUnaryRequest("/example.Service/Method", same, same, Buffer.alloc(0), limit, () => {});
call.on("metadata", add);
call.on("status", (status) => {
  add(status.metadata);
  console.log(status.code === 0 ? seen.join(" ") : grpc.status[status.code]);
  client.close();
});
JS
{ go mod init example/client && go get google.golang.org/grpc@v1.85.0 && go mod tidy && go build -o client . &&
    npm install --silent --no-audit --no-fund @grpc/grpc-js@1.14.7; } >log 2>&1 || { cat log >&2; exit 2; }
timeout 90 venv/bin/python - <<'PY'
import asyncio
import socket
import subprocess
import sys
import threading
from importlib.metadata import version

import grpc
from grpclib.client import Channel
from grpclib.const import Cardinality
from grpclib.encoding.base import CodecBase
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived

JOINED, APART = [("x-bin", "AAEC,AwQF")], [("x-bin", "AAEC"), ("x-bin", "AwQF")]
CASES = {"two fields": (APART, []), "joined": (JOINED, []), "joined, in the trailers": ([], JOINED)}
TWO = "000102 030405"
EXPECTED = {
    "grpcio": {"two fields": TWO, "joined": "INTERNAL", "joined, in the trailers": "INTERNAL"},
    "grpc-go": {"two fields": TWO, "joined": "INTERNAL", "joined, in the trailers": "INTERNAL"},
    "grpclib": {"two fields": TWO, "joined": "000102030405", "joined, in the trailers": "000102030405"},
    "grpc-js": dict.fromkeys(CASES, TWO),
}
METHOD = "/example.Service/Method"
head, trailer = [], []


def serve(connection):
    http2 = H2Connection(H2Configuration(client_side=False, header_encoding="ascii"))
    http2.initiate_connection()
    connection.sendall(http2.data_to_send())
    while data := connection.recv(65536):
        for event in http2.receive_data(data):
            if isinstance(event, RequestReceived):
                stream = event.stream_id
                http2.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc"), *head])
                http2.send_data(stream, b"\0\0\0\0\0")
                http2.send_headers(stream, [("grpc-status", "0"), *trailer], end_stream=True)
        connection.sendall(http2.data_to_send())


def accept(listener):
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()


class Bytes(CodecBase):
    __content_subtype__ = "proto"

    def encode(self, message, message_type):
        return message

    def decode(self, data, message_type):
        return data


def by_grpcio(port):
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            _, call = channel.unary_unary(METHOD).with_call(b"", timeout=10)
        except grpc.RpcError as error:
            return error.code().name
        fields = [*call.initial_metadata(), *call.trailing_metadata()]
        return " ".join(value.hex() for name, value in fields if name == "x-bin")


async def by_grpclib(port):
    async with Channel("127.0.0.1", port, codec=Bytes()) as channel:
        async with channel.request(METHOD, Cardinality.UNARY_UNARY, bytes, bytes, timeout=10) as stream:
            await stream.send_message(b"", end=True)
            await stream.recv_message()
            await stream.recv_trailing_metadata()
            both = stream.initial_metadata, stream.trailing_metadata
            return " ".join(value.hex() for fields in both for value in fields.getall("x-bin", []))


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]
threading.Thread(target=accept, args=(listener,), daemon=True).start()
print(f"grpcio {grpc.__version__}, grpclib {version('grpclib')}, grpc-go 1.85.0, grpc-js 1.14.7")
changed = []
for case, (head, trailer) in CASES.items():
    seen = {
        "grpcio": by_grpcio(port),
        "grpc-go": run("./client", f"127.0.0.1:{port}"),
        "grpclib": asyncio.run(by_grpclib(port)),
        "grpc-js": run("node", "client.js", f"127.0.0.1:{port}"),
    }
    for library, result in seen.items():
        print(f"{case:24} {library:8} {result}")
        if result != EXPECTED[library][case]:
            changed.append(f"{library}, {case}: expected {EXPECTED[library][case]}")
sys.exit("changed: " + "; ".join(changed) if changed else 0)
PY
