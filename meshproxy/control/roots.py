"""The trust bundle on its way to the sidecars: one stream for each, whether its documents come from here or not."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec

from meshproxy.control.attestation import Shown
from meshproxy.control.authority import authority_of
from meshproxy.control.channel import decode
from meshproxy.control.leaf import Leaf, is_name
from meshproxy.control_api import ROOTS, Roots, RootsReport, leaf_name, roots_digest
from meshproxy.refusal import GrpcStatus
from meshproxy.transport.grpc_server import CallFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from meshproxy.control.current_authority import CurrentAuthority
    from meshproxy.control.leaves import Roll
    from meshproxy.transport.grpc_server import ServerCall


class RootsService:
    """Gives each sidecar the bundle in force, and notes what it has."""

    def __init__(self, authority: CurrentAuthority, roll: Roll, clock: Callable[[], float] = time.time) -> None:
        self._authority = authority
        self._roll = roll
        self._clock = clock

    @property
    def methods(self) -> dict[bytes, Callable[[ServerCall], Awaitable[None]]]:
        """For `GrpcServer`."""
        return {ROOTS: self.watch}

    async def watch(self, call: ServerCall) -> None:
        """`Identity/Roots`."""
        holder = call.info.peer
        if not isinstance(holder, Shown):
            raise CallFailed(GrpcStatus.UNAUTHENTICATED, "the bundle is for sidecars that show their certificate")
        if holder.trust_domain != self._authority().trust_domain:
            raise CallFailed(GrpcStatus.PERMISSION_DENIED, "the bundle is for sidecars with a certificate from here")
        first = await anext(call, None)
        if first is None:
            raise CallFailed(GrpcStatus.INVALID_ARGUMENT, "a sidecar says first what it has")
        giving = asyncio.create_task(self._give(call, self._note(call, holder, first)))
        try:
            # Whoever is still connected when its certificate expires comes again with the next one.
            async with asyncio.timeout(max(0.0, holder.not_after - self._clock())):
                async for message in call:
                    self._note(call, holder, message)
        except TimeoutError:
            raise CallFailed(GrpcStatus.UNAVAILABLE, "the certificate of this connection has expired") from None
        finally:
            giving.cancel()

    def _note(self, call: ServerCall, holder: Shown, message: bytes) -> str:
        """The digest of the bundle that the sidecar has. Raises CallFailed."""
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
        self._roll.seen(leaf_name(holder.certificate, holder.not_after), leaf)
        return report.roots

    async def _give(self, call: ServerCall, digest: str) -> None:
        """Send each bundle that the sidecar does not have, until cancelled."""
        while True:
            bundle = await self._authority.newer(digest)
            digest = roots_digest(bundle)
            await call.send(msgspec.json.encode(Roots(bundle.decode())))
