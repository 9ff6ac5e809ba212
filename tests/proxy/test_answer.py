from __future__ import annotations

import json
from typing import Any

import pytest

from meshproxy.proxy.answer import answer, grpc_headers
from meshproxy.refusal import Reason, Refusal

every_reason = pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.label)


@every_reason
def test_over_rest_it_looks_like_tensorflow_serving(wire: Any, reason: Reason) -> None:
    client = wire.client("HTTP/1.1")
    size, is_written = answer(client, Refusal(reason, 'It said "no": try again.'), is_grpc=False)
    assert client.status == reason.http_status
    assert json.loads(client.body) == {"error": 'It said "no": try again.'}
    assert client.headers == {
        b"content-type": b"application/json",
        b"x-meshproxy-refusal": reason.label.encode(),
    }
    assert (size, is_written, client.ended) == (len(client.body), True, True)


@every_reason
def test_over_grpc_it_is_trailers_only(wire: Any, reason: Reason) -> None:
    client = wire.client("HTTP/2")
    assert answer(client, Refusal(reason, "No."), is_grpc=True) == (0, True)
    assert client.status == 200
    assert client.headers == {
        b"content-type": b"application/grpc",
        b"grpc-status": b"%d" % reason.grpc_status,
        b"grpc-message": b"No.",
        b"x-meshproxy-refusal": reason.label.encode(),
    }
    assert client.ended
    assert client.body == b""


def test_when_to_come_again_is_said_in_both(wire: Any) -> None:
    refusal = Refusal(Reason.OVERLOADED, "Too many.", retry_after=2)
    client = wire.client("HTTP/1.1")
    answer(client, refusal, is_grpc=False)
    assert client.headers[b"retry-after"] == b"2"
    assert dict(grpc_headers(refusal))[b"grpc-retry-pushback-ms"] == b"2000"


def test_what_would_be_believed_is_said_over_rest(wire: Any) -> None:
    client = wire.client("HTTP/1.1")
    answer(client, Refusal(Reason.UNAUTHENTICATED, "Who?", challenge='Bearer error="invalid_token"'), is_grpc=False)
    assert client.headers[b"www-authenticate"] == b'Bearer error="invalid_token"'


def test_the_codecs_own_status_counts(wire: Any) -> None:
    client = wire.client("HTTP/1.1")
    answer(client, Refusal(Reason.BAD_REQUEST, "No tunnels.", http_status=501), is_grpc=False)
    assert client.status == 501


@pytest.mark.parametrize("message", ["line\r\nx: y", "nul\0", "größe", "100 %"])
def test_no_message_breaks_out_of_its_place(wire: Any, message: str) -> None:
    client = wire.client("HTTP/1.1")
    answer(client, Refusal(Reason.INTERNAL, message), is_grpc=False)
    assert json.loads(client.body) == {"error": message}
    value = dict(grpc_headers(Refusal(Reason.INTERNAL, message)))[b"grpc-message"]
    assert all(0x20 <= byte < 0x7F for byte in value)


def test_a_client_that_does_not_read_is_told_of(wire: Any) -> None:
    client = wire.client("HTTP/2")
    client.is_full = True
    size, is_written = answer(client, Refusal(Reason.PERMISSION_DENIED, "No."), is_grpc=False)
    assert (size, is_written) == (len(client.body), False)
