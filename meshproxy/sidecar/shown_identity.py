"""The identity that a sidecar shows to a control plane which has not issued it: an agent's, or that of files."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from meshproxy.identity.certificates import CertificateError
from meshproxy.identity.peer import PeerRefused, PeerRole, read_svid
from meshproxy.identity.pem import read_certificates

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.identity.caller import Workload
    from meshproxy.identity.certificates import Credentials
    from meshproxy.sidecar.identity_source import IdentitySource

logger = logging.getLogger(__name__)


class ShownIdentity:
    """What the source delivered last, while it is valid.

    Attributes:
        changed: called with when another certificate was delivered and when that expires, seconds since the epoch.
    """

    def __init__(self, source: IdentitySource, clock: Callable[[], float] = time.time) -> None:
        self._source = source
        self._clock = clock
        self._credentials: Credentials | None = None
        self._is_there = asyncio.Event()
        self._problem = ""
        self.changed: Callable[[float, float], None] = lambda issued, expires: None

    def __call__(self) -> Credentials | None:
        """The certificate to show now; None if there is no valid one."""
        if self._credentials is not None:
            with suppress(CertificateError):
                self._read(self._credentials)
                return self._credentials
        return None

    async def wait(self) -> None:
        """Return as soon as there is one; `run` must be running."""
        await self._is_there.wait()

    async def run(self) -> None:
        """Follow the source until cancelled."""
        changed = asyncio.Event()
        self._source.start(changed.set)
        try:
            while True:
                await self._load()
                await changed.wait()
                changed.clear()
        finally:
            self._source.stop()

    async def _load(self) -> None:
        """Take what the source has. What cannot be used changes nothing."""
        try:
            credentials = await self._source.load()
            workload = self._read(credentials)
        except CertificateError as error:
            if error.message != self._problem:
                logger.warning("no identity for the control plane", extra={"fields": {"problem": error.message}})
            self._problem = error.message
            return
        self._problem = ""
        before, self._credentials = self._credentials, credentials
        if before is None or before.fingerprint != credentials.fingerprint:
            self.changed(self._clock(), workload.not_after)
        self._is_there.set()

    def _read(self, credentials: Credentials) -> Workload:
        """Whose certificate it is. Raises CertificateError."""
        try:
            leaf = read_certificates(credentials.certificate_pem)[0]
            return read_svid(leaf, self._clock(), PeerRole.CLIENT)
        except (PeerRefused, ValueError, IndexError) as error:
            raise CertificateError("not-an-svid", f"our own certificate cannot be shown: {error}") from None
