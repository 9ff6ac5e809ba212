#!/usr/bin/env bash
# An empty DATA frame is the end of the stream for grpclib: the message behind it is lost, also with status 0.
#
# Expected: DATA frames without content are valid (RFC 9113 section 6.1), and "DATA frame boundaries have no relation to
#   Length-Prefixed-Message boundaries" (gRPC's PROTOCOL-HTTP2). Only END_STREAM ends a stream.
# Happens: the same message comes with an empty frame at various places, to a client and to a server of grpclib:
#   - before it: recv_message() returns None, which means that there are no more messages. A server runs its method
#     without a request, a client has no answer in a call of status 0. Nothing is logged. (Generated stubs assert that
#     there is one.)
#   - within it: AssertionError, of which a server makes status 2 (UNKNOWN), "Internal Server Error".
#   - behind it: nothing. grpcio reads all of them.
# Since: seen in grpclib 0.4.9, with h2 4.4.1, beside grpcio 1.85.3.
# Matters: a proxy may pass on what it has, a flush without bytes as well. In a stream, the first such frame is the end
#   of the loop over its messages, without an error.
# Source: grpclib/protocol.py, Buffer.read: the mark of the end is a piece with ack_size 0, and so is an empty frame.
set -euo pipefail
version=${1:-0.4.9}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check "grpclib==$version" h2==4.4.1 grpcio==1.85.3 ||
    { echo "cannot install the packages" >&2; exit 2; }
timeout 60 "$dir/venv/bin/python" - <<'PY'
import asyncio
import logging
import sys
from importlib.metadata import version

import grpc.aio
import grpclib.client
import grpclib.server
from grpclib.const import Cardinality, Handler
from grpclib.encoding.base import CodecBase
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived

METHOD = "/example.Service/Method"
MESSAGE = b"\0\0\0\0\5hello"
# What is sent, and what a client and a server of grpclib make of it.
CASES = {
    "no empty frame": ([MESSAGE], "hello", "hello"),
    "before it": ([b"", MESSAGE], "None", "None"),
    "within it": ([MESSAGE[:7], b"", MESSAGE[7:]], "AssertionError", "status 2"),
    "behind it": ([MESSAGE, b""], "hello", "hello"),
}
logging.disable()  # grpclib logs the AssertionError of a server


class Bytes(CodecBase):
    __content_subtype__ = "proto"

    def encode(self, message, message_type):
        return message

    def decode(self, data, message_type):
        return data


class Answering(asyncio.Protocol):
    """A server that answers each call with the given frames and status 0."""

    def __init__(self, frames):
        self.frames = frames
        self.http2 = H2Connection(H2Configuration(client_side=False, header_encoding="ascii"))

    def connection_made(self, transport):
        self.transport = transport
        self.http2.initiate_connection()
        transport.write(self.http2.data_to_send())

    def data_received(self, data):
        for event in self.http2.receive_data(data):
            if isinstance(event, RequestReceived):
                head = [(":status", "200"), ("content-type", "application/grpc")]
                self.http2.send_headers(event.stream_id, head)
                for frame in self.frames:
                    self.http2.send_data(event.stream_id, frame)
                self.http2.send_headers(event.stream_id, [("grpc-status", "0")], end_stream=True)
        self.transport.write(self.http2.data_to_send())


class Service:
    """Answers with what it received."""

    async def method(self, stream):
        await stream.send_message(shown(await stream.recv_message()).encode())

    def __mapping__(self):
        return {METHOD: Handler(self.method, Cardinality.UNARY_UNARY, bytes, bytes)}


def shown(message):
    return message.decode() if isinstance(message, bytes) else str(message)


async def by_grpclib_client(port):
    async with grpclib.client.Channel("127.0.0.1", port, codec=Bytes()) as channel:
        try:
            async with channel.request(METHOD, Cardinality.UNARY_UNARY, bytes, bytes, timeout=10) as stream:
                await stream.send_message(b"", end=True)
                message = await stream.recv_message()
                await stream.recv_trailing_metadata()  # raises if the status is not 0
        except AssertionError:
            return "AssertionError"
        return shown(message)


async def by_grpcio_client(port):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        return shown(await channel.unary_unary(METHOD)(b"", timeout=10))


async def ask(port, frames):
    """What a server answers to a request in these frames: its message, or its status if that is not 0."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    http2 = H2Connection(H2Configuration(header_encoding="ascii"))
    http2.initiate_connection()
    head = [(":method", "POST"), (":scheme", "http"), (":path", METHOD), (":authority", "example")]
    http2.send_headers(1, [*head, ("content-type", "application/grpc"), ("te", "trailers")])
    for number, frame in enumerate(frames, 1):
        http2.send_data(1, frame, end_stream=number == len(frames))
    writer.write(http2.data_to_send())
    body, status = b"", None
    while status is None:
        for event in http2.receive_data(await asyncio.wait_for(reader.read(65536), 10)):
            if isinstance(event, DataReceived):
                body += event.data
            fields = dict(getattr(event, "headers", None) or ())
            status = fields.get("grpc-status", status)
    writer.close()
    return body[5:].decode() if status == "0" else f"status {status}"


async def main():
    loop = asyncio.get_running_loop()
    server = grpclib.server.Server([Service()], codec=Bytes())
    await server.start("127.0.0.1", 0)
    [socket] = server._server.sockets
    handler = grpc.unary_unary_rpc_method_handler(lambda request, _: request)
    by_grpcio = grpc.aio.server(handlers=[grpc.method_handlers_generic_handler("example.Service", {"Method": handler})])
    grpcio_port = by_grpcio.add_insecure_port("127.0.0.1:0")
    await by_grpcio.start()
    changed = []
    for case, (frames, of_client, of_server) in CASES.items():
        answering = await loop.create_server(lambda frames=frames: Answering(frames), "127.0.0.1", 0)
        port = answering.sockets[0].getsockname()[1]
        seen = {
            "grpcio client": (await by_grpcio_client(port), "hello"),
            "grpcio server": (await ask(grpcio_port, frames), "hello"),
            "grpclib client": (await by_grpclib_client(port), of_client),
            "grpclib server": (await ask(socket.getsockname()[1], frames), of_server),
        }
        answering.close()
        for peer, (result, expected) in seen.items():
            print(f"{case:15} {peer:15} {result}")
            if result != expected:
                changed.append(f"{peer}, {case}: expected {expected}")
    server.close()
    await by_grpcio.stop(None)
    return changed


print(f"grpclib {version('grpclib')}, grpcio {version('grpcio')}, h2 {version('h2')}")
changed = asyncio.run(main())
sys.exit("changed: " + "; ".join(changed) if changed else 0)
PY
