"""An answer of which the caller may see a part: held whole, within a limit, and passed on without the rest.

Nothing of it is sent before it has been read whole. What is no success, cannot be read, or is longer, becomes the
refusal that the call would have got without the permission for a part: that tells no more than a refusal does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.proxy.client_side import OVER
from meshproxy.refusal import GrpcStatus, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.codec.events import Headers, ResponseHead
    from meshproxy.proxy.client_side import ClientSide

ANSWER_BYTES = 1 << 20
"""Of an answer that is filtered; the metadata of a model with a hundred signatures are some 100 KB."""
UNFORWARDED = frozenset({b"accept-encoding", b"grpc-accept-encoding", b"range", b"if-none-match", b"if-modified-since"})
"""Fields of the request that could bring an answer that cannot be read whole."""
_OF_BODY = frozenset({b"content-md5", b"digest", b"content-digest", b"etag"})
"""Fields of the answer that are about the body as it was. Its length is none of the fields (`codec.events`)."""
OK = GrpcStatus.OK


class PartialAnswer:
    """Takes the answer of the endpoint (`attempt.AnswerSink`).

    Args:
        client: who gets it.
        refusal: the answer otherwise.
        keep: what is left of a body if the caller may see only what the predicate permits (`Operation.keep_parts`).
    """

    __slots__ = ("_body", "_client", "_headers", "_keep", "_refusal", "_tests", "first_byte")

    def __init__(
        self, client: ClientSide, refusal: Refusal, keep: Callable[[bytes, Callable[[str], bool]], bytes]
    ) -> None:
        self._client = client
        self._refusal = refusal
        self._keep = keep
        self._tests: list[Callable[[str], bool]] = []
        self._body = bytearray()
        self._headers: Headers = ()
        self.first_byte = 0.0

    def demand(self, may_see: Callable[[str], bool]) -> None:
        """The caller sees only the parts of whose names this is true, too."""
        self._tests.append(may_see)

    def begin(self, head: ResponseHead, headers: Headers, first_byte: float) -> PartialAnswer:
        """The head has come. `headers`: to pass on. Raises Refusal."""
        if head.status != 200 or head.end:
            raise self._refusal
        self._headers, self.first_byte = headers, first_byte
        return self

    def send_body(self, data: bytes, flow: int, end: bool) -> bool:
        """As `AnswerSink.send_body`. Raises Refusal."""
        self._body += data
        if len(self._body) > ANSWER_BYTES:
            self._client.context.on_limit("partial_answer_bytes")
            raise self._refusal
        if end:
            if self._client.is_grpc:
                raise self._refusal  # without a status nobody knows whether it is whole
            self._send(self._kept(), is_last=True)
        return True

    def send_trailers(self, headers: Headers, status: int | None) -> None:
        """As `AnswerSink.send_trailers`. Raises Refusal."""
        if not self._client.is_grpc or status != OK:
            raise self._refusal
        self._send(self._kept(), is_last=False)
        if self._client.answer is not OVER:
            self._client.send_trailers(headers, status)

    def _kept(self) -> bytes:
        if any(name == b"content-encoding" and value != b"identity" for name, value in self._headers):
            raise self._refusal
        try:
            return self._keep(bytes(self._body), lambda name: all(may_see(name) for may_see in self._tests))
        except Refusal as refusal:
            if refusal.limit is not None:
                self._client.context.on_limit(refusal.limit)
            raise self._refusal from None

    def _send(self, body: bytes, *, is_last: bool) -> None:
        headers = tuple([field for field in self._headers if field[0] not in _OF_BODY])
        self._client.begin_answer(200, headers, self.first_byte, False, len(body) if is_last else None)
        if self._client.answer is not OVER:  # it is if the client does not take a head of this size
            self._client.send_body(body, len(body), is_last)
