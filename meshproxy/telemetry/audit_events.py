"""Bodies of lines of the audit trail that are about no call: certificates, logins, documents, rollouts, and the
authority of the mesh.

Certificates and logins are of the class Authentication (3002) of the Open Cybersecurity Schema Framework, the others of
Entity Management (3004). `audit.lines` reads them.
"""

from __future__ import annotations

from typing import NamedTuple

from meshproxy.audit.lines import PRODUCT, Kind
from meshproxy.telemetry.audit import MAX_SPIFFE_ID, format_endpoint
from meshproxy.telemetry.log_encoding import quote

_ACTIVITIES = {Kind.DOCUMENT_CREATED: 1, Kind.DOCUMENTS_LOADED: 2, Kind.TAP_OPENED: 2, Kind.DOCUMENT_DELETED: 4}
"""`activity_id`: the others update (3)."""
_UPDATE = 3
_TICKET = 3
_LOGON, _LOGOFF = 1, 2
_FAILED = frozenset({Kind.CERTIFICATE_REFUSED, Kind.DOCUMENTS_REJECTED, Kind.ROLLOUT_REFUSED, Kind.LOGIN_REFUSED})


class IssuedCertificate(NamedTuple):
    """What a line says of a certificate."""

    serial: str
    issuer: str
    """The id of the authority that has signed it."""
    not_after: float
    """Seconds since the epoch."""


def certificate_body(
    now: float,
    spiffe_id: str | None,
    peer: str,
    message: str,
    *,
    certificate: IssuedCertificate | None = None,
    reason: str | None = None,
) -> bytes:
    """A workload asked for a certificate.

    Args:
        now: seconds since the epoch.
        spiffe_id: the identity that it proved, as far as that is known.
        peer: address and port of the other end.
        message: how the identity was proven, or why no certificate was issued.
        certificate: that was issued; None: it was refused for this `reason`.
    """
    kind = Kind.CERTIFICATE_ISSUED if certificate is not None else Kind.CERTIFICATE_REFUSED
    issued = ""
    if certificate is not None:
        issued = (
            f',"certificate":{{"serial_number":{quote(certificate.serial)},"issuer":{quote(certificate.issuer)},'
            f'"expiration_time":{int(certificate.not_after * 1_000)}}}'
        )
    user = f'"uid":{quote(spiffe_id, limit=MAX_SPIFFE_ID)}' if spiffe_id is not None else '"name":"unknown"'
    return _body(
        kind,
        now,
        3002,
        _TICKET,
        message,
        f'"reason":{quote(reason)},"subject":{quote(spiffe_id, limit=MAX_SPIFFE_ID)}',
        f'"user":{{{user}}},"service":{{"name":"{PRODUCT} control plane"}},'
        f'"src_endpoint":{format_endpoint(peer)}{issued}',
    )


class Author(NamedTuple):
    """Who has changed something."""

    name: str
    is_software: bool = False
    """A program that has applied it for somebody; otherwise a user."""


def login_body(
    kind: Kind,
    now: float,
    message: str,
    peer: str,
    *,
    issuer: str | None = None,
    subject: str | None = None,
    reason: str | None = None,
    count: int = 1,
) -> bytes:
    """Somebody logged in to the page of the mesh, did not get in, or logged out.

    Args:
        now: seconds since the epoch.
        peer: address of the other end.
        issuer: where they logged in; None: nobody knows who it was.
        subject: whom the issuer's token is of.
        reason: why they did not get in.
        count: how many attempts the line stands for.
    """
    user, actor = '"name":"unknown"', ""
    if subject is not None:
        user = f'"uid":{quote(subject)},"type_id":1'
        actor = f',"actor":{{"user":{{{user}}},"idp":{{"name":{quote(issuer)}}}}}'
    return _body(
        kind,
        now,
        3002,
        _LOGOFF if kind is Kind.LOGOUT else _LOGON,
        message,
        f'"reason":{quote(reason)}',
        f'"user":{{{user}}},"service":{{"name":"{PRODUCT} page"}},"src_endpoint":{format_endpoint(peer)}'
        f'{actor},"count":{count}',
    )


def entity_body(
    kind: Kind,
    now: float,
    subject: str,
    message: str,
    *,
    before: str | None = None,
    after: str | None = None,
    reason: str | None = None,
    by: Author | None = None,
) -> bytes:
    """A document, a rollout or the authority of the mesh has changed, or somebody was not allowed to change it.

    Args:
        now: seconds since the epoch.
        subject: `ModelRole/reader`.
        before: its hash; None: there was none.
        after: its hash; None: there is none any more.
        reason: of a rollout: what happened, in a word.
        by: who did it; None: nobody that is known, or nobody at all.
    """
    version = f',"version":{quote(after)}' if after is not None else ""
    actor = ""
    if by is not None:
        name = quote(by.name)
        who = f'"app_name":{name}' if by.is_software else f'"user":{{"name":{name},"type_id":1}}'
        actor = f',"actor":{{{who}}}'
    return _body(
        kind,
        now,
        3004,
        _ACTIVITIES.get(kind, _UPDATE),
        message,
        f'"subject":{quote(subject)},"reason":{quote(reason)},"before":{quote(before)},"after":{quote(after)}',
        f'"entity":{{"name":{quote(subject)},"type":{quote(subject.partition("/")[0])}{version}}}{actor}',
    )


def _body(kind: Kind, now: float, class_uid: int, activity: int, message: str, own: str, rest: str) -> bytes:
    has_failed = kind in _FAILED
    return (
        f'","kind":"{kind.value}",{own}}},'
        f'"time":{int(now * 1_000)},"class_uid":{class_uid},"category_uid":3,"activity_id":{activity},'
        f'"type_uid":{class_uid * 100 + activity},"severity_id":{2 if has_failed else 1},'
        f'"status_id":{2 if has_failed else 1},"message":{quote(message)},{rest}}}\n'
    ).encode("ascii")
