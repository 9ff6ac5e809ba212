"""One try at an endpoint: the sink of an upstream stream, which hands the response on to the client.

A mistake in carrying one exchange must not rise into the upstream's connection, which others share: it ends the
exchange.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.refusal import Reason, Refusal

if TYPE_CHECKING:
    from meshproxy.codec.events import Headers, Rejected, ResponseHead
    from meshproxy.proxy.pipeline import Passage
    from meshproxy.transport.stream import Upstream

CANCEL = 0x8
PROTOCOL_ERROR = 0x1
SWITCHING_PROTOCOLS = 101
CONTINUE = 100


class Attempt:
    """Carries the response of one upstream stream into its passage."""

    __slots__ = ("_owed", "_passage", "is_held", "is_over", "upstream")

    def __init__(self, passage: Passage, upstream: Upstream) -> None:
        self._passage = passage
        self.upstream = upstream
        self._owed = 0
        """Credit due to the model server once the client takes more."""
        self.is_held = False
        """The client does not take what the model server sends."""
        self.is_over = False
        """The response has ended or broken off, or nobody wants it: the upstream stream is not ours any more."""
        upstream.sink = self

    def head_received(self, head: ResponseHead) -> None:
        """The model server answered."""
        if self.is_over:
            return
        passage = self._passage
        try:
            if head.status >= 200:
                self.is_over = head.end
                passage.respond(head)
            elif head.status != CONTINUE:
                # We have sent a 100 of our own, when the request was permitted. Others are passed on (RFC 9110 15.2).
                passage.stream.send_response(head.status, head.headers, end=False)
        except Exception as error:
            passage.fail(error)

    def data_received(self, data: bytes, flow: int, end: bool) -> None:
        """A piece of the response's body came."""
        if self.is_over:
            return
        passage = self._passage
        passage.bytes_sent += len(data)
        self.is_over = end
        try:
            if not passage.stream.send_data(data, end):
                self.is_held = True
                self._owed += flow
                passage.hold_answer(flow)
                return
        except Exception as error:
            passage.fail(error)
            return
        if end:
            passage.finish()
        else:
            self.upstream.credit(flow)

    def trailers_received(self, headers: Headers) -> None:
        """The response ended with fields: for gRPC they say how the call went."""
        if self.is_over:
            return
        passage = self._passage
        self.is_over = True
        try:
            if passage.is_grpc:
                passage.read_grpc_status(headers)
            is_written = passage.stream.send_trailers(headers)
        except Exception as error:
            passage.fail(error)
            return
        if is_written:
            passage.finish()

    def rejected(self, rejected: Rejected) -> None:
        """Never: only requests are rejected."""
        raise AssertionError("a model server sent a request")

    def reset_received(self, code: int, reason: str) -> None:
        """The response broke off."""
        if self.is_over:
            return
        self.is_over = True
        passage = self._passage
        passage.flags = "UPE" if code == PROTOCOL_ERROR else "UC"
        if passage.has_answered:
            passage.break_off(code)
        elif code == PROTOCOL_ERROR:
            passage.refuse(Refusal(Reason.UPSTREAM_PROTOCOL, f"The model server's answer cannot be read: {reason}."))
        else:
            passage.refuse(Refusal(Reason.UPSTREAM_RESET, f"The model server broke off: {reason}."))

    def drained(self) -> None:
        """The model server takes more of the request."""
        self._passage.upstream_drained()

    def release(self) -> None:
        """The client takes more of the response."""
        owed, self._owed = self._owed, 0
        self.is_held = False
        self._passage.release_answer()
        if self.is_over:
            self._passage.finish()  # and the stream may carry another exchange by now
        else:
            self.upstream.credit(owed)

    def cancel(self) -> None:
        """Nobody wants the response any more."""
        if self.is_over:
            # It has come whole, the request may not have gone out whole.
            self.upstream.stop_sending()
        else:
            self.is_over = True
            self.upstream.reset(CANCEL)
