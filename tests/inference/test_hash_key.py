from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.codec.grpc import frame
from meshproxy.inference.hash_key import client_id, stable_hash

SPEC = b"\x0a\x03\x0a\x01m"
TENSOR = b"\x12\xc8\x01" + bytes(200)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (SPEC + TENSOR + b"\x32\x02me", b"me"),
        (b"\x32\x02me" + SPEC + TENSOR, b"me"),
        (b"\x32\x02me\x32\x03you", b"you"),
        (b"\x32\x02me" + TENSOR + b"\x32\x00", b""),
        (b"\x32\xac\x02" + bytes(300), bytes(300)),
        (b"\x32\x02me" + b"\x30\x05", b"me"),  # another wire type: an unknown field
        (b"\x12\x04\x32\x02me", None),  # within a tensor
        (b"\x33\x32\x02me\x34", None),  # within a group
        (SPEC + TENSOR, None),
        (b"", None),
        (b"\x32\x02me" + b"\x32\x05you", None),
        (b"\x32\x02me" + b"\x80", None),
        (b"\x32\x02me" + b"\x33", None),
        (b"\x32\x02me" + b"\x0f", None),
        (b"\xb2\x80\x00\x02me", None),
    ],
)
def test_reads_the_client_as_protobuf_does(message: bytes, expected: bytes | None) -> None:
    assert client_id(frame(message)) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0\0\0\0",
        b"\0\0\0\0\x05\x32\x02me",
        b"\0\0\0\0\x03\x32\x02me",
        frame(b"\x32\x02me", compressed=True),
        frame(b"\x32\x02me") * 2,
    ],
)
def test_anything_but_one_whole_message_names_no_client(body: bytes) -> None:
    assert client_id(body) is None


@given(
    message=st.lists(
        st.sampled_from([SPEC, TENSOR, b"\x32\x02me", b"\x32\x00", b"\x32\x03you", b"\x28\x01", b"\x4b\x4c"])
        | st.binary(max_size=6),
        max_size=5,
    ).map(b"".join)
)
@settings(max_examples=300)
def test_protobuf_reads_the_same(messages: dict[str, Any], message: bytes) -> None:
    found = client_id(frame(message))
    if found is None:
        return
    try:
        oracle = messages["ClientRequest"].FromString(message)
    except DecodeError as error:
        raise AssertionError("protobuf refuses it") from error
    assert oracle.client_id == found


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((), 0xE4A6A0577479B2B4),
        ((b"",), 0x402DB780D8E197F7),
        ((b"a", b"b"), 0x42DE60BAC299D468),
    ],
)
def test_the_hash_never_changes(parts: tuple[bytes, ...], expected: int) -> None:
    assert stable_hash(*parts) == expected


def test_the_hash_is_the_same_in_every_process() -> None:
    program = "from meshproxy.inference.hash_key import stable_hash; print(stable_hash(b'a', b'b'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) == stable_hash(b"a", b"b")


def test_the_hash_tells_its_parts_apart() -> None:
    keys = [(), (b"",), (b"", b""), (b"ab",), (b"a", b"b"), (b"b", b"a"), (b"a", b"", b"b"), (b"1:a",), (b"a1:b",)]
    assert len({stable_hash(*parts) for parts in keys}) == len(keys)


def test_the_hash_spreads_evenly() -> None:
    counts = [0] * 10
    for i in range(10_000):
        counts[stable_hash(b"model", b"%d" % i) % 10] += 1
    assert min(counts) > 900
    assert max(counts) < 1100
