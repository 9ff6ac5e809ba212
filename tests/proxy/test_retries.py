"""When a call is made again, where, and when it is not; and what becomes of its body meanwhile."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from meshproxy.codec.events import ResponseHead
from meshproxy.config.routes import Retries
from meshproxy.routing.failure import Failure
from meshproxy.routing.retry import RetryBudget
from meshproxy.routing.routes import Routes
from meshproxy.transport.connector import ConnectError
from meshproxy.transport.h2_client import GOING_AWAY
from meshproxy.transport.stream import HeadRefused
from meshproxy.upstream.cluster import NoEndpoint
from meshproxy.upstream.pool import PoolFull

INTERNAL_ERROR, CANCEL, REFUSED_STREAM = 0x2, 0x8, 0x7
RELOAD = b"/tensorflow.serving.ModelService/HandleReloadConfigRequest"
RETRIES = Retries()


@pytest.fixture
def cluster(world: Any) -> Any:
    """Two endpoints, and every retry that there may be."""
    return world.serve(2, retries=RETRIES)


def head(status: int = 200) -> ResponseHead:
    return ResponseHead(0, status, (), end=False)


class TestAgain:
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
        """What a gRPC call comes to is told at its end: the head is held until then."""
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
        cluster.all[0].error = ConnectError("refused")
        client = world.rest()
        cluster.streams[0].respond()
        assert client.status == 200
        assert cluster.all[0].reports == ["begin open", "connect-failure"]
        world.assert_let_go()

    def test_no_answer_in_the_time_of_a_try(self, world: Any) -> None:
        cluster = world.serve(2, retries=Retries(reasons=("timeout",)), try_timeout=0.5)
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

    def test_or_what_became_of_the_last_try(self, world: Any, cluster: Any) -> None:
        client = world.rest()
        for number in range(3):
            cluster.streams[number].sink.reset_received(CANCEL, "gone")
            world.wait(1)
        assert (client.status, str(world.finished[0].flags)) == (502, "UC")
        world.assert_let_go()


class TestNotAgain:
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
            2, retries=Retries(reasons=("reset", "unavailable", "gateway-error", "timeout")), try_timeout=1.0
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
    def test_but_one_that_was_never_looked_at(self, world: Any, cluster: Any, reason: str) -> None:
        client = world.grpc(b"", method=RELOAD)
        cluster.streams[0].sink.reset_received(REFUSED_STREAM, reason)
        cluster.streams[1].respond_grpc()
        assert client.body == b"answer"
        world.assert_let_go()

    def test_nor_one_that_was_answered_and_then_refused(self, world: Any, cluster: Any) -> None:
        """Who sends a head has looked at the request."""
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

    def test_what_is_not_tried_again_is_counted_once(self, world: Any) -> None:
        """A status that was told in the head is not told anew by trailers."""
        cluster = world.serve(2, retries=Retries(reasons=("gateway-error",), verbs=()))
        client = world.rest()
        cluster.streams[0].sink.head_received(head(503))
        cluster.streams[0].sink.trailers_received(((b"x-checksum", b"1"),))
        assert client.status == 503
        assert world.traffic.events == [("skipped", "gateway-error", "verb")]
        world.assert_let_go()

    def test_a_body_longer_than_what_is_kept(self, world: Any) -> None:
        cluster = world.serve(2, retries=Retries(replay_bytes=10))
        client = world.rest(body=b"x" * 11)
        assert world.pipeline.replay_bytes == 0
        cluster.streams[0].sink.reset_received(CANCEL, "gone")
        assert client.status == 502
        assert world.traffic.events == [("skipped", "reset", "body")]
        world.assert_let_go()

    def test_or_than_what_is_kept_of_all(self, world: Any) -> None:
        cluster = world.serve(2, retries=RETRIES)
        limits = dataclasses.replace(world.snapshot.limits, replay_buffer_total=10)
        world.pipeline.snapshot = dataclasses.replace(world.pipeline.snapshot, limits=limits)
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

    def test_where_nobody_else_may_be_called(self, world: Any, wire: Any) -> None:
        """The model server's own answer says more than that nobody can be called now."""
        cluster = world.serve(1, retries=RETRIES)
        client = world.grpc(wire.spec(b"open"))
        cluster.out.add("endpoint-0")  # this was one failure too many
        cluster.streams[0].fail_grpc()
        assert client.headers[b"grpc-status"] == b"14"
        assert b"grpc-message" not in client.headers
        assert world.traffic.events == [("skipped", "unavailable", "no-endpoint")]
        world.assert_let_go()

    def test_where_the_route_does_not_ask_for_it_nothing_is_counted(self, world: Any) -> None:
        cluster = world.serve(2, retries=Retries(attempts=1))
        client = world.rest()
        assert world.pipeline.replay_bytes == 0
        cluster.streams[0].sink.reset_received(CANCEL, "gone")
        assert client.status == 502
        assert world.traffic.events == []
        world.assert_let_go()

    def test_when_the_pool_is_full_which_is_ours_to_say(self, world: Any, cluster: Any) -> None:
        cluster.all[0].error = PoolFull("full")
        client = world.rest()
        assert client.status == 503
        assert cluster.all[0].reports == ["begin open", "cancelled"]
        world.assert_let_go()


class TestBetween:
    def test_the_first_goes_out_at_once_the_next_waits_by_chance(self, world: Any) -> None:
        cluster = world.serve(3, retries=Retries(backoff=0.1, backoff_max=1.0, attempts=4))
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
        cluster = world.serve(2 if out else 1, retries=Retries(backoff=0.1))
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

    def test_what_the_first_says_afterwards_is_nobodys(self, world: Any, cluster: Any) -> None:
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

    def test_each_try_is_told_what_is_left_of_the_time(self, world: Any, wire: Any, cluster: Any) -> None:
        world.grpc(wire.spec(b"open"), headers=((b"grpc-timeout", b"10S"),))
        world.loop.now += 4
        cluster.streams[0].fail_grpc()
        values = [dict(server.head.headers)[b"grpc-timeout"] for server in cluster.streams]
        assert values == [b"10000m", b"6000m"]


class TestEarlyAnswers:
    def test_a_retry_that_has_not_gone_out_whole_is_stopped(self, world: Any, cluster: Any) -> None:
        """All of the body had been credited when the first try took it; the second has not."""
        client = world.rest(body=b"body")
        cluster.server_type = type("Full", (cluster.server_type,), {"is_full": True, "__init__": _full})
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


def _full(self: Any) -> None:
    type(self).__mro__[1].__init__(self)  # type: ignore[misc]
    self.is_full = True


class TestFallback:
    def test_where_nobody_can_be_called(self, world: Any) -> None:
        world.serve(1, fallback="other")
        world.cluster.nobody = NoEndpoint("all are down")
        client = world.rest()
        world.other.streams[0].respond()
        assert client.status == 200
        assert world.traffic.events == [("fell back",)]
        world.assert_let_go()

    def test_and_if_nobody_can_there_either(self, world: Any) -> None:
        world.serve(1, fallback="other")
        world.cluster.nobody = world.other.nobody = NoEndpoint("all are down", 2.5)
        client = world.rest()
        assert (client.status, client.headers[b"retry-after"]) == (503, b"3")
        assert str(world.finished[0].flags) == "UH"
        world.assert_let_go()

    def test_after_the_last_connection_failed(self, world: Any) -> None:
        cluster = world.serve(2, retries=Retries(attempts=2), fallback="other")
        for endpoint in cluster.all:
            endpoint.error = ConnectError("refused")
        client = world.rest(body=b"body")
        world.other.streams[0].respond()
        assert client.status == 200
        assert world.other.streams[0].body == b"body"
        world.assert_let_go()

    def test_never_for_what_may_have_been_done(self, world: Any) -> None:
        cluster = world.serve(1, retries=Retries(attempts=1), fallback="other")
        client = world.rest()
        cluster.streams[0].sink.reset_received(CANCEL, "gone")
        assert client.status == 502
        assert world.other.streams == []

    def test_how_long_it_takes_there_is_not_how_long_it_takes_here(self, world: Any) -> None:
        world.serve(1, fallback="other", timeout=10.0, refuses_late=True)
        world.cluster.nobody = NoEndpoint("all are down")
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
        return world.serve(2, retries=Retries(hedge_after=0.1))

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
        cluster.all[1].is_ready = False
        world.wait(0.1)
        if how == "head refused":
            taker = cluster.all[1].waiting.pop()

            def refuse(self: Any, head: Any) -> None:
                raise HeadRefused("too long")

            cluster.server_type = type("Refusing", (cluster.server_type,), {"send_request": refuse})
            cluster.all[1].give(taker)
            cluster.streams[0].respond_grpc()
        else:
            cluster.all[1].give(cluster.all[1].waiting.pop())
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
        cluster.all[1].is_ready = False
        world.wait(0.1)
        cluster.streams[0].sink.reset_received(CANCEL, "gone")
        cluster.all[1].give(cluster.all[1].waiting.pop())
        assert cluster.streams[1].body == b"body"
        cluster.streams[1].respond()
        assert client.status == 200
        world.assert_let_go()

    @pytest.mark.parametrize("when", ["waiting", "sent"])
    def test_a_client_that_leaves_cancels_both(self, world: Any, cluster: Any, when: str) -> None:
        client = world.rest()
        cluster.all[1].is_ready = when == "sent"
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

    @pytest.mark.parametrize("why", ["nobody else", "budget"])
    def test_not_to_the_same_and_not_beyond_the_budget(self, world: Any, why: str) -> None:
        budget = RetryBudget(0.0, 0.1)
        cluster = world.serve(2, retries=Retries(hedge_after=0.1), budget=budget)
        if why == "nobody else":
            cluster.out.add("endpoint-1")
        else:
            assert budget.withdraw(world.loop.now)
        world.rest()
        world.wait(0.1)
        assert len(cluster.streams) == 1
        cluster.streams[0].respond()
        world.assert_let_go()

    def test_a_hint_of_the_loser_does_not_reach_the_client(self, world: Any, cluster: Any) -> None:
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


def test_what_was_never_looked_at_is_counted_by_its_name(world: Any) -> None:
    """A route may name one of the two."""
    cluster = world.serve(2, retries=Retries(reasons=("goaway",)))
    client = world.rest()
    cluster.streams[0].sink.reset_received(REFUSED_STREAM, GOING_AWAY)
    assert len(cluster.streams) == 2
    cluster.streams[1].sink.reset_received(REFUSED_STREAM, "busy")
    assert client.status == 502
    assert Failure.GOAWAY.value in world.traffic.events[0]


def test_a_mistake_while_trying_again_costs_one_request(world: Any, caplog: pytest.LogCaptureFixture) -> None:
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
    """A reload between two tries changes neither where they go nor how many there are."""
    cluster = world.serve(2, retries=RETRIES)
    client = world.rest()
    world.use(routes=Routes(None), clusters={})  # type: ignore[arg-type]
    cluster.streams[0].sink.reset_received(CANCEL, "gone")
    cluster.streams[1].respond()
    assert client.status == 200
