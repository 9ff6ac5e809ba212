"""The same script with and without the express lane comes to the same: the bytes that each side is sent, the record,
the access log, the audit log, the spans, the metrics, and what is left afterwards.

`MESHPROXY_EXAMPLES=100000 pytest tests/proxy/express/test_differential.py` plays a hundred thousand random scripts.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from meshproxy.proxy.express_outcome import Outcome
from tests.proxy.express.rig import MixedRig, Rig, SidecarRig, TwoServersRig, answer, request
from tests.thorough import tries

Step = tuple[str, Any]
ZEROS = b"00-" + b"0" * 32 + b"-0123456789abcdef-01"
EXAMPLES = int(os.environ.get("MESHPROXY_EXAMPLES", "0")) or tries(1_000)
TRACE = b"00-0123456789abcdef0123456789abcdef-%016x-%02x"
REFUSED = b"x-meshproxy-refusal: permission-denied\r\n"
DATE = b"date: Mon, 30 Nov 2026 03:%02d:00 GMT\r\n"


def do(rig: Rig, step: Step) -> None:
    """Let it happen."""
    what, how = step
    match what:
        case "ask":
            rig.ask(*how)
        case "answer":
            rig.answer(*how)
        case "wait":
            rig.wait(how)
        case "hang up":
            rig.hang_up(is_eof=how)
        case "leave":
            rig.leave(is_eof=how)
        case "drain":
            rig.server.drain(how)
        case "reload":
            rig.pipeline.snapshot = rig.snapshot()
        case "close lane":
            rig.pipeline.snapshot = rig.snapshot(is_express=False)
        case "withdraw":
            rig.verifier.is_withdrawn = how
        case "new token":
            rig.verifier.token = replace(rig.verifier.token)
        case "deny":
            rig.policy.permits = lambda call: False
            rig.pipeline.snapshot = rig.snapshot()
        case "pause":
            (rig.server.pause_writing if how else rig.server.resume_writing)()
            rig.turn()
        case "endpoint":
            rig.endpoint.health = Health(is_good=how)  # type: ignore[assignment]
        case "close pool":
            rig.pool.close()
        case _:
            raise AssertionError(what)


class Health:
    """As much of `upstream.health.Health` as an endpoint asks."""

    is_advisory = False

    def __init__(self, *, is_good: bool) -> None:
        self._is_good = is_good

    def allows(self, model: str) -> bool:
        return self._is_good


def play(script: list[Step], kind: type[Rig] = Rig, **settings: Any) -> Rig:
    """The script with the lane; it must have led to what it leads to without, after each step."""
    lane, ordinary = kind(is_express=True, **settings), kind(is_express=False, **settings)
    for number, step in enumerate(script):
        for rig in (lane, ordinary):
            do(rig, step)
        with_lane, without = lane.seen(), ordinary.seen()
        for name, value in without.items():
            if with_lane[name] != value:
                pytest.fail(f"after step {number}, {step}: {name}: {difference(with_lane[name], value)}")
    assert difference(lane.page, ordinary.page) == ""
    assert not ordinary.outcomes
    return lane


def difference(with_lane: Any, without: Any) -> str:
    """Where the two differ first; empty if they do not."""
    if with_lane == without:
        return ""
    if isinstance(with_lane, bytes) and b"\n" in with_lane:
        with_lane, without = with_lane.split(b"\n"), without.split(b"\n")
    if isinstance(with_lane, list | tuple) and len(with_lane) == len(without):
        return next(difference(*pair) for pair in zip(with_lane, without, strict=True) if pair[0] != pair[1])
    if isinstance(with_lane, dict):
        return next(
            f"{key}: {difference(with_lane[key], without[key])}" for key in without if with_lane[key] != without[key]
        )
    return f"{with_lane!r} with the lane, {without!r} without"


def cut(data: bytes, *places: int) -> tuple[bytes, ...]:
    """The pieces that `data` comes in."""
    ends = sorted({min(place, len(data)) for place in places} | {0, len(data)})
    return tuple(data[begin:end] for begin, end in itertools.pairwise(ends))


def exchange(number: int, *, asks: bytes | None = None, answers: bytes | None = None) -> list[Step]:
    """One that goes well, with another length, request id and trace than others."""
    ask = (
        asks
        if asks is not None
        else request(b"x" * (1 + number % 5), request_id=b"id-%d" % number, trace=TRACE % (number + 1, number % 2))
    )
    return [("ask", (ask,)), ("answer", (answers or answer(b"y" * (1 + number % 3)),))]


WARM = [step for number in range(5) for step in exchange(number)]
ASK = exchange(9)[0]


@pytest.mark.parametrize("audits", [False, True])
def test_what_goes_well_rides(audits: bool) -> None:
    lane = play(WARM + [step for number in range(10, 15) for step in exchange(number)], audits=audits)
    assert lane.count(Outcome.CARRIED) == 5
    assert len(lane.audit.lines) == (10 if audits else 0)


@pytest.mark.parametrize("records", [False, True])
@pytest.mark.parametrize("has_trace", [False, True])
def test_traces(records: bool, has_trace: bool) -> None:
    def script(number: int) -> list[Step]:
        trace = TRACE % (number + 1, 1) if has_trace else None
        return exchange(number, asks=request(request_id=b"%d" % number, trace=trace, more=b"tracestate: a=b\r\n"))

    lane = play([step for number in range(9) for step in script(number)], records=records)
    assert lane.count(Outcome.CARRIED) == 4
    assert len(lane.spans.recorded) == (9 if records else 0)


@pytest.mark.parametrize(
    "make",
    [
        lambda number: request(method=b"GET", target=b"/v1/models/open", request_id=b"%d" % number),
        lambda number: request(timeout=b"%d" % (2_000 + number)),
        lambda number: request(token=None, request_id=b"%d" % number),
        lambda number: request(b"z" * 16_000 + b"z" * number),
        lambda number: request(b"", request_id=b"%d" % number),
        lambda number: request(more=b"X-Request-ID: %d\r\nAccept: */*\r\n" % number),
        lambda number: request(more=b"Connection: keep-alive\r\nx-b3-traceid: 1\r\n", request_id=b"%d" % number),
        lambda number: request(more=b"b3: 0\r\n", trace=TRACE % (number + 1, 1)),
    ],
)
def test_requests_of_many_kinds_ride(make: Callable[[int], bytes]) -> None:
    lane = play([step for number in range(9) for step in exchange(number, asks=make(number))])
    assert lane.count(Outcome.CARRIED) == 4


@pytest.mark.parametrize(
    "make",
    [
        lambda number: request(more=b"x-request-id: a\r\n", request_id=b"%d" % number),
        lambda number: request(more=b"Connection: x-request-id\r\n", request_id=b"%d" % number),
        lambda number: request(more=b"traceparent: %b\r\n" % (TRACE % (1, 1)), trace=TRACE % (number, 1)),
        lambda number: request(more=b"Content-Length: 2\r\n"),
        lambda number: request(more=b"Content_Length: 2\r\n"),
        lambda number: request(more=b"Connection: content-length\r\n"),
        lambda number: request(more=b"authorization: Bearer good\r\n"),
        lambda number: request(method=b"PUT"),
        lambda number: request(target=b"/v1/models/closed:predict"),
        lambda number: request(target=b"/v1/models/open%d:predict" % number),
        lambda number: request(timeout=b"400"),
        lambda number: request(more=b"x-envoy-expected-rq-timeout-ms:5000\r\n", request_id=b"%d" % number),
        lambda number: request(timeout=b"05000", request_id=b"%d" % number),
        lambda number: request(timeout=b" 5000", request_id=b"%d" % number),
        lambda number: request(request_id=b"%d" % number, trace=ZEROS),
        lambda number: b"\r\n" + request(),
        lambda number: request().replace(b"HTTP/1.1", b"HTTP/1.0"),
        lambda number: request(more=b"Expect: 100-continue\r\n"),
        lambda number: request(b"x" * 17_000),
        lambda number: request(more=b"filler: " + b"x" * 4_096 + b"\r\n"),
        lambda number: request(b"{}{}").replace(b"Content-Length: 4", b"Transfer-Encoding: chunked"),
    ],
)
def test_what_is_refused_or_is_not_alike_does_not_ride(make: Callable[[int], bytes]) -> None:
    lane = play([step for number in range(9) for step in exchange(number, asks=make(number))])
    assert lane.count(Outcome.CARRIED) == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda number: answer(more=DATE % number),
        lambda number: answer(more=b"x-meshproxy-caller: nobody\r\n"),
        lambda number: answer(more=b"connection: keep-alive\r\nserver: tfs\r\n"),
    ],
)
def test_answers_of_many_kinds_ride(make: Callable[[int], bytes]) -> None:
    lane = play([step for number in range(9) for step in exchange(number, answers=make(number))])
    assert lane.count(Outcome.CARRIED) == 4


@pytest.mark.parametrize(
    "make",
    [
        lambda number: answer(status=b"503 Service Unavailable"),
        lambda number: answer(status=b"404 Not Found"),
        lambda number: answer(more=b"connection: close\r\n"),
        lambda number: answer(b""),
        lambda number: answer(more=b"Content-Length: 6\r\n"),
        lambda number: answer().replace(b"HTTP/1.1", b"HTTP/1.0"),
        lambda number: answer() + b"more",
        lambda number: b"HTTP/1.1 100 Continue\r\n\r\n" + answer(),
        lambda number: b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        lambda number: b"HTTP/1.1 204 No Content\r\n\r\n",
        lambda number: b"no HTTP\r\n\r\n",
    ],
)
def test_other_answers_unfold(make: Callable[[int], bytes]) -> None:
    lane = play([*WARM, ASK, ("answer", (make(0),)), *exchange(10), *exchange(11)])
    assert lane.count(Outcome.ANSWER) >= 2


@pytest.mark.parametrize(
    ("steps", "outcome"),
    [
        ([("answer", cut(answer(), 3)), *exchange(10)], Outcome.ANSWER),
        ([("answer", cut(answer(), 60)), *exchange(10)], Outcome.ANSWER),
        ([("answer", cut(answer(b"long answer"), len(answer()) - 2)), *exchange(10)], Outcome.ANSWER),
        ([("hang up", True), *exchange(10)], Outcome.UPSTREAM),
        ([("hang up", False), *exchange(10)], Outcome.UPSTREAM),
        ([("answer", (answer()[:30],)), ("hang up", False), *exchange(10)], Outcome.ANSWER),
        ([("leave", True)], Outcome.CLIENT),
        ([("leave", False)], Outcome.CLIENT),
        ([("ask", (request(request_id=b"next"),)), ("answer", (answer(),)), ("answer", (answer(),))], Outcome.CLIENT),
        ([("ask", (b"G",)), ("answer", (answer(),))], Outcome.CLIENT),
        ([("ask", (b"rubbish\r\n\r\n",)), ("answer", (answer(),))], Outcome.CLIENT),
        ([("wait", 1.4), ("answer", (answer(),)), *exchange(10)], Outcome.CARRIED),
        ([("wait", 3.0), ("answer", (answer(),)), *exchange(10)], Outcome.TIME),
        ([("wait", 61.0), *exchange(10)], Outcome.TIME),
        ([("drain", 0.0), ("answer", (answer(),))], Outcome.DRAINED),
        ([("drain", 5.0), ("answer", (answer(),)), *exchange(10), ("wait", 6.0), *exchange(11)], Outcome.DRAINED),
        ([("reload", None), ("answer", (answer(),)), *exchange(10)], Outcome.RELOADED),
        ([("close lane", None), ("answer", (answer(),)), *exchange(10)], Outcome.RELOADED),
        ([("close pool", None), ("answer", (answer(),))], Outcome.CARRIED),
        ([("pause", True), ("answer", (answer(),)), ("pause", False), *exchange(10)], Outcome.CARRIED),
        ([("withdraw", True), ("answer", (answer(),)), *exchange(10)], Outcome.CALLER),
        ([("endpoint", False), ("answer", (answer(),)), *exchange(10)], Outcome.CARRIED),
    ],
)
def test_what_happens_to_a_ride(steps: list[Step], outcome: Outcome) -> None:
    lane = play([*WARM, ASK, *steps])
    assert lane.count(outcome) >= 1, lane.outcomes


@pytest.mark.parametrize(
    ("steps", "outcome"),
    [
        ([("wait", 71.0)], Outcome.CALLER),
        ([("withdraw", True)], Outcome.CALLER),
        ([("new token", None)], Outcome.CALLER),
        ([("reload", None)], Outcome.CHANGED),
        ([("close lane", None)], Outcome.CHANGED),
        ([("deny", None)], Outcome.CHANGED),
        ([("endpoint", False)], Outcome.ENDPOINT),
        ([("close pool", None)], Outcome.BUSY),
        ([("drain", 0.0)], Outcome.LEAVING),
        ([("hang up", True), ("hang up", True)], Outcome.BUSY),
        ([("ask", cut(request(b"abc", request_id=b"a", trace=TRACE % (1, 1)), 3))], Outcome.NOT_WHOLE),
        ([("ask", (request(b"abc", request_id=b"a", trace=TRACE % (1, 1))[:-1],))], Outcome.NOT_WHOLE),
        ([("ask", (ASK[1][0] * 2,)), ("answer", (answer(),)), ("answer", (answer(),))], Outcome.NOT_WHOLE),
    ],
)
def test_what_keeps_a_request_from_riding(steps: list[Step], outcome: Outcome) -> None:
    lane = play([*WARM, *steps, *exchange(10), *exchange(11)], timeout=600.0)
    assert lane.count(outcome) >= 1, lane.outcomes


def test_a_certificate_that_has_expired_is_refused() -> None:
    def script(numbers: range) -> list[Step]:
        return [step for number in numbers for step in exchange(number, asks=request(b"x" * number, token=None))]

    lane = play([*script(range(1, 8)), ("wait", 73.0), *script(range(8, 9))])
    assert lane.count(Outcome.CARRIED) == 2
    assert lane.count(Outcome.CALLER) == 1
    assert lane.wire.written.count(b"401 Unauthorized") == 1


def test_two_clients_wait_for_the_connections_of_one_server() -> None:
    """A waiting request gets the connection of a ride that ends."""
    rigs = [Rig(is_express=is_express) for is_express in (True, False)]
    for rig in rigs:
        for step in WARM:
            do(rig, step)
        others = [rig.accept(type(rig.wire)()) for _ in range(3)]
        do(rig, ASK)
        for other in others:
            other.data_received(request(b"other"))
        rig.turn()
        for _ in range(4):
            rig.answer(answer())
    assert rigs[0].seen() == rigs[1].seen()
    assert rigs[0].count(Outcome.CARRIED) == 1


@pytest.mark.parametrize("field", [b"x-request-id", b"x-envoy-expected-rq-timeout-ms"])
def test_no_plan_is_made_where_a_slot_decides(field: bytes) -> None:
    rig = Rig()
    rig.policy.headers = frozenset({field})
    for number in range(9):
        for step in exchange(number, asks=request(request_id=b"%d" % number, timeout=b"9000")):
            do(rig, step)
    assert rig.outcomes == {Outcome.UNKNOWN: 7}


@pytest.mark.parametrize("kind", [SidecarRig, TwoServersRig])
def test_to_sidecars_and_to_several_servers(kind: type[Rig]) -> None:
    lane = play([*WARM, *(step for number in range(10, 30) for step in exchange(number))], kind)
    assert lane.count(Outcome.CARRIED) == 20
    if isinstance(lane, TwoServersRig):
        assert min(lane.endpoint.record.calls, lane.other.record.calls) > 0
    play([*WARM, ASK, ("hang up", True), *exchange(10), ("endpoint", False), *exchange(11)], kind)


@pytest.mark.parametrize(("kind", "is_told"), [(Rig, False), (SidecarRig, True)])
def test_only_another_sidecar_says_that_it_refused(kind: type[Rig], is_told: bool) -> None:
    refusing = [step for number in range(10, 14) for step in exchange(number, answers=answer(more=REFUSED))]
    lane = play([*WARM, *refusing, *exchange(20, answers=answer(b"", more=REFUSED)), *exchange(21)], kind)
    assert (b"x-meshproxy-refusal" in lane.wire.written) is is_told
    assert lane.records[9].is_refused_remotely is is_told


def test_of_several_servers_only_the_sidecar_says_that_it_refused() -> None:
    """Whoever the balancer picks next, and however many calls of the other kind cannot ride."""
    refusing = [step for number in range(10, 40) for step in exchange(number, answers=answer(b"", more=REFUSED))]
    lane = play([*WARM, *refusing], MixedRig)
    told = lane.wire.written.count(b"x-meshproxy-refusal")
    assert 0 < told < 30
    assert told == sum(record.is_refused_remotely for record in lane.records)
    assert lane.count(Outcome.ENDPOINT) > 0


def test_with_spans_calls_of_several_servers_do_not_ride() -> None:
    """They tell which endpoints were passed over."""
    lane = play([*WARM, *exchange(10)], TwoServersRig, records=True)
    assert lane.count(Outcome.ENDPOINT) == 2


# What is hostile, once there is a plan

LIKE: bytes = ASK[1][0]
HIDDEN = b"POST /v1/models/open:predict HTTP/1.1\r\nHost: models\r\nContent-Length: 2\r\n\r\n{}"
FRAGMENTS = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\0",
    b" ",
    b"\t",
    b"0",
    b"1",
    b"9",
    b"-",
    b":",
    b"Content-Length: 1\r\n",
    b"content-length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"connection: close\r\n",
    b"connection: x-request-id\r\n",
    b"x-request-id: twice\r\n",
    b"traceparent: rubbish\r\n",
    b"authorization: Bearer bad\r\n",
    b"x-meshproxy-caller: admin\r\n",
    b"Host: elsewhere\r\n",
    HIDDEN,
]


@pytest.mark.parametrize(
    "data",
    [
        LIKE + HIDDEN,
        LIKE[:-1] + HIDDEN,
        LIKE.replace(b"Content-Length: ", b"Content-Length: 0"),
        LIKE.replace(b"Content-Length: ", b"Content-Length: +"),
        LIKE.replace(b"Content-Length: ", b"Content-Length:"),
        LIKE.replace(b"\r\nContent-Length", b"\nContent-Length"),
        LIKE.replace(b"\r\nauthorization", b"\r\n authorization"),
        LIKE.replace(b"id-9", b"id\x009"),
        LIKE.replace(b"id-9", b"id-9\r\nTransfer-Encoding: chunked"),
        LIKE.replace(b"open", b"closed"),
        LIKE.replace(b"good", b"bad"),
        request(b"a: b\r\nContent-Length: 1\r\n\r\n" + HIDDEN, request_id=b"id-9", trace=TRACE % (10, 1)),
    ],
)
def test_what_only_looks_alike_is_read_as_ever(data: bytes) -> None:
    play([*WARM, ("ask", (data,)), ("answer", (answer(),)), ("answer", (answer(),)), *exchange(10)])


pieces = st.one_of(st.just(()), st.tuples(st.integers(1, 200)))
changes = st.tuples(st.integers(0, len(LIKE)), st.integers(0, 20), st.sampled_from(FRAGMENTS))


def changed(parts: list[tuple[int, int, bytes]]) -> bytes:
    """A request that has a plan, with some of its bytes replaced."""
    data = LIKE
    for at, length, fragment in parts:
        data = data[:at] + fragment + data[at + length :]
    return data


@settings(max_examples=EXAMPLES // 4, suppress_health_check=[HealthCheck.too_slow])
@given(st.builds(changed, st.lists(changes, min_size=1, max_size=3)), pieces)
def test_random_changes_of_a_request_that_has_a_plan(data: bytes, places: tuple[int, ...]) -> None:
    play([*WARM, ("ask", cut(data, *places)), ("answer", (answer(),)), ("answer", (answer(),))])


# Several requests in one read

FIRST = [
    request(method=b"GET", target=b"/nope"),
    request(method=b"GET", target=b"/v1/models/open"),
    request(target=b"/v1/models/closed:predict"),
    request(token=b"bad"),
    request(b"x" * 60),
]
SECOND = [
    request(b"b" * 60),
    request(b"b" * 60, target=b"/v1/models/open-b:predict"),
    request(b"3c\r\n" + b"b" * 60 + b"\r\n0\r\n\r\n").replace(b"Content-Length: 70", b"Transfer-Encoding: chunked"),
    request(method=b"GET", target=b"/v1/models/open-b"),
]


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("second", SECOND)
def test_a_request_behind_another_lends_it_no_plan(first: bytes, second: bytes) -> None:
    """The first may have been answered when the read has been dispatched: what is under way then is the second."""
    together: list[Step] = [("ask", (first + second,)), ("answer", (answer(),)), ("answer", (answer(),))]
    alone: list[Step] = [("ask", (first,)), ("answer", (answer(),))]
    play([*alone, *alone, *together, *together, *together, *alone, ("ask", (second,)), ("answer", (answer(),))])
    play([*together, *together, *together, *alone, *alone, *alone])


# Random scripts

requests = st.builds(
    request,
    st.sampled_from([b"{}", b"x" * 10, b"x" * 100, b""]),
    request_id=st.sampled_from([None, b"a", b"b-1", b"not valid!"]),
    trace=st.sampled_from([None, TRACE % (1, 1), TRACE % (2, 0), b"rubbish"]),
    timeout=st.sampled_from([None, b"3000", b"70000", b"300"]),
    token=st.sampled_from([b"good", b"good", b"good", None, b"bad"]),
    target=st.sampled_from([b"/v1/models/open:predict", b"/v1/models/open:predict", b"/v1/models/closed:predict"]),
)
answers = st.builds(
    answer,
    st.sampled_from([b"answer", b"y" * 50, b""]),
    status=st.sampled_from([b"200 OK", b"200 OK", b"200 OK", b"503 Busy", b"404 Not Found"]),
    more=st.sampled_from([b"", b"", DATE % 1, DATE % 2, b"connection: close\r\n", REFUSED]),
)


def in_pieces(data: st.SearchStrategy[bytes]) -> st.SearchStrategy[tuple[bytes, ...]]:
    return st.builds(lambda whole, places: cut(whole, *places), data, pieces)


usual = st.integers(0, 50).flatmap(lambda number: st.just(exchange(number)))
steps = st.one_of(
    usual,
    usual,
    usual,
    st.builds(lambda ask: [("ask", ask)], in_pieces(requests)),
    st.builds(lambda a, b: [("ask", (a + b,)), ("answer", (answer(),))], *2 * [st.sampled_from([*FIRST, *SECOND])]),
    st.builds(lambda said: [("answer", said)], in_pieces(answers)),
    st.builds(lambda number: exchange(number)[:1], st.integers(0, 50)),
    st.sampled_from(
        [
            [("wait", 0.3)],
            [("wait", 2.0)],
            [("wait", 61.0)],
            [("hang up", True)],
            [("hang up", False)],
            [("leave", True)],
            [("leave", False)],
            [("drain", 0.0)],
            [("drain", 1.0)],
            [("reload", None)],
            [("withdraw", True)],
            [("withdraw", False)],
            [("new token", None)],
            [("pause", True), ("pause", False)],
            [("endpoint", False)],
            [("endpoint", True)],
        ]
    ),
)


@pytest.mark.timeout(600 + EXAMPLES)  # a hundredth of a second each where nothing else runs
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    st.lists(steps, min_size=1, max_size=8),
    st.sampled_from([Rig, SidecarRig]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_random_scripts(script: list[list[Step]], kind: type[Rig], records: bool, audits: bool, is_warm: bool) -> None:
    whole = [*(WARM if is_warm else ()), *(step for several in script for step in several)]
    play(whole, kind, records=records, audits=audits)
