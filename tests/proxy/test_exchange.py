from __future__ import annotations

import pytest

from meshproxy.codec.events import RequestHead
from meshproxy.identity.caller import NOBODY
from meshproxy.proxy.exchange import Exchange, TraceContext
from meshproxy.transport.facts import ConnectionFacts

FACTS = ConnectionFacts(direction="inbound", protocol="HTTP/2", remote="127.0.0.1:1", local="127.0.0.1:2")
HEAD = RequestHead(1, b"GET", b"host", b"/", (), end=True)


def test_a_request_that_has_just_come_has_reached_no_point_yet() -> None:
    exchange = Exchange(HEAD, FACTS, started=12.5)
    assert exchange.head is HEAD
    assert exchange.connection is FACTS
    assert exchange.started == 12.5
    assert (exchange.decided, exchange.connected, exchange.first_byte, exchange.finished) == (0.0, 0.0, 0.0, 0.0)
    assert (exchange.bytes_received, exchange.bytes_sent, exchange.attempts, exchange.status) == (0, 0, 0, 0)


def test_it_is_nobodys_and_about_nothing_until_somebody_says_otherwise() -> None:
    """What telemetry may rely on for a request that was refused at once."""
    exchange = Exchange(HEAD, FACTS, started=1.0)
    assert exchange.caller is NOBODY
    assert exchange.call is None
    assert exchange.trace is None
    assert exchange.grpc_status is None
    assert exchange.refusal is None
    assert (exchange.rule, exchange.permit_audits, exchange.upstream, exchange.flags) == ("", (), "", "")
    assert not exchange.is_grpc


def test_there_is_one_for_each_request_so_it_stays_small() -> None:
    exchange = Exchange(HEAD, FACTS, started=1.0)
    with pytest.raises(AttributeError):
        exchange.anything = 1  # type: ignore[attr-defined]
    trace = TraceContext(b"t" * 32, b"", b"s" * 16, sampled=True)
    assert (trace.trace_id, trace.parent_id, trace.span_id, trace.sampled) == (b"t" * 32, b"", b"s" * 16, True)
    with pytest.raises(AttributeError):
        trace.anything = 1  # type: ignore[attr-defined]
