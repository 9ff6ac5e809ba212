from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Callable

import pytest

from meshproxy.codec.grpc import DEFLATE, GZIP
from meshproxy.inference.inflate import PIECE_BYTES, Inflater
from meshproxy.refusal import Reason, Refusal

TEXT = b"model_spec and what follows it. " * 40
NOISE = random.Random(1).randbytes(300_000)
COMPRESS: dict[bytes, Callable[[bytes], bytes]] = {GZIP: gzip.compress, DEFLATE: zlib.compress}


def inflater(encoding: bytes | None, *, limit: int = 1 << 26) -> Inflater:
    return Inflater(encoding, limit)


def inflate(inflater: Inflater, data: bytes, step: int) -> bytes:
    out = [piece for i in range(0, len(data), step) for piece in inflater.feed(data[i : i + step])]
    inflater.finish()
    assert all(0 < len(piece) <= PIECE_BYTES for piece in out)
    return b"".join(out)


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
@pytest.mark.parametrize("encoding", COMPRESS)
@pytest.mark.parametrize("plain", [b"", b"x", TEXT, NOISE[:5000]])
def test_inflates_however_it_is_cut(encoding: bytes, step: int, plain: bytes) -> None:
    assert inflate(inflater(encoding), COMPRESS[encoding](plain), step) == plain


@pytest.mark.parametrize("size", [PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 300_000])
@pytest.mark.parametrize("encoding", COMPRESS)
def test_inflates_across_pieces(encoding: bytes, size: int) -> None:
    assert inflate(inflater(encoding), COMPRESS[encoding](NOISE[:size]), 16_384) == NOISE[:size]
    assert inflate(inflater(encoding), COMPRESS[encoding](bytes(size)), 1) == bytes(size)


def test_takes_one_message_after_the_other() -> None:
    stream = inflater(GZIP)
    assert [inflate(stream, gzip.compress(plain), 5) for plain in (TEXT, b"", TEXT)] == [TEXT, b"", TEXT]


@pytest.mark.parametrize("encoding", [None, b"", b"identity", b"snappy", b"zstd", b"GZIP"])
def test_refuses_other_encodings(encoding: bytes | None) -> None:
    with pytest.raises(Refusal) as refused:
        inflater(encoding)
    assert refused.value.reason is Reason.UNSUPPORTED_ENCODING


DAMAGED = {
    "nothing": b"",
    "cut short": gzip.compress(TEXT)[:-1],
    "checksum": gzip.compress(TEXT)[:-8] + bytes(8),
    "trailing byte": gzip.compress(TEXT) + b"\0",
    "second member": gzip.compress(TEXT) + gzip.compress(TEXT),
    "second empty member": gzip.compress(TEXT) + gzip.compress(b""),
    "zlib instead": zlib.compress(TEXT),
    "raw deflate": zlib.compress(TEXT)[2:-4],
    "plain": TEXT,
}


@pytest.mark.parametrize("step", [1, 1 << 20])
@pytest.mark.parametrize("name", DAMAGED)
def test_refuses_what_is_not_one_gzip_member(name: str, step: int) -> None:
    with pytest.raises(Refusal) as refused:
        inflate(inflater(GZIP), DAMAGED[name], step)
    assert refused.value.reason is Reason.MALFORMED_MESSAGE


def test_refuses_a_dictionary() -> None:
    compress = zlib.compressobj(zdict=b"secret")
    with pytest.raises(Refusal, match="not compressed as"):
        inflate(inflater(DEFLATE), compress.compress(TEXT) + compress.flush(), 1 << 20)


def test_messages_may_not_inflate_beyond_the_limit() -> None:
    data = gzip.compress(NOISE)
    assert inflate(inflater(GZIP, limit=len(NOISE)), data, 4096) == NOISE
    with pytest.raises(Refusal) as refused:
        inflate(inflater(GZIP, limit=len(NOISE) - 1), data, 4096)
    assert (refused.value.reason, refused.value.limit) == (Reason.BODY_TOO_LARGE, "inflated_bytes")


def test_tensors_of_one_value_pass_however_small_they_are() -> None:
    data = gzip.compress(bytes(10 << 20))
    assert len(data) < 12_000
    assert inflate(inflater(GZIP), data, 4096) == bytes(10 << 20)


def test_a_bomb_is_refused_before_it_bursts() -> None:
    stream = inflater(GZIP, limit=1 << 20)
    pieces: list[bytes] = []
    with pytest.raises(Refusal) as refused:
        pieces.extend(stream.feed(gzip.compress(bytes(10 << 20))))
    assert (refused.value.reason, refused.value.limit) == (Reason.BODY_TOO_LARGE, "inflated_bytes")
    assert sum(map(len, pieces)) <= 1 << 20


def test_the_limit_is_that_of_all_messages() -> None:
    stream = inflater(GZIP, limit=1 << 20)
    message = gzip.compress(bytes(700_000))
    assert len(inflate(stream, message, 1 << 20)) == 700_000
    with pytest.raises(Refusal) as refused:
        inflate(stream, message, 1 << 20)
    assert refused.value.limit == "inflated_bytes"
