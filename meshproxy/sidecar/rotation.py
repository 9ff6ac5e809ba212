"""The workload identity in use, and its rotation: new TLS contexts for new connections, and nothing else changes."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec.structs import replace

from meshproxy.config.file_watch import AGAIN
from meshproxy.identity.certificates import CertificateError, own_identity
from meshproxy.sidecar.identity_source import identity_source
from meshproxy.transport.connect_failures import NoCredentials

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshproxy.config.schema import Documents, TrustedDomain
    from meshproxy.config.sidecars import Identity
    from meshproxy.identity.certificates import Credentials, OwnIdentity
    from meshproxy.sidecar.identity_source import IdentitySource
    from meshproxy.telemetry.sidecar_metrics import SidecarMetrics

    OpenSource = Callable[[Identity, Sequence[TrustedDomain]], IdentitySource]

logger = logging.getLogger(__name__)

WAIT_SECONDS = 1.0
"""Between two attempts of a worker that is started again and has no certificate to serve with."""
BEHIND = 30.0
"""Seconds by which the clocks of peers may be behind: so long a new certificate waits, from when it is valid, while the
one before is."""


class IdentityRequirements(msgspec.Struct, frozen=True):
    """What the documents require of the identity. As long as it stays the same, a reload leaves the identity alone."""

    source: Identity
    trust_domain: str
    trust_domains: tuple[TrustedDomain, ...]
    """The other ones that are trusted."""
    mtls: Literal["strict", "permissive"]
    minimum_version: ssl.TLSVersion
    serves: bool
    """Clients connect over TLS: serverAuth."""
    calls: bool
    """Connections to other sidecars are made: clientAuth. A sidecar without inbound has no other use for it."""

    @property
    def domains(self) -> frozenset[str]:
        """The names of the other trust domains."""
        return frozenset(domain.name for domain in self.trust_domains)


def identity_requirements(documents: Documents) -> IdentityRequirements | None:
    """What these documents require; None where TLS is disabled."""
    mesh, sidecar = documents.mesh.spec, documents.sidecar.spec
    identity = sidecar.own_identity
    if mesh.mtls == "disabled" or identity is None:
        return None
    return IdentityRequirements(
        source=identity,
        trust_domain=mesh.trust_domain,
        trust_domains=mesh.trust_domains,
        mtls=mesh.mtls,
        minimum_version=ssl.TLSVersion.TLSv1_2 if mesh.tls.min_version == "1.2" else ssl.TLSVersion.TLSv1_3,
        serves=sidecar.inbound is not None,
        calls=sidecar.inbound is None or any(server.spec.workload is not None for server in documents.servers),
    )


class LoadedIdentity(msgspec.Struct, frozen=True):
    """A proven identity with what it was made from."""

    source: IdentitySource
    requirements: IdentityRequirements
    credentials: Credentials
    identity: OwnIdentity

    @classmethod
    def verified(
        cls, source: IdentitySource, requirements: IdentityRequirements, credentials: Credentials
    ) -> LoadedIdentity:
        """Raises CertificateError."""
        identity = own_identity(
            credentials,
            requirements.trust_domain,
            time.time(),
            serves=requirements.serves,
            calls=requirements.calls,
            mtls=requirements.mtls,
            minimum_version=requirements.minimum_version,
        )
        return cls(source, requirements, credentials, identity)

    def waits_until(self, before: LoadedIdentity) -> float:
        """Until when the one before is shown to peers, whose clocks differ: some may not take this one as valid yet, or
        that one as valid any more. As many seconds from either, but `BEHIND` at most. What differs in more than the
        certificate does not wait.

        Authorities that backdate what they issue by more, as most do, have none of this; cert-manager does not.
        """
        if _apart_from_pair(self) != _apart_from_pair(before):
            return 0.0
        start = self.identity.not_before
        return start + min(BEHIND, (before.identity.workload.not_after - start) / 2)


def _apart_from_pair(loaded: LoadedIdentity) -> tuple[object, ...]:
    """All but certificate and key."""
    credentials = loaded.credentials
    return loaded.identity.workload.spiffe_id, credentials.bundle_pem, dict(credentials.other_bundles)


async def load_identity(documents: Documents, open_source: OpenSource = identity_source) -> LoadedIdentity | None:
    """The identity that a sidecar starts with; None where TLS is disabled. Raises CertificateError."""
    requirements = identity_requirements(documents)
    if requirements is None:
        return None
    source = open_source(requirements.source, requirements.trust_domains)
    return LoadedIdentity.verified(source, requirements, await source.load())


async def wait_for_identity(documents: Documents, open_source: OpenSource = identity_source) -> LoadedIdentity | None:
    """What `load_identity` returns, as soon as the source has credentials that pass.

    For a worker that is started again. The others still use the previous certificate: if this one failed at a bad one
    again and again, the supervisor would give up and end them all. The source is opened once: one of an agent follows
    it from then on, and says the reason of a failure once.
    """
    requirements = identity_requirements(documents)
    if requirements is None:
        return None
    source = open_source(requirements.source, requirements.trust_domains)
    problem = ""
    while True:
        try:
            return LoadedIdentity.verified(source, requirements, await source.load())
        except CertificateError as error:
            if error.message != problem:
                problem = error.message
                logger.error(
                    "certificate rejected; the worker waits for a valid one",
                    extra={"fields": {"reason": error.reason, "problem": problem}},
                )
            await asyncio.sleep(WAIT_SECONDS)


class IdentityRotation:
    """Holds the identity in use and replaces it when its source has other credentials.

    Args:
        loaded: what the sidecar starts with; None where TLS is disabled.
        metrics: counts rotations, and tells whether the source's credentials are in use.
        open_source: opens the source that documents name.
        warns: log warnings about the credentials. One of several workers does: all have the same.
    """

    def __init__(
        self,
        loaded: LoadedIdentity | None,
        metrics: SidecarMetrics,
        open_source: OpenSource = identity_source,
        *,
        warns: bool = True,
    ) -> None:
        self._loaded = loaded
        self._warns = warns
        self._warned: tuple[str, ...] = ()
        """The warnings of the identity before: what is still so is not said again."""
        self._metrics = metrics
        self._open = open_source
        self.on_exchange: Callable[[OwnIdentity], None] = lambda identity: None
        """Takes each new identity into use, for new connections."""
        self._wanted = asyncio.Event()
        self._problem: str | None = None
        """Why the source's credentials are not in use; None if they are."""
        self._waits = 0.0
        """Seconds for which they wait (`LoadedIdentity.waits_until`)."""
        self._then: Callable[[], None] | None = None
        """Documents were rejected for the certificate: try them again when a source changes."""
        self._awaited: IdentitySource | None = None
        """The source that documents name which are not in use, if it is another one."""
        if loaded is not None:
            self._report(loaded)

    @property
    def current(self) -> OwnIdentity | None:
        """The identity in use; None where TLS is disabled."""
        return self._loaded.identity if self._loaded is not None else None

    @property
    def trusted_domains(self) -> dict[str, int]:
        """The other trust domains whose workloads are accepted, with the number of authorities of each."""
        others = self._loaded.credentials.other_bundles if self._loaded is not None else {}
        return {domain: len(bundle) for domain, bundle in others.items()}

    @property
    def problem(self) -> str | None:
        """Why the source's credentials are not in use; None if they are."""
        return self._problem

    def client_context(self) -> ssl.SSLContext:
        """For a connection to another sidecar that is made now. Raises NoCredentials."""
        return _required(self.current.client if self.current is not None else None)

    def client_h1_context(self) -> ssl.SSLContext:
        """The same for a connection that is to speak HTTP/1.1."""
        return _required(self.current.client_h1 if self.current is not None else None)

    # Rotation

    def start(self) -> None:
        if self._loaded is not None:
            self._loaded.source.start(self.request)

    def stop(self) -> None:
        self._forget_awaited()
        if self._loaded is not None:
            self._loaded.source.stop()

    def request(self) -> None:
        """Check the source soon."""
        self._wanted.set()

    async def run(self) -> None:
        """Rotate whenever the source changes, when a certificate has waited, and every `AGAIN` seconds while one is
        rejected: one that is not valid yet by the clock of this host becomes valid without any change of the files."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._waits or (AGAIN if self._problem is not None else None)):
                    await self._wanted.wait()
            has_changed = self._wanted.is_set()
            self._wanted.clear()
            await self.rotate()
            if has_changed and self._then is not None:
                then, self._then = self._then, None
                then()

    async def rotate(self) -> None:
        """Take what the source has into use, if that is new and proven. Otherwise nothing changes."""
        before, self._waits = self._loaded, 0.0
        if before is None:
            return
        try:
            credentials = await before.source.load()
            if self._loaded is not before:
                return  # a reload has replaced it, and requested another check
            is_new = credentials.fingerprint != before.credentials.fingerprint
            after = LoadedIdentity.verified(before.source, before.requirements, credentials) if is_new else before
        except CertificateError as error:
            self._reject(error.message, {"reason": error.reason, "problem": error.message})
        except Exception as error:
            # A defect: it must not stop the traffic, nor the next rotation.
            self._reject(repr(error), {"problem": repr(error)}, exc_info=error)
        else:
            if is_new and (waits := after.waits_until(before) - time.time()) > 0.0:
                self._waits = min(waits, BEHIND)
                fields = {"serial": after.identity.serial, "seconds": round(self._waits, 1)}
                logger.info("new certificate waits for the clocks of peers", extra={"fields": fields})
                self._report_problems(credentials)
                return
            self._loaded = after = replace(after, credentials=credentials)
            if is_new:
                self._exchange(after)
            else:
                self._report_problems(credentials)

    def _exchange(self, loaded: LoadedIdentity) -> None:
        identity = loaded.identity
        self.on_exchange(identity)
        self._report(loaded)
        self._metrics.identity_rotations.labels("ok").value += 1
        logger.info(
            "certificate rotated",
            extra={
                "fields": {
                    "spiffe_id": identity.workload.spiffe_id,
                    "serial": identity.serial,
                    "not_after": datetime.fromtimestamp(identity.workload.not_after, UTC).isoformat(),
                }
            },
        )

    def _report(self, loaded: LoadedIdentity) -> None:
        identity = loaded.identity
        self._metrics.certificate_start.labels().value = identity.not_before
        self._metrics.certificate_expiry.labels().value = identity.workload.not_after
        for warning in identity.warnings:
            if self._warns and warning not in self._warned:
                logger.warning(warning)
        self._warned = identity.warnings
        self._report_problems(loaded.credentials)

    def _report_problems(self, credentials: Credentials) -> None:
        """What is in use, and what of the source is not: bundles of other trust domains, and files that are newer than
        those that are mounted."""
        problem = "; ".join(filter(None, (*credentials.problems, credentials.not_followed))) or None
        self._metrics.identity_in_sync.labels().value = 0 if problem else 1
        if problem is not None and problem != self._problem:
            event = "trust bundle rejected" if credentials.problems else "certificate files are not followed any more"
            logger.error(event, extra={"fields": {"problem": problem}})
        self._problem = problem

    def _reject(self, problem: str, fields: dict[str, object], exc_info: Exception | None = None) -> None:
        self._metrics.identity_rotations.labels("failed").value += 1
        self._metrics.identity_in_sync.labels().value = 0
        if problem != self._problem:
            logger.error("certificate rejected; keeping the previous one", extra={"fields": fields}, exc_info=exc_info)
        self._problem = problem

    # Reload

    async def prepare(self, documents: Documents) -> LoadedIdentity | None:
        """The identity for new documents, built beside the one in use, which it is if they require nothing else.

        What is rejected at the source now does not keep documents out as long as the credentials in use are enough.

        Raises:
            CertificateError: neither is.
        """
        self._forget_awaited()
        requirements, current = identity_requirements(documents), self._loaded
        # Whether there is TLS at all (`spec.mtls`) cannot change without a restart.
        if current is None or requirements is None or requirements == current.requirements:
            return current
        before = current.requirements
        is_same = (requirements.source, requirements.trust_domains) == (before.source, before.trust_domains)
        source = current.source
        if not is_same:
            source = self._awaited = self._open(requirements.source, requirements.trust_domains)
        try:
            return LoadedIdentity.verified(source, requirements, await source.load())
        except CertificateError:
            if requirements.source == before.source:
                with suppress(CertificateError):
                    return LoadedIdentity.verified(source, requirements, current.credentials.only(requirements.domains))
            raise

    def adopt(self, loaded: LoadedIdentity | None) -> None:
        """Take what `prepare` returned into use."""
        before = self._loaded
        if before is None or loaded is None or loaded.requirements == before.requirements:
            return  # also if it was rotated since `prepare`
        self._loaded = loaded
        if loaded.source is not before.source:
            self._awaited = None
            before.source.stop()
            loaded.source.start(self.request)
        self._exchange(loaded)
        # A rotation between `prepare` and now took newer credentials, which must come back.
        self.request()

    def retry_on_change(self, then: Callable[[], None]) -> None:
        """Call `then` once when the source in use, or the one that was not good enough for `prepare`, changes."""
        self._then = then
        if self._awaited is not None:
            self._awaited.start(self.request)

    def _forget_awaited(self) -> None:
        self._then = None
        if self._awaited is not None:
            self._awaited.stop()
            self._awaited = None


def _required(context: ssl.SSLContext | None) -> ssl.SSLContext:
    if context is None:
        raise NoCredentials("no certificate for calls to other sidecars is loaded")
    return context
