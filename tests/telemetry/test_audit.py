from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshproxy.audit.chain import NOTHING_BEFORE, constant_part, join
from meshproxy.audit.lines import Caller as Named
from meshproxy.audit.lines import Decision, Kind, Model, Record, read_line
from meshproxy.identity.caller import ANONYMOUS, Caller, Token
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.refusal import Reason, Refusal
from meshproxy.telemetry.audit import AuditLog, format_endpoint
from meshproxy.telemetry.log_encoding import UtcClock
from meshproxy.telemetry.sidecar_metrics import SidecarMetrics
from tests.audit.ocsf import check_ocsf

if TYPE_CHECKING:
    from tests.telemetry.conftest import MakeExchange

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "audit.md"
CONSTANT = constant_part("pricing@host", "00" * 8)


class Trail:
    """An audit log and what it wrote."""

    def __init__(self, allowed: float = 0.0, draw: float = 0.5) -> None:
        self.metrics = SidecarMetrics()
        self.bodies: list[bytes] = []
        self.log = AuditLog(
            self.bodies.append, UtcClock(1_700_000_000.0), self.metrics.audit_events, allowed, draw=lambda: draw
        )

    def lines(self) -> list[bytes]:
        return [join(number, CONSTANT, NOTHING_BEFORE, body) for number, body in enumerate(self.bodies, 1)]

    def read(self) -> list[Record]:
        for line in self.lines():
            assert line.count(b"\n") == 1
            assert line.endswith(b"\n")
            check_ocsf(line)
        return [read_line(line) for line in self.lines()]

    def count(self, kind: Kind) -> float:
        return self.metrics.audit_events.labels(kind.value).value


@pytest.fixture
def trail() -> Trail:
    return Trail()


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
            status=403,
            grpc_status=7,
            target=b"/v1/models/m:predict?secret",
            permit_audits=(),
        )
    )
    (record,) = trail.read()
    assert record == Record(
        time=1_700_001_000.0,
        kind=Kind.DENIED,
        caller=Named("spiffe://dev.example/ns/pricing/sa/quoter", "corp", "alice", None),
        decision=Decision.DENY,
        verb="predict",
        models=(Model("half_plus_two", "3", None, "serving_default"),),
        model_count=1,
        rule="finance-team",
        audits=("watch",),
        conditions=("finance-team: ipBlocks 10.0.0.0/8",),
        reason="permission-denied",
        message='No "rule" fits.',
        subject=None,
        before=None,
        after=None,
        by=None,
        remote="10.0.0.1:40000",
        direction="inbound",
        path="/v1/models/m:predict",
        status=403,
        grpc_status=7,
        trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
        events=1,
    )
    (line,) = trail.lines()
    read = json.loads(line)
    assert (read["activity_id"], read["type_uid"], read["status_id"], read["action_id"]) == (2, 600302, 2, 2)


def test_what_is_not_about_access_is_not_in_the_trail(trail: Trail, make_exchange: MakeExchange) -> None:
    trail.log(make_exchange())
    for reason in (Reason.UPSTREAM_RESET, Reason.OVERLOADED, Reason.BAD_REQUEST, Reason.DEADLINE_EXCEEDED):
        trail.log(make_exchange(refusal=Refusal(reason, "x")))
    assert trail.read() == []


def test_every_kind_of_denial_is(trail: Trail, make_exchange: MakeExchange) -> None:
    reasons = (
        Reason.UNAUTHENTICATED,
        Reason.PERMISSION_DENIED,
        Reason.MODEL_CHANGED,
        Reason.KEYS_UNAVAILABLE,
        Reason.AUDIT_UNAVAILABLE,
    )
    for reason in reasons:
        trail.log(make_exchange(refusal=Refusal(reason, "x"), call=None, trace=None, rule="", caller=ANONYMOUS))
    records = trail.read()
    assert [record.reason for record in records] == [reason.label for reason in reasons]
    assert [(record.verb, record.models, record.rule, record.trace_id) for record in records] == [
        (None, (), None, None)
    ] * 5
    assert {record.caller for record in records} == {Named()}
    assert trail.count(Kind.DENIED) == 5


def test_an_auditing_binding_leaves_a_record_of_what_was_permitted(trail: Trail, make_exchange: MakeExchange) -> None:
    trail.log(make_exchange(permit_audits=("watch", "other")))
    (record,) = trail.read()
    assert (record.kind, record.reason, record.rule) == (Kind.AUDITED, None, "finance-team")
    assert (record.audits, record.conditions, record.decision) == (("watch", "other"), (), Decision.ALLOW)
    assert trail.count(Kind.AUDITED) == 1


def test_each_admin_verb_leaves_one(trail: Trail, make_exchange: MakeExchange) -> None:
    verbs = (Verb.RELOAD, Verb.METRICS, Verb.PROFILE, Verb.REFLECT, Verb.UNLISTED)
    for verb in verbs:
        trail.log(make_exchange(verb=verb))
        trail.log(make_exchange(verb=verb, rule=""))  # outbound: nobody has decided
    assert [(record.kind, record.verb) for record in trail.read()] == [(Kind.ADMIN, verb.value) for verb in verbs]


def test_permitted_calls_have_lines_if_that_is_asked_for(make_exchange: MakeExchange) -> None:
    every = Trail(allowed=1.0)
    every.log(make_exchange())
    every.log(make_exchange(status=503, refusal=Refusal(Reason.OVERLOADED, "x")))
    every.log(make_exchange(rule=""))
    assert [(record.kind, record.status) for record in every.read()] == [(Kind.ALLOWED, 200), (Kind.ALLOWED, 503)]
    assert every.count(Kind.ALLOWED) == 2
    some = Trail(allowed=0.5, draw=0.6)
    for trace in ("0" * 32, "f" * 32):  # by the trace's id
        exchange = make_exchange()
        assert exchange.trace is not None
        exchange.trace.trace_id = trace.encode()
        some.log(exchange)
    some.log(make_exchange(trace=None))  # by chance
    assert [record.trace_id for record in some.read()] == ["0" * 32]


def test_permitted_calls_leave_room_for_denials(make_exchange: MakeExchange) -> None:
    denials: list[bytes] = []
    traffic: list[bytes] = []
    events = SidecarMetrics().audit_events
    log = AuditLog(denials.append, UtcClock(0.0), events, 1.0, write_traffic=traffic.append)
    log(make_exchange())
    log(make_exchange(refusal=Refusal(Reason.PERMISSION_DENIED, "x")))
    prepared = log.repeat(make_exchange())
    assert prepared is not None
    prepared(make_exchange())
    assert (len(denials), len(traffic)) == (1, 2)


def test_what_differs_from_the_call_before_is_told(make_exchange: MakeExchange) -> None:
    trail = Trail(allowed=1.0)
    exchanges = [make_exchange() for _ in range(2)]
    exchanges[1].connection, exchanges[1].asked = exchanges[0].connection, exchanges[0].asked
    exchanges[1].started = 1_000.5
    exchanges[1].status = 404
    exchanges[1].caller = Caller(None, Token("corp", "bob", {}, 2e9, "arn:aws:iam::1:role/x"))
    for exchange in exchanges:
        trail.log(exchange)
    first, second = trail.read()
    assert (first.status, second.status, second.time - first.time) == (200, 404, 0.5)
    assert second.caller == Named(None, "corp", "bob", "arn:aws:iam::1:role/x")


def test_a_call_of_very_many_models_is_no_flood(trail: Trail, make_exchange: MakeExchange) -> None:
    call = Call(Verb.RELOAD, tuple(ModelRef(f"m{number}") for number in range(10_000)))
    trail.log(make_exchange(call=call, refusal=Refusal(Reason.PERMISSION_DENIED, "x")))
    (record,) = trail.read()
    assert (len(record.models), record.model_count) == (16, 10_000)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(), st.sampled_from(['"}\n{"sequence":9', "\ud800\x1b[2J", "\\", "\x7f", 'x"signature":"'])))
def test_hostile_names_are_one_line_each(make_exchange: MakeExchange, name: str) -> None:
    trail = Trail()
    target = b"/" + name.encode("utf-8", "surrogatepass")
    trail.log(make_exchange(model=name, refusal=Refusal(Reason.PERMISSION_DENIED, name), target=target))
    assert len(trail.read()) == 1
    assert trail.lines()[0].isascii()
    assert b"\x7f" not in trail.lines()[0]


def test_the_documentation_names_every_field(trail: Trail, make_exchange: MakeExchange) -> None:
    trail.log(make_exchange(refusal=Refusal(Reason.PERMISSION_DENIED, "x")))
    documented = DOCUMENTATION.read_text()

    def names(value: Any, path: str = "") -> set[str]:
        if isinstance(value, list):
            return names(value[0], path) if value else set()
        if not isinstance(value, dict):
            return {path}
        return {name for key, each in value.items() for name in names(each, f"{path}.{key}".lstrip("."))}

    missing = {name for name in names(json.loads(trail.lines()[0])) if f"`{name}`" not in documented}
    assert missing == set()


def test_the_version_that_a_route_chose_is_told_beside_the_one_that_was_asked(
    trail: Trail, make_exchange: MakeExchange
) -> None:
    exchange = make_exchange(call=Call(Verb.PREDICT, (ModelRef("a"),)), refusal=Refusal(Reason.PERMISSION_DENIED, "x"))
    exchange.forwarded = Call(Verb.PREDICT, (ModelRef("a", "4"),))
    trail.log(exchange)
    (record,) = trail.read()
    assert record.models == (Model("a"),)
    forwarded = json.loads(trail.lines()[0])["unmapped"]["forwarded_as"]
    assert forwarded == {"name": "a", "version": "4", "label": None, "signature": None}


def test_what_repeats_is_prepared_or_not_looked_at(make_exchange: MakeExchange) -> None:
    trail = Trail()
    assert trail.log.repeat(make_exchange()) is None
    assert trail.log.repeat(make_exchange(permit_audits=("watched",))) is trail.log
    trail.log.use(0.5)
    assert trail.log.repeat(make_exchange()) is trail.log
    trail.log.use(1.0)
    assert trail.log.repeat(make_exchange(rule="")) is None
    prepared = trail.log.repeat(make_exchange())
    assert prepared is not None
    for sink in (trail.log, prepared):
        sink(make_exchange(started=1_000.25))
    assert trail.bodies[0] == trail.bodies[1]
    assert trail.count(Kind.ALLOWED) == 2


def test_addresses() -> None:
    assert format_endpoint("[::1]:80") == '{"ip":"::1","port":80}'
    assert format_endpoint("unix:/x") == '{"name":"unix:/x"}'
    assert format_endpoint("") == '{"name":"unknown"}'
