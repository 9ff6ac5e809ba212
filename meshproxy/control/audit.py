"""What a control plane writes into the audit trail: certificates, documents, rollouts, logins to the page, and the
authority of the mesh. Certificates and orders of operators wait for a trail that can be written."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from meshproxy.audit.lines import Kind
from meshproxy.control_api import roots_digest
from meshproxy.routing.rate_limit import Bucket
from meshproxy.telemetry.audit_events import Author, IssuedCertificate, certificate_body, entity_body, login_body

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from meshproxy.config.files import Written
    from meshproxy.config.problems import Problem
    from meshproxy.control.attestation import Attested
    from meshproxy.control.authority import Authority, Issued, RequestRefused
    from meshproxy.control.scope import Change, Held
    from meshproxy.rollout.steps import Notice
    from meshproxy.web.login import LoginEvent

MOST_PROBLEMS = 5
"""That a line names."""
UNKNOWN = "by whom is not known"
STRANGERS_RATE = 0.2
STRANGERS_BURST = 20.0
"""Lines of logins that failed, a second and at once."""


class ControlAudit:
    """Makes lines of what happens.

    Args:
        write: takes bodies of lines (`AuditWriter.write`).
        clock: seconds since the epoch.
        missing: why no line can be written now (`AuditWriter.problem`); empty if one can, or if nothing waits for it.
    """

    def __init__(
        self, write: Callable[[bytes], None], clock: Callable[[], float], missing: Callable[[], str] = str
    ) -> None:
        self._write = write
        self._missing = missing
        self._clock = clock
        self._has_documents = False
        self._authority = ""
        self._logins = Bucket(STRANGERS_RATE, STRANGERS_BURST)
        self._strangers = 0
        """Logins that failed since the last one that has a line."""

    @property
    def problem(self) -> str:
        """Why nothing is done that needs a trail: certificates, and orders of operators. Empty if it may be done."""
        missing = self._missing()
        return f"the audit trail cannot be written: {missing}; ask an operator of the control plane" if missing else ""

    def issued(self, attested: Attested, issued: Issued, authority: Authority, peer: str) -> None:
        """A workload has a certificate."""
        pod = f", pod {attested.pod}" if attested.pod is not None else ""
        self._write(
            certificate_body(
                self._clock(),
                attested.spiffe_id,
                peer,
                f"proven by {attested.by.value}{pod}",
                certificate=IssuedCertificate(issued.serial, authority.id, issued.not_after),
            )
        )

    def refused(self, refused: RequestRefused, spiffe_id: str | None, peer: str) -> None:
        """A workload got none."""
        self._write(certificate_body(self._clock(), spiffe_id, peer, refused.message, reason=refused.reason))

    def documents(self, changes: Sequence[Change], version: str) -> None:
        """Other documents are in force. The first ones are told of as a whole: `version` says whether they are those of
        the last time."""
        if not self._has_documents:
            self._has_documents = True
            message = f"{len(changes)} documents are in force"
            self._write(entity_body(Kind.DOCUMENTS_LOADED, self._clock(), "documents", message, after=version))
            return
        for change in changes:
            before, after = _hash(change.before), _hash(change.after)
            if before == after:
                continue  # it has another place among the others
            kind = Kind.DOCUMENT_CHANGED
            if before is None or after is None:
                kind = Kind.DOCUMENT_CREATED if before is None else Kind.DOCUMENT_DELETED
            written = change.after.written if change.after is not None else None
            message = f"in force; {_told(written)}" if after is not None else f"not in force any more; {UNKNOWN}"
            by = Author(written.by, written.is_software) if written is not None else None
            self._write(entity_body(kind, self._clock(), change.key, message, before=before, after=after, by=by))

    def rejected(self, problems: Sequence[Problem]) -> None:
        """Newer documents have problems."""
        more = f", and {len(problems) - MOST_PROBLEMS} more" if len(problems) > MOST_PROBLEMS else ""
        message = "; ".join(map(str, problems[:MOST_PROBLEMS])) + more
        self._write(entity_body(Kind.DOCUMENTS_REJECTED, self._clock(), "documents", message))

    def authority(self, authority: Authority) -> None:
        """It signs from now on."""
        now = f"{authority.id} {roots_digest(authority.bundle_pem)}"
        before, self._authority = self._authority, now
        message = f"signs as {authority.id}; the trusted roots are {roots_digest(authority.bundle_pem)}"
        body = entity_body(
            Kind.AUTHORITY_CHANGED, self._clock(), "authority", message, before=before or None, after=now
        )
        self._write(body)

    def rollout(self, name: str, notice: Notice) -> None:
        """A step, a promotion, a rollback, a pause."""
        by = Author(notice.by) if notice.by else None
        subject = f"ModelRollout/{name}"
        message, reason = notice.message, notice.reason
        self._write(entity_body(Kind.ROLLOUT_CHANGED, notice.at, subject, message, reason=reason, by=by))

    def order_refused(self, name: str, command: str, why: str, who: str) -> None:
        """An order was not taken."""
        subject, by = f"ModelRollout/{name}", Author(who)
        self._write(entity_body(Kind.ROLLOUT_REFUSED, self._clock(), subject, why, reason=command, by=by))

    def tapped(self, query: str, sidecars: Mapping[str, int], who: str) -> None:
        """Somebody looks at calls of these identities, each of which so many sidecars have, as they end."""
        named = ", ".join(sorted(sidecars)[:MOST_PROBLEMS])
        more = f", and {len(sidecars) - MOST_PROBLEMS} more" if len(sidecars) > MOST_PROBLEMS else ""
        message = f"by {sum(sidecars.values())} sidecars of {named or 'nobody'}{more}; asked for: {query or 'all'}"
        self._write(entity_body(Kind.TAP_OPENED, self._clock(), "tap", message, by=Author(who)))

    def login(self, event: LoginEvent) -> None:
        """Somebody logged in to the page, or out, or did not get in. Strangers may try that without end: of those who
        are not known, a few have a line, which says how many have none."""
        now = self._clock()
        count = 1
        if event.result == "failed":
            self._strangers += 1
            if self._logins.take(1.0, now) > 0.0:
                return
            count, self._strangers = self._strangers, 0
        kind = {"ok": Kind.LOGIN, "logout": Kind.LOGOUT}.get(event.result, Kind.LOGIN_REFUSED)
        reason = event.result if kind is Kind.LOGIN_REFUSED else None
        message = event.message if count == 1 else f"{event.message}; {count - 1} more before it have no line"
        self._write(
            login_body(
                kind,
                now,
                message,
                event.peer,
                issuer=event.issuer,
                subject=event.subject,
                reason=reason,
                count=count,
            )
        )


def _told(written: Written | None) -> str:
    """Who has written a document, as far as that can be known."""
    if written is None:
        return UNKNOWN
    at = f" at {written.at}" if written.at else ""
    if written.is_software:
        return f"the field manager {written.by} changed the object{at}"
    return f"its file belongs to {written.by} and was written{at}"


def _hash(held: Held | None) -> str | None:
    """SHA-256 of a document as it is sent to sidecars."""
    return hashlib.sha256(bytes(held.sent.document)).hexdigest() if held is not None else None
