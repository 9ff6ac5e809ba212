from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from meshproxy.config.globs import MEMO_ENTRIES
from meshproxy.config.telemetry import AccessLogLines, Keep
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.proxy.exchange import TraceContext
from meshproxy.refusal import Reason, Refusal
from meshproxy.telemetry.log_filter import LogFilter

if TYPE_CHECKING:
    from tests.telemetry.conftest import MakeExchange

NOTHING = Keep(errors=False, refusals=False)


def trace(low: int) -> TraceContext:
    return TraceContext(b"1" * 16 + b"%016x" % low, b"", b"5" * 16, False)


@pytest.mark.parametrize(
    ("keep", "fields", "has_line"),
    [
        (Keep(), {}, False),
        (Keep(), {"grpc_status": 14}, True),
        (Keep(errors=False), {"grpc_status": 14}, False),
        (Keep(), {"grpc_status": 5}, False),
        (Keep(), {"is_grpc": False, "status": 500, "grpc_status": None}, True),
        (Keep(), {"is_grpc": False, "status": 404, "grpc_status": None}, False),
        (Keep(), {"refusal": Refusal(Reason.PERMISSION_DENIED, "No."), "grpc_status": 7}, True),
        (Keep(refusals=False), {"refusal": Refusal(Reason.PERMISSION_DENIED, "No."), "grpc_status": 7}, False),
        (Keep(slower_than=0.002), {}, True),
        (Keep(slower_than=0.004), {}, False),
        (Keep(errors=False, refusals=False, slower_than=0.004), {"grpc_status": 14}, False),
    ],
)
def test_what_is_kept_beside_the_share(
    keep: Keep, fields: dict[str, object], has_line: bool, make_exchange: MakeExchange
) -> None:
    assert LogFilter(AccessLogLines(ratio=0.0, keep=keep))(make_exchange(**fields)) is has_line


def test_of_traces_the_id_decides(make_exchange: MakeExchange) -> None:
    wants = LogFilter(AccessLogLines(ratio=0.25), draw=lambda: pytest.fail("not by chance"))
    assert wants(make_exchange(trace=trace(2**62 - 1)))
    assert not wants(make_exchange(trace=trace(2**62)))


def test_without_a_trace_chance_decides(make_exchange: MakeExchange) -> None:
    draws = [0.24, 0.25, 0.99]
    wants = LogFilter(AccessLogLines(ratio=0.25, keep=NOTHING), draw=lambda: draws.pop(0))
    assert [wants(make_exchange(trace=None)) for _ in range(3)] == [True, False, False]
    all_of_them = LogFilter(AccessLogLines(models=("half*",)), draw=lambda: 0.999_999)
    assert all_of_them(make_exchange(trace=None))


@pytest.mark.parametrize(
    ("names", "forwarded", "has_line"),
    [
        (("fraud-eu",), None, True),
        (("pricing",), None, True),
        (("pricing-2",), None, False),
        (("other", "fraud-us"), None, True),
        (("other",), "fraud-eu", True),
        ((), None, False),
    ],
)
def test_only_of_these_models(
    names: tuple[str, ...], forwarded: str | None, has_line: bool, make_exchange: MakeExchange
) -> None:
    wants = LogFilter(AccessLogLines(models=("fraud-*", "pricing")))
    exchange = make_exchange(call=Call(Verb.PREDICT, tuple(ModelRef(name) for name in names)), grpc_status=14)
    if forwarded is not None:
        exchange.forwarded = Call(Verb.PREDICT, (ModelRef(forwarded),))
    assert wants(exchange) is has_line
    assert wants(exchange) is has_line  # remembered
    assert not wants(make_exchange(call=None, grpc_status=14))


def test_what_is_remembered_of_models_is_bounded(make_exchange: MakeExchange) -> None:
    wants = LogFilter(AccessLogLines(models=("m*5",)))
    for number in range(MEMO_ENTRIES * 2 + 1):
        assert wants(make_exchange(model=f"m{number}")) is (number % 10 == 5)
    assert wants._models is not None
    assert len(wants._models) <= MEMO_ENTRIES
