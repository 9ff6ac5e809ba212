"""The trust bundle on its way to the sidecars: one stream for each, whether its documents come from here or not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from meshproxy.codec.grpc import frame
from meshproxy.control.attestation import Shown
from meshproxy.control.authority import authority_of
from meshproxy.control.channel import Paces, decode
from meshproxy.control.distribution import REPORT_BURST, REPORT_RATE
from meshproxy.control.expiries import Expiries
from meshproxy.control.leaf import Leaf, is_name
from meshproxy.control_api import ROOTS, Roots, RootsReport, leaf_name, roots_digest
from meshproxy.refusal import GrpcStatus
from meshproxy.transport.grpc_server import CallFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.control.authority import Authority
    from meshproxy.control.leaves import Roll
    from meshproxy.transport.grpc_server import Method, ServerCall


class RootsService:
    """Gives each sidecar the bundle in force, and notes what it has."""

    def __init__(self, authority: Authority, roll: Roll, clock: Callable[[], float] = time.time) -> None:
        self._roll = roll
        self._clock = clock
        self._reports = Paces(REPORT_RATE, REPORT_BURST)
        self._calls: set[ServerCall] = set()
        self._expiries = Expiries()
        self.change(authority)

    def change(self, authority: Authority) -> None:
        """Its bundle is the one in force from now on."""
        self._trust_domain = authority.trust_domain
        self._digest = roots_digest(authority.bundle_pem)
        self._message = frame(msgspec.json.encode(Roots(authority.bundle_pem.decode())))
        for call in self._calls:
            call.wake()

    @property
    def methods(self) -> dict[bytes, Method]:
        """For `GrpcServer`."""
        return {ROOTS: self.watch}

    async def watch(self, call: ServerCall) -> None:
        """`Identity/Roots`."""
        holder = call.info.peer
        if not isinstance(holder, Shown):
            raise CallFailed(GrpcStatus.UNAUTHENTICATED, "the bundle is for sidecars that show their certificate")
        if holder.trust_domain != self._trust_domain:
            raise CallFailed(GrpcStatus.PERMISSION_DENIED, "the bundle is for sidecars with a certificate from here")
        connection = leaf_name(holder.certificate, holder.not_after)
        has, sent = "", ""
        self._calls.add(call)
        self._expiries.add(call, holder, self._clock())
        try:
            while True:
                while (message := call.take()) is not None:
                    has = self._note(call, holder, connection, message)
                if call.has_ended:
                    break
                if has and self._digest not in (has, sent) and call.is_drained:
                    call.post(self._message)
                    sent = self._digest
                await call.wait()
        finally:
            self._calls.discard(call)
            self._expiries.discard(call)

    def _note(self, call: ServerCall, holder: Shown, connection: str, message: bytes) -> str:
        """The digest of the bundle that the sidecar has. Raises CallFailed."""
        self._reports.check(call, holder, "reports", self._clock())
        report = decode(message, RootsReport)
        if not is_name(report.leaf):
            raise CallFailed(GrpcStatus.INVALID_ARGUMENT, "that is not the name of a certificate")
        leaf = Leaf(
            report.leaf,
            holder.spiffe_id,
            authority_of(holder.certificate),
            roots=report.roots,
            sidecar=report.sidecar,
            peer=call.info.remote,
        )
        self._roll.seen(connection, leaf)
        return report.roots
