"""Pieces of a request body that cannot be forwarded yet; made when the first one waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.codec.pieces import join
from meshproxy.proxy.guard import guarded
from meshproxy.refusal import Reason, Refusal

if TYPE_CHECKING:
    from meshproxy.proxy.client_side import ClientSide

CONNECTION_SHARE = 2
"""The bodies of one connection whose model is not known may have as many bytes as so many requests."""
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
        self._pieces: list[tuple[bytes | bytearray, int, bool]] = []
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
        self._add(data, flow, end)

    def _add(self, data: bytes, flow: int, end: bool) -> None:
        pieces = self._pieces
        if pieces:
            last, owed, _ = pieces[-1]
            joined = join(last, data)
            if joined is not None:
                pieces[-1] = joined, owed + flow, end
                return
        pieces.append((data, flow, end))

    def hold_unnamed(self, data: bytes, flow: int, end: bool) -> None:
        """Keep a piece of a message that has not named its model, and give its credit back.

        Raises:
            Refusal: SCAN_LIMIT, this body alone is too long; OVERLOADED, those of its connection are. If all together
                are, the oldest one is refused, which may be this one.
        """
        request = self._request
        limits = request.snapshot.limits
        connection = request.connection
        self._credited += len(data)
        connection.unnamed_bytes += len(data)
        if self._credited > limits.scan_buffer:
            raise Refusal(
                Reason.SCAN_LIMIT,
                f"The message does not name its model within {limits.scan_buffer} bytes: serialise model_spec first.",
                limit="scan_buffer_bytes",
            )
        if connection.unnamed_bytes > CONNECTION_SHARE * limits.scan_buffer:
            raise Refusal(
                Reason.OVERLOADED,
                "Too many requests of this connection are buffered waiting for model_spec: serialise it first.",
                limit="scan_buffer_connection_bytes",
                retry_after=1,
            )
        request.stream.credit(flow)
        self._add(data, 0, end)
        request.context.scan_buffer.take(self, len(data), limits.scan_buffer_total)

    def take(self) -> list[Piece]:
        """The pieces, which leave the buffer."""
        pieces = self._pieces
        self.close()
        return [(bytes(data), flow, end) for data, flow, end in pieces]

    def close(self) -> None:
        self._pieces = []
        if self._credited:
            self._request.connection.unnamed_bytes -= self._credited
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
