from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec

from meshproxy.audit.lines import Kind, Record, read_line
from meshproxy.audit.search import names_of
from meshproxy.config.codes import Code
from meshproxy.config.fields import Metadata
from meshproxy.config.files import Written
from meshproxy.config.problems import Problem
from meshproxy.config.schema import ModelRole, RoleSpec, Rule
from meshproxy.control.attestation import Attested, Proof
from meshproxy.control.audit import STRANGERS_BURST, STRANGERS_RATE, ControlAudit
from meshproxy.control.authority import Authority, RequestRefused, SigningRequest
from meshproxy.control.scope import Change, Held
from meshproxy.rollout.steps import Notice
from meshproxy.web.login import LoginEvent
from tests.audit.ocsf import check_ocsf
from tests.audit.trails import line_of
from tests.control.test_scope import held

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshproxy.config.fields import VerbWord

NOW = 1_796_042_683.0
IDENTITY = "spiffe://m.example/ns/models/sa/resnet"


class Trail:
    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.audit = ControlAudit(self.bodies.append, lambda: NOW)

    def read(self) -> list[Record]:
        lines = [line_of(body) for body in self.bodies]
        for line in lines:
            check_ocsf(line)
        self.bodies.clear()
        return [read_line(line) for line in lines]


def test_certificates() -> None:
    trail = Trail()
    authority = Authority.create("m.example", NOW)
    request = SigningRequest(ec.generate_private_key(ec.SECP256R1()).public_key(), ())
    issued = authority.issue(request, IDENTITY, NOW, 3_600.0)
    trail.audit.issued(Attested(IDENTITY, Proof.CERTIFICATE), issued, authority, "10.0.0.1:1")
    trail.audit.refused(RequestRefused("rate", "too many"), None, "10.0.0.1:1")
    first, second = trail.read()
    assert (first.kind, first.subject, first.remote) == (Kind.CERTIFICATE_ISSUED, IDENTITY, "10.0.0.1:1")
    assert (second.kind, second.reason, second.message) == (Kind.CERTIFICATE_REFUSED, "rate", "too many")


def test_documents() -> None:
    trail = Trail()
    documents = held(*_roles("predict"))
    trail.audit.documents(_changes({}, documents), "v1")
    (first,) = trail.read()
    assert (first.kind, first.message, first.after) == (Kind.DOCUMENTS_LOADED, "2 documents are in force", "v1")
    changed = held(*_roles("status"))
    trail.audit.documents(_changes(documents, changed), "v2")
    records = trail.read()
    assert {record.kind for record in records} == {Kind.DOCUMENT_CHANGED}
    assert all(len(record.before or "") == len(record.after or "") == 64 for record in records)
    trail.audit.documents(_changes(changed, {}) + _changes({}, changed), "v3")
    assert [record.kind for record in trail.read()] == [Kind.DOCUMENT_DELETED] * 2 + [Kind.DOCUMENT_CREATED] * 2
    moved = {key: Held.of(each.document, "000099") for key, each in changed.items()}
    trail.audit.documents(_changes(changed, moved), "v4")
    assert trail.read() == []
    trail.audit.rejected([Problem("a.yaml", number, "", "", "no", Code.NEEDS_RESTART) for number in range(7)])
    (record,) = trail.read()
    assert record.kind is Kind.DOCUMENTS_REJECTED
    assert record.message is not None
    assert record.message.endswith(", and 2 more")


def test_the_authority() -> None:
    trail = Trail()
    for name in ("m.example", "n.example"):
        trail.audit.authority(Authority.create(name, NOW))
    first, second = trail.read()
    assert (first.kind, first.before) == (Kind.AUTHORITY_CHANGED, None)
    assert second.before == first.after


def test_who_wrote_a_document() -> None:
    trail = Trail()
    trail.audit.documents([], "v0")
    trail.read()
    before, document = held(*_roles("predict"))["ModelRole/reader"], _roles("status")[0]
    for written, by, told in (
        (
            Written("kubectl-edit", "2026-11-30T12:00:00Z", is_software=True),
            "kubectl-edit",
            "field manager kubectl-edit",
        ),
        (Written("alice", "2026-11-30T12:00:00Z", is_software=False), "alice", "belongs to alice"),
        (None, None, "by whom is not known"),
    ):
        trail.audit.documents([Change(before.key, before, Held.of(document, "0", written))], "v1")
        (record,) = trail.read()
        assert (record.kind, record.by) == (Kind.DOCUMENT_CHANGED, by)
        assert told in (record.message or "")
    trail.audit.documents([Change(before.key, before, None)], "v2")
    (record,) = trail.read()
    assert (record.kind, record.by) == (Kind.DOCUMENT_DELETED, None)


def test_rollouts() -> None:
    trail = Trail()
    trail.audit.rollout("half", Notice(NOW, "Advanced", "the candidate has 25 %"))
    trail.audit.rollout("half", Notice(NOW, "Promoted", "ordered by eve@a", by="eve@a (user eve)"))
    trail.audit.order_refused("half", "pause", "it is over", "eve@a (user eve)")
    step, promotion, refused = trail.read()
    assert (step.kind, step.subject, step.reason, step.by) == (
        Kind.ROLLOUT_CHANGED,
        "ModelRollout/half",
        "Advanced",
        None,
    )
    assert (promotion.reason, promotion.by) == ("Promoted", "eve@a (user eve)")
    assert (refused.kind, refused.reason, refused.message) == (Kind.ROLLOUT_REFUSED, "pause", "it is over")
    assert "eve@a (user eve)" in names_of(refused.caller, refused.subject, refused.by)


def test_logins() -> None:
    trail = Trail()
    for result in ("ok", "no-role", "logout"):
        trail.audit.login(LoginEvent(result, "[::1]:40000", "said", "https://login.example", "vera"))
    records = trail.read()
    assert [record.kind for record in records] == [Kind.LOGIN, Kind.LOGIN_REFUSED, Kind.LOGOUT]
    assert {str(record.caller) for record in records} == {"https://login.example:vera"}
    assert (records[0].remote, records[1].reason) == ("[::1]:40000", "no-role")


def test_strangers_do_not_fill_the_trail() -> None:
    now = NOW
    bodies: list[bytes] = []
    audit = ControlAudit(bodies.append, lambda: now)
    for _ in range(1_000):
        audit.login(LoginEvent("failed", "10.0.0.1:1", "no such login"))
    assert len(bodies) == STRANGERS_BURST
    now += 1 / STRANGERS_RATE
    audit.login(LoginEvent("failed", "10.0.0.1:1", "no such login"))
    record = read_line(line_of(bodies[-1]))
    assert (record.events, record.message) == (981, "no such login; 980 more before it have no line")
    assert sum(read_line(line_of(body)).events for body in bodies) == 1_001


def test_without_a_trail_nothing_is_done_that_needs_one() -> None:
    missing = ""
    audit = ControlAudit(lambda body: None, lambda: NOW, lambda: missing)
    assert audit.problem == ""
    missing = "No space left on device"
    assert "No space left on device" in audit.problem


def _changes(before: Mapping[str, Held], after: Mapping[str, Held]) -> list[Change]:
    return [Change(key, before.get(key), after.get(key)) for key in sorted({*before, *after})]


def _roles(verb: VerbWord) -> list[ModelRole]:
    return [
        ModelRole(metadata=Metadata(name=name), spec=RoleSpec((Rule(("*",), (verb,)),)))
        for name in ("reader", "writer")
    ]
