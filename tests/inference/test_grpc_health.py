from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.codec.grpc import frame
from meshproxy.inference.grpc_health import Serving, read_request, read_response, write_request, write_response
from meshproxy.refusal import Refusal


def messages() -> tuple[type, type]:
    """Request and Response, by protobuf itself."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="health.proto", package="oracle", syntax="proto3")
    request, response = file.message_type.add(name="Request"), file.message_type.add(name="Response")
    request.field.add(name="service", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    response.field.add(name="status", number=1, type=kinds.TYPE_INT32, label=kinds.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = ("oracle.Request", "oracle.Response")
    first, second = (message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in names)
    return first, second


REQUEST, RESPONSE = messages()
NAMES = st.text(st.characters(categories=("L", "N", "P"), codec="utf-8"), max_size=60)


@given(NAMES)
def test_requests_are_protobufs(service: str) -> None:
    message = REQUEST(service=service).SerializeToString()
    assert write_request(service) == frame(message)
    assert read_request(frame(message)) == service


@pytest.mark.parametrize("status", Serving)
def test_responses_are_protobufs(status: Serving) -> None:
    message = RESPONSE(status=int(status)).SerializeToString()
    assert write_response(status) == frame(message)
    assert read_response(frame(message)) is status


def test_the_last_field_counts_and_others_do_not() -> None:
    assert read_request(frame(b"\x0a\x01a\x12\x01x\x0a\x01b")) == "b"
    assert read_response(frame(b"\x08\x02\x12\x01x\x08\x01")) is Serving.SERVING


def test_a_status_that_does_not_exist_is_unknown() -> None:
    assert read_response(frame(RESPONSE(status=-1).SerializeToString())) is Serving.UNKNOWN
    assert read_response(frame(RESPONSE(status=9).SerializeToString())) is Serving.UNKNOWN


@given(st.binary(max_size=40))
def test_whatever_comes_is_read_or_refused(message: bytes) -> None:
    for body in (message, frame(message)):
        for read in (read_request, read_response):
            try:
                read(body)
            except Refusal:
                pass


@pytest.mark.parametrize("service", [b"\xff", b"a\nb", b"x" * 257])
def test_services_are_named_as_models_are(service: bytes) -> None:
    size = len(service)
    length = bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7])
    with pytest.raises(Refusal):
        read_request(frame(b"\x0a" + length + service))
