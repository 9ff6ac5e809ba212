from __future__ import annotations

import re

import pytest

from meshproxy.refusal import GrpcStatus, Reason, Refusal

# The HTTP status of each gRPC status in google.rpc.Code
# (https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto); below, where ours differs, and why.
HTTP_OF = {
    GrpcStatus.INVALID_ARGUMENT: 400,
    GrpcStatus.UNAUTHENTICATED: 401,
    GrpcStatus.PERMISSION_DENIED: 403,
    GrpcStatus.RESOURCE_EXHAUSTED: 429,
    GrpcStatus.UNAVAILABLE: 503,
    GrpcStatus.DEADLINE_EXCEEDED: 504,
    GrpcStatus.INTERNAL: 500,
}
MORE_EXACT = {
    Reason.UNSUPPORTED_ENCODING: 415,  # RFC 9110 section 15.5.16; gRPC: UNIMPLEMENTED
    Reason.UNSUPPORTED_PROTOCOL: 400,
    Reason.HEADERS_TOO_LARGE: 431,  # RFC 6585 section 5
    Reason.BODY_TOO_LARGE: 413,  # RFC 9110 section 15.5.14
    Reason.SCAN_LIMIT: 413,
    Reason.OVERLOADED: 503,  # 429 would say that this caller sends too much
    Reason.REQUEST_TIMEOUT: 408,  # RFC 9110 section 15.5.9
    Reason.NO_ROUTE: 404,
    Reason.UPSTREAM_RESET: 502,  # RFC 9110 section 15.6.3: the model server's answer is of no use
    Reason.UPSTREAM_PROTOCOL: 502,
}


@pytest.mark.parametrize("reason", Reason)
def test_both_statuses_of_a_reason_say_the_same(reason: Reason) -> None:
    expected = MORE_EXACT[reason] if reason in MORE_EXACT else HTTP_OF[reason.grpc_status]
    assert reason.http_status == expected


def test_no_two_reasons_have_one_label_and_each_can_be_a_header_and_a_metric_label() -> None:
    labels = [reason.label for reason in Reason]
    assert len(set(labels)) == len(labels)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", label) for label in labels)


def test_a_refusal_is_never_a_success() -> None:
    for reason in Reason:
        assert 400 <= reason.http_status < 600
        assert reason.grpc_status is not GrpcStatus.OK


def test_a_codec_that_knows_better_changes_the_http_status_alone() -> None:
    refusal = Refusal(Reason.BAD_REQUEST, "The target is too long.", http_status=414, limit="target_bytes")
    assert (refusal.http_status, refusal.grpc_status) == (414, GrpcStatus.INVALID_ARGUMENT)
    assert Refusal(Reason.BAD_REQUEST, "x").http_status == 400


def test_what_is_for_the_logs_alone_is_not_in_its_text() -> None:
    """`str` of it is what a stray log line or traceback would show."""
    refusal = Refusal(Reason.PERMISSION_DENIED, "No.", rule="finance-team", audits=("watch",), challenge="Bearer x")
    assert str(refusal) == "No."
    assert refusal.args == ("No.",)
