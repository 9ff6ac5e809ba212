"""An attempt alone, state by state; then conversations: what the client sees of an answer, piece by piece."""

from __future__ import annotations

from math import inf
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.codec.events import Headers, ResponseHead
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.codec.limits import Limits
from meshproxy.proxy.attempt import (
    ACQUIRING,
    ANSWERING,
    AWAITING,
    BLAME_SECONDS,
    DEFERRED,
    HEADED,
    OVER,
    WHOLE,
    Attempt,
    State,
)
from meshproxy.proxy.exchange import ResponseFlags
from meshproxy.refusal import GrpcStatus, Reason
from meshproxy.routing.failure import Failure
from meshproxy.transport.connect_failures import ConnectError
from meshproxy.transport.connection import ConnectionContext, Times
from meshproxy.transport.connection_info import ConnectionInfo
from meshproxy.transport.h1_server import H1Server
from meshproxy.transport.h2_client import GOING_AWAY
from meshproxy.transport.outbox import Outbox
from meshproxy.transport.stream import HeadRefused
from meshproxy.upstream.pool import PoolFull
from tests.proxy.fakes import FakeEndpoint, FakeLoop, FakeTimer, FakeUpstream, RecordedListener, RecordedSink
from tests.thorough import tries

PROTOCOL_ERROR, CANCEL = 0x1, 0x8


def head(status: int = 200, *, end: bool = False, headers: Headers = ()) -> ResponseHead:
    return ResponseHead(0, status, headers, end)


class Alone:
    """An attempt between a recording listener and a fake endpoint."""

    def __init__(self, *, is_grpc: bool = False) -> None:
        self.loop = FakeLoop()
        self.listener = RecordedListener()
        self.sink = RecordedSink()
        self.listener.sink = self.sink
        self.endpoint = FakeEndpoint()
        self.endpoint.token = 7
        self.endpoint.pool.is_ready = False
        self.timer = FakeTimer(9e9, int)
        self.is_grpc = is_grpc
        self.attempt = Attempt(self.listener, self.endpoint.real, "m", is_grpc, self.loop.now, self.loop.time)

    @property
    def reports(self) -> list[str]:
        """How the endpoint was told that it went."""
        assert self.endpoint.reports[0] == "begin m"
        return self.endpoint.reports[1:]

    @property
    def upstream(self) -> FakeUpstream:
        return self.endpoint.pool.streams[0]

    def acquire(self) -> None:
        self.endpoint.pool.acquire(self.attempt)
        if self.endpoint.pool.waiting:
            self.endpoint.pool.give(self.endpoint.pool.waiting.pop())

    def do(self, event: str) -> None:
        """Something happens to the attempt."""
        attempt = self.attempt
        if event in ("acquired", "acquire_failed", "pool full"):
            if event == "pool full":
                attempt.acquire_failed(PoolFull("full"))
            elif event == "acquire_failed":
                attempt.acquire_failed(ConnectError("refused"))
            else:
                self.acquire()
        elif event.startswith("head"):
            _, status, *end = event.split()
            attempt.head_received(head(int(status), end=bool(end)))
        elif event.startswith("data"):
            attempt.data_received(b"" if event == "data empty" else b"abc", 3, event == "data end")
        elif event.startswith("trailers"):
            value = event.partition(" ")[2].encode()
            attempt.trailers_received(((b"grpc-status", value),) if value else ())
        elif event == "reset":
            attempt.reset_received(CANCEL, "gone")
        else:
            getattr(attempt, event)()


BEFORE: dict[State, list[str]] = {
    ACQUIRING: [],
    AWAITING: ["acquired"],
    DEFERRED: ["acquired", "head 200"],
    HEADED: ["acquired", "head 200"],
    ANSWERING: ["acquired", "head 200"],
    WHOLE: ["acquired", "head 200", "data end"],
    OVER: ["acquired", "reset"],
}


def alone(state: State, *, is_grpc: bool = False) -> Alone:
    """An attempt that has come to `state`."""
    made = Alone(is_grpc=is_grpc)
    made.listener.request_ended = state is not HEADED
    if state is ACQUIRING:
        made.endpoint.pool.acquire(made.attempt)
    for event in BEFORE[state]:
        made.do(event)
    if state is ANSWERING and is_grpc:
        made.do("data")
        made.upstream.credited = 0
    assert made.attempt.state is state
    made.listener.events.clear()
    made.listener.states.clear()
    made.sink.events.clear()
    del made.endpoint.reports[1:]
    return made


TABLE: list[tuple[State, str, State, list[str], list[str]]] = [
    # state, event, next state, what the listener is told, what the endpoint is
    (ACQUIRING, "acquired", AWAITING, ["connected"], []),
    (ACQUIRING, "acquire_failed", OVER, ["failed"], ["connect-failure"]),
    (ACQUIRING, "pool full", OVER, ["failed"], ["cancelled"]),
    (ACQUIRING, "time_out", OVER, ["failed"], ["timeout"]),
    (ACQUIRING, "cancel", OVER, [], ["cancelled"]),
    (AWAITING, "head 100", AWAITING, [], []),
    (AWAITING, "head 103", AWAITING, ["interim"], []),
    (AWAITING, "head 200", ANSWERING, ["answered"], []),
    (AWAITING, "head 200 end", WHOLE, ["answered"], ["succeeded"]),
    (AWAITING, "head 404", ANSWERING, ["answered"], []),
    (AWAITING, "head 503", ANSWERING, ["answered"], ["gateway-error"]),
    (AWAITING, "head 503 end", WHOLE, ["answered"], ["gateway-error"]),
    (AWAITING, "head 429", ANSWERING, ["answered"], ["overloaded"]),
    (AWAITING, "data", AWAITING, [], []),
    (AWAITING, "trailers", AWAITING, [], []),
    (AWAITING, "reset", OVER, ["failed"], ["reset"]),
    (AWAITING, "time_out", OVER, ["failed"], ["timeout"]),
    (AWAITING, "cancel", OVER, [], ["cancelled"]),
    (AWAITING, "drained", AWAITING, ["drained"], []),
    (ANSWERING, "head 200", ANSWERING, [], []),
    (ANSWERING, "data", ANSWERING, [], []),
    (ANSWERING, "data end", WHOLE, [], ["succeeded"]),
    (ANSWERING, "trailers", WHOLE, [], ["succeeded"]),
    (ANSWERING, "reset", OVER, ["broke"], ["reset"]),
    (ANSWERING, "time_out", ANSWERING, [], []),
    (ANSWERING, "cancel", OVER, [], ["cancelled"]),
    (ANSWERING, "drained", ANSWERING, ["drained"], []),
]
GRPC_TABLE: list[tuple[State, str, State, list[str], list[str]]] = [
    (AWAITING, "head 200", DEFERRED, [], []),
    (AWAITING, "head 200 end", WHOLE, ["answered"], ["error"]),  # without a status
    (AWAITING, "head 503", ANSWERING, ["answered"], ["gateway-error"]),
    (DEFERRED, "head 200", DEFERRED, [], []),
    (DEFERRED, "data", ANSWERING, ["answered"], []),
    (DEFERRED, "data empty", DEFERRED, [], []),
    (DEFERRED, "data end", WHOLE, ["answered"], ["error"]),
    (DEFERRED, "trailers 0", WHOLE, ["answered"], ["succeeded"]),
    (DEFERRED, "trailers 5", WHOLE, ["answered"], ["succeeded"]),
    (DEFERRED, "trailers 14", WHOLE, ["answered"], ["unavailable"]),
    (DEFERRED, "trailers", WHOLE, ["answered"], ["error"]),
    (DEFERRED, "reset", OVER, ["failed"], ["reset"]),
    (DEFERRED, "time_out", DEFERRED, [], []),
    (DEFERRED, "cancel", OVER, [], ["cancelled"]),
    (DEFERRED, "drained", DEFERRED, ["drained"], []),
    (HEADED, "head 200", HEADED, [], []),
    (HEADED, "data", ANSWERING, [], []),
    (HEADED, "data empty", HEADED, [], []),
    (HEADED, "data end", WHOLE, [], ["error"]),
    (HEADED, "trailers 0", WHOLE, [], ["succeeded"]),
    (HEADED, "trailers 5", WHOLE, [], ["succeeded"]),
    (HEADED, "trailers 14", WHOLE, ["failed_late"], ["unavailable"]),
    (HEADED, "trailers", WHOLE, ["failed_late"], ["error"]),
    (HEADED, "reset", OVER, ["failed"], ["reset"]),
    (HEADED, "time_out", HEADED, [], []),
    (HEADED, "cancel", OVER, [], ["cancelled"]),
    (HEADED, "drained", HEADED, ["drained"], []),
    (ANSWERING, "data end", WHOLE, [], ["error"]),
    (ANSWERING, "trailers 0", WHOLE, [], ["succeeded"]),
    (ANSWERING, "trailers 8", WHOLE, ["failed_late"], ["overloaded"]),
    (ANSWERING, "trailers", WHOLE, ["failed_late"], ["error"]),
]
LATE = ["head 200", "data", "data end", "trailers", "reset", "time_out", "deadline_passed", "resume"]


class TestStates:
    @pytest.mark.parametrize(("state", "event", "then", "told", "reports"), TABLE)
    def test_of_rest(self, state: State, event: str, then: State, told: list[str], reports: list[str]) -> None:
        made = alone(state)
        made.do(event)
        assert (made.attempt.state, made.listener.names, made.reports) == (then, told, reports)

    @pytest.mark.parametrize(("state", "event", "then", "told", "reports"), GRPC_TABLE)
    def test_of_grpc(self, state: State, event: str, then: State, told: list[str], reports: list[str]) -> None:
        made = alone(state, is_grpc=True)
        made.do(event)
        assert (made.attempt.state, made.listener.names, made.reports) == (then, told, reports)

    @pytest.mark.parametrize(
        ("event", "then", "told", "reports"),
        [
            ("head 103", AWAITING, ["interim"], []),
            ("head 200", HEADED, ["answered"], []),
            ("head 200 end", WHOLE, ["answered"], ["error"]),
            ("head 503", ANSWERING, ["answered"], ["gateway-error"]),
        ],
    )
    def test_of_grpc_while_the_request_goes_on(
        self, event: str, then: State, told: list[str], reports: list[str]
    ) -> None:
        made = alone(AWAITING, is_grpc=True)
        made.listener.request_ended = False
        made.do(event)
        assert (made.attempt.state, made.listener.names, made.reports) == (then, told, reports)

    @pytest.mark.parametrize("event", LATE)
    def test_whole_is_not_left_for_what_the_endpoint_does(self, event: str) -> None:
        made = alone(WHOLE)
        made.do(event)
        assert (made.attempt.state, made.listener.events, made.sink.events) == (WHOLE, [], [])
        assert made.upstream.credited == 0

    @pytest.mark.parametrize("event", ["drained", "acquire_failed", "cancel", *LATE])
    def test_over_is_the_end(self, event: str) -> None:
        made = alone(OVER)
        made.do(event)
        assert (made.attempt.state, made.listener.events, made.sink.events, made.reports) == (OVER, [], [], [])
        assert made.upstream.reset_code is None

    def test_a_request_that_goes_out_behind_its_answer_is_told(self) -> None:
        """The client is owed credit for it."""
        made = alone(WHOLE)
        made.do("drained")
        assert made.listener.names == ["drained"]

    def test_both_last_states_are_over_for_the_upstream(self) -> None:
        going_on = (AWAITING, DEFERRED, HEADED, ANSWERING)
        assert [alone(state, is_grpc=True).attempt.is_over for state in going_on] == [False] * 4
        assert [alone(state).attempt.is_over for state in (WHOLE, OVER)] == [True, True]


class TestFailures:
    """What the listener is told when nothing of an answer was passed on."""

    @pytest.mark.parametrize(
        ("error", "failure", "reason", "limit", "flag"),
        [
            (ConnectError("no"), Failure.CONNECT, Reason.CONNECT_FAILED, None, ResponseFlags.UF),
            (PoolFull("no"), Failure.OVERLOADED, Reason.OVERLOADED, "max_pending", ResponseFlags.UO),
        ],
    )
    def test_no_connection(
        self, error: ConnectError, failure: Failure, reason: Reason, limit: str | None, flag: ResponseFlags
    ) -> None:
        made = alone(ACQUIRING)
        made.endpoint.pool.waiting.clear()
        made.attempt.acquire_failed(error)
        assert made.listener.events == [("failed", failure, reason, flag)]
        refusal = made.listener.refusal
        assert refusal is not None
        assert (refusal.limit, refusal.retry_after) == (limit, 1)
        assert refusal.message == "The model server cannot be reached: no."

    @pytest.mark.parametrize(
        ("code", "reason", "failure", "refused", "flag"),
        [
            (ErrorCode.CANCEL, "gone", Failure.RESET, Reason.UPSTREAM_RESET, ResponseFlags.UC),
            (ErrorCode.REFUSED_STREAM, "busy", Failure.REFUSED, Reason.UPSTREAM_RESET, ResponseFlags.UC),
            (ErrorCode.REFUSED_STREAM, GOING_AWAY, Failure.GOAWAY, Reason.UPSTREAM_RESET, ResponseFlags.UC),
            (ErrorCode.PROTOCOL_ERROR, "bad", Failure.RESET, Reason.UPSTREAM_PROTOCOL, ResponseFlags.UPE),
        ],
    )
    def test_a_reset(self, code: int, reason: str, failure: Failure, refused: Reason, flag: ResponseFlags) -> None:
        made = alone(AWAITING)
        made.attempt.reset_received(code, reason)
        assert made.listener.events == [("failed", failure, refused, flag)]
        assert made.reports == [failure.value]
        assert made.attempt.upstream is None

    @pytest.mark.parametrize("state", [DEFERRED, HEADED])
    def test_a_stream_that_was_refused_behind_a_head_was_looked_at(self, state: State) -> None:
        made = alone(state, is_grpc=True)
        made.attempt.reset_received(ErrorCode.REFUSED_STREAM, "busy")
        assert made.reports == ["reset"]

    def test_a_time_limit_resets_the_stream(self) -> None:
        made = alone(AWAITING)
        made.attempt.time_out()
        assert made.listener.events == [
            ("failed", Failure.TIMEOUT, Reason.UPSTREAM_TIMEOUT, ResponseFlags.UT),
        ]
        assert made.upstream.reset_code == ErrorCode.CANCEL

    def test_a_head_that_is_too_large_is_no_fault_of_the_endpoint(self) -> None:
        """Nothing was sent: the stream is neither reset nor stopped."""
        made = alone(ACQUIRING)
        made.listener.raises["connected"] = HeadRefused("20000 bytes")
        made.acquire()
        assert made.listener.events[1:] == [("failed", Failure.ERROR, Reason.HEADERS_TOO_LARGE, None)]
        assert (made.attempt.state, made.reports) == (OVER, ["cancelled"])
        assert (made.upstream.sink, made.upstream.reset_code, made.upstream.has_stopped) == (None, None, False)

    @pytest.mark.parametrize(
        ("is_sidecar", "refusal", "report"),
        [
            (True, b"overloaded", "overloaded"),
            (True, b"deadline-exceeded", "overloaded"),
            (True, b"internal", "gateway-error"),
            (False, b"overloaded", "gateway-error"),
        ],
    )
    def test_the_reason_of_another_sidecar_is_believed(self, is_sidecar: bool, refusal: bytes, report: str) -> None:
        made = alone(AWAITING)
        made.endpoint.is_sidecar = is_sidecar
        made.attempt.head_received(head(503, headers=((b"x-meshproxy-refusal", refusal),)))
        assert made.reports == [report]


class TestAnswer:
    """What the sink takes."""

    def test_credit_is_given_for_what_is_taken_but_not_for_the_last_piece(self) -> None:
        made = alone(ANSWERING)
        made.do("data")
        made.do("data end")
        assert made.sink.events == [("body", b"abc", 3, False), ("body", b"abc", 3, True)]
        assert made.upstream.credited == 3

    def test_credit_is_owed_until_the_client_takes_more(self) -> None:
        made = alone(ANSWERING)
        made.sink.is_full = True
        made.do("data")
        made.do("data")
        assert made.upstream.credited == 0
        made.attempt.resume()
        assert made.upstream.credited == 6
        made.attempt.resume()
        assert made.upstream.credited == 6

    @pytest.mark.parametrize("event", ["data end", "reset", "cancel"])
    def test_what_is_owed_at_the_end_is_forgiven(self, event: str) -> None:
        made = alone(ANSWERING)
        made.sink.is_full = True
        made.do("data")
        made.do(event)
        made.attempt.resume()
        assert made.upstream.credited == 0

    def test_a_deferred_head_goes_out_with_the_first_piece(self) -> None:
        made = alone(DEFERRED, is_grpc=True)
        made.do("data")
        assert made.listener.events == [("answered", 200, None)]
        assert made.sink.events == [("body", b"abc", 3, False)]

    def test_or_with_the_trailers_that_say_how_it_went(self) -> None:
        made = alone(DEFERRED, is_grpc=True)
        made.do("trailers 14")
        assert made.listener.events == [("answered", 200, Failure.UNAVAILABLE)]
        assert made.sink.events == [("trailers", ((b"grpc-status", b"14"),), 14)]

    def test_one_that_was_passed_on_does_not_go_out_again(self) -> None:
        made = alone(HEADED, is_grpc=True)
        made.do("data")
        made.do("trailers 14")
        assert made.listener.events == [("failed_late", Failure.UNAVAILABLE)]
        assert made.sink.events == [("body", b"abc", 3, False), ("trailers", ((b"grpc-status", b"14"),), 14)]
        assert made.upstream.credited == 3

    def test_that_the_request_ends_takes_nothing_back(self) -> None:
        made = alone(HEADED, is_grpc=True)
        made.listener.request_ended = True
        made.do("trailers 0")
        assert (made.listener.events, made.sink.events) == ([], [("trailers", ((b"grpc-status", b"0"),), 0)])

    @pytest.mark.parametrize("is_sidecar", [False, True])
    @pytest.mark.parametrize("state", [DEFERRED, HEADED, ANSWERING])
    def test_a_refusal_in_trailers_is_a_sidecars(self, state: State, is_sidecar: bool) -> None:
        made = alone(state, is_grpc=True)
        made.endpoint.is_sidecar = is_sidecar
        status, refusal = (b"grpc-status", b"7"), (b"x-meshproxy-refusal", b"permission-denied")
        made.attempt.trailers_received((status, refusal))
        assert made.sink.events == [("trailers", (status, refusal) if is_sidecar else (status,), 7)]
        assert made.reports == ["succeeded"]

    def test_the_status_in_trailers_of_rest_means_nothing(self) -> None:
        made = alone(ANSWERING)
        made.do("trailers 14")
        assert made.sink.events == [("trailers", ((b"grpc-status", b"14"),), None)]
        assert made.reports == ["succeeded"]

    def test_a_failure_that_the_head_told_is_not_told_again_by_trailers(self) -> None:
        made = alone(AWAITING)
        made.do("head 503")
        made.do("trailers")
        assert (made.listener.names, made.reports) == (["answered"], ["gateway-error"])

    @pytest.mark.parametrize(
        ("state", "event", "ended"),
        [(AWAITING, "head 503", True), (AWAITING, "head 200", False), (DEFERRED, "trailers 14", True)],
    )
    def test_one_that_is_not_wanted_goes_nowhere(self, state: State, event: str, ended: bool) -> None:
        made = alone(state, is_grpc=True)
        made.listener.request_ended = ended
        made.listener.sink = None
        for each in (event, "data", "trailers 0"):
            made.do(each)
        assert (made.attempt.state, made.listener.names, made.sink.events) == (OVER, ["answered"], [])

    def test_the_break_is_told_with_its_code(self) -> None:
        made = alone(ANSWERING)
        made.attempt.reset_received(ErrorCode.PROTOCOL_ERROR, "bad")
        assert made.listener.events == [("broke", Failure.RESET, ErrorCode.PROTOCOL_ERROR)]


class TestTimes:
    def test_the_record_says_when(self) -> None:
        made = alone(ACQUIRING)
        made.loop.now = 101.0
        made.acquire()
        made.attempt.sent = made.loop.now
        made.loop.now = 103.0
        made.do("head 200")
        made.loop.now = 106.0
        made.do("data end")
        (record,) = made.listener.records
        assert (record.endpoint, record.started, record.sent) == ("127.0.0.1:8500", 100.0, 101.0)
        assert (record.first_byte, record.ended, record.failure, record.is_cancelled) == (103.0, 106.0, None, False)

    def test_without_a_connection_the_endpoint_has_the_same_name(self) -> None:
        made = alone(ACQUIRING)
        made.do("cancel")
        (record,) = made.listener.records
        assert (record.endpoint, record.sent, record.is_cancelled) == ("127.0.0.1:8500", 0.0, True)

    @pytest.mark.parametrize("state", [AWAITING, DEFERRED, HEADED])
    @pytest.mark.parametrize(
        ("silent", "reports"), [(BLAME_SECONDS - 0.001, []), (BLAME_SECONDS, ["timeout"]), (9.0, ["timeout"])]
    )
    def test_a_deadline_blames_an_endpoint_that_had_long_enough(
        self, state: State, silent: float, reports: list[str]
    ) -> None:
        """The head of a gRPC answer, which may come before the server has done anything, is no answer."""
        made = alone(state, is_grpc=True)
        made.attempt.sent = made.loop.now
        made.loop.now += silent
        made.attempt.deadline_passed()
        assert made.reports == reports
        made.attempt.cancel()
        assert made.reports == (reports or ["cancelled"])

    @pytest.mark.parametrize("end", ["cancel", "deadline_passed", "time_out"])
    @pytest.mark.parametrize(
        ("state", "received", "silence"),
        [
            (AWAITING, 0.0, 2.0),
            (AWAITING, 0.5, 1.5),
            (AWAITING, inf, 0.0),
            (HEADED, 0.0, 2.0),
            (DEFERRED, 0.0, 2.0),
            (ANSWERING, 0.0, 0.0),
            (ACQUIRING, 0.0, 0.0),
        ],
    )
    def test_how_long_the_endpoint_was_silent_is_told(
        self, end: str, state: State, received: float, silence: float
    ) -> None:
        """From the end of the request on, of which it may wait for the rest."""
        made = alone(state, is_grpc=state in (HEADED, DEFERRED))
        made.attempt.sent = begun = made.loop.now
        made.loop.now += 2.0
        getattr(made.attempt, end)(begun + received if received else 0.0)
        made.attempt.cancel(begun + received if received else 0.0)
        assert made.endpoint.silences == [pytest.approx(silence)]

    @pytest.mark.parametrize("state", [ACQUIRING, ANSWERING])
    def test_but_not_one_that_was_not_asked_or_has_begun(self, state: State) -> None:
        made = alone(state, is_grpc=True)
        if state is not ACQUIRING:
            made.attempt.sent = made.attempt.first_byte
        made.loop.now += 9.0
        made.attempt.deadline_passed()
        assert made.reports == []

    @pytest.mark.parametrize("event", ["head 200", "cancel", "time_out"])
    def test_the_timer_ends_with_the_wait(self, event: str) -> None:
        made = alone(AWAITING)
        timer: Any = made.timer
        made.attempt.timer = timer
        made.do(event)
        assert made.timer.is_cancelled


class TestCancel:
    @pytest.mark.parametrize(
        ("state", "code", "has_stopped"),
        [
            (AWAITING, ErrorCode.CANCEL, False),
            (DEFERRED, ErrorCode.CANCEL, False),
            (HEADED, ErrorCode.CANCEL, False),
            (ANSWERING, ErrorCode.CANCEL, False),
            (WHOLE, None, True),
            (OVER, None, False),
        ],
    )
    def test_what_the_stream_is_told(self, state: State, code: int | None, has_stopped: bool) -> None:
        made = alone(state, is_grpc=state in (DEFERRED, HEADED))
        made.attempt.cancel()
        made.attempt.cancel()
        assert (made.upstream.reset_code, made.upstream.has_stopped) == (code, has_stopped)

    def test_one_that_waits_leaves_the_pool(self) -> None:
        made = alone(ACQUIRING)
        assert made.endpoint.pool.waiting == [made.attempt]
        made.attempt.cancel()
        assert made.endpoint.pool.waiting == []


class TestMistakes:
    @pytest.mark.parametrize(
        ("state", "event", "hook"),
        [
            (AWAITING, "head 103", "interim"),
            (AWAITING, "head 200", "answered"),
            (AWAITING, "reset", "failed"),
            (AWAITING, "time_out", "failed"),
            (AWAITING, "drained", "drained"),
            (ACQUIRING, "acquire_failed", "failed"),
            (ACQUIRING, "acquired", "connected"),
            (ANSWERING, "reset", "broke"),
        ],
    )
    def test_what_the_listener_raises_goes_to_its_crashed(self, state: State, event: str, hook: str) -> None:
        made = alone(state)
        error = made.listener.raises[hook] = RuntimeError("a defect")
        made.do(event)
        assert made.listener.errors == [error]

    def test_also_behind_a_head_that_was_deferred(self) -> None:
        made = alone(ANSWERING, is_grpc=True)
        error = made.listener.raises["failed_late"] = RuntimeError("a defect")
        made.do("trailers 14")
        assert made.listener.errors == [error]
        assert made.reports == ["unavailable"]


EVENTS = st.sampled_from(
    [
        *("head 100", "head 103", "head 200", "head 200 end", "head 503", "head 503 end"),
        *("data", "data empty", "data end", "trailers", "trailers 0", "trailers 14"),
        *("reset", "time_out", "deadline_passed", "cancel", "drained", "resume"),
        *("given", "full", "unwanted", "later"),
    ]
)
OF_A_STREAM = ("head", "data", "trailers", "reset", "drained")
HOOKS = ["interim", "answered", "failed", "failed_late", "broke", "drained"]


@settings(max_examples=tries(400))
@given(
    waits=st.booleans(),
    connected=st.sampled_from([None, None, HeadRefused("long"), RuntimeError("a defect")]),
    is_full=st.sampled_from([False, False, True]),
    events=st.lists(EVENTS, max_size=14),
    is_grpc=st.booleans(),
    ends_at=st.integers(0, 14),
    raising=st.sets(st.sampled_from(HOOKS), max_size=2),
)
def test_whatever_happens_the_endpoint_hears_once_and_nothing_is_told_after_the_end(
    waits: bool,
    connected: Exception | None,
    is_full: bool,
    events: list[str],
    is_grpc: bool,
    ends_at: int,
    raising: set[str],
) -> None:
    made = Alone(is_grpc=is_grpc)
    attempt, listener, pool = made.attempt, made.listener, made.endpoint.pool
    listener.raises = {name: RuntimeError(name) for name in raising}
    if connected is not None:
        listener.raises["connected"] = connected
    pool.error = PoolFull("full") if is_full else None
    pool.acquire(attempt)
    for number, event in enumerate([*([] if waits else ["given"]), *events, "cancel"]):
        listener.request_ended = number >= ends_at
        before = attempt.state
        passed = len(listener.events), len(made.sink.events), [each.credited for each in pool.streams]
        if event == "given":
            if pool.waiting:
                pool.give(pool.waiting.pop())
                attempt.sent = made.loop.now
        elif event == "full":
            made.sink.is_full = not made.sink.is_full
        elif event == "unwanted":
            listener.sink = None
        elif event == "later":
            made.loop.now += 1.0
        elif pool.streams or not event.startswith(OF_A_STREAM):
            made.do(event)
        if before is OVER:
            assert attempt.state is OVER
            assert (len(listener.events), len(made.sink.events), [each.credited for each in pool.streams]) == passed
        if before is WHOLE:
            assert attempt.state in (WHOLE, OVER)
        assert len(made.reports) <= 1
    assert attempt.state is OVER
    assert len(made.reports) == 1
    assert len(listener.records) == 1
    assert pool.waiting == []
    heads = [state for name, state in zip(listener.names, listener.states, strict=True) if name == "answered"]
    assert len(heads) <= 1
    assert heads in ([], [HEADED]) or "failed" not in listener.names
    ends = [at for at, name in enumerate(listener.names) if name in ("failed", "broke", "failed_late")]
    assert len(ends) <= 1
    assert all(name == "drained" for at in ends for name in listener.names[at + 1 :])


# Conversations


@pytest.fixture
def client(world: Any) -> Any:
    """Whose request has gone out."""
    return world.rest()


@pytest.fixture
def server(world: Any, client: Any) -> Any:
    (server,) = world.cluster.streams
    return server


class TestHeads:
    def test_interim_heads_are_passed_on(self, client: Any, server: Any) -> None:
        claim = (b"x-meshproxy-refusal", b"internal")
        server.sink.head_received(head(103, headers=((b"link", b"x"), claim)))
        server.sink.head_received(head(103))
        server.respond()
        assert client.heads[0] == (103, {b"link": b"x"})
        assert [status for status, _ in client.heads] == [103, 103, 200]

    def test_but_not_100_which_the_sidecar_sends(self, client: Any, server: Any) -> None:
        server.sink.head_received(head(100))
        server.respond()
        assert [status for status, _ in client.heads] == [200]

    def test_a_head_alone_is_a_whole_answer(self, world: Any, client: Any, server: Any) -> None:
        server.sink.head_received(head(204, end=True))
        assert (client.status, client.ended) == (204, True)
        assert world.finished[0].status == 204

    def test_times_are_written_down(self, world: Any, client: Any, server: Any) -> None:
        world.loop.now += 1
        server.sink.head_received(head())
        world.loop.now += 1
        server.sink.data_received(b"{}", 2, True)
        (exchange,) = world.finished
        assert exchange.first_byte - exchange.connected == 1
        assert exchange.finished - exchange.first_byte == 1

    def test_a_grpc_head_is_kept_until_the_call_says_more(self, world: Any, wire: Any) -> None:
        client = world.grpc(wire.spec(b"open"))
        world.cluster.streams[0].sink.head_received(head())
        assert client.heads == []

    def test_unless_the_client_may_wait_for_it(self, world: Any, wire: Any) -> None:
        """Before it sends the next message of its stream."""
        client = world.grpc(None)
        client.receive(wire.framed(wire.spec(b"open")), False)
        (server,) = world.cluster.streams
        server.sink.head_received(head(headers=((b"x-session", b"7"),)))
        assert client.heads == [(200, {b"x-session": b"7"})]
        client.receive(wire.framed(wire.spec(b"open")), True)
        server.sink.data_received(b"answer", 6, False)
        server.sink.trailers_received(((b"grpc-status", b"0"),))
        assert (len(client.heads), client.body, client.trailers) == (1, b"answer", ((b"grpc-status", b"0"),))
        assert world.cluster.reports == ["begin open", "succeeded"]
        world.assert_let_go()


class TestPieces:
    def test_what_the_client_takes_is_credited(self, client: Any, server: Any) -> None:
        server.sink.head_received(head())
        server.sink.data_received(b"abc", 5, False)
        assert (client.body, server.credited) == (b"abc", 5)  # padding included

    def test_what_it_does_not_take_is_owed_until_it_does(self, client: Any, server: Any) -> None:
        attempt = server.sink
        attempt.head_received(head())
        client.is_full = True
        attempt.data_received(b"abc", 3, False)
        attempt.data_received(b"def", 3, False)
        assert client.sink.is_blocked
        assert server.credited == 0
        client.sink.drained()
        assert server.credited == 6
        assert not client.sink.is_blocked
        client.sink.drained()
        assert server.credited == 6

    def test_the_last_piece_is_the_end_once_it_has_left(self, world: Any, client: Any, server: Any) -> None:
        server.sink.head_received(head())
        client.is_full = True
        server.sink.data_received(b"abc", 3, True)
        assert client.ended
        assert world.finished == []
        client.sink.drained()
        assert [exchange.bytes_sent for exchange in world.finished] == [3]

    def test_what_the_server_takes_again_is_credited_to_the_client(self, world: Any) -> None:
        client = world.rest(body=None, length=6)
        server = world.cluster.streams[0]
        server.is_full = True
        client.receive(b"abc", False)
        server.is_full = False
        server.sink.drained()
        server.sink.drained()
        assert client.credited == 3


class TestTrailers:
    @pytest.mark.parametrize(
        ("value", "status"),
        [
            (b"0", GrpcStatus.OK),
            (b"16", GrpcStatus.UNAUTHENTICATED),
            (b"99", 99),
            (b"999", GrpcStatus.UNKNOWN),
            (b"-1", GrpcStatus.UNKNOWN),
            (b"", GrpcStatus.UNKNOWN),
            ("٣".encode(), GrpcStatus.UNKNOWN),
        ],
    )
    def test_they_say_how_a_call_went(self, world: Any, wire: Any, value: bytes, status: int) -> None:
        client = world.grpc(wire.spec(b"open"))
        world.cluster.streams[0].respond_grpc(status=value)
        assert client.trailers == ((b"grpc-status", value),)
        assert world.finished[0].grpc_status == status

    def test_a_call_without_a_status_has_none(self, world: Any, wire: Any) -> None:
        world.grpc(wire.spec(b"open"))
        server = world.cluster.streams[0]
        server.sink.head_received(head())
        server.sink.trailers_received(())
        assert world.finished[0].grpc_status is None

    def test_over_rest_they_are_only_passed_on(self, world: Any, client: Any, server: Any) -> None:
        server.sink.head_received(head())
        server.sink.trailers_received(((b"grpc-status", b"5"), (b"x-checksum", b"1")))
        assert client.trailers == ((b"grpc-status", b"5"), (b"x-checksum", b"1"))
        assert world.finished[0].grpc_status is None


class TestBreaks:
    @pytest.mark.parametrize(("code", "flag", "status"), [(CANCEL, "UC", 502), (PROTOCOL_ERROR, "UPE", 502)])
    def test_before_the_answer_the_client_is_told(
        self, world: Any, client: Any, server: Any, code: int, flag: str, status: int
    ) -> None:
        server.sink.reset_received(code, "gone")
        assert client.status == status
        assert str(world.finished[0].flags) == flag

    def test_interim_heads_are_no_answer(self, client: Any, server: Any) -> None:
        server.sink.head_received(head(103))
        server.sink.reset_received(CANCEL, "gone")
        assert [status for status, _ in client.heads] == [103, 502]

    def test_within_the_answer_it_is_broken_off(self, world: Any, client: Any, server: Any) -> None:
        server.sink.head_received(head())
        server.sink.data_received(b"half", 4, False)
        server.sink.reset_received(CANCEL, "gone")
        assert client.reset_code is not None
        assert not client.ended
        assert str(world.finished[0].flags) == "UC"

    def test_after_the_answer_it_means_nothing(self, world: Any, client: Any, server: Any) -> None:
        """RST_STREAM(NO_ERROR) behind an answer that came early (RFC 9113 section 8.1)."""
        attempt = server.sink
        server.sink.head_received(head())
        client.is_full = True
        attempt.data_received(b"all of it", 9, True)
        attempt.reset_received(0, "no more, please")
        client.sink.drained()
        assert client.reset_code is None
        assert str(world.finished[0].flags) == ""


class TestBlame:
    """What the endpoint is blamed for, once, whatever becomes of the answer."""

    @pytest.mark.parametrize(
        ("status", "report"),
        [
            (200, "succeeded"),
            (404, "succeeded"),
            (429, "overloaded"),
            (500, "error"),
            (503, "gateway-error"),
        ],
    )
    def test_of_rest(self, world: Any, client: Any, server: Any, status: int, report: str) -> None:
        server.respond(status=status)
        assert world.cluster.reports == ["begin open", report]

    @pytest.mark.parametrize(
        ("status", "report"),
        [(b"0", "succeeded"), (b"3", "succeeded"), (b"8", "overloaded"), (b"13", "error"), (b"14", "unavailable")],
    )
    def test_of_grpc(self, world: Any, wire: Any, status: bytes, report: str) -> None:
        world.grpc(wire.spec(b"open"))
        world.cluster.streams[0].respond_grpc(status=status)
        world.grpc(wire.spec(b"open"))
        world.cluster.streams[1].fail_grpc(status)
        assert world.cluster.reports == ["begin open", report] * 2

    def test_a_grpc_answer_that_does_not_say_how_it_went_is_an_error(self, world: Any, wire: Any) -> None:
        world.grpc(wire.spec(b"open"))
        server = world.cluster.streams[0]
        server.sink.head_received(head())
        server.sink.data_received(b"answer", 6, True)
        assert world.cluster.reports == ["begin open", "error"]

    @pytest.mark.parametrize("end", [True, False])
    def test_a_gateway_in_between_answers_grpc_in_http(self, world: Any, wire: Any, end: bool) -> None:
        client = world.grpc(wire.spec(b"open"))
        server = world.cluster.streams[0]
        server.sink.head_received(head(503, end=end))
        assert client.status == 503
        if not end:
            server.sink.data_received(b"sorry", 5, True)
        assert world.cluster.reports == ["begin open", "gateway-error"]
        world.assert_let_go()

    @pytest.mark.parametrize(
        ("refusal", "is_sidecar", "report"),
        [
            (b"overloaded", True, "overloaded"),
            (b"deadline-exceeded", True, "overloaded"),
            (b"no-upstream", True, "gateway-error"),
            (b"overloaded", False, "gateway-error"),  # any server may send that
        ],
    )
    def test_another_sidecar_that_is_overloaded_is_not_to_blame(
        self, world: Any, refusal: bytes, is_sidecar: bool, report: str
    ) -> None:
        world.cluster.all[0].is_sidecar = is_sidecar
        world.rest()
        world.cluster.streams[0].respond(status=503, headers=((b"x-meshproxy-refusal", refusal),))
        assert world.cluster.reports == ["begin open", report]

    def test_an_answer_that_breaks_off_is_a_failure(self, world: Any, client: Any, server: Any) -> None:
        server.sink.head_received(head())
        server.sink.reset_received(CANCEL, "gone")
        assert world.cluster.reports == ["begin open", "reset"]

    def test_an_answer_before_the_requests_end_counts(self, world: Any) -> None:
        client = world.rest(body=None, length=10)
        world.cluster.streams[0].sink.head_received(head(500, end=True))
        assert client.ended
        assert world.cluster.reports == ["begin open", "error"]
        assert world.cluster.streams[0].has_stopped

    def test_a_client_that_leaves_says_nothing_of_the_server(self, world: Any, client: Any, server: Any) -> None:
        client.sink.reset_received(CANCEL, "gone")
        assert world.cluster.reports == ["begin open", "cancelled"]
        world.assert_let_go()

    def test_a_head_that_is_too_long_for_it_says_nothing_either(self, world: Any) -> None:
        def refuse(self: Any, head: Any) -> None:
            raise HeadRefused("the head has 20000 bytes, and the peer takes 16384")

        world.cluster.make_stream = type("Refusing", (world.upstream_type,), {"send_request": refuse})
        client = world.rest()
        assert client.status == 431
        (stream,) = world.cluster.streams
        assert (stream.reset_code, stream.has_stopped) == (None, False)  # it carries nothing of ours
        assert world.cluster.reports == ["begin open", "cancelled"]
        assert str(world.finished[0].flags) == ""
        world.assert_let_go()


class TestCancelled:
    def test_the_model_server_is_told_once(self, world: Any, client: Any, server: Any) -> None:
        attempt = server.sink
        attempt.cancel()
        assert server.reset_code == CANCEL
        server.reset_code = None
        attempt.cancel()
        assert server.reset_code is None

    def test_an_answer_that_has_come_is_not_reset(self, client: Any, server: Any) -> None:
        """Its stream may carry the next exchange by now."""
        attempt = server.sink
        attempt.head_received(head())
        client.is_full = True
        attempt.data_received(b"all of it", 9, True)
        client.sink.reset_received(CANCEL, "gone")
        attempt.cancel()
        assert server.reset_code is None

    def test_a_request_that_has_not_gone_out_whole_is_stopped(self, world: Any) -> None:
        """Or its stream would stay open for ever, although the answer has come."""
        client = world.rest(body=None, length=10)
        (server,) = world.cluster.streams
        client.is_full = True
        server.respond(b"too early")
        client.sink.reset_received(CANCEL, "gone")
        assert server.has_stopped

    def test_a_connection_that_fails_meanwhile_is_dropped(self, world: Any) -> None:
        """A pool tells many at once, and what the first does may end the next."""
        world.cluster.is_ready = False
        client = world.rest()
        waiter = world.cluster.waiting[0]
        client.sink.reset_received(CANCEL, "gone")
        waiter.acquire_failed(ConnectError("refused"))
        assert client.heads == []
        assert world.cluster.reports == ["begin open", "cancelled"]
        assert world.traffic.events == []
        world.assert_let_go()

    def test_what_comes_afterwards_is_dropped(self, world: Any, client: Any, server: Any) -> None:
        attempt = server.sink
        client.sink.reset_received(CANCEL, "gone")
        attempt.reset_received(CANCEL, "so are we")
        assert client.heads == []
        assert len(world.finished) == 1


class TestLate:
    """The client's connection may carry its next exchange by now: nothing of this one may be written there."""

    @pytest.mark.parametrize("what", ["head", "data", "trailers", "reset"])
    def test_what_comes_for_an_exchange_that_is_over_is_dropped(
        self, world: Any, client: Any, server: Any, what: str
    ) -> None:
        attempt = server.sink
        attempt.head_received(head())
        client.sink.finish()
        heads, body = len(client.heads), client.body
        if what == "head":
            attempt.head_received(head())
        elif what == "data":
            attempt.data_received(b"late", 4, True)
        elif what == "trailers":
            attempt.trailers_received(())
        else:
            attempt.reset_received(CANCEL, "gone")
        assert (len(client.heads), client.body, client.trailers) == (heads, body, None)
        assert client.reset_code is None
        assert len(world.finished) == 1


class Socket:
    """A transport that takes everything, for a real connection between a client and the pipeline."""

    def __init__(self) -> None:
        self.written = b""
        self.is_over = False

    def write(self, data: bytes) -> None:
        self.written += data

    def writelines(self, pieces: list[bytes]) -> None:
        self.write(b"".join(pieces))

    def is_closing(self) -> bool:
        return self.is_over

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> None:
        """It has no socket."""

    def abort(self) -> None:
        self.is_over = True

    close = abort

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def set_write_buffer_limits(self, high: int) -> None: ...


def test_trailers_behind_a_piece_that_a_slow_client_over_http_1_has_not_taken(world: Any) -> None:
    """The exchange ends, and leaves the connection to the next."""
    loop: Any = SimpleNamespace(time=world.loop.time, call_soon=lambda callback, *arguments: callback(*arguments))
    shared = ConnectionContext(
        loop=loop,
        outbox=Outbox(loop),
        reaper=world.reaper,
        limits=Limits(),
        times=Times(),
        on_limit=world.limits_hit.append,
    )
    info = ConnectionInfo(direction="inbound", protocol="HTTP/1.1", remote="127.0.0.1:1", local="127.0.0.1:2")
    connection, socket = H1Server(shared, info, world.pipeline.serve, world.pipeline.reject), Socket()
    connection.attach(socket)  # type: ignore[arg-type]
    connection.data_received(b"GET /v1/models/open HTTP/1.1\r\nhost: x\r\n\r\n")
    attempt = world.cluster.streams[0].sink
    attempt.head_received(head())
    connection.pause_writing()
    attempt.data_received(b"abc", 3, False)
    attempt.trailers_received(((b"x-checksum", b"1"),))
    connection.resume_writing()
    assert len(world.finished) == 1
    assert world.pipeline.live == set()

    connection.data_received(b"GET /v1/models/open HTTP/1.1\r\nhost: x\r\n\r\n")
    for _ in range(3):
        world.loop.advance(world.snapshot.limits.stall + 0.1)
        world.reaper.sweep(world.loop.now)
    world.cluster.streams[1].respond(b"answer")
    assert not socket.is_over
    assert len(world.finished) == 2


@pytest.mark.parametrize("command", ["send_response", "send_data", "send_trailers"])
def test_a_defect_does_not_reach_the_connection_that_others_share(
    world: Any, wire: Any, command: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = world.grpc(wire.spec(b"open"))
    other = world.grpc(wire.spec(b"open"))
    server, neighbour = world.cluster.streams
    attempt = server.sink

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("a defect")

    setattr(client, command, fail)
    attempt.head_received(head())
    attempt.data_received(b"abc", 3, False)
    if command == "send_trailers":
        attempt.trailers_received(((b"grpc-status", b"0"),))
    assert client.reset_code is not None
    assert len(world.finished) == 1
    assert "internal error" in caplog.text
    neighbour.respond_grpc()
    assert other.ended
