from __future__ import annotations

import pytest

from meshproxy.audit.lines import Kind, read_line
from meshproxy.telemetry.audit_events import Author, IssuedCertificate, certificate_body, entity_body, login_body
from tests.audit.ocsf import check_ocsf
from tests.audit.trails import line_of

ENTITIES = [kind for kind in Kind if kind.value.startswith(("document", "authority", "rollout"))]


def test_certificates() -> None:
    certificate = IssuedCertificate("1f", "ab12", 1_700_000_000.0)
    issued = line_of(certificate_body(1.5, "spiffe://a/b", "[::1]:1", "proven by token", certificate=certificate))
    read = check_ocsf(issued)
    assert read["certificate"] == {"serial_number": "1f", "issuer": "ab12", "expiration_time": 1_700_000_000_000}
    record = read_line(issued)
    assert (record.time, record.kind, record.subject) == (1.5, Kind.CERTIFICATE_ISSUED, "spiffe://a/b")
    refused = line_of(certificate_body(1.5, None, "10.0.0.1:1", 'no "proof"\n', reason="unattested"))
    check_ocsf(refused)
    record = read_line(refused)
    assert (record.kind, record.subject, record.reason) == (Kind.CERTIFICATE_REFUSED, None, "unattested")
    assert (record.message, record.remote) == ('no "proof"\n', "10.0.0.1:1")


@pytest.mark.parametrize("kind", ENTITIES)
def test_documents(kind: Kind) -> None:
    line = line_of(entity_body(kind, 1.5, "ModelRole/reader", "in force", before="a", after="b"))
    assert check_ocsf(line)["entity"] == {"name": "ModelRole/reader", "type": "ModelRole", "version": "b"}
    record = read_line(line)
    assert (record.kind, record.subject, record.before, record.after) == (kind, "ModelRole/reader", "a", "b")
    assert check_ocsf(line_of(entity_body(kind, 1.5, "x", "in force")))["unmapped"]["before"] is None


@pytest.mark.parametrize("is_software", [False, True])
def test_who_did_it(is_software: bool) -> None:
    body = entity_body(
        Kind.ROLLOUT_CHANGED, 1.5, "ModelRollout/a", "x", by=Author('e"ve', is_software), reason="Paused"
    )
    check_ocsf(line_of(body))
    record = read_line(line_of(body))
    assert (record.by, record.reason) == ('e"ve', "Paused")
    assert record.caller.subject is None


@pytest.mark.parametrize("kind", [Kind.LOGIN, Kind.LOGIN_REFUSED, Kind.LOGOUT])
def test_logins(kind: Kind) -> None:
    line = line_of(login_body(kind, 1.5, "said", "10.0.0.1:1", issuer="https://a", subject="vera"))
    assert check_ocsf(line)["activity_id"] == (2 if kind is Kind.LOGOUT else 1)
    assert str(read_line(line).caller) == "https://a:vera"
    unknown = line_of(login_body(kind, 1.5, "said", "10.0.0.1:1", reason="failed", count=3))
    assert check_ocsf(unknown)["user"] == {"name": "unknown"}
    record = read_line(unknown)
    assert (record.events, record.reason, record.caller.subject) == (3, "failed", None)
