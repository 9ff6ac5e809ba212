from __future__ import annotations

from meshproxy.audit.lines import Decision, Kind, Record, read_line
from meshproxy.audit.search import Search
from meshproxy.telemetry.audit_events import certificate_body
from tests.audit.trails import call_body, line_of

CALL = read_line(line_of(call_body(3, Kind.AUDITED)))
ISSUED = read_line(line_of(certificate_body(1.0, "spiffe://dev.example/x", "10.0.0.1:1", "m", reason="rate")))


def finds(record: Record, **wanted: object) -> bool:
    return Search(**wanted).filter()(record)  # type: ignore[arg-type]


def test_what_is_found() -> None:
    assert finds(CALL)
    for caller in ("alice", "corp:alice", "*/sa/quoter", "*:al?ce"):
        assert finds(CALL, caller=caller), caller
    assert not finds(CALL, caller="bob")
    assert finds(ISSUED, caller="spiffe://dev.example/*")
    assert [finds(CALL, model=model) for model in ("model-*", "model-3", "model")] == [True, True, False]
    assert [finds(CALL, verb=verb) for verb in ("predict", "reload")] == [True, False]
    assert [finds(CALL, decision=each) for each in Decision] == [True, False]
    assert [finds(CALL, rule=rule) for rule in ("finance-team", "finance")] == [True, False]
    assert [finds(CALL, kinds=frozenset({kind})) for kind in (Kind.AUDITED, Kind.DENIED)] == [True, False]
    assert [finds(CALL, since=CALL.time), finds(CALL, until=CALL.time)] == [True, False]
    assert not finds(CALL, verb="predict", model="other")
