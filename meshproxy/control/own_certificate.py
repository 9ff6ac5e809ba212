"""The certificates of the control plane itself: of the authority in force, and in memory only."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec

from meshproxy.control.authority import SigningRequest, private_pem
from meshproxy.identity.certificates import Credentials, own_identity

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshproxy.control.authority import Authority
    from meshproxy.control.settings import Settings
    from meshproxy.identity.certificates import OwnIdentity
    from meshproxy.identity.trust_bundles import OtherBundles
    from meshproxy.telemetry.control_metrics import ControlMetrics

logger = logging.getLogger(__name__)


class OwnCertificate:
    """What sidecars and the API server are shown.

    Args:
        authority: the one in force (`CurrentAuthority`).
        bundles: of other trust domains, whose workloads may connect.

    Attributes:
        issued_at: when the last one for sidecars was made, in seconds since the epoch; 0: none was.
    """

    def __init__(
        self, settings: Settings, authority: Callable[[], Authority], bundles: OtherBundles, metrics: ControlMetrics
    ) -> None:
        self._settings = settings
        self._authority = authority
        self._bundles = bundles
        self._metrics = metrics
        self.issued_at = 0.0

    def renew(self) -> OwnIdentity:
        """A new one for the port of the sidecars. Raises RequestRefused and CertificateError."""
        now = time.time()
        own, not_after = self._issue(now, ())
        credentials = self._bundles.add_to(own)
        for problem in credentials.problems:
            logger.error("trust bundle rejected", extra={"fields": {"problem": problem}})
        # A workload that joins has no certificate yet; whoever shows one must show a good one.
        identity = own_identity(credentials, self._settings.trust_domain, now, calls=False, mtls="permissive")
        self.issued_at = now
        self._metrics.certificate_start.labels().value = identity.not_before
        self._metrics.certificate_expiry.labels().value = not_after
        return identity

    def for_webhook(self, names: Sequence[str]) -> Credentials:
        """One with these host names, as the API server calls it. Raises RequestRefused."""
        return self._issue(time.time(), names)[0]

    def _issue(self, now: float, names: Sequence[str]) -> tuple[Credentials, float]:
        """It, and when it expires. Raises RequestRefused."""
        key = ec.generate_private_key(ec.SECP256R1())
        authority = self._authority()
        request = SigningRequest(key.public_key(), ())
        issued = authority.issue(request, self._settings.spiffe_id, now, self._settings.lifetime, dns=names)
        return Credentials(issued.certificate_pem, private_pem(key), authority.bundle_pem), issued.not_after
