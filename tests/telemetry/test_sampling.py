from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.config.telemetry import Keep
from meshproxy.proxy.exchange import ResponseFlags
from meshproxy.refusal import Reason, Refusal
from meshproxy.telemetry.sampling import Sampler, has_failed, is_kept
from tests.telemetry.conftest import MakeExchange

trace_ids = st.binary(min_size=16, max_size=16).map(lambda data: data.hex().encode())
ratios = st.floats(0, 1)


@given(trace_ids, ratios)
def test_the_ratio_is_compared_with_the_low_64_bits(trace_id: bytes, ratio: float) -> None:
    """As `TraceIdRatioBased` of opentelemetry-python does: `trace_id & (2**64 - 1) < round(ratio * 2**64)`."""
    assert Sampler(ratio).decide(trace_id, None) is (int(trace_id, 16) & (2**64 - 1) < round(ratio * 2**64))


@given(trace_ids, ratios, ratios)
def test_what_is_sampled_at_a_ratio_is_sampled_at_a_higher_one(trace_id: bytes, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert Sampler(low).decide(trace_id, None) <= Sampler(high).decide(trace_id, None)


@given(trace_ids)
def test_none_and_all(trace_id: bytes) -> None:
    assert not Sampler(0.0).decide(trace_id, None)
    assert Sampler(1.0).decide(trace_id, None)


@given(trace_ids, ratios, st.booleans())
def test_the_caller_has_decided(trace_id: bytes, ratio: float, parent: bool) -> None:
    assert Sampler(ratio).decide(trace_id, parent) is parent
    own = Sampler(ratio, follows_parent=False)
    assert own.decide(trace_id, parent) is own.decide(trace_id, None)


FAILED = [
    {"grpc_status": status} for status in (2, 4, 12, 13, 14, 15)
] + [
    {"is_grpc": False, "status": 500},
    {"is_grpc": False, "status": 503},
    {"is_grpc": False, "status": 0},
    {"flags": ResponseFlags.UC},
    {"flags": ResponseFlags.UT | ResponseFlags.FI},
    {"grpc_status": None, "status": 502},
]  # fmt: skip
WELL = [
    {},
    {"grpc_status": 5},
    {"is_grpc": False, "status": 404},
    {"is_grpc": False, "status": 0, "flags": ResponseFlags.DC},
    {"flags": ResponseFlags.RL},
]


@pytest.mark.parametrize("fields", FAILED, ids=str)
def test_what_is_an_error_of_the_server(make_exchange: MakeExchange, fields: dict[str, object]) -> None:
    exchange = make_exchange(**fields)
    assert has_failed(exchange)
    assert is_kept(exchange, Keep())
    assert not is_kept(exchange, Keep(errors=False))


@pytest.mark.parametrize("fields", WELL, ids=str)
def test_what_is_none(make_exchange: MakeExchange, fields: dict[str, object]) -> None:
    exchange = make_exchange(**fields)
    assert not has_failed(exchange)
    assert not is_kept(exchange, Keep())


@pytest.mark.parametrize(
    "fields", [{"refusal": Refusal(Reason.PERMISSION_DENIED, "No.")}, {"is_refused_remotely": True}], ids=str
)
def test_refusals_are_kept_here_and_where_they_came_from(
    make_exchange: MakeExchange, fields: dict[str, object]
) -> None:
    exchange = make_exchange(**fields)
    assert is_kept(exchange, Keep())
    assert not is_kept(exchange, Keep(refusals=False))


def test_slow_calls_are_kept(make_exchange: MakeExchange) -> None:
    exchange = make_exchange(started=10.0, finished=10.5)
    assert is_kept(exchange, Keep(slower_than=0.4))
    assert not is_kept(exchange, Keep(slower_than=0.5))
    assert not is_kept(exchange, Keep())
