"""The same for gRPC over HTTP/2: client and model server are codecs of their own, one pair for each sidecar."""

from __future__ import annotations

from typing import Any, cast

import hpack

from meshproxy.codec.events import Data, Headers, RequestHead
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.h2.encoder import Encoder
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role
from meshproxy.transport.connection_info import ConnectionInfo
from meshproxy.transport.h2_client import H2Client
from meshproxy.transport.h2_server import H2Server
from meshproxy.upstream.discovery import EndpointAddress
from tests.proxy.express.rig import ADDRESS, PEER, Rig, Wire

PREDICT = b"/tensorflow.serving.PredictionService/Predict"
GRPC: Headers = ((b"content-type", b"application/grpc"),)
OK: Headers = ((b"grpc-status", b"0"),)


def varint(number: int) -> bytes:
    """Below 16,384."""
    return bytes((number,)) if number < 128 else bytes((number & 127 | 128, number >> 7))


def message(model: bytes = b"open", filler: bytes = b"", more: bytes = b"") -> bytes:
    """A gRPC message whose model_spec names the model, with one input. `more`: fields of the message."""
    name = b"\x0a" + bytes((len(model),)) + model
    body = b"\x0a" + bytes((len(name),)) + name + b"\x12" + varint(len(filler)) + filler + more
    return b"\0" + len(body).to_bytes(4, "big") + body


def response(version: int | None = None, filler: bytes = b"") -> bytes:
    """The message of an answer, whose model_spec names the version."""
    body = b"\x0a" + bytes((len(filler),)) + filler
    if version is not None:
        spec = b"\x0a\x04open\x12\x02\x08" + bytes((version,))
        body += b"\x12" + bytes((len(spec),)) + spec
    return b"\0" + len(body).to_bytes(4, "big") + body


class IndexingEncoder(Encoder):
    """Puts every field of a request into the dynamic table, and Huffman-codes values, as most gRPC clients do."""

    def __init__(self) -> None:
        super().__init__()
        self._is_first = False  # no update of the table's size
        self._hpack = hpack.Encoder()

    def request(
        self,
        method: bytes,
        scheme: bytes,
        authority: bytes,
        target: bytes,
        headers: Headers,
        length: int | None,
        trace: bytes | None = None,
    ) -> bytes:
        pseudo = ((b":method", method), (b":scheme", scheme), (b":path", target), (b":authority", authority))
        parent = ((b"traceparent", trace),) if trace is not None else ()
        return bytes(self._hpack.encode((*pseudo, *headers, (b"te", b"trailers"), *parent)))


class CallRig(Rig):
    """One sidecar, its client and its model servers."""

    endpoint_address = EndpointAddress(grpc=ADDRESS)

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        model_limits: Limits | None = None,
        indexes: bool = False,
        **settings: Any,
    ) -> None:
        """`indexes`: the client puts all fields into the dynamic table."""
        self.caller = H2Connection(Role.CLIENT, limits or Limits(), 0.0)
        if indexes:
            self.caller._encoder = IndexingEncoder()
        self.model_limits = model_limits or Limits()
        self.models: list[H2Connection] = []
        self.read: list[int] = []
        """How much of what each was sent it has read."""
        self.asked_models: list[tuple[int, int]] = []
        """Which model server has which streams to answer."""
        self.taken = 0
        """How much of what the client was sent it has read."""
        super().__init__(**settings)
        self.settle()

    def find_pool(self) -> Any:
        return self.endpoint.grpc

    def accept(self, wire: Wire) -> H2Server:
        info = ConnectionInfo(
            direction="inbound", protocol="HTTP/2", remote="127.0.0.1:40000", local="127.0.0.1:18500", peer=PEER
        )
        server = H2Server(self.shared, info, self.pipeline.serve, self.pipeline.reject)
        server.attach(cast("Any", wire))
        return server

    def open(self) -> None:
        wire = Wire()
        info = ConnectionInfo(direction="upstream", protocol="HTTP/2", remote=self.pool.address, local="")
        client = H2Client(self.shared, info, self.pool)
        client.attach(cast("Any", wire))
        self.pool.size += 1
        self.pool._connections.add(client)
        self.pool._usable.append(client)
        self.wires.append(wire)
        self.clients.append(client)
        self.models.append(H2Connection(Role.SERVER, self.model_limits, 0.0))
        self.read.append(0)

    # Bytes to and fro

    def settle(self) -> None:
        """Everybody reads what was written to him, until nobody has anything to say."""
        for _ in range(50):
            self.turn()
            before = len(self.wire.written)
            for number, wire in enumerate(self.wires):
                said = wire.written[self.read[number] :]
                self.read[number] += len(said)
                for event in self.models[number].receive(said, 0.0) if said else ():
                    if isinstance(event, RequestHead):
                        self.asked_models.append((number, event.stream))
                    elif isinstance(event, Data):
                        self.models[number].credit(event.stream, event.flow)
            said = self.wire.written[self.taken :]
            self.taken = before
            for event in self.caller.receive(said, 0.0) if said else ():
                if isinstance(event, Data):
                    self.caller.credit(event.stream, event.flow)
            moved = bool(said)
            for number in range(len(self.models)):
                moved |= self.say(number, self.models[number].take_output())
            out = self.caller.take_output()
            if out:
                self.ask(out)
                moved = True
            if not moved:
                return

    def say(self, number: int, *pieces: bytes) -> bool:
        """A model server sends this, each piece a read."""
        client = self.clients[number]
        for piece in pieces:
            if piece and not client.transport.is_closing() and self.wires[number].state == "open":
                client.data_received(piece)
                self.turn()
        return any(pieces)

    # What may happen

    def request(
        self,
        body: bytes = b"",
        *,
        path: bytes = PREDICT,
        request_id: bytes | None = None,
        trace: bytes | None = None,
        timeout: bytes | None = None,
        token: bytes | None = b"good",
        more: Headers = (),
        parts: int = 1,
        trailers: Headers = (),
    ) -> bytes:
        """A call, as the client writes it. `parts`: DATA frames."""
        if not self.caller.can_open:
            return b""
        headers = [*GRPC, (b"user-agent", b"test"), *more]
        fields = {b"x-request-id": request_id, b"grpc-timeout": timeout}
        headers += [(name, value) for name, value in fields.items() if value is not None]
        if token is not None:
            headers.append((b"authorization", b"Bearer " + token))
        stream = self.caller.send_request(b"POST", b"https", b"models", path, tuple(headers), False, None, trace)
        step = max(1, -(-len(body) // parts))
        for at in range(0, len(body), step):
            is_last = at + step >= len(body)
            self.caller.send_data(stream, body[at : at + step], is_last and not trailers)
        if trailers:
            self.caller.send_trailers(stream, trailers)
        elif not body:
            self.caller.send_data(stream, b"", True)
        return self.caller.take_output()

    def reply(
        self, body: bytes, *, which: int = 0, status: int = 200, head: Headers = GRPC, end: Headers = OK, parts: int = 1
    ) -> tuple[int, bytes]:
        """The answer to one of the calls that wait: by which model server, and as it writes it."""
        if not self.asked_models:
            return 0, b""
        number, stream = self.asked_models.pop(which % len(self.asked_models))
        model = self.models[number]
        if not body:
            model.send_response(stream, status, (*head, *end), end=True)
        else:
            model.send_response(stream, status, head, end=False)
            step = max(1, -(-len(body) // parts))
            for at in range(0, len(body), step):
                model.send_data(stream, body[at : at + step], False)
            model.send_trailers(stream, end)
        return number, model.take_output()

    def seen(self) -> dict[str, object]:
        """As `Rig.seen`; what happens to several calls in one moment may happen in any order."""
        seen = super().seen()
        seen["client"] = (by_stream(self.wire.written), self.wire.state, self.wire.is_reading)
        seen["servers"] = [(by_stream(wire.written[24:]), wire.state, wire.is_reading) for wire in self.wires]
        for name in ("records", "log", "audit", "spans"):
            seen[name] = sorted(cast("list[Any]", seen[name]), key=repr)
        return seen

    def connections(self) -> dict[str, object]:
        return {
            "codecs": [plain(each.codec) for each in (self.server, *self.clients)],
            "connections": [plain(each) for each in (self.server, *self.clients)],
            "streams": [sorted(each.streams) for each in (self.server, *self.clients)],
            "windows": [
                [(stream.id, stream.window, stream.room, stream.owed, stream.receives, stream.sends)]
                for each in (self.server, *self.clients)
                for stream in each.codec._streams.values()
            ],
            "owed": [
                (stream.id, stream.owed, stream.ended)
                for each in (self.server, *self.clients)
                for stream in each.streams.values()
            ],
            "usable": [each in self.pool._usable for each in self.clients],
            "waiting": len(self.pool._waiting),
        }


class TwoServersRig(CallRig):
    """The same with two model servers, which are balanced."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.cluster.set_endpoints([EndpointAddress(grpc=ADDRESS), EndpointAddress(grpc="127.0.0.1:8502")])
        self.endpoint, self.other = self.cluster.endpoints.values()
        first, self.pool = self.pool, self.other.grpc
        for _ in range(2):
            self.open()
        self.pool = first
        self.settle()
        for client in self.clients:  # a call that could not ride, as the first one of a connection, would draw twice
            client.codec.encoder.request(b"GET", b"http", b"a", b"/", (), None)

    def connections(self) -> dict[str, object]:
        load = (self.other.load.in_flight, self.other.record.calls, self.other.record.failures)
        return {**super().connections(), "other": (load, self.other.states())}


def by_stream(data: bytes) -> dict[int, list[bytes]]:
    """The frames, in order; without the update of the table's size in front of the first block."""
    found: dict[int, list[bytes]] = {}
    for frame in split_frames(data):
        is_block = frame[3] == 1 and frame[9:10] == b"\x20"
        found.setdefault(int.from_bytes(frame[5:9], "big"), []).append(
            frame[3:9] + frame[10:] if is_block else frame[3:]
        )
    return found


def split_frames(data: bytes) -> list[bytes]:
    """Each with its header."""
    found = []
    while data:
        size = 9 + int.from_bytes(data[:3], "big")
        found.append(data[:size])
        data = data[size:]
    return found


def plain(thing: Any) -> dict[str, object]:
    """All numbers and texts of an object whose classes have `__slots__`."""
    told: dict[str, object] = {}
    for cls in type(thing).__mro__:
        declared = cls.__dict__.get("__slots__", ())
        for name in (declared,) if isinstance(declared, str) else declared:
            value = getattr(thing, name, None)
            if value is None or isinstance(value, int | float | str | bytes):
                told[name] = value
    # Whether there is a lane, and how much a turn took, which goes by processor time.
    for name in ("lane", "joins", "gate", "slice_frames", "_at"):
        told.pop(name, None)
    return told
