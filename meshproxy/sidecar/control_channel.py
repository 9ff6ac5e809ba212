"""Connections to the control plane: over TLS to the SPIFFE id that the document names, with our certificate as soon as
there is one."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from meshproxy.identity.certificates import CertificateError, Credentials, IdentityFiles, client_context, read_file
from meshproxy.identity.peer import PeerRefused, PeerRole, read_peer, read_spiffe_id
from meshproxy.identity.pem import read_certificates
from meshproxy.transport.channel import H2Channel, Target, own_connections
from meshproxy.transport.client import ClientError, ClientFailure
from meshproxy.transport.connection import Times
from meshproxy.transport.connector import PeerSecurity
from meshproxy.transport.listener import PeerRejected

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Collection

    from meshproxy.config.sidecars import ControlPlane
    from meshproxy.identity.caller import Workload

CONNECT_SECONDS = 10.0
PING_AFTER = 30.0
"""Seconds of silence on an open stream before a keepalive PING: a control plane has thousands of them."""


class ControlChannel:
    """How one sidecar reaches its control plane.

    Attributes:
        address: of the control plane.
        files: the certificate that it has issued, with its key, and the roots that it has sent.
        trust_domain: of the control plane, and of what it issues.
        credentials: what is shown to it now, if there is a valid certificate.
        open_calls: streams from it that are open.
        writing: held by whoever writes `files`, which takes a thread: what came last is written last.
    """

    def __init__(
        self,
        settings: ControlPlane,
        clock: Callable[[], float] = time.time,
        shown: Callable[[], Credentials | None] | None = None,
    ) -> None:
        """`shown` is the certificate to show, if there is a valid one. Left out: the one that was issued."""
        files = settings.files
        self.address = str(settings.address)
        self.files = IdentityFiles(Path(files.certificate), Path(files.key), Path(files.trust_bundle))
        self.trust_domain, _ = read_spiffe_id(settings.spiffe_id.encode())
        self._expected = settings.spiffe_id
        self._trust_bundle = Path(settings.trust_bundle)
        self._clock = clock
        self.credentials = shown if shown is not None else self._issued
        self._shared = own_connections(Times(ping_after=PING_AFTER))
        self._shared.reaper.start()
        self.open_calls = 0
        self.writing = asyncio.Lock()
        self._streams: H2Channel | None = None
        self._read_last: Credentials | None = None
        """The certificate that was issued, as its file had it: who we are also while there is no file."""
        self._shown: bytes | None = None
        """The fingerprint of the credentials that `_streams` shows."""
        self._users: Counter[H2Channel] = Counter()

    async def run(self, tasks: Collection[asyncio.Task[None]]) -> None:
        """Until cancelled, or one of the tasks that use it fails: then all of them are cancelled, and it stops."""
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.stop()

    def stop(self) -> None:
        """Let go of what connections share."""
        self._shared.reaper.stop()

    def open(self) -> H2Channel:
        """A channel that shows the certificate of this moment, if there is a valid one.

        Raises:
            CertificateError: certificate or trust bundle cannot be read.
        """
        current = self.credentials()
        shown = current if current is not None else Credentials(b"", b"", b"")
        context = client_context(replace(shown, bundle_pem=self._trusted()), shows_certificate=current is not None)
        target = Target(self.address, PeerSecurity(lambda: context, self._verify))
        return H2Channel(self._shared, target, connect_timeout=CONNECT_SECONDS)

    @asynccontextmanager
    async def streams(self) -> AsyncIterator[H2Channel]:
        """As `open`, for streams, which share one connection as long as the certificate is the same."""
        credentials = self.credentials()
        shown = credentials.fingerprint if credentials is not None else None
        if self._streams is None or shown != self._shown:
            self._streams, self._shown = self.open(), shown
        channel = self._streams
        self._users[channel] += 1
        try:
            yield channel
        finally:
            self._users[channel] -= 1
            if not self._users[channel]:
                del self._users[channel]
                if self._streams is channel:
                    self._streams = None
                await channel.close()

    def _issued(self) -> Credentials | None:
        """The certificate that was issued, if it is valid at this time. Where its folder has been emptied or removed,
        it is in use still, and a join token, which works once, would not be there for another one."""
        found = None
        with suppress(CertificateError):
            found = self.files.read()
        for credentials in (found, self._read_last):
            if credentials is not None and self._is_valid(credentials):
                self._read_last = credentials
                return credentials
        return None

    def _is_valid(self, credentials: Credentials) -> bool:
        try:
            read_peer(read_certificates(credentials.certificate_pem)[0], self.trust_domain, self._clock())
        except (PeerRefused, ValueError, IndexError):
            return False
        return True

    def _trusted(self) -> bytes:
        """The roots that the document names, and those that the control plane sent. Raises CertificateError."""
        trusted = read_file(self._trust_bundle, "trust bundle")[0]
        with suppress(CertificateError):
            trusted += b"\n" + read_file(self.files.trust_bundle, "trust bundle")[0]
        return trusted

    def _verify(self, tls: ssl.SSLObject) -> Workload:
        """The control plane, by its certificate (`PeerSecurity.verify`). TLS trusted authorities of one domain only."""
        leaf = tls.getpeercert(binary_form=True) or b""
        try:
            peer = read_peer(leaf, self.trust_domain, self._clock(), PeerRole.SERVER)
        except PeerRefused as refused:
            raise PeerRejected(refused.message) from refused
        if peer.spiffe_id != self._expected:
            raise PeerRejected(f"it is {peer.spiffe_id}, and the control plane is {self._expected} (spec.controlPlane)")
        return peer


Message = TypeVar("Message", bound=msgspec.Struct)


def read_message(message: bytes, kind: type[Message], what: str) -> Message:
    """A message of the control plane. Raises ClientError: `what` not understood."""
    try:
        return msgspec.json.decode(message, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ClientError(ClientFailure.PROTOCOL, f"{what} not understood: {error}") from error
