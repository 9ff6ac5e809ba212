"""Model servers that break connections and streams off in every place: what the application gets is a whole answer or
an error, never half of one that looks whole. The servers speak through the `h2` package, not through our own codec."""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest

from meshproxy.devtools import messages
from meshproxy.devtools.clients import GrpcClient, RestClient
from meshproxy.devtools.load.predict import predict_over_grpc
from meshproxy.devtools.local_mesh import Document, LocalSidecar, document, local_mesh
from tests.processes.calls import PREDICT, REQUEST

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

ANSWER = messages.PredictResponse(model_spec={"name": "half_plus_two"}).SerializeToString()
HEADERS = [(":status", "200"), ("content-type", "application/grpc")]
TRAILERS = [("grpc-status", "0")]


def framed(message: bytes) -> bytes:
    return b"\0" + struct.pack(">I", len(message)) + message


class Server(asyncio.Protocol):
    """A gRPC server that does with the calls of a connection what its script says, which is given the server, the
    stream, and the number of the call on this connection, from 1."""

    def __init__(self, script: Callable[[Server, int, int], None], calls: Counter[str], ends: list[Any]) -> None:
        self.script = script
        self.calls = calls
        self.ends = ends
        self.number = 0
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.ends.append(transport)
        self.calls["connections"] += 1
        self.h2.initiate_connection()
        self.flush()

    def data_received(self, data: bytes) -> None:
        events = self.h2.receive_data(data)
        # On a busy machine a call may be taken back (a health check whose time is up) before it is looked at here.
        taken_back = {event.stream_id for event in events if isinstance(event, h2.events.StreamReset)}
        for event in events:
            if isinstance(event, h2.events.DataReceived):
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded) and event.stream_id not in taken_back:
                self.number += 1
                self.calls["calls"] += 1
                self.script(self, event.stream_id, self.number)
        self.flush()

    def flush(self) -> None:
        if (data := self.h2.data_to_send()) and not self.transport.is_closing():
            self.transport.write(data)

    # What scripts are made of.

    def answer(self, stream: int) -> None:
        self.h2.send_headers(stream, HEADERS)
        self.h2.send_data(stream, framed(ANSWER))
        self.h2.send_headers(stream, TRAILERS, end_stream=True)

    def begin(self, stream: int) -> None:
        """A head, and half of a message."""
        self.h2.send_headers(stream, HEADERS)
        self.h2.send_data(stream, framed(ANSWER)[:8])

    def close(self) -> None:
        """Flushes, and ends the connection without a further word."""
        self.flush()
        self.transport.close()


def answering(server: Server, stream: int, number: int) -> None:
    server.answer(stream)


def breaking_in_the_middle(server: Server, stream: int, number: int) -> None:
    server.begin(stream)
    server.close()


def resetting_in_the_middle(server: Server, stream: int, number: int) -> None:
    server.begin(stream)
    server.h2.reset_stream(stream, 2)


def breaking_before_an_answer(server: Server, stream: int, number: int) -> None:
    if number % 5 == 0:
        server.close()
    else:
        server.answer(stream)


def refusing(server: Server, stream: int, number: int) -> None:
    """REFUSED_STREAM for every third call."""
    if number % 3 == 0:
        server.h2.reset_stream(stream, 7)
    else:
        server.answer(stream)


def going_away(server: Server, stream: int, number: int) -> None:
    """Every tenth call is answered with GOAWAY that leaves it out, and the connection ends when the others are over."""
    if number < 10:
        server.answer(stream)
    elif number == 10:
        server.h2.close_connection(0, last_stream_id=stream - 2)
        server.close()


@asynccontextmanager
async def serving(script: Callable[[Server, int, int], None]) -> AsyncIterator[tuple[str, Counter[str]]]:
    """The address of such a server, and what it has counted."""
    calls: Counter[str] = Counter()
    ends: list[Any] = []
    server = await asyncio.get_running_loop().create_server(lambda: Server(script, calls, ends), "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", calls
    finally:
        server.close()
        for end in ends:
            end.abort()


def models(*addresses: str) -> Document:
    """In turn, and left alone by nobody: what is lost then is lost by retries."""
    spec: Document = {
        "endpoints": [{"grpc": address} for address in addresses],
        "balancing": {"policy": "round-robin"},
        "breaker": {"enabled": False},
        "ejection": {"enabled": False},
        "health": {"enabled": False},
        "connectTimeout": "10s",  # of a busy machine, which may stand still for a second
    }
    return document("ModelServer", spec, "models")


async def reasons(application: LocalSidecar) -> dict[str, float]:
    """Retries by their reason."""
    return {
        series.partition('reason="')[2].partition('"')[0]: value
        for series, value in (await application.metrics()).items()
        if series.startswith("meshproxy_retries_total{")
    }


@pytest.mark.parametrize("script", [breaking_in_the_middle, resetting_in_the_middle], ids=lambda each: each.__name__)
async def test_half_of_an_answer_never_looks_whole(script: Callable[[Server, int, int], None], tmp_path: Path) -> None:
    async with serving(script) as (address, calls), local_mesh(tmp_path / "mesh") as mesh:
        application = await mesh.application([models(address)])
        async with GrpcClient(application.outbound, None) as client:
            answers = [await client.call(PREDICT, REQUEST, {"x-model-server": "models"}, timeout=30) for _ in range(20)]
        print(Counter((answer.status, answer.body) for answer in answers), dict(calls))
        assert "OK" not in {answer.status for answer in answers}
        # Something of each answer had come: none is tried again.
        assert calls["calls"] == 20
        assert await reasons(application) == {}


@pytest.mark.parametrize(
    ("script", "reason"),
    [(breaking_before_an_answer, "reset"), (refusing, "refused-stream"), (going_away, "goaway")],
    ids=lambda each: getattr(each, "__name__", None),
)
async def test_calls_that_were_not_answered_yet_are_made_again(
    script: Callable[[Server, int, int], None], reason: str, tmp_path: Path
) -> None:
    async with (
        serving(script) as (address, calls),
        serving(answering) as (other, others),
        local_mesh(tmp_path / "mesh") as mesh,
    ):
        application = await mesh.application([models(address, other)])
        # Few at a time: each connection that breaks takes those on it along, and all must fit into the retry budget.
        run = await predict_over_grpc(application.outbound, 300, 1, REQUEST, streams=2)
        tried = await reasons(application)
        print(f"{run.done} answered, {dict(run.errors)}; tried again: {tried}; {dict(calls)}, {dict(others)}")
        assert (run.done, dict(run.errors), run.unanswered) == (300, {}, 0)
        assert tried[reason] > 5
        # A fifth of the calls, ten a second, and ten at first (`retries.budgetRatio`, `retries.budgetMin`).
        assert sum(tried.values()) <= 0.2 * 300 + 10 * run.seconds + 10


async def test_half_of_a_rest_answer_is_broken_off_too(tmp_path: Path) -> None:
    """With a length, and in chunks."""
    heads = {
        "length": b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{",
        "chunks": b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{"pre\r\n',
    }
    for title, head in heads.items():

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes = head) -> None:
            await reader.readuntil(b"}")
            writer.write(head)
            writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        spec = {
            "endpoints": [{"rest": f"127.0.0.1:{server.sockets[0].getsockname()[1]}"}],
            "breaker": {"enabled": False},
        }
        async with local_mesh(tmp_path / title) as mesh:
            application = await mesh.application([document("ModelServer", spec, "models")])
            async with RestClient(application.outbound, None) as client:
                answers = [
                    await client.call("POST", "/v1/models/m:predict", {"instances": [1.0]}, {"host": "models"})
                    for _ in range(5)
                ]
            print(title, Counter((answer.status, str(answer.body)) for answer in answers))
            assert "200" not in {answer.status for answer in answers}
        server.close()
