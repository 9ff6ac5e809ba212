#!/usr/bin/env bash
# A 1xx before the answer is the whole answer for grpcio, and the end of the connection for grpclib.
#
# Expected: "A client MUST be able to parse one or more 1xx responses received prior to a final response, even if the
#   client does not expect one" (RFC 9110 section 15.2); in HTTP/2 they are HEADERS frames of their own (RFC 9113
#   section 8.1). Below, a complete answer with grpc-status 0 follows in each case.
# Happens: with 100 (Continue), 102 (Processing) or 103 (Early Hints) before it
#   - grpcio: UNKNOWN, "Received http2 header with status: 103". The answer is dropped.
#   - grpclib: NotImplementedError in the reader, which ends the connection and the other calls on it.
#   - grpc-go and grpc-js: the answer.
# Since: seen with grpcio 1.85.3, grpclib 0.4.9 (h2 4.4.1), grpc-go 1.85.0 and @grpc/grpc-js 1.14.7.
# Matters: servers and proxies for HTTP pass interim responses on, or make them (Early Hints for every path, Processing
#   for slow ones); one that does cannot carry gRPC to these clients. UNKNOWN is not retried either.
# Source: grpc core, src/core/ext/filters/http/client/http_client_filter.cc: a status that is not 200 is an error;
#   grpclib/protocol.py, EventsProcessor: no entry for h2's InformationalResponseReceived.
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
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func main() {
	limit, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	channel, err := grpc.NewClient("passthrough:///"+os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		panic(err)
	}
	var answer wrapperspb.StringValue
	if err = channel.Invoke(limit, "/example.Service/Method", &answer, &answer); err != nil {
		fmt.Println(strings.ToUpper(status.Code(err).String()))
		return
	}
	fmt.Println(answer.Value)
}
GO
cat >client.js <<'JS'
const grpc = require("@grpc/grpc-js");
const same = (bytes) => bytes;
const client = new grpc.Client(process.argv[2], grpc.credentials.createInsecure());
const limit = { deadline: Date.now() + 10000 };
client.makeUnaryRequest("/example.Service/Method", same, same, Buffer.alloc(0), limit, (error, answer) => {
  console.log(error ? grpc.status[error.code] : answer.subarray(2).toString());
  client.close();
});
JS
{ go mod init example/client && go get google.golang.org/grpc@v1.85.0 && go mod tidy && go build -o client . &&
    npm install --silent --no-audit --no-fund @grpc/grpc-js@1.14.7; } >log 2>&1 || { cat log >&2; exit 2; }
timeout 90 venv/bin/python - <<'PY'
import asyncio
import logging
import socket
import subprocess
import sys
import threading
from importlib.metadata import version

import grpc
from grpclib.client import Channel
from grpclib.const import Cardinality
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import StreamTerminatedError
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived

METHOD = "/example.Service/Method"
CASES = (None, "100", "102", "103")
FAILING = {"grpcio": "UNKNOWN", "grpclib": "Connection lost"}
interim = None
logging.disable()  # asyncio logs the NotImplementedError of grpclib


def serve(connection):
    http2 = H2Connection(H2Configuration(client_side=False, header_encoding="ascii"))
    http2.initiate_connection()
    connection.sendall(http2.data_to_send())
    while data := connection.recv(65536):
        for event in http2.receive_data(data):
            if isinstance(event, RequestReceived):
                stream = event.stream_id
                if interim:
                    http2.send_headers(stream, [(":status", interim)])
                http2.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
                http2.send_data(stream, b"\0\0\0\0\7\n\5hello")  # a StringValue
                http2.send_headers(stream, [("grpc-status", "0")], end_stream=True)
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
            return channel.unary_unary(METHOD)(b"", timeout=10)[2:].decode()
        except grpc.RpcError as error:
            return error.code().name


async def by_grpclib(port):
    async with Channel("127.0.0.1", port, codec=Bytes()) as channel:
        try:
            async with channel.request(METHOD, Cardinality.UNARY_UNARY, bytes, bytes, timeout=10) as stream:
                await stream.send_message(b"", end=True)
                return (await stream.recv_message())[2:].decode()
        except StreamTerminatedError as error:
            return str(error)


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]
threading.excepthook = lambda _: None  # a client that closes its connection
threading.Thread(target=accept, args=(listener,), daemon=True).start()
print(f"grpcio {grpc.__version__}, grpclib {version('grpclib')}, grpc-go 1.85.0, grpc-js 1.14.7")
changed = []
for interim in CASES:
    seen = {
        "grpcio": by_grpcio(port),
        "grpclib": asyncio.run(by_grpclib(port)),
        "grpc-go": run("./client", f"127.0.0.1:{port}"),
        "grpc-js": run("node", "client.js", f"127.0.0.1:{port}"),
    }
    for library, result in seen.items():
        print(f"{interim or 'none':4} {library:8} {result}")
        if result != (FAILING.get(library, "hello") if interim else "hello"):
            changed.append(f"{library}, {interim}")
sys.exit("changed: " + "; ".join(changed) if changed else 0)
PY
