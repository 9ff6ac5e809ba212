"""The ring of last refusals: what is kept of them, and no more."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from meshproxy.identity.caller import ANONYMOUS
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.refusal import Reason, Refusal
from meshproxy.telemetry.last_refusals import CHARACTERS, KEPT, LastRefusals
from meshproxy.telemetry.metrics import Registry
from meshproxy.telemetry.model_labels import ModelLabels
from meshproxy.telemetry.request_metrics import RequestMetrics

if TYPE_CHECKING:
    from tests.telemetry.conftest import MakeExchange

DENIED = Refusal(Reason.PERMISSION_DENIED, "No.", rule="default-deny")


def test_one(make_exchange: MakeExchange) -> None:
    ring = LastRefusals()
    ring.add(make_exchange(grpc_status=7, finished=1_000.003), DENIED)
    assert ring.rows(offset=1e9) == [
        {
            "at": "2001-09-09T02:03:20.003+00:00",
            "direction": "inbound",
            "reason": "permission-denied",
            "message": "No.",
            "call": "predict half_plus_two",
            "caller": "spiffe://dev.example/ns/pricing/sa/quoter, corp: alice",
            "remote": "10.0.0.1:40000",
            "policy": "default-deny",
            "code": 200,
            "grpcStatus": "PERMISSION_DENIED",
        }
    ]


def test_what_is_not_known(make_exchange: MakeExchange) -> None:
    ring = LastRefusals()
    ring.add(make_exchange(call=None, caller=ANONYMOUS, grpc_status=None, is_grpc=False), DENIED)
    ring.add(make_exchange(call=Call(Verb.RELOAD, ()), caller=ANONYMOUS), DENIED)
    reload, nothing = ring.rows(0.0)
    assert (nothing["call"], nothing["caller"], nothing["grpcStatus"]) == (None, None, None)
    assert reload["call"] == "reload"


def test_the_last_ones_come_first_and_the_rest_is_forgotten(make_exchange: MakeExchange) -> None:
    ring = LastRefusals()
    for number in range(3 * KEPT):
        ring.add(make_exchange(model=f"m{number}"), DENIED)
    calls = [row["call"] for row in ring.rows(0.0)]
    assert calls == [f"predict m{number}" for number in reversed(range(2 * KEPT, 3 * KEPT))]


def test_what_callers_choose_is_bounded(make_exchange: MakeExchange) -> None:
    ring = LastRefusals()
    call = Call(Verb.MULTI_INFERENCE, tuple(ModelRef(f"{number}" * 200) for number in range(100)))
    for _ in range(KEPT):
        ring.add(make_exchange(call=call), Refusal(Reason.BAD_REQUEST, "x" * 10_000))
    assert len(json.dumps(ring.rows(0.0))) < KEPT * 4 * CHARACTERS


def test_good_requests_do_not_come_near_it(make_exchange: MakeExchange) -> None:
    metrics = RequestMetrics(Registry(), ModelLabels())
    metrics.observe(make_exchange())
    metrics.observe(make_exchange(refusal=DENIED))
    assert [row["reason"] for row in metrics.last_refusals.rows(0.0)] == ["permission-denied"]
