from __future__ import annotations

from pathlib import Path

import pytest

from meshproxy.audit import review as module
from meshproxy.audit.lines import Kind, read_line
from meshproxy.audit.review import OTHERS, Review, grants_of
from meshproxy.config.policy_set import load_policy
from meshproxy.telemetry.audit_events import certificate_body, entity_body, login_body
from meshproxy.telemetry.audit_writer import own_body
from tests.audit.trails import call_body, line_of

ACCESS = Path(__file__).parents[2] / "deploy" / "examples" / "access.yaml"


def reviewed(*bodies: bytes) -> Review:
    review = Review()
    for body in bodies:
        review.add(read_line(line_of(body)))
    return review


def test_calls_are_counted_by_what_they_have_in_common() -> None:
    review = reviewed(*[call_body(number) for number in range(14)], call_body(1, Kind.DENIED), call_body(1, Kind.ADMIN))
    assert (review.lines, len(review.allowed), len(review.denied), len(review.admin)) == (16, 7, 1, 1)
    span = next(span for use, span in review.allowed.items() if use.model == "model-3")
    assert (span.count, span.first, span.last) == (2, 1_700_000_000.003, 1_700_000_000.010)


def test_there_are_no_more_rows_than_a_page_can_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ROWS", 3)
    review = reviewed(*[call_body(number) for number in range(14)])
    assert len(review.allowed) == 4
    assert {use.model: span.count for use, span in review.allowed.items()}[OTHERS] == 8


def test_what_else_is_counted() -> None:
    review = reviewed(
        entity_body(Kind.DOCUMENT_CHANGED, 1.0, "ModelRole/reader", "in force", before="a", after="b"),
        certificate_body(1.0, "spiffe://a/b", "10.0.0.1:1", "m", reason="rate"),
        entity_body(Kind.ROLLOUT_CHANGED, 1.0, "ModelRollout/f", "x", reason="Promoted"),
        login_body(Kind.LOGIN, 1.0, "as viewer", "10.0.0.1:1", issuer="a", subject="vera"),
        login_body(Kind.LOGIN_REFUSED, 1.0, "x", "10.0.0.1:1", reason="failed"),
        own_body(Kind.DROPPED, "gap", 1.0, b"", 7),
        own_body(Kind.STOPPED, "stops", 1.0, b""),
    )
    assert [change.subject for change in review.changes] == ["ModelRole/reader", "ModelRollout/f"]
    assert [*review.logins] == [("a:vera", "let in"), ("unknown", "failed")]
    assert [*review.identities] == [("spiffe://a/b", "refused: rate")]
    assert (review.dropped, review.change_count, review.lines) == (7, 2, 7)


def test_who_may() -> None:
    grants = {grant.binding: grant for grant in grants_of(load_policy([str(ACCESS)]))}
    assert {grant.action for grant in grants.values()} <= {"allow", "deny", "audit"}
    grant = next(iter(grants.values()))
    assert all(grant.subjects)
    assert any("models: " in rule for grant in grants.values() for rule in grant.rules)
