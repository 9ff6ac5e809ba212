"""Inflates compressed gRPC messages in small pieces, to look through them without ever holding one."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from meshproxy.codec.grpc import DEFLATE, GZIP
from meshproxy.inference.protobuf import malformed
from meshproxy.refusal import Reason, Refusal

PIECE_BYTES = 65_536
GZIP_BITS = 16 + zlib.MAX_WBITS
"""Has zlib read one gzip member."""
_WINDOW_BITS = {GZIP: GZIP_BITS, DEFLATE: zlib.MAX_WBITS}


class Inflater:
    """The compressed messages of one stream, one after the other. Each is one gzip member or one zlib stream, whole.

    The messages together may inflate to `limit` bytes, however small they came: tensors of one value compress 1000:1,
    as far as deflate goes. So it bounds CPU time too: 64 MiB of zeros take 15 ms, and no data takes much longer for
    each byte received. A client whose message is refused can send it uncompressed.

    Raises:
        Refusal: UNSUPPORTED_ENCODING for an encoding that is neither gzip nor deflate, or none.
    """

    __slots__ = ("_bits", "_inflated", "_inflating", "_limit")

    def __init__(self, encoding: bytes | None, limit: int) -> None:
        bits = _WINDOW_BITS.get(encoding or b"")
        if bits is None:
            raise Refusal(
                Reason.UNSUPPORTED_ENCODING,
                "A compressed message needs grpc-encoding gzip or deflate: its model cannot be read otherwise.",
            )
        self._bits = bits
        self._limit = limit
        self._inflated = 0  # of all messages
        self._inflating: zlib._Decompress | None = None  # made with the first byte of a message

    @property
    def is_inflating(self) -> bool:
        """A message has begun: zlib's state and window take 40 KB from its first bytes on."""
        return self._inflating is not None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The next piece of the compressed message -> pieces of the inflated one, at most `PIECE_BYTES` each.

        Raises:
            Refusal: MALFORMED_MESSAGE, or BODY_TOO_LARGE.
        """
        inflating = self._inflating
        if inflating is None:
            inflating = self._inflating = zlib.decompressobj(self._bits)
        more = True
        while more:
            try:
                piece = inflating.decompress(data, PIECE_BYTES)
            except zlib.error:
                raise malformed("it is not compressed as grpc-encoding says") from None
            self._inflated += len(piece)
            if self._inflated > self._limit:
                raise Refusal(
                    Reason.BODY_TOO_LARGE,
                    f"Compressed messages of a request inflate to more than {self._limit} bytes: send them "
                    "uncompressed.",
                    limit="inflated_bytes",
                )
            if inflating.unused_data:
                raise malformed("bytes follow the compressed data")
            if piece:
                yield piece
            data = inflating.unconsumed_tail
            # A full piece: zlib may hold back more, even though it has taken all of its input.
            more = bool(data) or len(piece) == PIECE_BYTES

    def finish(self) -> None:
        """End the message; the next one may follow.

        Raises:
            Refusal: MALFORMED_MESSAGE: the compressed data is not.
        """
        if self._inflating is None or not self._inflating.eof:
            raise malformed("the compressed data is cut short")
        self._inflating = None
