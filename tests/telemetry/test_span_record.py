from __future__ import annotations

import pytest

from meshproxy.config.telemetry import Keep
from meshproxy.proxy.exchange import TraceContext
from meshproxy.refusal import Reason, Refusal
from meshproxy.telemetry.span_record import (
    AUTHORITY_BYTES,
    KEPT_EACH_SECOND,
    METHOD_BYTES,
    PATH_BYTES,
    SpanRecord,
    SpanRecorder,
    record_of,
)
from tests.telemetry.conftest import MakeExchange

TRACE = TraceContext(b"1" * 32, b"2" * 16, b"3" * 16, True)
REFUSAL = Refusal(Reason.PERMISSION_DENIED, "No.")


class Taken:
    """A recorder, and what came of it."""

    def __init__(self) -> None:
        self.taken: list[SpanRecord] = []
        self.limited: list[SpanRecord] = []
        self.record = SpanRecorder(Keep(), self.taken.append, self.limited.append)


def test_sampled_exchanges_are_recorded(make_exchange: MakeExchange) -> None:
    found = Taken()
    found.record(make_exchange(trace=TRACE))
    found.record(make_exchange())
    found.record(make_exchange(trace=None, refusal=REFUSAL))
    (record,) = found.taken
    assert record.trace is TRACE
    assert record.spans == 2


def test_of_the_others_those_that_are_kept(make_exchange: MakeExchange) -> None:
    found = Taken()
    found.record(make_exchange(refusal=REFUSAL))
    (record,) = found.taken
    assert record.refusal is REFUSAL
    assert not record.trace.sampled


def test_as_many_as_fit_in_a_second(make_exchange: MakeExchange) -> None:
    """KEPT_EACH_SECOND: whoever is refused decides how often."""
    found = Taken()
    for number in range(KEPT_EACH_SECOND + 5):
        found.record(make_exchange(refusal=REFUSAL, finished=1_000 + number / 1_000))
    assert (len(found.taken), len(found.limited)) == (KEPT_EACH_SECOND, 5)
    found.record(make_exchange(refusal=REFUSAL, finished=1_001.0))
    found.record(make_exchange(trace=TRACE, refusal=REFUSAL, finished=1_000.9))
    assert (len(found.taken), len(found.limited)) == (KEPT_EACH_SECOND + 2, 5)


def test_probes_that_fail_are_not_kept(make_exchange: MakeExchange) -> None:
    found = Taken()
    found.record(make_exchange(target=b"/grpc.health.v1.Health/Check", grpc_status=12))
    assert found.taken == []


@pytest.mark.parametrize(
    ("target", "path"),
    [(b"/v1/models/m?token=secret", b"/v1/models/m"), (b"/" + b"x" * 5_000, b"/" + b"x" * (PATH_BYTES - 1))],
)
def test_neither_the_query_nor_a_long_path_is_recorded(make_exchange: MakeExchange, target: bytes, path: bytes) -> None:
    assert record_of(make_exchange(target=target), TRACE).path == path


def test_a_queue_of_long_heads_is_bounded(make_exchange: MakeExchange) -> None:
    """METHOD_BYTES, AUTHORITY_BYTES."""
    exchange = make_exchange()
    exchange.head.method = exchange.head.authority = b"x" * 5_000
    record = record_of(exchange, TRACE)
    assert (len(record.method), len(record.authority)) == (METHOD_BYTES, AUTHORITY_BYTES)


def test_no_field_of_the_head_is_recorded(make_exchange: MakeExchange) -> None:
    exchange = make_exchange(headers=((b"authorization", b"Bearer secret"),))
    assert b"secret" not in repr(record_of(exchange, TRACE)).encode()
    assert exchange.head not in record_of(exchange, TRACE)
