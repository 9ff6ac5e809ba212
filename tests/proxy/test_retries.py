"""The attempts of one request alone; then conversations: when a call is made again, where, and what becomes of its
body meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.codec.events import Headers, RequestHead, ResponseHead
from meshproxy.config.routes import Retries as RetrySettings
from meshproxy.config.routes import RetryWord
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.proxy.attempt import Attempt
from meshproxy.proxy.client_side import BEGUN
from meshproxy.proxy.client_side import OVER as CLIENT_OVER
from meshproxy.proxy.retries import Retries
from meshproxy.proxy.snapshot import BodyLimits
from meshproxy.refusal import Reason, Refusal
from meshproxy.routing.deadline import REST_HEADER
from meshproxy.routing.failure import Failure
from meshproxy.routing.retry import RetryBudget, RetryRule
from meshproxy.routing.routes import Route, Routes
from meshproxy.routing.split import Arm
from meshproxy.transport.connect_failures import ConnectError
from meshproxy.transport.h2_client import GOING_AWAY
from meshproxy.transport.stream import HeadRefused
from meshproxy.upstream.cluster import NoEndpoint
from meshproxy.upstream.pool import PoolFull
from tests.proxy.fakes import FakeDownstream, FakeUpstream, RecordedRequest, Surroundings, full_upstream
from tests.thorough import tries

INTERNAL_ERROR, CANCEL, REFUSED_STREAM = 0x2, 0x8, 0x7
RELOAD = b"/tensorflow.serving.ModelService/HandleReloadConfigRequest"
RETRIES = RetrySettings()


@pytest.fixture
def cluster(world: Any) -> Any:
    """Two endpoints, and every retry that there may be."""
    return world.serve(2, retries=RETRIES)


def head(status: int = 200, *, end: bool = False, headers: Headers = ()) -> ResponseHead:
    return ResponseHead(0, status, headers, end)


class Alone:
    """The attempts of one request: a recording request above, fake endpoints below."""

    def __init__(
        self,
        settings: RetrySettings = RETRIES,
        *,
        endpoints: int = 2,
        is_grpc: bool = False,
        verb: Verb = Verb.PREDICT,
        ended: bool = True,
        has_fallback: bool = False,
        limits: BodyLimits | None = None,
        budget: RetryBudget | None = None,
        try_timeout: float | None = None,
        timeout: float | None = None,
        key: int | None = None,
        refuses_late: bool = False,
    ) -> None:
        around = self.around = Surroundings(endpoints=endpoints, limits=limits)
        self.loop, self.cluster, self.other = around.loop, around.cluster, around.other
        self.client = FakeDownstream()
        request = self.request = RecordedRequest(
            around.context, self.client, RequestHead(1, b"POST", b"host", b"/v1/models/open:predict", (), ended)
        )
        request.is_grpc = is_grpc
        request.asked = request.forwarded = Call(verb, (ModelRef("open"),))
        if timeout is not None:
            request.limit_time(timeout)
        self.budget = budget or RetryBudget(1.0, 100.0)
        route = Route(
            "route",
            "main",
            retry=RetryRule(settings),
            budget=self.budget,
            try_timeout=try_timeout,
            refuses_late=refuses_late,
        )
        fallback = self.other.real if has_fallback else None
        self.retries = Retries(request, route, self.cluster.real, fallback, key)
        request.on_abandon = lambda: self.retries.finish(is_sent=False)
        request.on_closed = lambda is_whole: self.retries.finish(request.request_ended)
        request.on_timed_out = self.retries.deadline_passed

    def begin(self) -> Alone:
        self.retries.begin(self.loop.now)
        return self

    def send(self, data: bytes, end: bool) -> bool:
        """A piece of the body comes."""
        self.request.request_ended = end
        if end and self.request.received:
            self.request.received = self.loop.now
        return self.retries.send(data, end)

    @property
    def streams(self) -> list[FakeUpstream]:
        return self.cluster.streams

    @property
    def replay_bytes(self) -> int:
        return self.around.context.replay_bytes

    @property
    def events(self) -> list[tuple[str, ...]]:
        return self.around.traffic.events


FAILURES: dict[RetryWord, Callable[[FakeUpstream], None]] = {
    "refused-stream": lambda stream: stream.reader.reset_received(REFUSED_STREAM, "busy"),
    "goaway": lambda stream: stream.reader.reset_received(REFUSED_STREAM, GOING_AWAY),
    "reset": lambda stream: stream.reader.reset_received(CANCEL, "gone"),
    "gateway-error": lambda stream: stream.respond(status=503),
    "unavailable": lambda stream: stream.respond_grpc(b"", b"14") if stream.body else stream.fail_grpc(),
}
EVERY_REASON: tuple[RetryWord, ...] = get_args(RetryWord)


class TestReasons:
    @pytest.mark.parametrize("failure", FAILURES)
    def test_one_that_the_route_names_is_retried(self, failure: RetryWord) -> None:
        made = Alone(RetrySettings(reasons=(failure,)), is_grpc=failure == "unavailable").begin()
        FAILURES[failure](made.streams[0])
        assert len(made.streams) == 2
        assert made.events == [("retried", failure)]
        assert made.client.heads == []

    @pytest.mark.parametrize("failure", FAILURES)
    def test_one_that_it_does_not_name_is_not_and_is_not_counted(self, failure: RetryWord) -> None:
        others = tuple(reason for reason in EVERY_REASON if reason != failure)
        made = Alone(RetrySettings(reasons=others), is_grpc=failure == "unavailable").begin()
        FAILURES[failure](made.streams[0])
        assert (len(made.streams), made.events) == (1, [])
        assert made.request.answer is CLIENT_OVER
        made.around.assert_nothing_left()

    def test_a_connection_that_cannot_be_had(self) -> None:
        made = Alone(RetrySettings(reasons=("connect-failure",)))
        made.cluster.all[0].pool.error = ConnectError("refused")
        made.begin()
        assert made.events == [("retried", "connect-failure")]
        assert made.streams[0].head is not None

    def test_an_attempt_that_takes_too_long(self) -> None:
        made = Alone(RetrySettings(reasons=("timeout",)), try_timeout=0.5).begin()
        made.loop.advance(0.5)
        assert made.events == [("retried", "timeout")]
        assert [stream.reset_code for stream in made.streams] == [CANCEL, None]

    @pytest.mark.parametrize(("comes", "due"), [(0.1, 0.6), (0.7, 1.2), (1.4, 1.9)])
    def test_its_time_begins_with_the_end_of_the_request(self, comes: float, due: float) -> None:
        """The client keeps back a part of it, and the endpoint waits for that."""
        made = Alone(RetrySettings(reasons=("timeout",)), try_timeout=0.5, ended=False).begin()
        began = made.loop.now
        made.send(b"bo", False)
        made.loop.advance(comes)
        made.send(b"dy", True)
        made.loop.advance(began + due - 0.01 - made.loop.now)
        assert made.events == []
        made.loop.advance(0.02)
        assert made.events == [("retried", "timeout")]
        assert made.cluster.all[0].reports == ["begin open", "timeout"]

    def test_a_client_that_never_sends_the_rest_blames_nobody(self) -> None:
        made = Alone(try_timeout=0.5, ended=False).begin()
        made.send(b"bo", False)
        made.loop.advance(5.0)
        assert made.cluster.all[0].reports == ["begin open"]
        made.retries.finish(is_sent=False)
        assert made.cluster.all[0].reports == ["begin open", "cancelled"]
        assert not made.loop.pending

    def test_an_endpoint_that_does_not_read_has_the_time_from_the_head(self) -> None:
        made = Alone(RetrySettings(reasons=("timeout",)), try_timeout=0.5, ended=False).begin()
        made.request.is_full = True
        made.send(b"bo", False)
        made.loop.advance(0.5)
        assert made.cluster.all[0].reports == ["begin open", "timeout"]


class TestSkipped:
    """Each reason for which a failed call is not tried again, as it is counted."""

    def skip(self, made: Alone, failure: RetryWord = "reset") -> str:
        FAILURES[failure](made.streams[-1])
        name, _, skip = made.events[-1]
        assert name == "skipped"
        made.around.assert_nothing_left()
        return skip

    def test_verb(self) -> None:
        made = Alone(verb=Verb.RELOAD).begin()
        assert self.skip(made) == "verb"
        assert made.client.status == 502

    def test_attempts(self) -> None:
        made = Alone(RetrySettings(attempts=2)).begin()
        FAILURES["reset"](made.streams[0])
        assert self.skip(made) == "attempts"

    def test_body_because_it_is_longer_than_what_the_route_keeps(self) -> None:
        made = Alone(RetrySettings(replay_bytes=2), ended=False).begin()
        made.send(b"abc", True)
        assert self.skip(made) == "body"

    def test_answered(self) -> None:
        made = Alone().begin()
        made.streams[0].reader.head_received(head())
        assert self.skip(made) == "answered"
        assert made.client.reset_code == INTERNAL_ERROR

    def test_deadline(self) -> None:
        made = Alone(timeout=10.0).begin()
        made.loop.now += 10.0
        assert self.skip(made) == "deadline"

    def test_no_endpoint(self) -> None:
        made = Alone(endpoints=1).begin()
        made.cluster.out.add("endpoint-0")
        assert self.skip(made) == "no-endpoint"

    def test_budget(self) -> None:
        made = Alone(budget=RetryBudget(0.0, 0.1)).begin()
        assert made.budget.withdraw(made.loop.now)
        assert self.skip(made) == "budget"

    def test_a_route_that_makes_one_attempt_counts_nothing(self) -> None:
        made = Alone(RetrySettings(attempts=1)).begin()
        FAILURES["reset"](made.streams[0])
        assert made.events == []


class TestReplay:
    def test_what_was_sent_is_sent_again(self) -> None:
        made = Alone(ended=False).begin()
        made.send(b"ab", False)
        made.send(b"cd", True)
        assert made.replay_bytes == 4
        FAILURES["reset"](made.streams[0])
        assert (made.streams[1].body, made.streams[1].ended) == (b"abcd", True)
        made.streams[1].respond()
        made.around.assert_nothing_left()

    @pytest.mark.parametrize(
        ("replay_bytes", "kept_total", "kept"), [(4, 100, 4), (3, 100, 0), (100, 4, 4), (100, 3, 0)]
    )
    def test_within_both_limits(self, replay_bytes: int, kept_total: int, kept: int) -> None:
        settings = RetrySettings(replay_bytes=replay_bytes)
        made = Alone(settings, ended=False, limits=BodyLimits(replay_buffer_total=kept_total)).begin()
        made.send(b"ab", False)
        assert made.replay_bytes == 2
        made.send(b"cd", True)
        assert made.replay_bytes == kept
        assert made.streams[0].body == b"abcd"

    def test_an_empty_end_is_kept_too(self) -> None:
        made = Alone(ended=False).begin()
        made.send(b"", True)
        FAILURES["reset"](made.streams[0])
        assert made.streams[1].ended

    @pytest.mark.parametrize("end", ["answer", "client leaves", "refusal"])
    def test_it_is_dropped(self, end: str) -> None:
        made = Alone(ended=False).begin()
        made.send(b"abcd", False)
        if end == "answer":
            made.streams[0].reader.head_received(head())
        elif end == "client leaves":
            made.request.reset_received(CANCEL, "gone")
        else:
            made.request.refuse(Refusal(Reason.OVERLOADED, "no"))
        assert made.replay_bytes == 0

    def test_without_a_second_attempt_nothing_is_kept(self) -> None:
        made = Alone(RetrySettings(attempts=1), ended=False).begin()
        made.send(b"abcd", True)
        assert made.replay_bytes == 0

    def test_a_stream_that_buffers_is_told_by_send(self) -> None:
        made = Alone(ended=False).begin()
        assert made.send(b"ab", False)
        made.streams[0].is_full = True
        assert not made.send(b"cd", False)
        made.streams[0].reader.drained()
        assert made.request.hooks[-1] == "upstream_drained"


class TestBackOff:
    def test_the_first_retry_goes_out_at_once(self) -> None:
        made = Alone(endpoints=3).begin()
        FAILURES["reset"](made.streams[0])
        assert (len(made.streams), made.loop.pending) == (2, [])

    def test_the_second_waits_for_a_drawn_time(self) -> None:
        made = Alone(RetrySettings(backoff=0.1, backoff_max=1.0), endpoints=3).begin()
        FAILURES["reset"](made.streams[0])
        made.around.draws.append(0.3)
        FAILURES["reset"](made.streams[1])
        (timer,) = made.loop.pending
        assert timer.when() == pytest.approx(made.loop.now + 0.03)
        assert (made.retries.current, made.retries.upstream) == (None, None)
        made.loop.advance(0.03)
        assert len(made.streams) == 3

    def test_the_same_endpoint_is_given_a_moment(self) -> None:
        made = Alone(RetrySettings(backoff=0.1), endpoints=1).begin()
        FAILURES["reset"](made.streams[0])
        assert len(made.streams) == 1
        made.loop.advance(0.05)
        assert len(made.streams) == 2

    def test_it_ends_with_the_request(self) -> None:
        made = Alone(endpoints=1).begin()
        FAILURES["reset"](made.streams[0])
        made.request.reset_received(CANCEL, "gone")
        made.around.assert_nothing_left()

    def test_no_endpoint_may_be_left_after_it(self) -> None:
        made = Alone(endpoints=1).begin()
        FAILURES["reset"](made.streams[0])
        made.cluster.no_endpoint = NoEndpoint("down")
        made.loop.advance(1.0)
        assert (made.client.status, str(made.request.flags)) == (503, "UH")
        made.around.assert_nothing_left()


class TestHedging:
    def hedged(self, **changes: Any) -> Alone:
        made = Alone(RetrySettings(hedge_after=0.1), ended=False, **changes).begin()
        made.send(b"body", True)
        made.loop.advance(0.1)
        return made

    @pytest.mark.parametrize("winner", [0, 1])
    def test_the_first_that_answers_wins_and_the_other_is_cancelled(self, winner: int) -> None:
        made = self.hedged()
        assert [stream.body for stream in made.streams] == [b"body", b"body"]
        made.streams[winner].respond(b"won")
        assert made.client.body == b"won"
        assert made.streams[1 - winner].reset_code == CANCEL
        assert made.cluster.all[1 - winner].reports == ["begin open", "cancelled"]
        assert (made.events, made.retries.count) == ([("hedged",)], 2)
        made.around.assert_nothing_left()

    @pytest.mark.parametrize("winner", [0, 1])
    def test_with_the_head_of_an_answer_there_is_one_attempt(self, winner: int) -> None:
        made = self.hedged()
        stream = made.streams[winner]
        stream.reader.head_received(head())
        assert made.streams[1 - winner].reset_code == CANCEL
        assert made.retries.upstream is stream
        assert made.retries.current is stream.sink

    @pytest.mark.parametrize("fails", [0, 1])
    def test_one_that_fails_leaves_it_to_the_other(self, fails: int) -> None:
        made = self.hedged()
        FAILURES["gateway-error"](made.streams[fails])
        assert made.client.heads == []
        assert made.retries.upstream is made.streams[1 - fails]
        made.streams[1 - fails].respond(b"won")
        assert (made.client.body, made.events) == (b"won", [("hedged",)])
        made.around.assert_nothing_left()

    def test_interim_heads_of_the_second_are_dropped(self) -> None:
        made = self.hedged()
        made.streams[1].reader.head_received(head(103))
        made.streams[0].reader.head_received(head(103))
        assert [status for status, _ in made.client.heads] == [103]

    @pytest.mark.parametrize("why", ["verb", "no other endpoint", "budget"])
    def test_none_is_made(self, why: str) -> None:
        budget = RetryBudget(0.0, 0.1)
        if why == "budget":
            budget.withdraw(100.0)
        made = self.hedged(
            endpoints=1 if why == "no other endpoint" else 2,
            verb=Verb.RELOAD if why == "verb" else Verb.PREDICT,
            budget=budget,
        )
        assert (len(made.streams), made.events) == (1, [])

    @pytest.mark.parametrize("why", ["not whole", "not sent on", "not kept", "answered"])
    def test_none_is_made_either(self, why: str) -> None:
        settings = RetrySettings(hedge_after=0.1, replay_bytes=3 if why == "not kept" else 100)
        made = Alone(settings, ended=False).begin()
        made.send(b"body", why not in ("not whole", "not sent on"))
        if why == "not sent on":  # the rest has come, and waits for its turn to be scanned
            made.request.request_ended = True
        if why == "answered":
            made.streams[0].reader.head_received(head())
        made.loop.advance(0.1)
        assert (len(made.streams), made.events) == (1, [])


class TestFallback:
    def test_where_no_endpoint_can_be_called(self) -> None:
        made = Alone(has_fallback=True)
        made.cluster.no_endpoint = NoEndpoint("down")
        made.begin()
        assert len(made.other.streams) == 1
        assert made.events == [("fell back",)]

    def test_without_one_the_request_is_refused(self) -> None:
        made = Alone()
        made.cluster.no_endpoint = NoEndpoint("down", 2.5)
        made.begin()
        assert (made.client.status, made.client.headers[b"retry-after"]) == (503, b"3")
        assert str(made.request.flags) == "UH"
        made.around.assert_nothing_left()

    def test_only_once(self) -> None:
        made = Alone(has_fallback=True)
        made.cluster.no_endpoint = made.other.no_endpoint = NoEndpoint("down")
        made.begin()
        assert made.events == [("fell back",)]
        assert made.client.status == 503

    def test_after_the_last_attempt_that_was_not_sent(self) -> None:
        made = Alone(RetrySettings(attempts=1), has_fallback=True)
        made.cluster.all[0].pool.error = ConnectError("refused")
        made.begin()
        assert len(made.other.streams) == 1

    def test_not_with_a_body_that_is_not_kept(self) -> None:
        made = Alone(RetrySettings(attempts=1), has_fallback=True, ended=False).begin()
        made.send(b"abc", True)
        FAILURES["refused-stream"](made.streams[0])
        assert (made.other.streams, made.client.status) == ([], 502)


class TestDeadlineGate:
    def slow(self, **changes: Any) -> Alone:
        made = Alone(timeout=0.5, **{"refuses_late": True, **changes})
        latency = made.cluster.latency("open")
        for _ in range(20):
            latency.add(1.0, made.loop.now)
        assert latency.should_refuse(0.5, made.loop.now) or latency.should_refuse(0.5, made.loop.now)
        return made

    def test_a_call_that_would_come_too_late_is_refused(self) -> None:
        made = self.slow()
        with pytest.raises(Refusal) as raised:
            made.begin()
        assert (raised.value.reason, raised.value.limit) == (Reason.DEADLINE_EXCEEDED, "deadline")
        assert str(made.request.flags) == "UT"
        assert made.streams == []

    def test_not_unless_the_route_asks_for_it(self) -> None:
        made = self.slow(refuses_late=False)
        made.begin()
        assert len(made.streams) == 1

    def test_not_one_that_runs_no_model(self) -> None:
        made = self.slow(verb=Verb.STATUS)
        made.begin()
        assert len(made.streams) == 1

    def test_answers_teach_it_and_failures_do_not(self) -> None:
        made = Alone(timeout=60.0, refuses_late=True).begin()
        made.loop.now += 1.0
        FAILURES["gateway-error"](made.streams[0])
        assert len(made.cluster.latency("open")._answers) == 0
        made.loop.now += 2.0
        made.streams[1].respond()
        assert [seconds for _, seconds in made.cluster.latency("open")._answers] == [2.0]

    def test_a_deadline_that_passes_blames_a_silent_endpoint(self) -> None:
        made = Alone(timeout=2.0).begin()
        made.loop.now += 2.0
        made.request.time_out()
        assert made.cluster.reports == ["begin open", "timeout"]
        assert made.client.status == 504
        made.around.assert_nothing_left()


class TestAServerWhoseClockIsFirst:
    """It was told the rest of the time, rounded down, and cancels the call when that is up, as grpc-go does."""

    def made(self, before: float, *, is_grpc: bool = True, timeout: float | None = 0.5) -> Alone:
        made = Alone(RetrySettings(reasons=EVERY_REASON), is_grpc=is_grpc, timeout=timeout).begin()
        made.loop.now += 0.5 - before
        return made

    @pytest.mark.parametrize("before", [0.004, 0.001, 0.0, -0.01])
    @pytest.mark.parametrize("has_head", [False, True])
    def test_is_the_deadline(self, before: float, has_head: bool) -> None:
        made = self.made(before)
        if has_head:
            made.streams[0].reader.head_received(head())
        made.streams[0].reader.reset_received(CANCEL, "the peer reset the stream")
        assert made.client.headers[b"grpc-status"] == b"4"
        assert made.request.refusal is not None
        assert (made.request.refusal.reason, str(made.request.flags)) == (Reason.DEADLINE_EXCEEDED, "UT")
        assert (made.events, made.cluster.reports) == ([], ["begin open", "cancelled"])  # nobody is to blame
        made.around.assert_nothing_left()

    def test_one_that_was_silent_is_to_blame_as_ever(self) -> None:
        made = self.made(0.001 - 1.0, timeout=1.5)
        made.streams[0].reader.reset_received(CANCEL, "the peer reset the stream")
        assert made.cluster.reports == ["begin open", "timeout"]

    @pytest.mark.parametrize("code", [CANCEL, INTERNAL_ERROR])
    def test_what_comes_earlier_is_a_failure(self, code: int) -> None:
        made = self.made(0.006 if code == CANCEL else 0.001)
        made.streams[0].reader.reset_received(code, "the peer reset the stream")
        assert made.events == [("retried", "reset")]

    def test_so_is_a_reset_without_a_deadline(self) -> None:
        made = self.made(0.0, timeout=None)
        made.streams[0].reader.reset_received(CANCEL, "the peer reset the stream")
        assert made.events == [("retried", "reset")]

    def test_rest_has_no_such_servers(self) -> None:
        made = self.made(0.001, is_grpc=False)
        made.streams[0].reader.reset_received(CANCEL, "the peer closed the connection")
        assert made.events == [("retried", "reset")]


class TestAHeadBeforeTheRequestsEnd:
    """That of a gRPC response commits the call to its attempt (gRPC proposal A6)."""

    @pytest.fixture
    def made(self) -> Alone:
        made = Alone(RetrySettings(reasons=EVERY_REASON), is_grpc=True, ended=False, timeout=60.0, has_fallback=True)
        made.begin().send(b"first", False)
        made.streams[0].reader.head_received(head())
        return made

    def test_it_is_passed_on_and_nothing_is_kept(self, made: Alone) -> None:
        assert (made.client.status, made.request.answer, made.replay_bytes) == (200, BEGUN, 0)
        assert made.send(b"second", True)
        assert made.streams[0].body == b"firstsecond"

    @pytest.mark.parametrize("code", [CANCEL, REFUSED_STREAM])
    @pytest.mark.parametrize("reason", ["gone", GOING_AWAY])
    def test_a_reset_behind_it_is_told_in_trailers(self, made: Alone, code: int, reason: str) -> None:
        made.streams[0].reader.reset_received(code, reason)
        assert made.events == [("skipped", "reset", "answered")]
        assert dict(made.client.trailers or ())[b"grpc-status"] == b"14"
        assert (len(made.streams), made.other.streams, str(made.request.flags)) == (1, [], "UC")
        assert made.cluster.reports == ["begin open", "reset"]
        made.around.assert_nothing_left()

    def test_a_status_behind_it_is_the_servers(self, made: Alone) -> None:
        made.streams[0].reader.trailers_received(((b"grpc-status", b"14"), (b"x", b"y")))
        assert made.events == [("skipped", "unavailable", "answered")]
        assert made.client.trailers == ((b"grpc-status", b"14"), (b"x", b"y"))
        assert made.cluster.reports == ["begin open", "unavailable"]

    def test_with_a_status_of_its_own_it_is_tried_again(self) -> None:
        made = Alone(RetrySettings(), is_grpc=True, ended=False).begin()
        made.streams[0].fail_grpc()
        assert (made.events, made.client.heads) == ([("retried", "unavailable")], [])

    @pytest.mark.parametrize("comes", [False, True])
    def test_a_deadline_behind_it_finds_an_endpoint_that_hangs(self, made: Alone, comes: bool) -> None:
        made.send(b"rest", True)
        if comes:
            made.streams[0].reader.data_received(b"answer", 6, False)
        made.loop.now += 2.0
        made.request.time_out()
        assert made.cluster.reports == ["begin open", "cancelled" if comes else "timeout"]
        made.around.assert_nothing_left()

    def test_it_ends_the_time_of_the_attempt(self) -> None:
        made = Alone(RetrySettings(reasons=("timeout",)), is_grpc=True, ended=False, try_timeout=0.5).begin()
        made.streams[0].reader.head_received(head())
        made.send(b"rest", True)
        made.loop.advance(5.0)
        assert (made.events, made.request.answer) == ([], BEGUN)

    def test_and_needs_no_second_attempt_beside_it(self) -> None:
        made = Alone(RetrySettings(hedge_after=0.1), is_grpc=True, ended=False).begin()
        made.streams[0].reader.head_received(head())
        made.send(b"rest", True)
        made.loop.advance(5.0)
        assert len(made.streams) == 1


class TestCommit:
    def test_the_head_is_cleaned_and_sent(self) -> None:
        made = Alone().begin()
        made.streams[0].reader.head_received(head(headers=((b"a", b"b"), (b"x-meshproxy-refusal", b"forged"))))
        assert made.client.headers == {b"a": b"b"}
        assert made.request.answer is BEGUN

    def test_the_endpoint_that_answered_is_recorded(self) -> None:
        made = Alone().begin()
        FAILURES["reset"](made.streams[0])
        made.streams[1].address = "second:1"
        made.streams[1].respond()
        assert (made.request.upstream, len(made.request.attempts)) == ("second:1", 2)

    @pytest.mark.parametrize(
        ("code", "sent", "flag"), [(CANCEL, INTERNAL_ERROR, "UC"), (0x1, 0x1, "UPE"), (0x3, 0x3, "UC")]
    )
    def test_a_break_is_passed_on(self, code: int, sent: int, flag: str) -> None:
        made = Alone().begin()
        made.streams[0].reader.head_received(head())
        made.streams[0].reader.reset_received(code, "gone")
        assert (made.client.reset_code, str(made.request.flags)) == (sent, flag)
        made.around.assert_nothing_left()

    def test_a_status_that_comes_late_is_counted(self) -> None:
        made = Alone(is_grpc=True).begin()
        made.streams[0].respond_grpc(status=b"14")
        assert made.events == [("skipped", "unavailable", "answered")]
        assert made.client.trailers == ((b"grpc-status", b"14"),)

    @pytest.mark.parametrize("is_full", [False, True])
    def test_a_request_that_has_not_gone_out_whole_is_stopped(self, is_full: bool) -> None:
        made = Alone(ended=False).begin()
        made.streams[0].is_full = is_full
        made.send(b"body", True)
        made.streams[0].respond()
        assert made.streams[0].has_stopped == is_full
        assert made.streams[0].reset_code is None
        made.around.assert_nothing_left()

    def test_each_attempt_sends_the_head_and_what_is_left_of_the_time(self) -> None:
        made = Alone(timeout=10.0, key=7).begin()
        made.loop.now += 4.0
        FAILURES["reset"](made.streams[0])
        heads = [stream.head for stream in made.streams]
        assert [dict(each.headers)[REST_HEADER] for each in heads if each is not None] == [b"10000", b"6000"]
        assert made.cluster.picked == [("open", 7), ("open", 7)]


STEPS = st.one_of(
    st.tuples(
        st.sampled_from(
            [
                "head",
                "interim",
                "503",
                "data",
                "end",
                "trailers 0",
                "trailers 14",
                "reset",
                "refused",
                "drained",
                "full",
            ]
        ),
        st.integers(0, 5),
    ),
    st.tuples(st.sampled_from(["body", "body end", "give", "down", "later", "soon"]), st.integers(0, 2)),
    st.tuples(st.sampled_from(["client leaves", "deadline", "client full", "client drained"]), st.just(0)),
)


def happen(made: Alone, what: str, which: int, sent: bytearray) -> None:
    """One step of the test below."""
    request, retries, cluster = made.request, made.retries, made.cluster
    streams = [*cluster.streams, *made.other.streams]
    stream = streams[which] if which < len(streams) else None
    reader = stream.sink if stream is not None and stream.reset_code is None else None
    if what in ("body", "body end"):
        if retries.upstream is not None and not request.request_ended and request.refusal is None:
            sent += b"x" * (which + 1)
            made.send(b"x" * (which + 1), what == "body end")
    elif what == "give":
        for endpoint in cluster.all:
            if endpoint.pool.waiting:
                endpoint.pool.give(endpoint.pool.waiting.pop())
    elif what == "down":
        cluster.all[which].pool.error = None if cluster.all[which].pool.error else ConnectError("refused")
    elif what in ("later", "soon"):
        made.loop.advance(0.2 if what == "later" else 0.01)
    elif what == "client leaves":
        request.reset_received(CANCEL, "gone")
    elif what == "deadline":
        request.time_out()
    elif what == "client full":
        made.client.is_full = True
    elif what == "client drained":
        made.client.is_full = False
        request.drained()
    elif what == "full" and stream is not None:
        stream.is_full = not stream.is_full
    elif reader is not None and isinstance(reader, Attempt):
        if what in ("head", "interim", "503"):
            reader.head_received(head({"head": 200, "interim": 103, "503": 503}[what]))
        elif what in ("data", "end"):
            reader.data_received(b"abc", 3, what == "end")
        elif what.startswith("trailers"):
            reader.trailers_received(((b"grpc-status", what[9:].encode()),))
        elif what == "drained":
            reader.drained()
        else:
            reader.reset_received(CANCEL if what == "reset" else REFUSED_STREAM, "gone")


@settings(max_examples=tries(300))
@given(
    steps=st.lists(STEPS, max_size=25),
    is_grpc=st.booleans(),
    ended=st.booleans(),
    hedge_after=st.sampled_from([None, 0.01]),
    replay_bytes=st.sampled_from([2, 1000]),
    has_fallback=st.booleans(),
    waits=st.booleans(),
)
def test_whatever_the_attempts_do_one_answer_begins_at_most_and_nothing_is_left(
    steps: list[tuple[str, int]],
    is_grpc: bool,
    ended: bool,
    hedge_after: float | None,
    replay_bytes: int,
    has_fallback: bool,
    waits: bool,
) -> None:
    settings = RetrySettings(
        attempts=5, reasons=EVERY_REASON, replay_bytes=replay_bytes, hedge_after=hedge_after, backoff=0.01
    )
    made = Alone(
        settings, endpoints=3, is_grpc=is_grpc, ended=ended, has_fallback=has_fallback, try_timeout=0.15, timeout=60.0
    )
    for endpoint in made.cluster.all:
        endpoint.pool.is_ready = not waits
    sent = bytearray()
    made.begin()
    for what, which in steps:
        was_over = made.request.answer is CLIENT_OVER
        heads, body = len(made.client.heads), made.client.body
        happen(made, what, which, sent)
        if was_over:
            assert (len(made.client.heads), made.client.body) == (heads, body)
        upstream = made.retries.upstream
        if upstream is not None:
            assert isinstance(upstream, FakeUpstream)
            assert upstream.body == bytes(sent)
            assert upstream.reset_code is None
        assert 0 <= made.replay_bytes <= replay_bytes
        readers = [stream.sink for stream in made.streams + made.other.streams]
        active = [each for each in readers if isinstance(each, Attempt) and not each.is_over]
        assert len(active) <= (1 if made.request.answer is BEGUN or hedge_after is None else 2)
        assert made.retries.count <= 5 + (hedge_after is not None) + has_fallback
    made.request.reset_received(CANCEL, "gone")
    assert made.request.answer is CLIENT_OVER
    assert sum(status >= 200 for status, _ in made.client.heads) <= 1
    assert made.around.finished == [made.request]
    assert len(made.request.attempts) == made.retries.count
    made.around.assert_nothing_left()


# Conversations


class TestRetried:
    @pytest.mark.parametrize("status", [502, 503, 504])
    def test_rest_answers_of_gateways(self, world: Any, cluster: Any, status: int) -> None:
        client = world.rest(body=b"body")
        cluster.streams[0].respond(b"sorry", status)
        cluster.streams[1].respond(b"answer")
        assert (client.status, client.body) == (200, b"answer")
        assert cluster.streams[1].body == b"body"
        assert [endpoint.reports for endpoint in cluster.all] == [
            ["begin open", "gateway-error"],
            ["begin open", "succeeded"],
        ]
        assert world.traffic.events == [("retried", "gateway-error")]
        assert len(world.finished[0].attempts) == 2
        world.assert_let_go()

    def test_unavailable_in_trailers_only(self, world: Any, wire: Any, cluster: Any) -> None:
        client = world.grpc(wire.spec(b"open"))
        cluster.streams[0].fail_grpc()
        cluster.streams[1].respond_grpc()
        assert client.body == b"answer"
        assert world.finished[0].grpc_status == 0
        world.assert_let_go()

    def test_unavailable_in_trailers_behind_a_head(self, world: Any, wire: Any, cluster: Any) -> None:
        """The status of a gRPC call comes at its end: the head is held until then."""
        client = world.grpc(wire.spec(b"open"))
        first = cluster.streams[0].sink
        first.head_received(head())
        assert client.heads == []
        first.trailers_received(((b"grpc-status", b"14"),))
        assert client.heads == []
        cluster.streams[1].respond_grpc()
        assert (client.status, client.body) == (200, b"answer")
        world.assert_let_go()

    @pytest.mark.parametrize(
        ("code", "reason", "failure"),
        [
            (CANCEL, "gone", "reset"),
            (REFUSED_STREAM, "busy", "refused-stream"),
            (REFUSED_STREAM, GOING_AWAY, "goaway"),
        ],
    )
    def test_what_broke_off(self, world: Any, cluster: Any, code: int, reason: str, failure: str) -> None:
        client = world.rest()
        cluster.streams[0].sink.reset_received(code, reason)
        cluster.streams[1].respond()
        assert client.status == 200
        assert world.traffic.events == [("retried", failure)]
        assert cluster.all[0].reports == ["begin open", failure]
        world.assert_let_go()

    def test_no_connection(self, world: Any, cluster: Any) -> None:
        cluster.all[0].pool.error = ConnectError("refused")
        client = world.rest()
        cluster.streams[0].respond()
        assert client.status == 200
        assert cluster.all[0].reports == ["begin open", "connect-failure"]
        world.assert_let_go()

    def test_no_answer_within_the_try_timeout(self, world: Any) -> None:
        cluster = world.serve(2, retries=RetrySettings(reasons=("timeout",)), try_timeout=0.5)
        client = world.rest()
        world.wait(0.5)
        assert cluster.streams[0].reset_code == CANCEL
        cluster.streams[0].sink.reset_received(CANCEL, "as you wish")
        cluster.streams[1].respond()
        assert client.status == 200
        assert cluster.all[0].reports == ["begin open", "timeout"]
        world.wait(1)
        world.assert_let_go()

    def test_the_last_answer_is_the_answer(self, world: Any, cluster: Any) -> None:
        client = world.rest()
        world.chance += [0.0, 0.0]
        for number in range(3):
            cluster.streams[number].respond(b"sorry", 503)
            world.wait(1)
        assert (client.status, client.body) == (503, b"sorry")
        assert world.traffic.events[-1] == ("skipped", "gateway-error", "attempts")
        world.assert_let_go()

    def test_or_the_failure_of_the_last_attempt(self, world: Any, cluster: Any) -> None:
        client = world.rest()
        for number in range(3):
            cluster.streams[number].sink.reset_received(CANCEL, "gone")
            world.wait(1)
        assert (client.status, str(world.finished[0].flags)) == (502, "UC")
        world.assert_let_go()


class TestChosenStatuses:
    CHOSEN = RetrySettings(reasons=(), grpc_statuses=("RESOURCE_EXHAUSTED", "ABORTED"), http_statuses=(429, 409))

    @pytest.mark.parametrize("status", [b"8", b"10"])
    @pytest.mark.parametrize("form", ["trailers only", "head and trailers"])
    def test_of_grpc(self, world: Any, wire: Any, status: bytes, form: str) -> None:
        cluster = world.serve(2, retries=self.CHOSEN)
        client = world.grpc(wire.spec(b"open"))
        if form == "trailers only":
            cluster.streams[0].fail_grpc(status)
        else:
            cluster.streams[0].sink.head_received(head())
            cluster.streams[0].sink.trailers_received(((b"grpc-status", status),))
        assert client.heads == []
        cluster.streams[1].respond_grpc()
        assert client.body == b"answer"
        assert world.traffic.events == [("retried", "status")]
        # What else the status says is told as without the rule.
        assert cluster.all[0].reports[1] in ("overloaded", "succeeded")
        world.assert_let_go()

    @pytest.mark.parametrize("status", [429, 409])
    def test_of_http(self, world: Any, status: int) -> None:
        cluster = world.serve(2, retries=self.CHOSEN)
        client = world.rest(body=b"body")
        cluster.streams[0].respond(b"sorry", status)
        cluster.streams[1].respond(b"answer")
        assert (client.status, client.body, cluster.streams[1].body) == (200, b"answer", b"body")
        world.assert_let_go()

    @pytest.mark.parametrize("status", [b"0", b"3", b"14"])
    def test_no_others(self, world: Any, wire: Any, status: bytes) -> None:
        cluster = world.serve(2, retries=self.CHOSEN)
        client = world.grpc(wire.spec(b"open"))
        cluster.streams[0].fail_grpc(status)
        assert client.headers[b"grpc-status"] == status
        assert world.traffic.events == []
        world.assert_let_go()

    def test_none_behind_a_message(self, world: Any, wire: Any) -> None:
        cluster = world.serve(2, retries=self.CHOSEN)
        client = world.grpc(wire.spec(b"open"))
        cluster.streams[0].respond_grpc(status=b"10")
        assert (client.body, len(cluster.streams)) == (b"answer", 1)
        world.assert_let_go()

    def test_nor_for_a_verb_that_is_not_idempotent(self, world: Any, wire: Any) -> None:
        cluster = world.serve(2, retries=RetrySettings(grpc_statuses=("ABORTED",), verbs=("status",)))
        client = world.grpc(wire.spec(b"open"))
        cluster.streams[0].fail_grpc(b"10")
        assert client.headers[b"grpc-status"] == b"10"
        assert world.traffic.events == [("skipped", "status", "verb")]

    @pytest.mark.parametrize("form", ["trailers only", "head and trailers"])
    @pytest.mark.parametrize(("pushback", "count"), [(b"-1", 1), (b"soon", 1), (b"", 1), (b"1000", 2)])
    @pytest.mark.parametrize("status", [b"8", b"14"])
    def test_nor_what_the_server_forbids(
        self, world: Any, wire: Any, form: str, pushback: bytes, count: int, status: bytes
    ) -> None:
        cluster = world.serve(2, retries=RetrySettings(grpc_statuses=("RESOURCE_EXHAUSTED",)))
        client = world.grpc(wire.spec(b"open"))
        fields: Headers = ((b"grpc-status", status), (b"grpc-retry-pushback-ms", pushback))
        if form == "trailers only":
            cluster.streams[0].sink.head_received(head(headers=fields, end=True))
        else:
            cluster.streams[0].sink.head_received(head())
            cluster.streams[0].sink.trailers_received(fields)
        assert len(cluster.streams) == count
        if count == 1:
            assert dict(client.trailers or client.headers)[b"grpc-retry-pushback-ms"] == pushback
            assert [event[2] for event in world.traffic.events] == ["pushback"]

    def test_a_reason_keeps_its_name(self, world: Any, wire: Any) -> None:
        cluster = world.serve(2, retries=RetrySettings(grpc_statuses=("UNAVAILABLE",)))
        world.grpc(wire.spec(b"open"))
        cluster.streams[0].fail_grpc()
        assert world.traffic.events == [("retried", "unavailable")]

    def test_the_last_answer_is_the_answer(self, world: Any, wire: Any) -> None:
        cluster = world.serve(2, retries=RetrySettings(attempts=2, grpc_statuses=("ABORTED",)))
        client = world.grpc(wire.spec(b"open"))
        for stream in range(2):
            cluster.streams[stream].fail_grpc(b"10")
        assert client.headers[b"grpc-status"] == b"10"
        assert world.traffic.events == [("retried", "status"), ("skipped", "status", "attempts")]
        world.assert_let_go()


class TestNotRetried:
    @pytest.mark.parametrize("status", [b"2", b"3", b"8", b"13", b"4"])
    def test_other_answers(self, world: Any, wire: Any, cluster: Any, status: bytes) -> None:
        client = world.grpc(wire.spec(b"open"))
        cluster.streams[0].fail_grpc(status)
        assert client.headers[b"grpc-status"] == status
        assert len(cluster.streams) == 1
        world.assert_let_go()

    @pytest.mark.parametrize("how", ["reset", "unavailable", "gateway", "timeout"])
    def test_a_reload_that_may_have_been_made(self, world: Any, how: str) -> None:
        cluster = world.serve(
            2, retries=RetrySettings(reasons=("reset", "unavailable", "gateway-error", "timeout")), try_timeout=1.0
        )
        world.grpc(b"", method=RELOAD)
        (server,) = cluster.streams
        if how == "reset":
            server.sink.reset_received(CANCEL, "gone")
        elif how == "unavailable":
            server.fail_grpc()
        elif how == "gateway":
            server.sink.head_received(ResponseHead(0, 503, (), end=True))
        world.wait(2)
        assert len(cluster.streams) == 1
        assert world.traffic.events[0][2] == "verb"
        world.assert_let_go()

    @pytest.mark.parametrize("reason", ["busy", GOING_AWAY])
    def test_a_reload_that_was_not_processed_is_retried(self, world: Any, cluster: Any, reason: str) -> None:
        client = world.grpc(b"", method=RELOAD)
        cluster.streams[0].sink.reset_received(REFUSED_STREAM, reason)
        cluster.streams[1].respond_grpc()
        assert client.body == b"answer"
        world.assert_let_go()

    def test_a_reload_that_was_answered_and_then_refused_is_not(self, world: Any, cluster: Any) -> None:
        """A server that sends a head has processed the request."""
        world.grpc(b"", method=RELOAD)
        cluster.streams[0].sink.head_received(head())
        cluster.streams[0].sink.reset_received(REFUSED_STREAM, "busy")
        assert len(cluster.streams) == 1
        assert world.traffic.events == [("skipped", "reset", "verb")]
        world.assert_let_go()

    def test_once_the_answer_has_begun(self, world: Any, wire: Any, cluster: Any) -> None:
        client = world.grpc(wire.spec(b"open"))
        sink = cluster.streams[0].sink
        sink.head_received(head())
        sink.data_received(b"half", 4, False)
        sink.trailers_received(((b"grpc-status", b"14"),))
        assert client.trailers == ((b"grpc-status", b"14"),)
        assert world.traffic.events == [("skipped", "unavailable", "answered")]
        assert len(cluster.streams) == 1
        assert cluster.all[0].reports == ["begin open", "unavailable"]
        world.assert_let_go()

    def test_also_if_it_breaks_off(self, world: Any, cluster: Any) -> None:
        client = world.rest()
        cluster.streams[0].sink.head_received(head())
        cluster.streams[0].sink.reset_received(CANCEL, "gone")
        assert client.reset_code == INTERNAL_ERROR
        assert world.traffic.events == [("skipped", "reset", "answered")]
        assert len(cluster.streams) == 1
        world.assert_let_go()

    def test_what_is_not_retried_is_counted_once(self, world: Any) -> None:
        """A status in the head is not counted again with the trailers."""
        cluster = world.serve(2, retries=RetrySettings(reasons=("gateway-error",), verbs=()))
        client = world.rest()
        cluster.streams[0].sink.head_received(head(503))
        cluster.streams[0].sink.trailers_received(((b"x-checksum", b"1"),))
        assert client.status == 503
        assert world.traffic.events == [("skipped", "gateway-error", "verb")]
        world.assert_let_go()

    def test_a_body_longer_than_the_replay_limit(self, world: Any) -> None:
        cluster = world.serve(2, retries=RetrySettings(replay_bytes=10))
        client = world.rest(body=b"x" * 11)
        assert world.pipeline.replay_bytes == 0
        cluster.streams[0].sink.reset_received(CANCEL, "gone")
        assert client.status == 502
        assert world.traffic.events == [("skipped", "reset", "body")]
        world.assert_let_go()

    def test_a_body_beyond_the_replay_limit_of_all_requests(self, world: Any) -> None:
        cluster = world.serve(2, retries=RETRIES)
        limits = msgspec.structs.replace(world.snapshot.limits, replay_buffer_total=10)
        world.pipeline.snapshot = msgspec.structs.replace(world.pipeline.snapshot, limits=limits)
        world.rest(body=b"x" * 10)
        assert world.pipeline.replay_bytes == 10
        client = world.rest(body=b"x")
        cluster.streams[1].sink.reset_received(CANCEL, "gone")
        assert client.status == 502
        cluster.streams[0].respond()
        world.assert_let_go()

    def test_beyond_the_budget(self, world: Any) -> None:
        cluster = world.serve(2, retries=RETRIES, budget=RetryBudget(0.0, 1.0))
        for _ in range(2):
            world.rest()
            cluster.streams[-1].sink.reset_received(CANCEL, "gone")
        assert world.traffic.events == [("retried", "reset"), ("skipped", "reset", "budget")]

    def test_after_the_deadline(self, world: Any, cluster: Any) -> None:
        world.rest(headers=((b"x-envoy-expected-rq-timeout-ms", b"1000"),))
        world.loop.now += 2  # the timer is late
        cluster.streams[0].sink.reset_received(CANCEL, "gone")
        assert world.traffic.events == [("skipped", "reset", "deadline")]
        world.assert_let_go()

    def test_where_no_other_endpoint_may_be_called(self, world: Any, wire: Any) -> None:
        """The model server's own answer says more than that no endpoint can be called now."""
        cluster = world.serve(1, retries=RETRIES)
        client = world.grpc(wire.spec(b"open"))
        cluster.out.add("endpoint-0")  # this was one failure too many
        cluster.streams[0].fail_grpc()
        assert client.headers[b"grpc-status"] == b"14"
        assert b"grpc-message" not in client.headers
        assert world.traffic.events == [("skipped", "unavailable", "no-endpoint")]
        world.assert_let_go()

    def test_where_the_route_does_not_ask_for_it_nothing_is_counted(self, world: Any) -> None:
        cluster = world.serve(2, retries=RetrySettings(attempts=1))
        client = world.rest()
        assert world.pipeline.replay_bytes == 0
        cluster.streams[0].sink.reset_received(CANCEL, "gone")
        assert client.status == 502
        assert world.traffic.events == []
        world.assert_let_go()

    def test_when_the_pool_is_full(self, world: Any, cluster: Any) -> None:
        cluster.all[0].pool.error = PoolFull("full")
        client = world.rest()
        assert client.status == 503
        assert cluster.all[0].reports == ["begin open", "cancelled"]
        world.assert_let_go()


class TestBetweenAttempts:
    def test_the_first_retry_goes_out_at_once_the_next_after_jitter(self, world: Any) -> None:
        cluster = world.serve(3, retries=RetrySettings(backoff=0.1, backoff_max=1.0, attempts=4))
        client = world.rest()
        cluster.streams[0].sink.reset_received(CANCEL, "gone")
        assert len(cluster.streams) == 2
        world.chance.append(0.5)
        cluster.streams[1].sink.reset_received(CANCEL, "gone")
        world.wait(0.049)
        assert len(cluster.streams) == 2
        world.wait(0.002)
        assert len(cluster.streams) == 3
        world.chance.append(0.999)
        cluster.streams[2].sink.reset_received(CANCEL, "gone")
        world.wait(0.19)
        assert len(cluster.streams) == 3
        world.wait(0.02)
        cluster.streams[3].respond()
        assert client.status == 200
        assert len(world.finished[0].attempts) == 4
        world.assert_let_go()

    @pytest.mark.parametrize("out", [False, True])
    def test_the_same_endpoint_is_given_a_moment(self, world: Any, out: bool) -> None:
        cluster = world.serve(2 if out else 1, retries=RetrySettings(backoff=0.1))
        if out:
            cluster.out.add("endpoint-1")
        world.rest()
        world.chance.append(0.5)
        cluster.streams[0].sink.reset_received(CANCEL, "gone")
        assert len(cluster.streams) == 1
        world.wait(0.06)
        assert len(cluster.streams) == 2
        cluster.streams[1].respond()
        world.assert_let_go()

    def test_a_client_that_leaves_while_it_waits_ends_it(self, world: Any) -> None:
        cluster = world.serve(1, retries=RETRIES)
        client = world.rest()
        cluster.streams[0].sink.reset_received(CANCEL, "gone")
        client.sink.reset_received(CANCEL, "gone")
        world.assert_let_go()
        world.wait(1)
        assert len(cluster.streams) == 1

    def test_what_comes_meanwhile_of_the_body_follows(self, world: Any) -> None:
        cluster = world.serve(1, retries=RETRIES)
        client = world.rest(body=None, length=6)
        client.receive(b"ab", False)
        cluster.streams[0].sink.reset_received(CANCEL, "gone")
        client.receive(b"cd", False)
        assert client.credited == 2
        world.wait(1)
        client.receive(b"ef", True)
        assert (cluster.streams[1].body, cluster.streams[1].ended) == (b"abcdef", True)
        assert client.credited == 6
        cluster.streams[1].respond()
        assert client.status == 200
        world.assert_let_go()

    def test_what_the_first_did_not_take_is_credited_once_the_second_does(self, world: Any, cluster: Any) -> None:
        client = world.rest(body=None, length=4)
        cluster.streams[0].is_full = True
        client.receive(b"ab", False)
        assert client.credited == 0
        cluster.streams[0].sink.reset_received(CANCEL, "gone")
        assert client.credited == 2
        client.receive(b"cd", True)
        assert cluster.streams[1].body == b"abcd"
        cluster.streams[1].respond()
        world.assert_let_go()

    def test_what_the_first_attempt_receives_afterwards_is_dropped(self, world: Any, cluster: Any) -> None:
        client = world.rest(body=None, length=4)
        first = cluster.streams[0].sink
        cluster.streams[0].is_full = True
        client.receive(b"ab", False)
        first.head_received(head(503))
        cluster.streams[1].is_full = False
        credited = client.credited
        first.drained()
        first.data_received(b"sorry", 5, True)
        first.reset_received(CANCEL, "gone")
        assert (client.heads, client.body, client.credited) == ([], b"", credited)
        client.receive(b"cd", True)
        cluster.streams[1].respond()
        assert client.body == b"{}"
        world.assert_let_go()

    def test_each_attempt_forwards_what_is_left_of_the_deadline(self, world: Any, wire: Any, cluster: Any) -> None:
        world.grpc(wire.spec(b"open"), headers=((b"grpc-timeout", b"10S"),))
        world.loop.now += 4
        cluster.streams[0].fail_grpc()
        values = [dict(server.head.headers)[b"grpc-timeout"] for server in cluster.streams]
        assert values == [b"10000m", b"6000m"]


class TestEarlyAnswers:
    def test_a_retry_that_has_not_gone_out_whole_is_stopped(self, world: Any, cluster: Any) -> None:
        """All of the body had been credited when the first attempt took it; the second has not."""
        client = world.rest(body=b"body")
        cluster.make_stream = full_upstream
        cluster.streams[0].sink.reset_received(CANCEL, "gone")
        cluster.streams[1].respond()
        assert client.status == 200
        assert cluster.streams[1].has_stopped
        world.assert_let_go()

    def test_one_that_has_is_not(self, world: Any, cluster: Any) -> None:
        world.rest(body=b"body")
        cluster.streams[0].is_full = True
        cluster.streams[0].sink.drained()
        cluster.streams[0].respond()
        assert not cluster.streams[0].has_stopped

    def test_nothing_is_kept_once_the_answer_has_begun(self, world: Any, cluster: Any) -> None:
        client = world.rest(body=None, length=4)
        cluster.streams[0].sink.head_received(head())
        client.receive(b"body", True)
        assert world.pipeline.replay_bytes == 0
        cluster.streams[0].sink.data_received(b"{}", 2, True)
        world.assert_let_go()


class TestFallbackServer:
    def test_where_no_endpoint_can_be_called(self, world: Any) -> None:
        world.serve(1, fallback=Arm(1, "other"))
        world.cluster.no_endpoint = NoEndpoint("all are down")
        client = world.rest()
        world.other.streams[0].respond()
        assert client.status == 200
        assert world.traffic.events == [("fell back",)]
        world.assert_let_go()

    def test_and_if_none_can_there_either(self, world: Any) -> None:
        world.serve(1, fallback=Arm(1, "other"))
        world.cluster.no_endpoint = world.other.no_endpoint = NoEndpoint("all are down", 2.5)
        client = world.rest()
        assert (client.status, client.headers[b"retry-after"]) == (503, b"3")
        assert str(world.finished[0].flags) == "UH"
        world.assert_let_go()

    def test_after_the_last_connection_failed(self, world: Any) -> None:
        cluster = world.serve(2, retries=RetrySettings(attempts=2), fallback=Arm(1, "other"))
        for endpoint in cluster.all:
            endpoint.pool.error = ConnectError("refused")
        client = world.rest(body=b"body")
        world.other.streams[0].respond()
        assert client.status == 200
        assert world.other.streams[0].body == b"body"
        world.assert_let_go()

    def test_never_for_what_may_have_been_processed(self, world: Any) -> None:
        cluster = world.serve(1, retries=RetrySettings(attempts=1), fallback=Arm(1, "other"))
        client = world.rest()
        cluster.streams[0].sink.reset_received(CANCEL, "gone")
        assert client.status == 502
        assert world.other.streams == []

    def test_latencies_there_are_not_those_of_the_first_cluster(self, world: Any) -> None:
        world.serve(1, fallback=Arm(1, "other"), timeout=10.0, refuses_late=True)
        world.cluster.no_endpoint = NoEndpoint("all are down")
        for _ in range(20):
            world.rest()
        world.loop.now += 1
        for stream in world.other.streams:
            stream.respond()
        assert world.other.latency("open").p50(world.loop.now) == pytest.approx(1.0)
        assert world.cluster.latency("open").p50(world.loop.now) == 0.0


class TestHedge:
    @pytest.fixture
    def cluster(self, world: Any) -> Any:
        return world.serve(2, retries=RetrySettings(hedge_after=0.1))

    def test_the_second_may_win(self, world: Any, cluster: Any) -> None:
        client = world.rest(body=b"body")
        world.wait(0.1)
        first, second = cluster.streams
        assert (second.body, second.ended) == (b"body", True)
        second.respond(b"second")
        assert first.reset_code == CANCEL
        assert client.body == b"second"
        assert [endpoint.reports[-1] for endpoint in cluster.all] == ["cancelled", "succeeded"]
        assert world.traffic.events == [("hedged",)]
        assert len(world.finished[0].attempts) == 2
        world.assert_let_go()

    def test_or_the_first(self, world: Any, cluster: Any) -> None:
        client = world.rest()
        world.wait(0.1)
        first, second = cluster.streams
        first.address = "first:1"
        first.respond(b"first")
        second.respond(b"second")
        assert second.reset_code == CANCEL
        assert client.body == b"first"
        assert world.finished[0].upstream == "first:1"
        world.assert_let_go()

    def test_a_failure_in_time_needs_no_second_beside_the_next(self, world: Any, cluster: Any) -> None:
        world.rest()
        cluster.streams[0].sink.reset_received(CANCEL, "gone")
        world.wait(1)
        assert len(cluster.streams) == 2
        cluster.streams[1].respond()
        world.assert_let_go()

    def test_an_answer_in_time_needs_no_second(self, world: Any, cluster: Any) -> None:
        world.rest()
        cluster.streams[0].respond()
        world.wait(1)
        assert len(cluster.streams) == 1
        world.assert_let_go()

    @pytest.mark.parametrize("fails", [0, 1])
    @pytest.mark.parametrize("how", ["answer", "break", "head refused"])
    def test_while_one_fails_the_other_goes_on(self, world: Any, wire: Any, cluster: Any, fails: int, how: str) -> None:
        client = world.grpc(wire.spec(b"open"))
        cluster.all[1].pool.is_ready = False
        world.wait(0.1)
        if how == "head refused":
            waiter = cluster.all[1].pool.waiting.pop()

            def refuse(self: Any, head: Any) -> None:
                raise HeadRefused("too long")

            cluster.make_stream = type("Refusing", (cluster.make_stream,), {"send_request": refuse})
            cluster.all[1].pool.give(waiter)
            cluster.streams[0].respond_grpc()
        else:
            cluster.all[1].pool.give(cluster.all[1].pool.waiting.pop())
            if how == "answer":
                cluster.streams[fails].fail_grpc(b"13")
            else:
                cluster.streams[fails].sink.reset_received(CANCEL, "gone")
            assert client.heads == []
            cluster.streams[1 - fails].respond_grpc()
        assert client.body == b"answer"
        assert world.traffic.events == [("hedged",)]
        world.assert_let_go()

    def test_the_first_fails_while_the_second_waits_for_a_connection(self, world: Any, cluster: Any) -> None:
        client = world.rest(body=b"body")
        cluster.all[1].pool.is_ready = False
        world.wait(0.1)
        cluster.streams[0].sink.reset_received(CANCEL, "gone")
        cluster.all[1].pool.give(cluster.all[1].pool.waiting.pop())
        assert cluster.streams[1].body == b"body"
        cluster.streams[1].respond()
        assert client.status == 200
        world.assert_let_go()

    @pytest.mark.parametrize("when", ["waiting", "sent"])
    def test_a_client_that_leaves_cancels_both(self, world: Any, cluster: Any, when: str) -> None:
        client = world.rest()
        cluster.all[1].pool.is_ready = when == "sent"
        world.wait(0.1)
        client.sink.reset_received(CANCEL, "gone")
        assert {stream.reset_code for stream in cluster.streams} == {CANCEL}
        world.assert_let_go()

    def test_not_of_a_body_that_is_still_coming(self, world: Any, cluster: Any) -> None:
        world.rest(body=None, length=4).receive(b"bo", False)
        world.wait(0.1)
        assert len(cluster.streams) == 1

    def test_not_of_a_call_that_may_be_made_once_only(self, world: Any, cluster: Any) -> None:
        world.grpc(b"", method=RELOAD)
        world.wait(0.1)
        assert len(cluster.streams) == 1

    @pytest.mark.parametrize("why", ["no other endpoint", "budget"])
    def test_not_to_the_same_and_not_beyond_the_budget(self, world: Any, why: str) -> None:
        budget = RetryBudget(0.0, 0.1)
        cluster = world.serve(2, retries=RetrySettings(hedge_after=0.1), budget=budget)
        if why == "no other endpoint":
            cluster.out.add("endpoint-1")
        else:
            assert budget.withdraw(world.loop.now)
        world.rest()
        world.wait(0.1)
        assert len(cluster.streams) == 1
        cluster.streams[0].respond()
        world.assert_let_go()

    def test_an_interim_head_of_the_loser_does_not_reach_the_client(self, world: Any, cluster: Any) -> None:
        client = world.rest()
        world.wait(0.1)
        cluster.streams[1].sink.head_received(head(103))
        cluster.streams[0].respond()
        assert [status for status, _ in client.heads] == [200]


class TestTooLate:
    """A call whose time is shorter than what its model usually takes."""

    @pytest.fixture
    def slow(self, world: Any) -> Any:
        cluster = world.serve(1, timeout=60.0, refuses_late=True)
        for _ in range(20):
            cluster.latency("open").add(1.0, world.loop.now)
        return cluster

    def test_goes_on_where_the_route_does_not_refuse_it(self, world: Any, wire: Any) -> None:
        """Somebody else makes long calls of the model: that is no reason to refuse quick ones."""
        cluster = world.serve(1, timeout=60.0)
        for _ in range(20):
            cluster.latency("open").add(1.0, world.loop.now)
        world.grpc(wire.spec(b"open"), headers=((b"grpc-timeout", b"300m"),))
        assert len(cluster.streams) == 1

    def test_is_refused_at_once(self, world: Any, wire: Any, slow: Any) -> None:
        client = world.grpc(wire.spec(b"open"), headers=((b"grpc-timeout", b"500m"),))
        assert client.headers[b"grpc-status"] == b"4"
        assert slow.streams == []
        assert world.limits_hit == ["deadline"]
        assert str(world.finished[0].flags) == "UT"
        world.assert_let_go()

    def test_with_time_enough_it_goes_on(self, world: Any, wire: Any, slow: Any) -> None:
        world.grpc(wire.spec(b"open"), headers=((b"grpc-timeout", b"2S"),))
        assert len(slow.streams) == 1

    def test_a_question_about_the_model_is_no_call_of_it(self, world: Any, slow: Any) -> None:
        world.rest(b"/v1/models/open", method=b"GET", headers=((b"x-envoy-expected-rq-timeout-ms", b"500"),))
        assert len(slow.streams) == 1
        slow.streams[0].respond()
        assert len(slow.latency("open")._answers) == 20


def test_what_was_not_processed_is_counted_by_its_reason(world: Any) -> None:
    """A route may name one of the two."""
    cluster = world.serve(2, retries=RetrySettings(reasons=("goaway",)))
    client = world.rest()
    cluster.streams[0].sink.reset_received(REFUSED_STREAM, GOING_AWAY)
    assert len(cluster.streams) == 2
    cluster.streams[1].sink.reset_received(REFUSED_STREAM, "busy")
    assert client.status == 502
    assert Failure.GOAWAY.value in world.traffic.events[0]


def test_a_defect_in_a_retry_costs_one_request(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    cluster = world.serve(1, retries=RETRIES)
    client = world.rest()
    cluster.streams[0].sink.reset_received(CANCEL, "gone")
    cluster.pick = None
    world.wait(1)
    assert client.status == 500
    assert "internal error" in caplog.text
    del cluster.pick
    world.assert_let_go()


def test_the_routes_are_those_of_the_request(world: Any) -> None:
    """A reload between two attempts changes neither where they go nor how many there are."""
    cluster = world.serve(2, retries=RETRIES)
    client = world.rest()
    world.use(routes=Routes(None), clusters={})  # type: ignore[arg-type]
    cluster.streams[0].sink.reset_received(CANCEL, "gone")
    cluster.streams[1].respond()
    assert client.status == 200
