"""What a sidecar tells of its calls: every call once, whoever makes it, in bounded memory."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.control_api import MeshReport, ReportedCaller, ReportedCalls
from meshproxy.identity.caller import ANONYMOUS, Caller, Token, Workload
from meshproxy.inference.grpc_health import ALIVE
from meshproxy.proxy.exchange import AttemptRecord
from meshproxy.refusal import Reason, Refusal
from meshproxy.telemetry import call_reports as module
from meshproxy.telemetry.call_reports import ELSEWHERE, IDLE_REPORTS, MOST_DENIALS, CallReports, parts
from meshproxy.telemetry.hop_lag import Reading
from meshproxy.telemetry.metrics import OTHER
from meshproxy.telemetry.model_labels import ModelLabels
from meshproxy.telemetry.quantiles import BOUNDS
from meshproxy.view import graph

if TYPE_CHECKING:
    from tests.telemetry.conftest import MakeExchange

QUOTER = ReportedCaller("spiffe://dev.example/ns/pricing/sa/quoter", "corp:alice")
PEER = Workload("spiffe://dev.example/ns/a/sa/b", "dev.example", "a", "b", 2e9)


@pytest.fixture
def reports() -> CallReports:
    labels = ModelLabels()
    labels.mention(["half_plus_two", "other"])
    return CallReports(labels, lambda: 1e9)


def count(rows: Iterable[ReportedCalls]) -> int:
    return sum(sum(row.codes.values()) for row in rows)


def only(reports: CallReports) -> ReportedCalls:
    (row,) = reports.take()[0]
    return row


def test_an_answered_call(reports: CallReports, make_exchange: MakeExchange) -> None:
    for _ in range(3):
        reports.observe(make_exchange())
    row = only(reports)
    assert (row.direction, row.caller, row.security) == ("inbound", QUOTER, "tls")
    assert (row.model, row.version, row.verb) == ("half_plus_two", "latest", "predict")
    assert (row.codes, row.allowed, row.failed, row.attempts, row.retries) == ({"OK": 3}, {"finance-team": 3}, 0, 3, 0)
    for buckets, seconds in ((row.total, 0.003), (row.upstream, 0.002), (row.proxy, 0.000_75)):
        ((index, calls),) = buckets.items()
        assert (calls, BOUNDS[index - 1] < seconds <= BOUNDS[index]) == (3, True)
    assert reports.take()[0] == []


def test_a_repeated_call_is_counted_as_one_that_is_not(reports: CallReports, make_exchange: MakeExchange) -> None:
    slow, fast = CallReports(reports._labels, lambda: 0.0), reports
    first = make_exchange()
    repeat = fast.repeat(first)
    for step in range(5):
        exchange = make_exchange(finished=1_000.003 + step / 100, bytes_received=50_000 * step)
        slow.observe(exchange)
        repeat(exchange)
    assert only(fast) == only(slow)


def test_a_row_that_was_forgotten_is_begun_anew_by_a_plan_that_still_has_it(
    reports: CallReports, make_exchange: MakeExchange
) -> None:
    repeat = reports.repeat(make_exchange())
    for _ in range(IDLE_REPORTS):
        assert reports.take()[0] == []
    for _ in range(2):
        repeat(make_exchange())
    assert only(reports).codes == {"OK": 2}


def test_refusals(reports: CallReports, make_exchange: MakeExchange) -> None:
    denied = Refusal(Reason.PERMISSION_DENIED, "Not you.", rule="nobody")
    reports.observe(make_exchange(refusal=denied, grpc_status=7, rule="", forwarded=None, attempts=()))
    reports.observe(make_exchange(refusal=Refusal(Reason.RATE_LIMITED, "Slow down."), grpc_status=8, attempts=()))
    reports.observe(make_exchange(is_refused_remotely=True, grpc_status=7))
    reports.observe(make_exchange(is_refused_remotely=True, grpc_status=14))
    rows, denials, _, _ = reports.take()
    (row,) = rows
    assert row.denied == {"nobody: permission-denied": 1, ELSEWHERE: 1}
    assert row.refused == {"rate-limited": 1, ELSEWHERE: 1}
    assert (row.codes, row.total) == ({"PERMISSION_DENIED": 2, "RESOURCE_EXHAUSTED": 1, "UNAVAILABLE": 1}, {})
    (denial,) = denials
    assert (denial.caller, denial.call, denial.binding) == (QUOTER, "predict half_plus_two", "nobody")
    assert (denial.message, denial.at) == ("Not you.", 1e9 + 1_000.003)
    assert graph.ELSEWHERE == ELSEWHERE


def test_who_looks_whether_it_is_there_is_no_caller(reports: CallReports, make_exchange: MakeExchange) -> None:
    reports.observe(make_exchange(call=None, target=ALIVE, status=204, grpc_status=None))
    assert reports.take()[0] == []
    refusal = Refusal(Reason.UNAUTHENTICATED, "No certificate.")
    reports.observe(make_exchange(call=None, target=ALIVE, status=401, grpc_status=None, refusal=refusal))
    assert only(reports).codes == {"401": 1}


def test_who_is_denied_has_a_name(reports: CallReports, make_exchange: MakeExchange) -> None:
    refusal = Refusal(Reason.UNAUTHENTICATED, "No token.")
    nobody = make_exchange(caller=ANONYMOUS, refusal=refusal, grpc_status=16, attempts=())
    reports.observe(nobody)
    half = make_exchange(caller=ANONYMOUS, refusal=refusal, grpc_status=16, attempts=())
    half.connection.peer = PEER
    reports.observe(half)
    token = make_exchange(caller=Caller(None, Token("corp", "alice", {}, 2e9, iam_role="arn:x")))
    reports.observe(token)
    callers = [row.caller for row in reports.take()[0]]
    assert callers == [
        ReportedCaller(address="10.0.0.1"),
        ReportedCaller(PEER.spiffe_id),
        ReportedCaller(token="corp:alice", role="arn:x"),
    ]


def test_of_an_outbound_call_the_security_is_that_to_the_endpoint(
    reports: CallReports, make_exchange: MakeExchange
) -> None:
    reports.observe(make_exchange(direction="outbound"))
    secure = AttemptRecord("10.0.0.9:18500", 1_000.0, 1_000.0, 1_000.0, 1_000.0, None, False, is_tls=True)
    reports.observe(make_exchange(direction="outbound", attempts=(secure, secure)))
    plain, tls = reports.take()[0]
    assert (plain.security, tls.security, tls.attempts, tls.retries) == ("plaintext", "mtls", 2, 1)
    assert plain.caller == ReportedCaller()


def test_callers_are_bounded_and_none_of_their_calls_is_lost(
    monkeypatch: pytest.MonkeyPatch, reports: CallReports, make_exchange: MakeExchange
) -> None:
    monkeypatch.setattr(module, "MOST_CALLERS", 5)
    monkeypatch.setattr(module, "MOST_ADDRESSES", 2)
    for number in range(20):
        workload = Workload(f"spiffe://dev.example/ns/a/sa/{number}", "dev.example", "a", str(number), 2e9)
        reports.observe(make_exchange(caller=Caller(workload)))
    for number in range(10):
        reports.observe(make_exchange(caller=ANONYMOUS, remote=f"10.0.1.{number}:1"))
    rows, _, _, unnamed = reports.take()
    assert count(rows) == 30
    assert unnamed["callers"] >= 15
    assert len({row.caller for row in rows}) <= 7


def test_rows_are_bounded(monkeypatch: pytest.MonkeyPatch, reports: CallReports, make_exchange: MakeExchange) -> None:
    monkeypatch.setattr(module, "MOST_ROWS", 4)
    for number in range(10):
        reports.observe(make_exchange(version=str(number)))
    rows, _, _, unnamed = reports.take()
    assert (count(rows), len(rows), unnamed) == (10, 5, {"rows": 6})
    assert rows[-1].model == OTHER


def test_codes_are_bounded(reports: CallReports, make_exchange: MakeExchange) -> None:
    for status in range(200, 400):
        reports.observe(make_exchange(is_grpc=False, grpc_status=None, status=status, rule=f"rule-{status}"))
    row = only(reports)
    assert count([row]) == 200
    assert sum(row.allowed.values()) == 200
    assert len(row.codes) <= module.MOST_NAMES + 1
    assert len(row.allowed) <= module.MOST_NAMES + 1


def test_the_last_denials_are_kept(reports: CallReports, make_exchange: MakeExchange) -> None:
    for number in range(MOST_DENIALS + 3):
        refusal = Refusal(Reason.PERMISSION_DENIED, f"No {number}.")
        reports.observe(make_exchange(refusal=refusal, grpc_status=7))
    denials = reports.take()[1]
    assert [denial.message for denial in denials][-1] == f"No {MOST_DENIALS + 2}."
    assert len(denials) == MOST_DENIALS


def test_the_model_servers_times_add_up(reports: CallReports) -> None:
    reports.note_reading("half_plus_two", Reading(10, 0.01, 0.006, 0.005))
    reports.note_reading("half_plus_two", Reading(30, 0.01, 0.004, 0.005))
    found = reports.take()[2]["half_plus_two"]
    assert (found.calls, found.model, found.network) == (40, pytest.approx(0.2), pytest.approx(0.01))
    # The second was faster than the model server says, by its rounding.
    assert found.lag == {bisect_left(BOUNDS, 0.001): 10, 0: 30}
    assert reports.take()[2] == {}


def test_the_times_of_a_name_that_cannot_be_printed_add_up(reports: CallReports) -> None:
    for _ in range(2):
        reports.note_reading("a\nb", Reading(10, 0.01, 0.006, 0.005))
    [found] = reports.take()[2].values()
    assert found.calls == 20


@settings(max_examples=25)
@given(st.lists(st.text(max_size=300), max_size=12), st.integers(300, 5_000))
def test_parts_are_small_and_lose_nothing(names: list[str], most: int) -> None:
    rows = [ReportedCalls("inbound", QUOTER, "mtls", name[:256], "1", "predict", {"200": 1}) for name in names]
    found = parts(rows, most)
    assert [row for part in found for row in part] == rows
    for part in found:
        assert len(part) <= 1 or sum(len(msgspec.json.encode(row)) + 1 for row in part) <= most


@settings(max_examples=25)
@given(st.text(max_size=400), st.text(max_size=400))
def test_whatever_callers_say_can_be_sent(model: str, subject: str) -> None:
    from tests.telemetry.conftest import exchange_maker

    labels = ModelLabels()
    found = CallReports(labels, lambda: 0.0)
    caller = Caller(None, Token("corp", subject, {}, 2e9))
    refusal = Refusal(Reason.PERMISSION_DENIED, f"{subject} may not use {model}")
    found.observe(exchange_maker()(model=model, caller=caller, refusal=refusal, grpc_status=7))
    rows, denials, _, _ = found.take()
    report = MeshReport("s", "r", 1, 5.0, calls=tuple(rows), denials=denials)
    assert msgspec.json.decode(msgspec.json.encode(report), type=MeshReport) == report
