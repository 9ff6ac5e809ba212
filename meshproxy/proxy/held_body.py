"""Pieces of a request body that cannot be forwarded yet; made when the first one waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.proxy.guard import guarded
from meshproxy.refusal import Reason, Refusal

if TYPE_CHECKING:
    from meshproxy.proxy.client_side import ClientSide

Piece = tuple[bytes, int, bool]
"""Data, the credit that is still owed for it, and whether it is the last one."""


class HeldBody:
    """The pieces, in order.

    What waits for a connection or for keys is not credited, so the flow-control window bounds it. While the model is
    not known the client must be able to send on: those pieces are credited, and count against two limits instead.
    """

    __slots__ = ("_credited", "_pieces", "_request")

    def __init__(self, request: ClientSide) -> None:
        self._request = request
        self._pieces: list[Piece] = []
        self._credited = 0
        """Bytes that the scan buffer has counted."""

    @property
    def owes_credit(self) -> bool:
        """The client may be waiting for credit that is not given."""
        return bool(self._pieces) and not self._credited

    def start(self) -> bytes:
        """The buffered bytes."""
        return b"".join([data for data, _, _ in self._pieces])

    def hold(self, data: bytes, flow: int, end: bool) -> None:
        """Keep a piece whose credit stays owed."""
        self._pieces.append((data, flow, end))

    def hold_unnamed(self, data: bytes, flow: int, end: bool) -> None:
        """Keep a piece of a message that has not named its model, and give its credit back.

        Raises:
            Refusal: SCAN_LIMIT, this body alone is too long. If all together are, the oldest one is refused, which may
                be this one.
        """
        request = self._request
        limits = request.snapshot.limits
        self._credited += len(data)
        if self._credited > limits.scan_buffer:
            raise Refusal(
                Reason.SCAN_LIMIT,
                f"The message does not name its model within {limits.scan_buffer} bytes: serialise model_spec first.",
                limit="scan_buffer_bytes",
            )
        request.stream.credit(flow)
        self._pieces.append((data, 0, end))
        request.context.scan_buffer.take(self, len(data), limits.scan_buffer_total)

    def take(self) -> list[Piece]:
        """The pieces, which leave the buffer."""
        pieces = self._pieces
        self.close()
        return pieces

    def close(self) -> None:
        self._pieces = []
        if self._credited:
            self._credited = 0
            self._request.context.scan_buffer.release(self)

    def crashed(self, error: Exception) -> None:
        """As in `guard.Guarded`."""
        self._request.crashed(error)

    @guarded
    def evicted(self) -> None:
        """Of all messages that do not name their model, this one has been held longest (`byte_budget.Evictable`)."""
        self._request.refuse(
            Refusal(
                Reason.OVERLOADED,
                "Too many requests are buffered waiting for model_spec: serialise it first.",
                limit="scan_buffer_total_bytes",
                retry_after=1,
            )
        )
