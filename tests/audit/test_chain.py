from __future__ import annotations

import hashlib

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.audit.chain import (
    NO_SIGNATURE,
    NOTHING_BEFORE,
    constant_part,
    join,
    key_id,
    line_hash,
    read_head,
    read_signature,
    sign,
)

CHAIN = "0123456789abcdef"
BODY = b'","kind":"stopped","signature":"%b","public_key":"%b"},"time":1}\n'


@given(st.integers(1, 10**17), st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_a_head_is_read_as_it_was_written(sequence: int, writer: str) -> None:
    constant = constant_part(writer, CHAIN)
    line = join(sequence, constant, NOTHING_BEFORE, b'","kind":"denied"},"time":1}\n')
    head = read_head(line)
    assert head is not None
    assert (head.sequence, head.constant, head.writer) == (sequence, constant, writer)
    assert (head.chain, head.previous, head.kind) == (CHAIN, NOTHING_BEFORE, "denied")


@given(st.binary())
def test_what_is_no_line_has_no_head(line: bytes) -> None:
    assert read_head(line) is None


def test_the_hash_is_that_of_the_whole_line() -> None:
    assert line_hash(b"line\n") == hashlib.sha256(b"line\n").hexdigest()


@pytest.mark.parametrize("writer", ["w", 'a"signature":"b'])
def test_a_signature_covers_everything_but_itself(writer: str) -> None:
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()
    unsigned = join(7, constant_part(writer, CHAIN), "ab" * 32, BODY % (NO_SIGNATURE.encode(), public.hex().encode()))
    line = sign(unsigned, key)
    assert len(line) == len(unsigned)
    signature = read_signature(line)
    assert signature is not None
    assert signature.public_key == public
    assert len(signature.signed) > len(line) - len(NO_SIGNATURE)
    Ed25519PublicKey.from_public_bytes(public).verify(signature.value, signature.signed)
    for place in range(0, len(line), 7):
        changed = bytearray(line)
        changed[place] ^= 1
        other = read_signature(bytes(changed))
        if other is not None:
            with pytest.raises(InvalidSignature):
                Ed25519PublicKey.from_public_bytes(public).verify(other.value, other.signed)


def test_a_line_without_a_signature() -> None:
    assert read_signature(join(1, constant_part("w", CHAIN), NOTHING_BEFORE, b'","kind":"denied"}}\n')) is None


def test_the_id_of_a_key() -> None:
    assert key_id(bytes(32)) == hashlib.sha256(bytes(32)).hexdigest()[:16]
