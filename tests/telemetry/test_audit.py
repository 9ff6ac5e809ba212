from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.refusal import Reason, Refusal
from meshproxy.telemetry.audit import AuditLog
from meshproxy.telemetry.line_writer import LineWriter
from meshproxy.telemetry.log_encoding import UtcClock
from meshproxy.telemetry.sidecar_metrics import SidecarMetrics

if TYPE_CHECKING:
    from tests.telemetry.conftest import MakeExchange

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "access-log.md"


class Trail:
    """An audit log and what it wrote."""

    def __init__(self, path: Path) -> None:
        self.metrics = SidecarMetrics()
        self._path = path
        self._sink = LineWriter.file(path)
        self.log = AuditLog(self._sink, UtcClock(1_700_000_000.0), self.metrics.audit_events)

    def read(self) -> list[dict[str, object]]:
        self._sink.close()
        return [json.loads(line) for line in self._path.read_bytes().splitlines()]


@pytest.fixture
def trail(tmp_path: Path) -> Trail:
    return Trail(tmp_path / "audit.log")


def test_a_denial(trail: Trail, make_exchange: MakeExchange) -> None:
    refusal = Refusal(
        Reason.PERMISSION_DENIED,
        'No "rule" fits.',
        rule="finance-team",
        audits=("watch",),
        conditions=("finance-team: ipBlocks 10.0.0.0/8",),
    )
    trail.log(
        make_exchange(
            refusal=refusal,
            rule="",
            version="3",
            grpc_status=7,
            target=b"/v1/models/m:predict?secret",
            permit_audits=(),
        )
    )
    assert trail.read() == [
        {
            "sequence": 1,
            "time": "2023-11-14T22:30:00.000000Z",
            "type": "denied",
            "reason": "permission-denied",
            "details": 'No "rule" fits.',
            "policy": "finance-team",
            "policy_audits": ["watch"],
            "policy_conditions": ["finance-team: ipBlocks 10.0.0.0/8"],
            "peer_spiffe_id": "spiffe://dev.example/ns/pricing/sa/quoter",
            "jwt_issuer": "corp",
            "jwt_sub": "alice",
            "iam_role": None,
            "verb": "predict",
            "models": [{"name": "half_plus_two", "version": "3", "label": None, "signature": "serving_default"}],
            "forwarded_as": None,
            "model_count": 1,
            "direction": "inbound",
            "downstream_remote_address": "10.0.0.1:40000",
            "method": "POST",
            "path": "/v1/models/m:predict",
            "response_code": 200,
            "grpc_status": 7,
            "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        }
    ]


def test_what_is_not_about_access_is_not_in_the_trail(trail: Trail, make_exchange: MakeExchange) -> None:
    trail.log(make_exchange())
    for reason in (Reason.UPSTREAM_RESET, Reason.OVERLOADED, Reason.BAD_REQUEST, Reason.DEADLINE_EXCEEDED):
        trail.log(make_exchange(refusal=Refusal(reason, "x")))
    assert trail.read() == []


def test_every_kind_of_denial_is(trail: Trail, make_exchange: MakeExchange) -> None:
    reasons = (Reason.UNAUTHENTICATED, Reason.PERMISSION_DENIED, Reason.MODEL_CHANGED, Reason.KEYS_UNAVAILABLE)
    for reason in reasons:
        trail.log(make_exchange(refusal=Refusal(reason, "x"), call=None, trace=None, rule=""))
    records = trail.read()
    assert [record["reason"] for record in records] == [reason.label for reason in reasons]
    assert [record["sequence"] for record in records] == [1, 2, 3, 4]
    assert [(record["verb"], record["models"], record["policy"]) for record in records] == [(None, [], None)] * 4
    assert trail.metrics.audit_events.labels("denied").value == 4


def test_an_auditing_binding_leaves_a_record_of_what_was_permitted(trail: Trail, make_exchange: MakeExchange) -> None:
    trail.log(make_exchange(permit_audits=("watch", "other")))
    (record,) = trail.read()
    assert (record["type"], record["reason"], record["policy"]) == ("audited", None, "finance-team")
    assert record["policy_audits"] == ["watch", "other"]
    assert record["policy_conditions"] == []
    assert trail.metrics.audit_events.labels("audited").value == 1


def test_a_call_of_very_many_models_is_no_flood(trail: Trail, make_exchange: MakeExchange) -> None:
    call = Call(Verb.RELOAD, tuple(ModelRef(f"m{number}") for number in range(10_000)))
    trail.log(make_exchange(call=call, refusal=Refusal(Reason.PERMISSION_DENIED, "x")))
    (record,) = trail.read()
    assert isinstance(record["models"], list)
    assert len(record["models"]) == 16
    assert record["model_count"] == 10_000


def test_hostile_names_are_one_line_each(trail: Trail, make_exchange: MakeExchange) -> None:
    for name in ('"}\n{"sequence":9', "\ud800\x1b[2J", "\\"):
        trail.log(make_exchange(model=name, refusal=Refusal(Reason.PERMISSION_DENIED, name)))
    assert [record["sequence"] for record in trail.read()] == [1, 2, 3]


def test_the_documentation_names_every_field(trail: Trail, make_exchange: MakeExchange) -> None:
    trail.log(make_exchange(refusal=Refusal(Reason.PERMISSION_DENIED, "x")))
    (record,) = trail.read()
    documented = re.findall(r"`(\w+)`", DOCUMENTATION.read_text().partition("# Audit trail")[2])
    assert set(record) <= set(documented)


def test_the_version_that_a_route_chose_is_told_beside_the_one_that_was_asked(
    trail: Trail, make_exchange: MakeExchange
) -> None:
    exchange = make_exchange(call=Call(Verb.PREDICT, (ModelRef("a"),)), refusal=Refusal(Reason.PERMISSION_DENIED, "x"))
    exchange.forwarded = Call(Verb.PREDICT, (ModelRef("a", "4"),))
    trail.log(exchange)
    (record,) = trail.read()
    assert record["models"] == [{"name": "a", "version": None, "label": None, "signature": None}]
    assert record["forwarded_as"] == {"name": "a", "version": "4", "label": None, "signature": None}


def test_of_what_repeats_only_what_an_auditing_binding_matched_is_looked_at(
    trail: Trail, make_exchange: MakeExchange
) -> None:
    assert trail.log.repeat(make_exchange()) is None
    assert trail.log.repeat(make_exchange(permit_audits=("watched",))) is trail.log
