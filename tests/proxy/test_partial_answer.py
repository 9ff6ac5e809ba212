"""Answers of which the caller may see a part, through the whole pipeline."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meshproxy.codec.events import ResponseHead
from meshproxy.codec.grpc import frame
from meshproxy.devtools import messages
from meshproxy.inference.unary import read_message
from meshproxy.proxy.partial_answer import ANSWER_BYTES

STATUS = b"/tensorflow.serving.ModelService/GetModelStatus"
ASKED = frame(messages.GetModelStatusRequest(model_spec={"name": "closed"}).SerializeToString())


def status(*versions: str) -> bytes:
    return json.dumps({"model_version_status": [{"version": each, "state": "AVAILABLE"} for each in versions]}).encode()


def message(*versions: int) -> bytes:
    answer = messages.GetModelStatusResponse()
    for version in versions:
        answer.model_version_status.add(version=version, state="AVAILABLE")
    return frame(answer.SerializeToString())


@pytest.fixture
def client(world: Any) -> Any:
    """Asks over REST, and may see version 3."""
    world.policy.parts = frozenset({"3"})
    headers = ((b"accept-encoding", b"gzip"), (b"x-kept", b"1"))
    return world.rest(b"/v1/models/closed", method=b"GET", body=None, headers=headers)


@pytest.fixture
def caller(world: Any) -> Any:
    """The same over gRPC."""
    world.policy.parts = frozenset({"3"})
    client = world.grpc(None, method=STATUS)
    client.receive(ASKED, True)
    return client


def test_the_rest_is_left_out(world: Any, client: Any) -> None:
    (server,) = world.cluster.streams
    assert dict(server.head.headers) == {b"x-kept": b"1"}
    body = status("1", "3", "4")
    headers = ((b"content-type", b"application/json"), (b"etag", b"x"))
    server.reader.head_received(ResponseHead(0, 200, headers, end=False, length=len(body)))
    server.reader.data_received(body[:20], 20, False)
    assert client.heads == []
    server.reader.data_received(body[20:], len(body) - 20, True)
    assert [each["version"] for each in json.loads(client.body)["model_version_status"]] == ["3"]
    assert client.ended
    assert client.status == 200
    assert client.length == len(client.body)
    assert b"etag" not in client.headers
    (exchange,) = world.finished
    assert (exchange.rule, exchange.conditions, exchange.refusal) == ("part", ("only a part",), None)
    world.assert_let_go()


def test_over_grpc(world: Any, caller: Any) -> None:
    world.cluster.streams[0].respond_grpc(message(1, 3, 4))
    assert read_message(caller.body) == read_message(message(3))
    assert caller.trailers == ((b"grpc-status", b"0"),)
    assert world.finished[0].grpc_status == 0
    world.assert_let_go()


def test_the_client_may_take_its_time(world: Any, caller: Any) -> None:
    caller.is_full = True
    world.cluster.streams[0].respond_grpc(message(1, 3))
    assert world.pipeline.response_buffer.total == len(message(3))
    caller.sink.drained()
    world.assert_let_go()


def test_nothing_is_left(world: Any, client: Any) -> None:
    world.cluster.streams[0].respond(status("1", "4"))
    assert client.status == 200
    assert json.loads(client.body) == {"model_version_status": []}
    world.assert_let_go()


def test_one_who_may_see_nothing_is_refused_at_once(world: Any) -> None:
    client = world.rest(b"/v1/models/closed", method=b"GET", body=None)
    assert client.status == 403
    assert world.cluster.streams == []


def test_of_calls_that_list_nothing_there_is_no_part(world: Any) -> None:
    world.policy.parts = frozenset({"3"})
    assert world.rest(b"/v1/models/closed:predict").status == 403


@pytest.mark.parametrize(
    ("code", "body", "headers"),
    [
        (404, b'{"error": "secret"}', ()),
        (500, b'{"error": "secret"}', ()),
        (200, b"secret", ()),
        (200, status("3").replace(b'"3"', b'"secret"'), ()),
        (200, status("3"), ((b"content-encoding", b"gzip"),)),
        (206, status("3"), ()),
    ],
)
def test_what_cannot_be_filtered_is_a_refusal(world: Any, client: Any, code: int, body: bytes, headers: Any) -> None:
    world.cluster.streams[0].respond(body, code, headers)
    assert client.status == 403
    assert b"secret" not in client.body
    assert world.finished[0].refusal.message == "not permitted"
    world.assert_let_go()


def test_an_answer_that_is_too_long(world: Any, client: Any) -> None:
    reader = world.cluster.streams[0].reader
    reader.head_received(ResponseHead(0, 200, (), end=False))
    reader.data_received(b" " * ANSWER_BYTES, ANSWER_BYTES, False)
    assert client.heads == []
    reader.data_received(b" ", 1, False)
    assert client.status == 403
    assert world.limits_hit == ["partial_answer_bytes"]
    world.assert_let_go()


def test_too_many_parts(world: Any, client: Any) -> None:
    world.cluster.streams[0].respond(status(*map(str, range(300))))
    assert client.status == 403
    assert world.limits_hit == ["answer_parts"]


def test_over_grpc_what_cannot_be_filtered_is_a_refusal(world: Any) -> None:
    world.policy.parts = frozenset({"3"})
    answers: list[Any] = [
        lambda server: server.fail_grpc(b"5"),
        lambda server: server.respond_grpc(message(3), b"5"),
        lambda server: server.respond_grpc(message(3) + message(3)),
        lambda server: server.respond_grpc(b"\1" + message(3)[1:]),
        lambda server: server.respond_grpc(message(3)[:-1]),
    ]
    for place, answer in enumerate(answers):
        client = world.grpc(None, method=STATUS)
        client.receive(ASKED, True)
        answer(world.cluster.streams[place])
        assert dict(client.trailers or client.headers)[b"grpc-status"] == b"7", place
        assert client.body == b""
    world.assert_let_go()


def test_an_answer_that_breaks_off_shows_nothing(world: Any, client: Any) -> None:
    reader = world.cluster.streams[0].reader
    body = status("3")
    reader.head_received(ResponseHead(0, 200, (), end=False))
    reader.data_received(body, len(body), False)
    reader.reset_received(8, "gone")
    assert client.heads == []
    assert client.reset_code is not None
    world.assert_let_go()
