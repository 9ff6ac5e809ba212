"""The methods that sidecars call, each a conversation about one thing. All of them are on one port."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import Counter, OrderedDict, deque
from typing import TYPE_CHECKING, TypeVar

import msgspec

from meshproxy.control.attestation import Proof, Shown
from meshproxy.control.authority import RequestRefused, SigningRequest
from meshproxy.control.leaf import Leaf
from meshproxy.control.status import Refusal, moment
from meshproxy.control.store import StoreError
from meshproxy.control_api import ISSUE, IssueRequest, IssueResponse, leaf_name, roots_digest
from meshproxy.identity.caller import Workload
from meshproxy.refusal import GrpcStatus
from meshproxy.routing.rate_limit import Bucket
from meshproxy.transport.grpc_server import CallFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.control.attestation import Attestation, Attested
    from meshproxy.control.audit import ControlAudit
    from meshproxy.control.authority import Authority, Issued
    from meshproxy.control.issued_keys import IssuedKeys
    from meshproxy.control.leaves import Roll
    from meshproxy.telemetry.control_metrics import ControlMetrics
    from meshproxy.transport.grpc_server import Method, ServerCall

logger = logging.getLogger(__name__)

ISSUE_RATE = 0.2
ISSUE_BURST = 10.0
"""Certificates of one identity by join tokens, of one identity at one address by the certificates before, or of one pod
by its service-account token: this many at once, then one in five seconds. Replicas do not wait for each other."""
JOINS_KEPT = 1_000
"""Answers to join tokens that are given again to the same request."""
REFUSAL_RATE = 1.0
REFUSAL_BURST = 20.0
"""Refused requests from one address; further requests from there without a certificate are not looked at."""
ASKING = 8
"""Requests from one address that are looked at at once: one that knows no token cannot keep the cluster busy."""
REFUSALS_KEPT = 64
"""For people who ask why a workload has no certificate."""
SET_BACK_SECONDS = 1.0
"""A clock that is behind by more than this was set back."""
PACES_KEPT = 20_000
"""Identities and addresses whose rates are remembered."""

STATUSES = {
    "malformed": GrpcStatus.INVALID_ARGUMENT,
    "signature": GrpcStatus.INVALID_ARGUMENT,
    "key": GrpcStatus.INVALID_ARGUMENT,
    "key-reused": GrpcStatus.INVALID_ARGUMENT,
    "identity": GrpcStatus.PERMISSION_DENIED,
    "join-token": GrpcStatus.UNAUTHENTICATED,
    "token-malformed": GrpcStatus.UNAUTHENTICATED,
    "token-audience": GrpcStatus.UNAUTHENTICATED,
    "token-expired": GrpcStatus.UNAUTHENTICATED,
    "token-not-bound": GrpcStatus.UNAUTHENTICATED,
    "token-unauthenticated": GrpcStatus.UNAUTHENTICATED,
    "token-pod": GrpcStatus.UNAUTHENTICATED,
    "unattested": GrpcStatus.UNAUTHENTICATED,
    "expired": GrpcStatus.UNAUTHENTICATED,
    "rate": GrpcStatus.RESOURCE_EXHAUSTED,
    "authority-expired": GrpcStatus.UNAVAILABLE,
    "store": GrpcStatus.UNAVAILABLE,
    "cluster": GrpcStatus.UNAVAILABLE,
    "audit-unavailable": GrpcStatus.UNAVAILABLE,
}
"""The status of each reason for a refusal: a sidecar tries again after UNAVAILABLE and RESOURCE_EXHAUSTED."""


class IdentityService:
    """Issues certificates to those that attestation knows.

    Args:
        authority: gives the one that signs now.
        attestation: tells who asks.
        keys: those that have a certificate.
        roll: is told of each certificate before it is given out.
        lifetime: of a certificate, in seconds.
        metrics: counts what was issued and refused.
        clock: seconds since the epoch.
        audit: the audit trail, if there is one.

    Attributes:
        refusals: the last ones, the newest first.
    """

    def __init__(
        self,
        authority: Callable[[], Authority],
        attestation: Attestation,
        keys: IssuedKeys,
        roll: Roll,
        lifetime: float,
        metrics: ControlMetrics,
        clock: Callable[[], float] = time.time,
        audit: ControlAudit | None = None,
    ) -> None:
        self._authority = authority
        self._audit = audit
        self._attestation = attestation
        self._keys = keys
        self._roll = roll
        self._lifetime = lifetime
        self._metrics = metrics
        self._clock = clock
        self.refusals: deque[Refusal] = deque(maxlen=REFUSALS_KEPT)
        self._issued = Paces(ISSUE_RATE, ISSUE_BURST)
        self._refused = Paces(REFUSAL_RATE, REFUSAL_BURST)
        self._asking: Counter[str] = Counter()
        self._joins: OrderedDict[bytes, asyncio.Task[tuple[Issued, Authority]]] = OrderedDict()
        """Answers to join tokens, by the SHA-256 of the request."""

    @property
    def methods(self) -> dict[bytes, Method]:
        """For `GrpcServer`."""
        return {ISSUE: self.issue}

    async def issue(self, call: ServerCall) -> None:
        """`Identity/Issue`."""
        request = decode(await call.only_message(), IssueRequest)
        workload = call.info.peer if isinstance(call.info.peer, Workload) else None
        try:
            issued, authority = await self._answer(request, workload, call.info.remote)
        except RequestRefused as refused:
            self._metrics.issuances.labels("refused", refused.reason).value += 1
            self._remember(refused, call.info.remote, workload)
            if self._audit is not None:
                self._audit.refused(refused, workload.spiffe_id if workload is not None else None, call.info.remote)
            logger.warning(
                "certificate not issued",
                extra={
                    "fields": {
                        "reason": refused.reason,
                        "problem": refused.message,
                        "peer": call.info.remote,
                        "spiffe_id": workload.spiffe_id if workload is not None else None,
                    }
                },
            )
            raise CallFailed(STATUSES[refused.reason], refused.message) from None
        roots = authority.bundle_pem.decode()
        response = IssueResponse(issued.certificate_pem.decode(), roots, self._clock())
        await call.send(msgspec.json.encode(response))

    def _remember(self, refused: RequestRefused, peer: str, workload: Workload | None) -> None:
        self.refusals.appendleft(
            Refusal(
                at=moment(self._clock()),
                reason=refused.reason,
                problem=refused.message,
                peer=peer,
                spiffe_id=workload.spiffe_id if workload is not None else None,
            )
        )

    async def _answer(self, request: IssueRequest, workload: Workload | None, peer: str) -> tuple[Issued, Authority]:
        """The certificate. A join token is spent before there is one: whoever leaves meanwhile, or did not get it, has
        it for the same token and signing request again, with whose key alone it is of use. Raises RequestRefused."""
        if not request.join_token:
            return await self._issue(request, workload, peer)
        same = hashlib.sha256(msgspec.json.encode(request)).digest()
        if (task := self._joins.get(same)) is None:
            task = self._joins[same] = asyncio.create_task(self._issue(request, workload, peer))
            task.add_done_callback(lambda done: self._joined(same, done))
        issued, authority = await asyncio.shield(task)
        if self._authority() is not authority:
            raise RequestRefused("join-token", "the authority has changed since the join token was used: make another")
        return issued, authority

    def _joined(self, same: bytes, task: asyncio.Task[tuple[Issued, Authority]]) -> None:
        """Refusals are not repeated: they may be others."""
        if task.cancelled() or task.exception() is not None:
            self._joins.pop(same, None)
        elif len(self._joins) > JOINS_KEPT:
            self._joins.popitem(last=False)

    def _note(self, attested: Attested, issued: Issued, authority: Authority, peer: str) -> None:
        self._metrics.issuances.labels("ok", "").value += 1
        if self._audit is not None:
            self._audit.issued(attested, issued, authority, peer)
        logger.info(
            "certificate issued",
            extra={
                "fields": {
                    "spiffe_id": attested.spiffe_id,
                    "serial": issued.serial,
                    "not_after": issued.not_after,
                    "peer": peer,
                    "attested_by": attested.by.value,
                    "pod": str(attested.pod) if attested.pod is not None else None,
                }
            },
        )

    async def _issue(self, request: IssueRequest, workload: Workload | None, peer: str) -> tuple[Issued, Authority]:
        """The certificate, and who has signed it. Raises RequestRefused."""
        now = self._clock()
        address = peer.rpartition(":")[0]
        if self._audit is not None and (problem := self._audit.problem):
            raise RequestRefused("audit-unavailable", problem)
        has_proof = workload is not None and not request.service_account_token
        if not has_proof and self._refused.is_exhausted(address, now):
            raise RequestRefused("rate", f"too many requests from {address} were refused: wait a minute")
        if self._asking[address] >= ASKING:
            raise RequestRefused("rate", f"{ASKING} requests from {address} are being looked at: try again")
        self._asking[address] += 1
        try:
            # Before the token, which a request that cannot be signed must not use up.
            signing = SigningRequest.read(request.csr)
            try:
                attested = await self._attestation.attest(request, workload, now)
            except StoreError as error:
                raise RequestRefused("store", str(error)) from error
        except RequestRefused as refused:
            if STATUSES[refused.reason] is not GrpcStatus.UNAVAILABLE:  # which is not the fault of whoever asks
                self._refused.charge(address, now)
            raise
        finally:
            self._asking[address] -= 1
            if not self._asking[address]:
                del self._asking[address]
        paced_as = attested.paced_as
        if attested.by is Proof.CERTIFICATE:
            paced_as += f" at {address}"
        if not self._issued.take(paced_as, now):
            raise RequestRefused("rate", f"too many certificates for {paced_as}: wait a minute")
        await self._claim(signing.key, workload, now)
        renewed = workload if isinstance(workload, Shown) and attested.by is Proof.CERTIFICATE else None
        replaces = leaf_name(renewed.certificate, renewed.not_after) if renewed is not None else ""
        while True:
            authority = self._authority()
            issued = authority.issue(signing, attested.spiffe_id, now, self._lifetime)
            digest = roots_digest(authority.bundle_pem)
            leaf = Leaf(issued.name, attested.spiffe_id, authority.id, digest, replaces, peer=peer)
            await self._roll.issued(leaf)
            # Whoever has noticed a step of a rotation gives out nothing more of the step before.
            if self._authority() is authority:
                self._note(attested, issued, authority, peer)
                return issued, authority
            await self._roll.issued(msgspec.structs.replace(leaf, is_replaced=True))  # nobody has it

    async def _claim(self, key: bytes, workload: Workload | None, now: float) -> None:
        """Raises RequestRefused for a key that has a certificate, the one that is shown or another."""
        is_shown = isinstance(workload, Shown) and key in workload.certificate
        digest = hashlib.sha256(key).hexdigest()
        if is_shown or not await asyncio.to_thread(self._keys.claim, digest, now + self._lifetime, now):
            raise RequestRefused("key-reused", "this key has a certificate already: make a new key for each request")


Message = TypeVar("Message", bound=msgspec.Struct)


def decode(message: bytes, kind: type[Message]) -> Message:
    """A message of a sidecar. Raises CallFailed."""
    try:
        return msgspec.json.decode(message, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:  # the latter: nested without end
        raise CallFailed(GrpcStatus.INVALID_ARGUMENT, f"the message is not a {kind.__name__}: {error}") from None


class Paces:
    """A rate for each key. Keys are forgotten that have not used any of it, or whose turn was the longest ago if there
    are too many."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()
        self._latest = 0.0

    def take(self, key: str, now: float) -> bool:
        """Whether one more is within the rate; then it counts."""
        return self._bucket(key, now).take(1.0, now) == 0.0

    def check(self, call: ServerCall, workload: Workload, what: str, now: float) -> None:
        """Count a message of a sidecar, by its identity and address. Raises CallFailed if that is one too many."""
        if not self.take(f"{workload.spiffe_id} {call.info.remote.rpartition(':')[0]}", now):
            raise CallFailed(GrpcStatus.RESOURCE_EXHAUSTED, f"too many streams or {what}: wait a few seconds")

    def charge(self, key: str, now: float) -> None:
        """Count one more, whether it is within the rate or not."""
        self._bucket(key, now).charge(1.0, now)

    def is_exhausted(self, key: str, now: float) -> bool:
        """Whether one more would exceed the rate."""
        self._follow(now)
        bucket = self._buckets.get(key)
        return bucket is not None and bucket.wait(1.0, now) > 0.0

    def _follow(self, now: float) -> None:
        if now < self._latest - SET_BACK_SECONDS:
            # The clock was wrong: those who used their rate would be refused until it is that late again.
            self._buckets.clear()
        self._latest = now

    def _bucket(self, key: str, now: float) -> Bucket:
        self._follow(now)
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(self._rate, self._burst)
            if len(self._buckets) > PACES_KEPT:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        while (oldest := next(iter(self._buckets))) != key and self._buckets[oldest].full_at <= now:
            del self._buckets[oldest]
        return bucket
