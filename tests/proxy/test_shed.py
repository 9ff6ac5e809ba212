"""What clients see of a request that was shed."""

from __future__ import annotations

from meshproxy.proxy.shed import SHED_GRPC, SHED_REST


def test_it_is_a_refusal_that_says_when_to_come_again() -> None:
    grpc, rest = dict(SHED_GRPC), dict(SHED_REST)
    assert (grpc[b"grpc-status"], grpc[b"grpc-retry-pushback-ms"]) == (b"8", b"1000")
    assert rest[b"retry-after"] == b"1"
    assert grpc[b"x-meshproxy-refusal"] == rest[b"x-meshproxy-refusal"] == b"overloaded"
    assert b"content-type" not in rest, "there is no body"
