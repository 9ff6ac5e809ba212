"""The Huffman code: examples of the RFC, everything that is not a code, and the `hpack` package as a second opinion."""

from __future__ import annotations

import pytest
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.codec.h2 import huffman

REFERENCE = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)


@pytest.mark.parametrize(
    ("text", "code"),
    [  # RFC 7541 appendices C.4 and C.6
        (b"www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"),
        (b"no-cache", "a8eb10649cbf"),
        (b"custom-key", "25a849e95ba97d7f"),
        (b"custom-value", "25a849e95bb8e8b4bf"),
        (b"302", "6402"),
        (b"private", "aec3771a4b"),
        (b"Mon, 21 Oct 2013 20:13:21 GMT", "d07abe941054d444a8200595040b8166e082a62d1bff"),
        (b"https://www.example.com", "9d29ad171863c78f0b97c8e9ae82ae43d3"),
        (b"307", "640eff"),
        (b"gzip", "9bd9ab"),
        (
            b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
            "94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
        ),
        (b"", ""),
    ],
)
def test_examples_of_the_rfc(text: bytes, code: str) -> None:
    assert huffman.encode(text) == bytes.fromhex(code)
    assert huffman.decode(bytes.fromhex(code)) == text


def test_codes_are_those_of_appendix_b() -> None:
    assert list(REQUEST_CODES) == huffman.CODES
    assert list(huffman.LENGTHS) == list(REQUEST_CODES_LENGTH)


@pytest.mark.parametrize(
    "code",
    [
        "ff",  # nothing but padding, eight bits of it
        "1fff",  # `a`, and eleven bits of padding
        "18",  # `a`, padded with zeros
        "1e",  # `a`, padding ends with a zero
        "fffffffc",  # EOS and two bits
        "3fffffff",  # `o`... and EOS
        "ffffffffff",
    ],
)
def test_what_is_no_code(code: str) -> None:
    for _ in range(2):  # steps that were kept are as strict as new ones
        with pytest.raises(ValueError):
            huffman.decode(bytes.fromhex(code))


@given(st.binary(max_size=100))
def test_there_and_back(data: bytes) -> None:
    code = huffman.encode(data)
    assert code == REFERENCE.encode(data)
    assert huffman.decode(code) == data


@given(st.binary(max_size=12))
def test_only_canonical_codes_are_taken(code: bytes) -> None:
    """Every string has one code: whatever decodes encodes to the same octets."""
    try:
        data = huffman.decode(code)
    except ValueError:
        return
    assert huffman.encode(data) == code
