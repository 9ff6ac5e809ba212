"""The caller: the workload of the peer's certificate and the verified token, together."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Workload(msgspec.Struct, frozen=True):
    """A SPIFFE identity, proven by the peer's certificate (SPIFFE X509-SVID section 2)."""

    spiffe_id: str
    trust_domain: str
    namespace: str | None
    """From the path `/ns/NAMESPACE/sa/ACCOUNT`; None for ids of another shape."""
    service_account: str | None
    not_after: float
    """When the certificate stops being valid, in seconds since the epoch: checked again on long connections."""


def workload_of(spiffe_id: str) -> Workload:
    """The workload of this id, which is in the form of a SPIFFE id; its certificate never expires."""
    domain, *path = spiffe_id.removeprefix("spiffe://").split("/")
    is_kubernetes = len(path) == 4 and path[0] == "ns" and path[2] == "sa"
    namespace, account = (path[1], path[3]) if is_kubernetes else (None, None)
    return Workload(spiffe_id, domain, namespace, account, not_after=float("inf"))


class Token(msgspec.Struct, frozen=True, eq=False):
    """A bearer token whose signature and claims have been verified (RFC 7519, RFC 9068). Compared by identity: the same
    verified token is the same object as long as it is cached, which is what decisions are memoised by."""

    issuer: str
    """The issuer's name in `MeshConfig`, not its URL."""
    subject: str
    claims: Mapping[str, object]
    expires: float
    """`exp`, seconds since the epoch."""
    iam_role: str | None = None
    """The role's ARN, when the issuer is AWS STS."""
    size: int = 0
    """Bytes of memory that it takes at most: what keeps tokens counts them."""


class Caller(msgspec.Struct, frozen=True):
    """The authenticated source of a request. Without both parts it is anonymous, and the policy decides."""

    workload: Workload | None = None
    token: Token | None = None

    def __str__(self) -> str:
        who = self.workload.spiffe_id if self.workload else "anonymous"
        return f"{who} ({self.token.issuer}:{self.token.subject})" if self.token else who


ANONYMOUS = Caller()
