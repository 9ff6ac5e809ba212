from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from meshproxy.codec.limits import Limits
from meshproxy.config.routes import Retries
from meshproxy.config.servers import Key
from meshproxy.proxy.express.plan import ABSENT, plan_answer, plan_request, went_well
from meshproxy.proxy.pipeline import ActiveRequest
from meshproxy.routing.retry import RetryRule
from meshproxy.routing.split import Arm
from tests.proxy.express.rig import Rig, answer, request

ASKED = request(b"{}", request_id=b"id-1", timeout=b"7000")
HEAD = ASKED[: ASKED.index(b"\r\n\r\n") + 4]
ANSWERED = answer(b"y", more=b"Date: Mon, 30 Nov 2026 03:47:42 GMT\r\n")
ANSWER_HEAD = ANSWERED[: ANSWERED.index(b"\r\n\r\n") + 4]


def finished(**route: Any) -> tuple[Rig, ActiveRequest]:
    """A request that went well."""
    rig = Rig(is_express=False, **route)
    rig.ask(ASKED)
    done = rig.server.sink
    assert isinstance(done, ActiveRequest)
    assert not went_well(done)
    rig.answer(ANSWERED)
    assert went_well(done)
    return rig, done


def test_a_plan_holds_what_was_written_cut_at_its_slots() -> None:
    rig, done = finished()
    plan = plan_request(done, HEAD, Limits(), rig.spans)
    assert plan is not None
    assert (plan.length, plan.request_id, plan.timeout, plan.trace) == (0, 1, 2, ABSENT)
    before, left, length, trace, behind = plan.pieces
    assert trace == b""
    written = b"".join((before, b"id-1", left, b"7000", length, b"2", trace, behind, b"{}"))
    assert written in [wire.written for wire in rig.wires]


def test_a_plan_for_answers_holds_what_the_client_was_sent_cut_at_its_slots() -> None:
    rig, done = finished()
    plan = plan_answer(done, ANSWER_HEAD, Limits(), rig.pipeline.headers.clean, rig.pipeline.repeat)
    assert plan is not None
    before, between, behind = plan.pieces
    assert before + b"Mon, 30 Nov 2026 03:47:42 GMT" + between + b"1" + behind + b"y" == rig.wire.written


@pytest.mark.parametrize(
    "route",
    [
        {"try_timeout": 1.0},
        {"refuses_late": True},
        {"fallback": Arm(1, "main")},
        {"retry": RetryRule(Retries(attempts=2, hedge_after=0.1))},
        {"labels": {"stable": "3"}},
    ],
)
def test_a_route_that_does_more_than_send_has_no_plan(route: dict[str, Any]) -> None:
    rig, done = finished(**route)
    assert plan_request(done, HEAD, Limits(), rig.spans) is None


@pytest.mark.parametrize(("tells_timing", "has_plan"), [(True, False), (False, True)])
def test_an_answer_that_says_where_the_time_went_has_no_plan(tells_timing: bool, has_plan: bool) -> None:
    rig, done = finished()
    assert done.fields is not None
    done.fields.wants_timing = True
    done.snapshot = replace(done.snapshot, tells_timing=tells_timing)
    assert (plan_request(done, HEAD, Limits(), rig.spans) is not None) is has_plan


def test_an_answer_of_which_the_caller_sees_a_part_has_no_plan() -> None:
    rig, done = finished()
    done.is_partial = True
    assert plan_request(done, HEAD, Limits(), rig.spans) is None


def test_a_server_that_hashes_has_no_plan() -> None:
    rig, done = finished()
    rig.cluster.key = Key(by="client-id")
    assert plan_request(done, HEAD, Limits(), rig.spans) is None


def test_a_head_that_could_outgrow_a_limit_has_no_plan() -> None:
    rig, done = finished()
    assert plan_request(done, HEAD, Limits(header_bytes=1_024), rig.spans) is not None
    longer = HEAD[:-2] + b"filler: " + b"x" * 500 + b"\r\n\r\n"
    assert plan_request(done, longer, Limits(header_bytes=1_024), rig.spans) is None


def test_a_body_limit_counts() -> None:
    rig, done = finished()
    plan = plan_request(done, HEAD, Limits(body_bytes=100), rig.spans)
    assert plan is not None
    assert plan.most_body == 100


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: date\r\ndate: Mon, 30 Nov 2026 03:47:42 GMT\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\n",
        b"HTTP/1.1 206 Partial\r\ncontent-length: 3\r\n\r\n",
    ],
)
def test_other_answers_have_no_plan(head: bytes) -> None:
    rig, done = finished()
    assert plan_answer(done, head, Limits(), rig.pipeline.headers.clean, rig.pipeline.repeat) is None
    assert plan_answer(done, ANSWER_HEAD, Limits(body_bytes=5), rig.pipeline.headers.clean, rig.pipeline.repeat) is None
