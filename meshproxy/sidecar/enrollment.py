"""Keeps the sidecar's certificate fresh, from the control plane, in a folder that `FileIdentity` reads.

The first certificate is asked for with a token, each further one over mTLS with the one before, and again with a token
once that has expired. Each has a new key, which never leaves this host. While the control plane is away, the
certificate in the folder stays in use, also after a restart.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from errno import EACCES, ENOENT, EROFS
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from meshproxy.config.unreadable import tell_not_followed, why
from meshproxy.control_api import ISSUE, IssueRequest, IssueResponse
from meshproxy.identity.certificates import CertificateError, Credentials, own_identity
from meshproxy.identity.private_files import replace_or_overwrite
from meshproxy.identity.renewal import Renewal
from meshproxy.sidecar.control_channel import read_message
from meshproxy.sidecar.new_key import KeyFailure, new_key
from meshproxy.transport.client import ClientError
from meshproxy.transport.grpc_client import call_unary

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from meshproxy.config.sidecars import ControlPlane
    from meshproxy.identity.caller import Workload
    from meshproxy.sidecar.control_channel import ControlChannel
    from meshproxy.sidecar.new_key import NewKey
    from meshproxy.telemetry.metrics import Rows

logger = logging.getLogger(__name__)

CALL_SECONDS = 10.0
RESPONSE_BYTES = 1 << 20
CLOCK_SECONDS = 60.0
"""A clock that is off by more is worth a warning: certificates are valid from ten minutes before they are issued."""
LOOK_SECONDS = 60.0
"""The longest sleep before a renewal: clocks are set, and hosts are suspended."""


class EnrollmentFailed(Exception):
    """An attempt to get a certificate failed. The text says why and what to do."""


class Enrollment:
    """The certificate of one sidecar, kept in the folder that its document names.

    Attributes:
        issued: certificates since the start.
        failed: attempts that failed since the start.
        clock_offset: seconds by which the clock of this host was ahead of the control plane's (negative: behind) when
            that last issued a certificate; 0 before.
        renewed: called when the certificate in the folder is another one, with when it was issued and when it expires.
    """

    def __init__(
        self,
        settings: ControlPlane,
        channel: ControlChannel,
        *,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
        make_key: Callable[[], Awaitable[NewKey]] = new_key,
    ) -> None:
        """Nothing is asked for yet.

        Args:
            settings: where the certificate is kept, and the token.
            channel: to the control plane.
            clock: seconds since the epoch.
            jitter: 0 to 1.
            make_key: a new key for each certificate.
        """
        self._settings = settings
        self._channel = channel
        self._clock = clock
        self._jitter = jitter
        self._make_key = make_key
        self._renewal = Renewal(0.0, 0.0)
        self._unstored: Credentials | None = None
        """Issued while the folder could not be written: not asked for again, as a join token works once."""
        self._joining: tuple[str | None, NewKey] | None = None
        """The join token that was shown, and its key: if the answer was lost, it is spent for this key."""
        self.issued = 0
        self.failed = 0
        self.clock_offset = 0.0
        self.renewed: Callable[[float, float], None] = lambda issued, expires: None

    def count(self) -> Rows:
        """How attempts ended, for `metric_table.IDENTITY_ISSUANCES`."""
        return [(("ok",), self.issued), (("failed",), self.failed)]

    def measure(self) -> Rows:
        """The difference of the clocks, for `metric_table.CLOCK_OFFSET`."""
        return [((), self.clock_offset)]

    # When

    async def join(self) -> None:
        """Return when there is a certificate that can be used: at once if the folder has one."""
        current = self._read()
        if current is not None:
            self._renewal = self._begin(current)
            return
        logger.info("asking the control plane for a certificate", extra={"fields": {"control": self._channel.address}})
        while True:
            if await self._attempt():
                return
            await asyncio.sleep(self._renewal.failed(self._clock(), self._jitter()))

    async def run(self) -> None:
        """Renew the certificate whenever that is due, until cancelled."""
        jitter = self._jitter()
        while True:
            wait = self._renewal.wait(self._clock(), jitter)
            if wait > 0.0 and not self._is_lost():
                await asyncio.sleep(min(wait, LOOK_SECONDS))
            elif await self._attempt():
                jitter = self._jitter()
            else:
                self._renewal.failed(self._clock(), self._jitter())

    def _is_lost(self) -> bool:
        """Whether the folder has no certificate with its bundle any more that could be used, and no attempt to get
        another one has failed: without it no restart goes well, and workers cannot be started again."""
        if self._renewal.failures:
            return False
        try:
            own_identity(self._channel.files.read(), self._channel.trust_domain, self._clock())
        except CertificateError as error:
            logger.warning("%s: asking for another certificate with the one in use", error.message)
            return True
        return False

    async def _attempt(self) -> bool:
        """Ask once. False: it failed, which is logged."""
        try:
            workload = await self._ask()
        except EnrollmentFailed as error:
            self.failed += 1
            now = self._clock()
            logger.log(
                logging.ERROR if self._renewal.is_urgent(now) else logging.WARNING,
                "no certificate from the control plane; trying again",
                extra={
                    "fields": {
                        "control": self._channel.address,
                        "problem": str(error),
                        "expires_in_seconds": round(self._renewal.left(now), 1) if self._renewal.not_after else None,
                    }
                },
            )
            return False
        self.issued += 1
        self._renewal = self._begin(workload)
        return True

    def _begin(self, workload: Workload) -> Renewal:
        """The renewal of the certificate that is in the folder now, which `renewed` hears of. Its age is that of the
        file: a certificate is backdated."""
        issued = min(self._channel.files.certificate.stat().st_mtime, self._clock())
        self.renewed(issued, workload.not_after)
        # To others it expires earlier than it seems to a clock that is behind.
        return Renewal(issued, workload.not_after + min(0.0, self.clock_offset))

    # How

    async def _ask(self) -> Workload:
        """Get a new certificate into the folder: who we are by it. Raises EnrollmentFailed."""
        folder = Path(self._settings.folder)
        try:
            _check_writable(folder)  # before a join token is shown, which works once
        except OSError as error:
            raise EnrollmentFailed(f"{folder} cannot be written: {why(folder, error)}") from error
        credentials, self._unstored = self._unstored or await self._issue(), None
        try:
            identity = own_identity(credentials, self._channel.trust_domain, self._clock())
        except CertificateError as error:
            raise EnrollmentFailed(f"the certificate that was issued cannot be used: {error.message}") from error
        try:
            async with self._channel.writing:
                await asyncio.to_thread(self._store, credentials)
        except OSError as error:
            self._unstored = credentials
            raise EnrollmentFailed(f"{folder} cannot be written: {why(folder, error)}") from error
        return identity.workload

    async def _issue(self) -> Credentials:
        """A new certificate, which is nowhere yet. Raises EnrollmentFailed."""
        tokens = {} if self._channel.credentials() is not None else self._read_token()
        try:
            token = tokens.get("join_token")
            if token is None or self._joining is None or self._joining[0] != token:
                self._joining = token, await self._make_key()
            key = self._joining[1]
            response = await self._call(IssueRequest(key.csr, **tokens))
        except (KeyFailure, ClientError, CertificateError) as error:
            raise EnrollmentFailed(str(error)) from error
        self._joining = None
        self._compare_clocks(response.now)
        return Credentials(response.certificate.encode(), key.key_pem, response.roots.encode())

    def _compare_clocks(self, there: float) -> None:
        """`there`: the time at the control plane; 0 if it does not say."""
        self.clock_offset = self._clock() - there if there else 0.0
        if abs(self.clock_offset) > CLOCK_SECONDS:
            logger.warning(
                "the clocks of this host and of the control plane differ: set them",
                extra={"fields": {"ahead_seconds": round(self.clock_offset, 1)}},
            )

    async def _call(self, request: IssueRequest) -> IssueResponse:
        """Raises ClientError or CertificateError."""
        async with self._channel.open() as channel:
            message = msgspec.json.encode(request)
            answer = await call_unary(channel, ISSUE, message, timeout=CALL_SECONDS, max_message_bytes=RESPONSE_BYTES)
        return read_message(answer, IssueResponse, "the response is")

    # The folder

    def _read(self) -> Workload | None:
        """Who we are by the certificate in the folder; None if it cannot be used."""
        credentials = self._channel.credentials()
        if credentials is None:
            return None
        try:
            return own_identity(credentials, self._channel.trust_domain, self._clock()).workload
        except CertificateError as error:
            logger.warning(
                "the certificate in the folder cannot be used",
                extra={"fields": {"reason": error.reason, "problem": error.message}},
            )
            return None

    def _read_token(self) -> dict[str, str]:
        """The member of `IssueRequest` with the token, read anew each time. Raises EnrollmentFailed."""
        settings = self._settings
        if settings.service_account_token is not None:
            member, path, name = "service_account_token", settings.service_account_token, "service-account token"
            hint = "project one with audience identity.meshproxy.dev into the pod"
        elif settings.join_token is not None:
            member, path, name = "join_token", settings.join_token, "join token"
            hint = "make one with `meshproxy control join-token`"
        else:
            raise EnrollmentFailed(
                f"there is no valid certificate in {settings.folder} and no token to ask for one: name a file with one"
                " in spec.controlPlane.joinToken or serviceAccountToken"
            )
        tell_not_followed(Path(path))
        try:
            return {member: Path(path).read_text("ascii", "replace").strip()}
        except OSError as error:
            cure = f"; {hint}" if error.errno == ENOENT else ""
            raise EnrollmentFailed(f"the {name} {path} cannot be read: {why(Path(path), error)}{cure}") from error

    def _store(self, credentials: Credentials) -> None:
        """The roots first: a certificate of a new root is of no use before it. Raises OSError."""
        files = self._channel.files
        replace_or_overwrite(files.trust_bundle, credentials.bundle_pem, 0o644)
        if replace_or_overwrite(files.certificate, credentials.certificate_pem + credentials.key_pem, 0o600):
            logger.warning(
                "the disk is full: the certificate was written over the one before",
                extra={"fields": {"folder": self._settings.folder}},
            )


def _check_writable(folder: Path) -> None:
    """Make the folder, if there is none, and raise OSError if files cannot be made in it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        number = EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else EACCES
        raise OSError(number, os.strerror(number))
