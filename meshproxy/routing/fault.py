"""Fault injection: which calls are delayed, which are aborted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.refusal import GrpcStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.config.routes import Fault


class FaultRule:
    """`fault` of a route. Delay and abort are drawn independently: a call may be delayed and then aborted."""

    __slots__ = ("_abort_share", "_delay_share", "delay", "grpc_status", "http_status")

    def __init__(self, fault: Fault) -> None:
        delay, abort = fault.delay, fault.abort
        self.delay = delay.duration if delay is not None else 0.0
        """Seconds of a delayed call."""
        self._delay_share = delay.percent / 100 if delay is not None else 0.0
        self._abort_share = abort.percent / 100 if abort is not None else 0.0
        self.http_status = abort.http_status if abort is not None else 503
        """The status of an aborted REST call."""
        self.grpc_status = GrpcStatus[abort.grpc_status] if abort is not None else GrpcStatus.UNAVAILABLE
        """The status of an aborted gRPC call."""

    def decide(self, draw: Callable[[], float]) -> tuple[float, bool]:
        """The delay of a call in seconds (0.0: none), and whether it is aborted after that.

        Args:
            draw: a number from 0 to below 1, another one each time.
        """
        delay = self.delay if draw() < self._delay_share else 0.0
        return delay, draw() < self._abort_share
