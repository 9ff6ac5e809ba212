from __future__ import annotations

import json
import re

from meshproxy.devtools.load.grpc import GrpcConnection
from meshproxy.devtools.load.messages import grpc_request
from meshproxy.devtools.load.rest import RestConnection
from meshproxy.devtools.load.target import Target, rest_request
from meshproxy.devtools.load.varied import LENGTHS, MOST, SAMPLED, ids, vary_message, vary_rest
from meshproxy.inference.body_scan import DEFAULT_LIMITS
from meshproxy.inference.surfaces import SURFACES
from tests.devtools.load.conftest import FakeTransport, Finishes
from tests.devtools.load.test_grpc import BLOCKS, Peer

BODY = b'{"instances": [1.0]}'


def test_ids_are_valid_and_none_comes_twice() -> None:
    make = ids()
    made = [make() for _ in range(1_000)]
    assert [number for number, _, _ in made] == list(range(1, 1_001))
    assert len({request_id for _, request_id, _ in made}) == len({trace for _, _, trace in made}) == 1_000
    for _, request_id, trace in made:
        assert re.fullmatch(rb"[0-9a-f]{8}-[0-9a-f]{4}-[49][0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", request_id)
        assert re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", trace)
    # In both the same ones are sampled.
    sampled = [number for number, _, trace in made if trace.endswith(b"1")]
    assert sampled == [number for number, request_id, _ in made if request_id[14:15] == b"9"]
    assert len(sampled) == len(made) / SAMPLED


def test_requests_are_whole_and_differ_in_length_id_and_trace_only() -> None:
    request = rest_request(Target("127.0.0.1", 1, token="abc"), "/v1/models/m:predict", BODY)
    make = vary_rest(request, ids())
    made = [make() for _ in range(2 * LENGTHS)]
    assert len(set(made)) == len(made)
    lengths = set()
    for each in made:
        head, _, body = each.partition(b"\r\n\r\n")
        (length,) = re.findall(rb"\r\ncontent-length: (\d+)", head)
        assert len(body) == int(length)
        assert json.loads(body) == json.loads(BODY)
        lengths.add(length)
        plain = re.sub(rb"x-request-id: [^\r]+\r\ntraceparent: [^\r]+\r\n", b"", head)
        plain = plain.replace(b"content-length: " + length, b"content-length: %d" % len(BODY))
        assert plain == request.partition(b"\r\n\r\n")[0]
    assert len(lengths) == LENGTHS


def test_a_large_body_keeps_its_length() -> None:
    body = b"1" * (MOST + 1)
    request = rest_request(Target("127.0.0.1", 1), "/v1/models/m:predict", body)
    make = vary_rest(request, ids())
    assert {len(make()) for _ in range(LENGTHS)} == {len(make())}
    assert vary_message(body, 3) is body


def test_messages_of_other_lengths_name_the_same_model() -> None:
    message = grpc_request("m", 30)
    assert len({len(vary_message(message, number)) for number in range(LENGTHS)}) == LENGTHS
    operation = SURFACES.find_grpc(b"/tensorflow.serving.PredictionService/Predict")
    assert operation.scan is not None
    for number in range(LENGTHS):
        varied = vary_message(message, number)
        call = operation.scan(None, DEFAULT_LIMITS).feed(b"\0" + len(varied).to_bytes(4, "big") + varied, True)
        assert call is not None
        assert [model.name for model in call.models] == ["m"]


def test_a_rest_connection_sends_what_is_made(transport: FakeTransport, finishes: Finishes) -> None:
    requests = iter([b"one", b"two"])
    connection = RestConnection(b"", finishes, lambda: next(requests))
    connection.connection_made(transport)
    connection.begin()
    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    connection.begin()
    assert transport.take() == b"onetwo"


async def test_calls_of_a_connection_differ(transport: FakeTransport, finishes: Finishes) -> None:
    connection = GrpcConnection(BLOCKS, grpc_request("m", 30), 2, finishes, ids())
    connection.connection_made(transport)
    peer = Peer(connection, transport)
    peer.exchange()
    for slot in connection.slots:
        slot.begin()
        peer.exchange()
    first, second = peer.heads()
    assert first.trace is None  # the first call of a connection fills the tables
    fields = dict(second.headers)
    assert second.trace is not None
    assert len(fields[b"x-request-id"]) == 36
    assert fields[b"authorization"] == b"Bearer abc"
