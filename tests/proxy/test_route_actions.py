"""The actions of a route alone; then conversations: rate limits, faults, splits, labels, concurrency."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.codec.events import Rejected, RequestHead, ResponseHead
from meshproxy.config.rollouts import Arm as RolloutArm
from meshproxy.config.rollouts import RolloutSpec
from meshproxy.config.routes import Abort, Concurrency, Delay, Fault, Mirror, Retries
from meshproxy.config.servers import Cookie, Key
from meshproxy.inference.body_scan import ScanLimits
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.inference.surface import Operation
from meshproxy.inference.surfaces import SURFACES
from meshproxy.policy.decide import Permit
from meshproxy.proxy.client_side import NONE
from meshproxy.proxy.client_side import OVER as CLIENT_OVER
from meshproxy.proxy.exchange import Exchange
from meshproxy.proxy.mirror import MirroredRequest, Mirrors
from meshproxy.proxy.route_actions import DELAYED, PROCEEDING, QUEUED, RouteActions, State
from meshproxy.refusal import Reason, Refusal
from meshproxy.routing.admission import Admission, Entry
from meshproxy.routing.fault import FaultRule
from meshproxy.routing.live_split import LiveSplit
from meshproxy.routing.rate_limit import RateLimiter
from meshproxy.routing.routes import Route, Routes
from meshproxy.routing.split import Arm, Split
from meshproxy.transport.connect_failures import ConnectError
from meshproxy.upstream.cluster import NoEndpoint
from tests.proxy.fakes import FakeDownstream, RecordedRequest, Surroundings
from tests.proxy.test_arm_call import FakeMeter
from tests.thorough import tries

CANCEL = 0x8
LIMITED = Concurrency(limit=1, queue=1)
MIRROR = Mirror(server="other")
DELAYS = FaultRule(Fault(delay=Delay(percent=100, duration=2.0)))


class RecordedMirrors(Mirrors):
    """Records what is mirrored, and makes no copies unless told."""

    def __init__(self, around: Surroundings) -> None:
        super().__init__(around.context)
        self.begun: list[tuple[str, str, bytes]] = []

    def begin(
        self,
        exchange: Exchange,
        route: Route,
        server: str,
        operation: Operation,
        head: RequestHead,
        encoding: bytes | None,
        limits: ScanLimits,
    ) -> MirroredRequest | None:
        self.begun.append((route.name, server, head.target))
        return super().begin(exchange, route, server, operation, head, encoding, limits)


REST = b"/v1/models/open:predict"
PREDICT = b"/tensorflow.serving.PredictionService/Predict"


class Alone:
    """The actions of a route for one request, whose way ends at `proceed`."""

    def __init__(
        self,
        *,
        around: Surroundings | None = None,
        target: bytes = REST,
        is_grpc: bool = False,
        timeout: float | None = None,
        **fields: Any,
    ) -> None:
        around = self.around = around or Surroundings()
        self.loop = around.loop
        self.client = FakeDownstream()
        request = self.request = RecordedRequest(
            around.context, self.client, RequestHead(1, b"POST", b"host", target, (), False)
        )
        request.is_grpc = is_grpc
        request.operation = SURFACES.find_grpc(target) if is_grpc else SURFACES.find_rest(b"POST", target)
        request.target = request.operation.target
        call = request.operation.call or Call(Verb.PREDICT, (ModelRef("open", signature="serving_default"),))
        request.asked = call
        request.decide(call)
        if timeout is not None:
            request.limit_time(timeout)
        self.route = Route("route", fields.pop("server", "main"), **fields)
        self.proceeded: list[str] = []
        self.mirrors = RecordedMirrors(around)
        self.actions = RouteActions(request, self.route, call, self.mirrors, self.proceed)
        request.on_abandon = lambda: self.actions.leave(is_whole=False)
        request.on_closed = self.actions.close

    def proceed(self, server: str) -> None:
        """As `Relay.send_to` would: the request is on its way."""
        self.proceeded.append(server)
        self.request.connected = self.loop.now

    def begin(self) -> Alone:
        """Go through the actions, as a station does."""
        try:
            self.actions.begin()
        except Refusal as refusal:
            self.request.crashed(refusal)
        return self

    def answer(self, status: int = 200) -> None:
        """The upstream answers, and the client takes all of it."""
        self.request.begin_answer(status, (), self.loop.now)
        self.request.send_body(b"{}", 2, end=True)

    def client_leaves(self) -> None:
        self.request.reset_received(CANCEL, "gone")

    @property
    def refused(self) -> tuple[Reason, str | None] | None:
        """Why the request was refused, and which limit it exceeded."""
        refusal = self.request.refusal
        return None if refusal is None else (refusal.reason, refusal.limit)

    @property
    def admission(self) -> Admission:
        ((_, _, admission),) = self.around.context.admissions.rows()
        return admission

    @property
    def slots(self) -> tuple[int, int]:
        """How many calls have a slot, and how many wait for one."""
        return self.admission.in_flight, self.admission.waiting


class TestOrder:
    def test_a_route_without_actions_proceeds_to_its_server(self) -> None:
        made = Alone().begin()
        assert (made.proceeded, made.actions.state) == (["main"], PROCEEDING)
        assert made.actions.take(b"body", True) == b"body"

    def test_or_to_the_base_server(self) -> None:
        made = Alone(server=None).begin()
        assert (made.proceeded, made.refused) == ([], (Reason.NO_ROUTE, None))

    def test_what_is_rate_limited_is_neither_delayed_nor_given_a_slot_nor_mirrored(self) -> None:
        quota = RateLimiter("model", 1.0, None, None, 1.0)
        quota.admit("open", "", 100.0)
        made = Alone(
            rate_limiters=(quota,),
            fault=DELAYS,
            concurrency=LIMITED,
            mirror=MIRROR,
        ).begin()
        assert made.refused == (Reason.RATE_LIMITED, "rate_requests")
        assert (made.loop.pending, made.mirrors.begun, made.proceeded) == ([], [], [])
        assert made.around.context.admissions.rows() == []

    def test_what_is_aborted_gets_no_slot(self) -> None:
        made = Alone(fault=FaultRule(Fault(abort=Abort(percent=100))), concurrency=LIMITED, mirror=MIRROR).begin()
        assert made.refused == (Reason.FAULT_INJECTED, None)
        assert (made.around.context.admissions.rows(), made.mirrors.begun) == ([], [])

    def test_a_slot_is_taken_at_the_server_of_the_arm_and_the_mirror_comes_last(self) -> None:
        split = Split([Arm(1, "other", "2")])
        made = Alone(split=split, concurrency=LIMITED, mirror=MIRROR)
        first = Alone(around=made.around, split=split, concurrency=LIMITED).begin()
        made.begin()
        assert (made.mirrors.begun, made.proceeded, made.actions.state) == ([], [], QUEUED)
        first.answer()
        assert made.mirrors.begun == [("route", "other", b"/v1/models/open/versions/2:predict")]
        assert (made.proceeded, made.actions.state) == (["other"], PROCEEDING)

    def test_a_call_is_delayed_before_its_version_is_decided_on(self) -> None:
        made = Alone(fault=DELAYS, split=Split([Arm(1, None, "2")])).begin()
        assert len(made.around.policy.asked) == 1
        made.loop.advance(2.0)
        assert [call.models[0].version for _, call in made.around.policy.asked] == [None, "2"]


class TestStates:
    def test_a_delay(self) -> None:
        made = Alone(fault=DELAYS).begin()
        assert (made.actions.state, made.actions.is_waiting, made.proceeded) == (DELAYED, True, [])
        assert str(made.request.flags) == "DI"
        made.loop.advance(2.0)
        assert (made.actions.state, made.actions.is_waiting, made.proceeded) == (PROCEEDING, False, ["main"])

    def test_a_delay_counts_from_the_decision(self) -> None:
        made = Alone(fault=DELAYS)
        made.request.decided = made.loop.now - 1.5
        made.begin()
        assert [timer.when() for timer in made.loop.pending] == [made.loop.now + 0.5]

    def test_an_abort_behind_a_delay(self) -> None:
        made = Alone(
            fault=FaultRule(
                Fault(
                    delay=Delay(percent=100, duration=2.0),
                    abort=Abort(percent=100, http_status=418, grpc_status="ABORTED"),
                )
            )
        ).begin()
        made.loop.advance(2.0)
        assert (made.refused, made.proceeded) == ((Reason.FAULT_INJECTED, None), [])
        assert str(made.request.flags) == "DI,FI"
        refusal = made.request.refusal
        assert refusal is not None
        assert (refusal.http_status, refusal.grpc_status) == (418, 10)

    def test_a_queue(self) -> None:
        first = Alone(concurrency=LIMITED).begin()
        made = Alone(around=first.around, concurrency=LIMITED).begin()
        assert (made.actions.state, made.actions.is_waiting, made.slots) == (QUEUED, True, (1, 1))
        first.answer()
        assert (made.actions.state, made.proceeded, made.slots) == (PROCEEDING, ["main"], (1, 0))
        made.answer()
        assert made.slots == (0, 0)

    def test_a_full_queue(self) -> None:
        first = Alone(concurrency=LIMITED).begin()
        others = [Alone(around=first.around, concurrency=LIMITED).begin() for _ in range(2)]
        assert others[1].refused == (Reason.OVERLOADED, "queue")
        assert str(others[1].request.flags) == "UO"
        assert first.slots == (1, 1)

    @pytest.mark.parametrize(("why", "limit"), [(Entry.FULL, "queue"), (Entry.TOO_LATE, "queue_time")])
    def test_one_that_is_turned_away_holds_nothing(self, why: Entry, limit: str) -> None:
        first = Alone(concurrency=LIMITED).begin()
        made = Alone(around=first.around, concurrency=LIMITED).begin()
        first.admission.withdraw(made.actions)
        made.actions.rejected(why)
        assert made.refused == (Reason.OVERLOADED, limit)
        assert (made.actions.state, first.slots, made.proceeded) == (PROCEEDING, (1, 0), [])

    def test_a_defect_behind_the_queue_costs_one_request(self, caplog: pytest.LogCaptureFixture) -> None:
        first = Alone(concurrency=LIMITED).begin()
        made = Alone(around=first.around, concurrency=LIMITED, mirror=MIRROR)
        made.mirrors.context = None  # type: ignore[assignment]
        made.begin()
        first.answer()
        assert made.refused == (Reason.INTERNAL, None)
        assert first.slots == (0, 0)
        assert "internal error" in caplog.text


class TestSlots:
    """Each is given back once, and the limit learns from what the model server did."""

    def learn(self, made: Alone) -> list[tuple[float, bool]]:
        heard: list[tuple[float, bool]] = []

        class Learning:
            current = 9

            def finished(self, seconds: float, in_flight: int, is_ok: bool, now: float) -> None:
                heard.append((seconds, is_ok))

        made.admission.limit = Learning()
        return heard

    @pytest.mark.parametrize(
        ("status", "is_ok"), [(200, True), (404, True), (500, True), (429, False), (503, False), (504, False)]
    )
    def test_an_answer_says_how_the_server_does(self, status: int, is_ok: bool) -> None:
        made = Alone(concurrency=LIMITED).begin()
        heard = self.learn(made)
        made.loop.now += 2.0
        made.answer(status)
        assert (heard, made.slots) == ([(2.0, is_ok)], (0, 0))

    @pytest.mark.parametrize(("status", "is_ok"), [(0, True), (3, True), (4, False), (8, False), (14, False)])
    def test_of_grpc_its_status_does(self, status: int, is_ok: bool) -> None:
        made = Alone(concurrency=LIMITED, target=PREDICT, is_grpc=True).begin()
        heard = self.learn(made)
        made.request.begin_answer(200, (), made.loop.now)
        made.request.send_trailers((), status)
        assert (heard, made.slots) == ([(0.0, is_ok)], (0, 0))

    @pytest.mark.parametrize(
        ("reason", "is_connected", "heard"),
        [
            (Reason.DEADLINE_EXCEEDED, True, [(0.0, False)]),
            (Reason.UPSTREAM_TIMEOUT, True, [(0.0, False)]),
            (Reason.DEADLINE_EXCEEDED, False, []),
            (Reason.UPSTREAM_RESET, True, []),
            (Reason.MODEL_CHANGED, True, []),
        ],
    )
    def test_a_refusal_says_so_only_if_the_server_was_too_slow(
        self, reason: Reason, is_connected: bool, heard: list[tuple[float, bool]]
    ) -> None:
        made = Alone(concurrency=LIMITED).begin()
        told = self.learn(made)
        if not is_connected:
            made.request.connected = 0.0
        made.request.refuse(Refusal(reason, "no"))
        assert (told, made.slots) == (heard, (0, 0))

    def test_a_client_that_leaves_teaches_nothing(self) -> None:
        made = Alone(concurrency=LIMITED).begin()
        heard = self.learn(made)
        made.client_leaves()
        assert (heard, made.slots) == ([], (0, 0))

    def test_one_that_is_left_is_not_left_again(self) -> None:
        made = Alone(concurrency=Concurrency(limit=2)).begin()
        other = Alone(around=made.around, concurrency=Concurrency(limit=2)).begin()
        for _ in range(2):
            made.actions.leave(is_whole=True)
            made.actions.close(is_whole=True)
        assert other.slots == (1, 0)

    @pytest.mark.parametrize("state", [DELAYED, QUEUED])
    def test_a_client_that_leaves_while_it_waits(self, state: State) -> None:
        first = Alone(concurrency=LIMITED).begin()
        fault = DELAYS if state is DELAYED else None
        made = Alone(around=first.around, concurrency=LIMITED, fault=fault).begin()
        assert made.actions.state is state
        made.client_leaves()
        assert first.slots == (1, 0)
        assert made.loop.pending == []
        first.answer()
        assert made.proceeded == []


class TestArms:
    def test_an_arm_by_chance_and_its_version_in_the_target(self) -> None:
        around = Surroundings()
        around.draws += [0.89, 0.91]
        split = Split([Arm(90), Arm(10, "other", "2")])
        plain, canary = (Alone(around=around, split=split).begin() for _ in range(2))
        assert (plain.proceeded, plain.request.target, plain.request.forwarded) == (["main"], REST, plain.request.asked)
        assert (canary.proceeded, canary.request.target) == (["other"], b"/v1/models/open/versions/2:predict")
        assert canary.request.arm is split.arms[1]

    def test_a_version_in_a_message(self) -> None:
        made = Alone(split=Split([Arm(1, None, "2")]), target=PREDICT, is_grpc=True).begin()
        assert made.request.rewrites_body
        message = b"\x0a\x06\x0a\x04open"
        body = b"\0" + len(message).to_bytes(4, "big") + message
        sent = b"".join(made.actions.take(body[at : at + 1], at + 1 == len(body)) for at in range(len(body)))
        assert sent == b"\0\0\0\0\x0c\x0a\x0a\x0a\x04open\x12\x02\x08\x02"

    def test_a_version_that_the_caller_may_not_call(self) -> None:
        made = Alone(split=Split([Arm(1, None, "2")]))
        made.around.policy.permits = lambda call: call.models[0].version is None
        made.begin()
        assert (made.refused, made.proceeded) == ((Reason.PERMISSION_DENIED, None), [])

    def test_an_operation_that_cannot_carry_one(self) -> None:
        made = Alone(split=Split([Arm(1, None, "2")]))
        operation = Operation(Verb.PREDICT, REST, made.request.asked)
        made.request.operation = operation
        made.begin()
        assert (made.refused, made.proceeded) == ((Reason.NO_ROUTE, None), [])

    def test_a_sticky_key_decides(self) -> None:
        around = Surroundings()
        sticky = Key(by="caller")
        arms = {
            Alone(around=around, split=Split([Arm(1), Arm(1, "other")]), sticky=sticky).begin().proceeded[0]
            for _ in range(10)
        }
        assert len(arms) == 1
        assert around.draws == []

    @pytest.mark.parametrize("later", [ModelRef("open-other"), ModelRef("open", "7"), ModelRef("open", None, "canary")])
    def test_a_later_model_must_be_the_same(self, later: ModelRef) -> None:
        made = Alone(split=Split([Arm(1, None, "2")]), target=PREDICT, is_grpc=True).begin()
        with pytest.raises(Refusal) as raised:
            made.actions.changed(Call(Verb.PREDICT, (later,)))
        assert raised.value.reason is Reason.MODEL_CHANGED

    def test_more_of_the_same_model_is_decided_on(self) -> None:
        made = Alone(split=Split([Arm(1, None, "2")]), target=PREDICT, is_grpc=True).begin()
        made.actions.changed(Call(Verb.PREDICT, (ModelRef("open", signature="a"),)))
        assert made.around.policy.asked[-1][1].models == (ModelRef("open", "2", None, "a"),)


class TestCharges:
    def test_bytes_and_examples_are_charged_as_they_come(self) -> None:
        quota = RecordedQuota()
        made = Alone(rate_limiters=(quota,), counts_examples=True).begin()
        made.actions.take(b'{"instances": [[1], [2]', False)
        made.actions.take(b", [3]]}", True)
        assert sum(size for size, _ in quota.charged) == 30
        assert sum(examples for _, examples in quota.charged) == 3

    def test_a_request_without_a_body_is_one_example_if_it_was_sent(self) -> None:
        quota = RecordedQuota()
        made = Alone(rate_limiters=(quota,), counts_examples=True).begin()
        made.answer()
        assert quota.charged == [(0, 1)]
        away = Alone(around=made.around, rate_limiters=(quota,), counts_examples=True).begin()
        away.request.connected = 0.0
        away.client_leaves()
        assert quota.charged == [(0, 1)]

    def test_an_operation_that_counts_none_has_one(self) -> None:
        quota = RecordedQuota()
        made = Alone(rate_limiters=(quota,), counts_examples=True)
        made.request.operation = Operation(Verb.PREDICT, REST, made.request.asked)
        made.begin()
        made.actions.take(b'{"instances": [[1], [2]]}', True)
        assert quota.charged == [(25, 1)]

    def test_without_a_quota_nothing_is_counted(self) -> None:
        made = Alone(labels={"canary": "2"}).begin()
        assert made.actions.take(b"x", True) == b"x"

    def test_the_copy_gets_the_body_as_it_came(self) -> None:
        made = Alone(split=Split([Arm(1, None, "2")]), mirror=MIRROR, target=PREDICT, is_grpc=True).begin()
        body = b"\0\0\0\0\x08\x0a\x06\x0a\x04open"
        assert made.actions.take(body, True) != body
        assert isinstance(made.request.mirrored, MirroredRequest)
        assert made.request.mirrored._pieces == [body]


class RecordedQuota(RateLimiter):
    """Lets everything in and records what is charged."""

    def __init__(self) -> None:
        super().__init__("model", 1000.0, 1000.0, 1000.0, 1.0)
        self.charged: list[tuple[float, float]] = []

    def charge(self, model: str, caller_key: str, bytes: float, examples: float, now: float) -> None:  # noqa: A002
        self.charged.append((bytes, examples))


STEPS = st.lists(
    st.tuples(st.sampled_from(["begin", "answer", "busy", "leave", "refuse", "held up", "later"]), st.integers(0, 3)),
    max_size=20,
)


@settings(max_examples=tries(200))
@given(steps=STEPS, delayed=st.sets(st.integers(0, 3)), aborted=st.sets(st.integers(0, 3)), queue=st.integers(0, 3))
def test_whatever_happens_slots_are_given_back_and_a_request_proceeds_at_most_once(
    steps: list[tuple[str, int]], delayed: set[int], aborted: set[int], queue: int
) -> None:
    around = Surroundings()
    concurrency = Concurrency(limit=1, queue=queue, queue_timeout=5.0)
    made = []
    for number in range(4):
        delay = Delay(percent=100, duration=2.0) if number in delayed else None
        abort = Abort(percent=100) if number in aborted else None
        fault = FaultRule(Fault(delay=delay, abort=abort)) if delay or abort else None
        made.append(Alone(around=around, concurrency=concurrency, fault=fault, mirror=MIRROR, timeout=60.0))
    begun: set[int] = set()
    for what, which in steps:
        each = made[which]
        is_over = each.request.answer is CLIENT_OVER
        if what == "begin" and which not in begun and not is_over:
            begun.add(which)
            each.begin()
        elif what in ("answer", "busy") and each.proceeded and each.request.answer is NONE and not each.request.refusal:
            each.answer(503 if what == "busy" else 200)
        elif what == "held up" and each.proceeded and each.request.answer is NONE and not each.request.refusal:
            each.client.is_full = True
            each.request.begin_answer(200, (), each.loop.now)
            each.request.send_body(b"", 0, end=True)
            each.actions.leave(is_whole=True)
        elif what == "leave":
            each.client_leaves()
        elif what == "refuse":
            each.request.refuse(Refusal(Reason.OVERLOADED, "no"))
        elif what == "later":
            around.loop.advance(1.0)
            around.context.admissions.expire(around.loop.now)
        rows = around.context.admissions.rows()
        in_flight = sum(admission.in_flight for _, _, admission in rows)
        assert in_flight <= 1
        assert in_flight == sum(each.actions._admission is not None and bool(each.proceeded) for each in made)
    for each in made:
        each.client_leaves()
        assert len(each.proceeded) <= 1
    assert all((row.in_flight, row.waiting) == (0, 0) for _, _, row in around.context.admissions.rows())
    assert around.loop.pending == []


# Conversations


def versioned(name: bytes, version: int) -> bytes:
    """`model_spec { name, version }`."""
    inner = b"\x0a" + bytes([len(name)]) + name + b"\x12\x02\x08" + bytes([version])
    return b"\x0a" + bytes([len(inner)]) + inner


def labelled(name: bytes, label: bytes) -> bytes:
    """`model_spec { name, version_label }`."""
    inner = b"\x0a" + bytes([len(name)]) + name + b"\x22" + bytes([len(label)]) + label
    return b"\x0a" + bytes([len(inner)]) + inner


class TestQuotas:
    def test_what_goes_beyond_is_refused(self, world: Any, wire: Any) -> None:
        cluster = world.serve(rate_limiters=(RateLimiter("model", 1.0, None, None, 1.0),))
        world.rest()
        client = world.rest()
        assert (client.status, client.headers[b"retry-after"]) == (429, b"1")
        assert client.headers[b"x-meshproxy-refusal"] == b"rate-limited"
        client = world.grpc(wire.spec(b"open"))
        assert (client.headers[b"grpc-status"], client.headers[b"grpc-retry-pushback-ms"]) == (b"8", b"1000")
        assert [str(exchange.flags) for exchange in world.finished] == ["RL", "RL"]
        assert world.limits_hit == ["rate_requests", "rate_requests"]
        assert len(cluster.streams) == 1
        cluster.streams[0].respond()
        world.assert_let_go()

    def test_models_have_buckets_of_their_own(self, world: Any) -> None:
        cluster = world.serve(rate_limiters=(RateLimiter("model", 1.0, None, None, 1.0),))
        world.rest()
        world.rest(b"/v1/models/open-other:predict")
        assert len(cluster.streams) == 2

    def test_callers_too_if_it_is_about_those(self, world: Any) -> None:
        cluster = world.serve(rate_limiters=(RateLimiter("caller", 1.0, None, None, 1.0),))
        world.rest()
        world.rest(headers=((b"authorization", b"Bearer good"),))
        assert len(cluster.streams) == 2
        assert world.rest().status == 429

    def test_bytes_are_charged_as_they_come(self, world: Any) -> None:
        quota = RateLimiter("model", None, 10.0, None, 1.0)
        cluster = world.serve(rate_limiters=(quota,))
        client = world.rest(body=None, length=30)
        client.receive(b"x" * 15, False)
        assert world.rest().status == 429
        client.receive(b"x" * 15, True)
        world.wait(1.9)  # a debt of 20
        assert world.rest().status == 429
        world.wait(0.2)
        world.rest()
        assert len(cluster.streams) == 2
        for server in cluster.streams:
            server.respond()
        world.assert_let_go()

    def test_what_is_refused_is_not_charged(self, world: Any) -> None:
        """Or those who go on asking would never be let in again."""
        quota = RateLimiter("model", 1.0, 100.0, 1.0, 1.0)
        cluster = world.serve(rate_limiters=(quota,), counts_examples=True)
        world.rest()
        for _ in range(10):
            assert world.rest(body=b"x" * 100).status == 429
        world.wait(1.0)
        world.rest()
        assert len(cluster.streams) == 2

    def test_examples_are_rows_of_the_batch(self, world: Any) -> None:
        quota = RateLimiter("model", None, None, 2.0, 1.0)
        world.serve(rate_limiters=(quota,), counts_examples=True)
        world.rest(body=b'{"instances": [[1], [2], [3], [4]]}')
        world.wait(0.9)
        client = world.rest()
        assert (client.status, world.limits_hit) == (429, ["rate_examples"])
        world.wait(0.2)
        assert world.rest().heads == []

    def test_a_call_without_a_body_is_one_example(self, world: Any) -> None:
        quota = RateLimiter("model", None, None, 1.0, 0.5)
        cluster = world.serve(rate_limiters=(quota,), counts_examples=True)
        world.rest(b"/v1/models/open", method=b"GET")
        cluster.streams[0].respond()
        assert world.rest(b"/v1/models/open", method=b"GET").status == 429

    def test_a_model_that_changes_later_cannot_be_charged_to_another(self, world: Any, wire: Any) -> None:
        cluster = world.serve(rate_limiters=(RateLimiter("model", 5.0, None, None, 1.0),))
        client = world.grpc(None)
        message = wire.framed(wire.spec(b"open-cheap") + wire.tensor(100) + wire.spec(b"open-dear"))
        client.receive(message[:60], False)
        client.receive(message[60:], True)
        assert client.headers[b"x-meshproxy-refusal"] == b"model-changed"
        assert cluster.streams[0].reset_code == CANCEL
        world.assert_let_go()


class TestFaults:
    def faulty(self, world: Any, **fault: Any) -> Any:
        return world.serve(fault=FaultRule(Fault(**fault)))

    def test_some_calls_fail(self, world: Any, wire: Any) -> None:
        cluster = self.faulty(world, abort=Abort(percent=50, http_status=418, grpc_status="ABORTED"))
        world.chance += [0.9, 0.4, 0.9, 0.4, 0.9, 0.6]
        assert world.rest().status == 418
        client = world.grpc(wire.spec(b"open"))
        assert (client.headers[b"grpc-status"], client.headers[b"x-meshproxy-refusal"]) == (b"10", b"fault-injected")
        world.rest()
        assert len(cluster.streams) == 1
        assert [str(exchange.flags) for exchange in world.finished] == ["FI", "FI"]

    def test_some_are_delayed(self, world: Any) -> None:
        cluster = self.faulty(world, delay=Delay(percent=50, duration=2.0))
        world.chance += [0.4]
        client = world.rest(body=None, length=4)
        client.receive(b"bo", False)
        world.wait(1.9)
        client.receive(b"dy", True)
        assert (cluster.streams, client.credited) == ([], 0)
        world.wait(0.2)
        assert (cluster.streams[0].body, client.credited) == (b"body", 4)
        cluster.streams[0].respond()
        assert str(world.finished[0].flags) == "DI"
        world.assert_let_go()

    def test_some_are_delayed_and_then_fail(self, world: Any) -> None:
        self.faulty(world, delay=Delay(percent=100, duration=2.0), abort=Abort(percent=100))
        client = world.rest()
        assert client.heads == []
        world.wait(2)
        assert client.status == 503
        assert str(world.finished[0].flags) == "DI,FI"
        world.assert_let_go()

    def test_a_client_that_leaves_meanwhile_is_gone(self, world: Any) -> None:
        cluster = self.faulty(world, delay=Delay(percent=100, duration=2.0))
        client = world.rest()
        client.sink.reset_received(CANCEL, "gone")
        world.assert_let_go()
        world.wait(3)
        assert cluster.streams == []

    def test_a_delay_longer_than_the_deadline_ends_there(self, world: Any, wire: Any) -> None:
        self.faulty(world, delay=Delay(percent=100, duration=2.0))
        client = world.grpc(wire.spec(b"open"), headers=((b"grpc-timeout", b"1S"),))
        world.wait(1)
        assert client.headers[b"grpc-status"] == b"4"
        world.assert_let_go()

    def test_a_body_is_not_timed_while_the_request_is_delayed(self, world: Any) -> None:
        self.faulty(world, delay=Delay(percent=100, duration=100.0))
        client = world.rest(body=None, length=4)
        for _ in range(3):
            world.wait(world.snapshot.limits.stall + 0.1)
        assert client.heads == []

    def test_a_defect_after_it_costs_one_request(self, world: Any, caplog: pytest.LogCaptureFixture) -> None:
        cluster = self.faulty(world, delay=Delay(percent=100, duration=2.0))
        client = world.rest()
        cluster.pick = None
        world.wait(2)
        assert client.status == 500
        assert "internal error" in caplog.text


class TestSplit:
    def canary(self, world: Any, **fields: Any) -> Any:
        split = Split([Arm(90), Arm(10, "other", "2")])
        return world.serve(split=split, **fields)

    def test_chance_decides_where_a_call_goes(self, world: Any) -> None:
        cluster = self.canary(world)
        world.chance += [0.89, 0.91]
        world.rest()
        world.rest()
        assert cluster.streams[0].head.target == b"/v1/models/open:predict"
        assert world.other.streams[0].head.target == b"/v1/models/open/versions/2:predict"
        for server in (*cluster.streams, *world.other.streams):
            server.respond()
        assert [(exchange.server, exchange.forwarded.models[0].version) for exchange in world.finished] == [
            ("main", None),
            ("other", "2"),
        ]
        world.assert_let_go()

    def test_the_version_is_written_into_the_message(self, world: Any, wire: Any) -> None:
        self.canary(world)
        world.chance.append(0.95)
        world.grpc(wire.spec(b"open") + wire.tensor(3))
        assert world.other.streams[0].body == wire.framed(versioned(b"open", 2) + wire.tensor(3))

    def test_also_if_it_comes_byte_by_byte(self, world: Any, wire: Any) -> None:
        self.canary(world)
        world.chance.append(0.95)
        client = world.grpc(None)
        message = wire.framed(wire.spec(b"open") + wire.tensor(3))
        for at in range(len(message)):
            client.receive(message[at : at + 1], at + 1 == len(message))
        assert world.other.streams[0].body == wire.framed(versioned(b"open", 2) + wire.tensor(3))
        world.other.streams[0].respond_grpc()
        assert client.credited == len(message)
        world.assert_let_go()

    def test_a_call_that_names_a_version_keeps_it(self, world: Any) -> None:
        self.canary(world)
        world.chance.append(0.95)
        world.rest(b"/v1/models/open/versions/7:predict")
        assert world.other.streams[0].head.target == b"/v1/models/open/versions/7:predict"

    def test_nothing_is_sent_before_the_version_is_permitted(self, world: Any, wire: Any) -> None:
        self.canary(world)
        decide = world.policy.decide

        def strict(caller: Any, call: Any, *more: Any) -> Any:
            if call.models[0].version == "2":
                raise Refusal(Reason.PERMISSION_DENIED, "not this one")
            return decide(caller, call, *more)

        world.policy.decide = strict
        world.chance += [0.95, 0.95]
        assert world.rest().status == 403
        assert world.grpc(wire.spec(b"open")).headers[b"grpc-status"] == b"7"
        assert world.other.streams == []

    def test_both_what_was_asked_for_and_what_is_made_of_it_are_audited(self, world: Any) -> None:
        self.canary(world)
        world.policy.decide = lambda caller, call, *more: Permit("b", ("all", f"version {call.models[0].version}"))
        world.chance.append(0.95)
        world.rest()
        world.other.streams[0].respond()
        assert world.finished[0].permit_audits == ("all", "version None", "version 2")

    @pytest.mark.parametrize("is_ready", [True, False])
    def test_a_body_that_cannot_be_rewritten_is_the_clients_fault(self, world: Any, wire: Any, is_ready: bool) -> None:
        """Also if that is found out while what was held is sent: the model is named again behind what has gone on."""
        self.canary(world)
        world.other.is_ready = is_ready
        world.chance.append(0.95)
        client = world.grpc(None)
        message = wire.framed(wire.spec(b"open") + wire.tensor(4000) + wire.spec(b"open"))
        client.receive(message[:2000], False)
        client.receive(message[2000:], True)
        if not is_ready:
            world.other.all[0].pool.give(world.other.waiting.pop())
        assert client.headers[b"x-meshproxy-refusal"] == b"model-changed"
        assert not world.other.streams[0].ended
        world.assert_let_go()

    def test_the_same_key_gets_the_same_arm(self, world: Any) -> None:
        self.canary(world, sticky=Key(by="header", header="x-user"))
        for user in range(40):
            for _ in range(2):
                world.rest(headers=((b"x-user", b"%d" % user),))
        assert len(world.other.streams) % 2 == 0
        assert len(world.cluster.streams) % 2 == 0
        assert 0 < len(world.other.streams) < len(world.cluster.streams)

    def test_without_the_header_the_caller_counts(self, world: Any) -> None:
        self.canary(world, sticky=Key(by="header", header="x-user"))
        for _ in range(10):
            world.rest()
        assert {len(world.other.streams), len(world.cluster.streams)} == {0, 10}

    def test_a_client_without_a_cookie_gets_one_and_keeps_its_arm_with_it(self, world: Any) -> None:
        self.canary(world, sticky=Key(by="cookie", cookie=Cookie(name="user", ttl=60.0)))
        arms = set()
        for number in range(40):
            world.chance.append(number / 40)
            before = len(world.other.streams)
            client = world.rest()
            is_canary = len(world.other.streams) > before
            (world.other if is_canary else world.cluster).streams[-1].respond(headers=((b"x-of", b"server"),))
            value, *attributes = client.headers[b"set-cookie"].split(b"; ")
            assert attributes == [b"Path=/", b"Max-Age=60", b"HttpOnly", b"SameSite=Lax"]
            assert client.headers[b"x-of"] == b"server"
            before = len(world.other.streams)
            again = world.rest(headers=((b"cookie", b"x=1; " + value),))
            assert (len(world.other.streams) > before) == is_canary
            (world.other if is_canary else world.cluster).streams[-1].respond()
            assert b"set-cookie" not in again.headers
            arms.add(is_canary)
        assert arms == {True, False}

    def test_or_an_arm_by_chance_if_none_is_given(self, world: Any) -> None:
        self.canary(world, sticky=Key(by="cookie", cookie=Cookie(name="user")))
        world.chance += [0.5, 0.95]
        clients = [world.rest(), world.rest()]
        world.cluster.streams[0].respond()
        world.other.streams[0].respond()
        assert [b"set-cookie" in client.headers for client in clients] == [False, False]

    def test_a_share_and_an_endpoint_by_one_cookie(self, world: Any, wire: Any) -> None:
        cookie = Cookie(name="user", ttl=60.0)
        self.canary(world, sticky=Key(by="cookie", cookie=cookie))
        world.cluster.key = world.other.key = Key(by="cookie", cookie=cookie)
        world.chance.append(0.3)
        client = world.grpc(wire.spec(b"open"))
        ((_, key),) = world.cluster.picked + world.other.picked
        (*world.cluster.streams, *world.other.streams)[0].respond_grpc()
        value = client.headers[b"set-cookie"].partition(b";")[0]
        world.grpc(wire.spec(b"open"), headers=((b"cookie", value),))
        assert [each for _, each in world.cluster.picked + world.other.picked] == [key, key]

    def test_a_retry_sends_what_was_rewritten(self, world: Any, wire: Any) -> None:
        cluster = world.serve(2, split=Split([Arm(1, None, "2")]), retries=Retries())
        world.grpc(wire.spec(b"open") + wire.tensor(3))
        cluster.streams[0].fail_grpc()
        assert cluster.streams[0].body == cluster.streams[1].body == wire.framed(versioned(b"open", 2) + wire.tensor(3))


class TestOtherModels:
    """Conversations: a share or a fallback that names another model."""

    V2 = Arm(1, model="open-v2")
    SMALL = Arm(1, model="open-small", version="3")

    def test_its_name_takes_the_place_of_the_one_that_was_called(self, world: Any, wire: Any) -> None:
        cluster = world.serve(split=Split([self.V2]))
        world.rest()
        world.grpc(_signed(b"open", b"other") + wire.tensor(3))
        world.grpc(wire.spec(b"open"), method=b"/tensorflow.serving.PredictionService/GetModelMetadata")
        assert cluster.streams[0].head.target == b"/v1/models/open-v2:predict"
        assert cluster.streams[1].body == wire.framed(_signed(b"open-v2", b"other") + wire.tensor(3))
        assert cluster.streams[2].body == wire.framed(wire.spec(b"open-v2"))
        cluster.streams[0].respond()
        (exchange,) = world.finished
        assert (exchange.asked.models, exchange.forwarded.models) == ((ModelRef("open"),), (ModelRef("open-v2"),))

    @pytest.mark.parametrize("named", [b"/v1/models/open/versions/7:predict", b"/v1/models/open/labels/x:predict"])
    def test_a_version_or_label_is_that_of_the_model_that_has_it(self, world: Any, named: bytes) -> None:
        """And its server: that of the share may have the other model only."""
        cluster = world.serve(split=Split([Arm(1, "other", model="open-v2")]))
        world.rest(named)
        assert cluster.streams[0].head.target == named
        assert world.other.streams == []

    def test_a_label_of_the_route_is_resolved_for_the_model_that_was_called(self, world: Any) -> None:
        cluster = world.serve(split=Split([Arm(1, "other", model="open-v2")]), labels={"x": "5"})
        world.rest(b"/v1/models/open/labels/x:predict")
        assert cluster.streams[0].head.target == b"/v1/models/open/versions/5:predict"

    def test_a_status_is_that_of_the_model_that_was_called(self, world: Any, wire: Any) -> None:
        cluster = world.serve(split=Split([Arm(1, "other", model="open-v2")]))
        world.rest(b"/v1/models/open", method=b"GET", body=None)
        assert cluster.streams[0].head.target == b"/v1/models/open"
        assert world.other.streams == []

    def test_a_share_of_the_models_own_name_takes_every_call(self, world: Any) -> None:
        world.serve(split=Split([Arm(1, "other", model="open")]))
        world.rest(b"/v1/models/open/versions/7:predict")
        world.rest(b"/v1/models/open", method=b"GET", body=None)
        assert [stream.head.target for stream in world.other.streams] == [
            b"/v1/models/open/versions/7:predict",
            b"/v1/models/open",
        ]

    def test_its_own_name_changes_nothing(self, world: Any, wire: Any) -> None:
        cluster = world.serve(split=Split([Arm(1, model="open")]))
        world.grpc(wire.tensor(3) + wire.spec(b"open"))
        assert cluster.streams[0].body == wire.framed(wire.tensor(3) + wire.spec(b"open"))
        assert len(world.policy.asked) == 1

    def test_the_caller_must_be_permitted_both(self, world: Any) -> None:
        for denied in ("open", "open-v2"):
            world.serve(split=Split([self.V2]))
            world.policy.permits = lambda call, denied=denied: call.models[0].name != denied
            assert world.rest().status == 403
            assert world.cluster.streams == []

    def test_all_tasks_are_renamed_and_must_name_the_same(self, world: Any, wire: Any) -> None:
        method = b"/tensorflow.serving.PredictionService/MultiInference"
        cluster = world.serve(split=Split([self.V2]))
        same = b"".join(_task(each) for each in (wire.spec(b"open"), _signed(b"open", b"other")))
        world.grpc(same, method=method)
        renamed = (wire.spec(b"open-v2"), _signed(b"open-v2", b"other"))
        assert cluster.streams[0].body == wire.framed(b"".join(map(_task, renamed)))
        # What names several models is not made one of: the server refuses it.
        mixed = b"".join(_task(wire.spec(name)) for name in (b"open", b"open-b"))
        world.grpc(mixed, method=method)
        assert cluster.streams[1].body == wire.framed(mixed)
        client = world.grpc(None, method=method)
        body, cut = wire.framed(mixed), 5 + len(_task(wire.spec(b"open")))
        client.receive(body[:cut], False)
        client.receive(body[cut:], True)
        assert client.headers[b"x-meshproxy-refusal"] == b"model-changed"

    def test_concurrency_is_that_of_the_model_that_runs(self, world: Any) -> None:
        world.serve(split=Split([self.V2]), concurrency=LIMITED)
        world.rest()
        assert [model for _, model, _ in world.pipeline.admissions.rows()] == ["open-v2"]

    def test_a_fallback_to_another_model_of_the_same_server(self, world: Any, wire: Any) -> None:
        cluster = world.serve(fallback=self.SMALL)
        cluster.unavailable = {"open"}
        world.grpc(wire.spec(b"open") + wire.tensor(3))
        world.rest(b"/v1/models/open/versions/9:predict")
        assert cluster.streams[0].body == wire.framed(versioned(b"open-small", 3) + wire.tensor(3))
        assert cluster.streams[1].head.target == b"/v1/models/open-small/versions/3:predict"
        for stream in cluster.streams:
            stream.respond()
        assert [exchange.forwarded.models[0] for exchange in world.finished] == [
            ModelRef("open-small", "3", None, "serving_default"),
            ModelRef("open-small", "3"),
        ]
        assert world.traffic.events == [("fell back",)] * 2

    def test_the_caller_must_be_permitted_the_candidate_of_a_rollout(self, world: Any) -> None:
        split = LiveSplit("r", RolloutSpec("open", RolloutArm("1"), RolloutArm("2")))
        cluster = world.serve(split=split)
        world.policy.permits = lambda call: call.models[0].version != "2"
        world.rest()
        split.weight = 100.0
        assert world.rest().status == 403
        assert [stream.head.target for stream in cluster.streams] == [b"/v1/models/open/versions/1:predict"]

    def test_a_fallback_is_no_success_of_the_arm_of_a_rollout(self, world: Any) -> None:
        split, meter = LiveSplit("r", RolloutSpec("open", RolloutArm("1"), RolloutArm("2"))), FakeMeter(reads=False)
        split.weight = 100.0
        cluster = world.serve(split=split, fallback=Arm(1, "other"))
        world.pipeline.meters = {"r": meter}
        cluster.no_endpoint = NoEndpoint("down")
        client = world.rest()
        world.other.streams[0].respond(b"answer")
        assert (client.status, meter.told) == (200, [(True, 0, -1, None)])

    def test_one_that_the_caller_may_not_call_is_none(self, world: Any) -> None:
        world.serve(fallback=self.SMALL).unavailable = {"open"}
        world.policy.permits = lambda call: call.models[0].name == "open"
        client = world.rest()
        assert (client.status, client.headers[b"x-meshproxy-refusal"]) == (503, b"no-upstream")
        assert b"the caller may not call the fallback's model" in client.body
        assert world.finished[0].forwarded.models == (ModelRef("open"),)
        world.assert_let_go()

    def test_then_breakers_refuse_nothing(self, world: Any) -> None:
        cluster = world.serve(fallback=self.SMALL)
        cluster.doubted = {"open"}
        world.policy.permits = lambda call: call.models[0].name == "open"
        client = world.rest()
        cluster.streams[0].respond(b"answer")
        assert (client.body, cluster.streams[0].head.target) == (b"answer", b"/v1/models/open:predict")
        assert world.traffic.events == []
        world.assert_let_go()

    @pytest.mark.parametrize("split", [None, Split([Arm(1, model="open-v2")])])
    def test_what_was_sent_before_is_sent_again_under_the_new_name(self, world: Any, wire: Any, split: Any) -> None:
        cluster = world.serve(retries=Retries(backoff=0.001), split=split, fallback=Arm(1, "other", model="open-small"))
        client = world.grpc(None)
        message = wire.framed(wire.spec(b"open") + wire.tensor(100))
        client.receive(message[:40], False)
        cluster.no_endpoint = NoEndpoint("down")
        cluster.streams[0].sink.reset_received(0x7, "refused")
        world.wait(0.1)
        client.receive(message[40:], True)
        assert world.other.streams[0].body == wire.framed(wire.spec(b"open-small") + wire.tensor(100))
        world.other.streams[0].respond_grpc()
        world.assert_let_go()

    def test_a_later_task_must_fit_the_fallback_too(self, world: Any, wire: Any) -> None:
        cluster = world.serve(fallback=Arm(1, model="open-small"))
        cluster.unavailable = {"open"}
        tasks = [_task(each) for each in (wire.spec(b"open"), _signed(b"open", b"s"), wire.spec(b"open-b"))]
        for count, refusal in ((2, None), (3, b"model-changed")):
            client = world.grpc(None, method=b"/tensorflow.serving.PredictionService/MultiInference")
            body, cut = wire.framed(b"".join(tasks[:count])), 5 + len(tasks[0])
            client.receive(body[:cut], False)
            client.receive(body[cut:], True)
            assert (client.headers[b"x-meshproxy-refusal"] if client.heads else None) == refusal
        renamed = _task(wire.spec(b"open-small")) + _task(_signed(b"open-small", b"s"))
        assert cluster.streams[0].body == wire.framed(renamed)
        assert ModelRef("open-small", None, None, "s") in {
            each for _, call in world.policy.asked for each in call.models
        }


class TestLabels:
    def test_they_become_versions(self, world: Any, wire: Any) -> None:
        cluster = world.serve(labels={"canary": "5"})
        world.rest(b"/v1/models/open/labels/canary:predict")
        world.grpc(labelled(b"open", b"canary"))
        assert cluster.streams[0].head.target == b"/v1/models/open/versions/5:predict"
        assert cluster.streams[1].body == wire.framed(versioned(b"open", 5))

    def test_others_are_left_to_the_model_server(self, world: Any, wire: Any) -> None:
        cluster = world.serve(labels={"canary": "5"})
        world.grpc(labelled(b"open", b"stable"))
        assert cluster.streams[0].body == wire.framed(labelled(b"open", b"stable"))

    @pytest.mark.parametrize("later", [labelled(b"open", b"canary"), versioned(b"open", 9)])
    def test_one_that_comes_late_is_refused(self, world: Any, wire: Any, later: bytes) -> None:
        """protobuf merges what comes later: the model server would look up the label itself."""
        world.serve(labels={"canary": "5"})
        client = world.grpc(None)
        message = wire.framed(wire.spec(b"open") + wire.tensor(100) + later)
        client.receive(message[:40], False)
        client.receive(message[40:], True)
        assert client.headers[b"x-meshproxy-refusal"] == b"model-changed"
        assert not world.cluster.streams[0].ended
        world.assert_let_go()

    def test_more_of_the_same_is_no_change(self, world: Any, wire: Any) -> None:
        """As when the tasks of a MultiInferenceRequest come one by one."""
        cluster = world.serve(labels={"canary": "5"}, split=Split([Arm(1)]))
        tasks = [b"\x0a" + bytes([len(spec)]) + spec for spec in (wire.spec(b"open"), _signed(b"open", b"other"))]
        message = wire.framed(b"".join(tasks))
        client = world.grpc(None, method=b"/tensorflow.serving.PredictionService/MultiInference")
        cut = 5 + len(tasks[0])
        client.receive(message[:cut], False)
        client.receive(message[cut:], True)
        cluster.streams[0].respond_grpc()
        assert cluster.streams[0].body == message
        assert world.finished[0].refusal is None
        assert ModelRef("open", None, None, "other") in world.finished[0].asked.models
        world.assert_let_go()

    def test_nor_in_what_is_rewritten(self, world: Any, wire: Any) -> None:
        cluster = world.serve(split=Split([Arm(1, None, "2")]))
        tasks = [b"\x0a" + bytes([len(spec)]) + spec for spec in (wire.spec(b"open"), _signed(b"open", b"other"))]
        message = wire.framed(b"".join(tasks))
        client = world.grpc(None, method=b"/tensorflow.serving.PredictionService/MultiInference")
        cut = 5 + len(tasks[0])
        client.receive(message[:cut], False)
        client.receive(message[cut:], True)
        assert client.heads == []
        assert cluster.streams[0].ended
        assert cluster.streams[0].body.count(b"\x12\x02\x08\x02") == 2
        assert {model.version for model in world.policy.asked[-1][1].models} == {"2"}


def _signed(name: bytes, signature: bytes) -> bytes:
    inner = b"\x0a" + bytes([len(name)]) + name + b"\x1a" + bytes([len(signature)]) + signature
    return b"\x0a" + bytes([len(inner)]) + inner


class TestConcurrency:
    def rows(self, world: Any) -> tuple[int, int]:
        ((_, _, admission),) = world.pipeline.admissions.rows()
        return admission.in_flight, admission.waiting

    def test_a_call_without_a_deadline_is_let_in(self, world: Any) -> None:
        cluster = world.serve(concurrency=LIMITED)
        world.rest()
        assert len(cluster.streams) == 1
        cluster.streams[0].respond()
        world.assert_let_go()

    def test_the_next_is_queued_and_the_one_after_is_turned_away(self, world: Any, wire: Any) -> None:
        cluster = world.serve(concurrency=LIMITED)
        world.rest()
        waiting = world.rest(body=b"waits")
        away = world.grpc(wire.spec(b"open"))
        assert (away.headers[b"grpc-status"], away.headers[b"x-meshproxy-refusal"]) == (b"8", b"overloaded")
        assert self.rows(world) == (1, 1)
        assert str(world.finished[0].flags) == "UO"
        cluster.streams[0].respond()
        assert cluster.streams[1].body == b"waits"
        assert self.rows(world) == (1, 0)
        cluster.streams[1].respond()
        assert waiting.status == 200
        world.assert_let_go()

    def test_the_slot_is_free_when_the_answer_has_come_however_slow_the_client(self, world: Any) -> None:
        cluster = world.serve(concurrency=LIMITED)
        slow = world.rest()
        world.rest()
        slow.is_full = True
        cluster.streams[0].respond()
        assert len(cluster.streams) == 2
        slow.sink.drained()
        cluster.streams[1].respond()
        world.assert_let_go()

    def test_none_waits_longer_than_the_queue_timeout(self, world: Any) -> None:
        world.serve(concurrency=Concurrency(limit=1, queue=5, queue_timeout=1.0))
        world.rest()
        client = world.rest()
        world.wait(1.1)
        assert client.status == 503
        assert self.rows(world) == (1, 0)

    def test_nor_beyond_its_deadline(self, world: Any, wire: Any) -> None:
        world.serve(concurrency=Concurrency(limit=1, queue=5, queue_timeout=9.0))
        world.rest()
        client = world.grpc(wire.spec(b"open"), headers=((b"grpc-timeout", b"1S"),))
        world.wait(1.1)
        assert client.headers[b"grpc-status"] == b"4"
        assert self.rows(world) == (1, 0)

    def test_one_that_would_be_too_late_is_refused_at_once(self, world: Any, wire: Any) -> None:
        cluster = world.serve(concurrency=Concurrency(limit=1, queue=5, queue_timeout=9.0))
        world.rest()
        world.wait(5.0)
        cluster.streams[0].respond()
        world.rest()
        client = world.grpc(wire.spec(b"open"), headers=((b"grpc-timeout", b"6S"),))
        assert client.headers[b"x-meshproxy-refusal"] == b"overloaded"
        assert world.limits_hit == ["queue_time"]
        cluster.streams[1].respond()
        world.assert_let_go()

    @pytest.mark.parametrize("who", ["first", "waiting"])
    def test_a_client_that_leaves_makes_room(self, world: Any, who: str) -> None:
        cluster = world.serve(concurrency=LIMITED)
        clients = [world.rest(), world.rest()]
        leaving = clients[who == "waiting"]
        leaving.sink.reset_received(CANCEL, "gone")
        assert self.rows(world) == (1, 0)
        assert [stream.reset_code for stream in cluster.streams] == ([CANCEL, None] if who == "first" else [None])
        cluster.streams[-1].respond()
        world.assert_let_go()

    def test_the_upstream_is_let_go_before_the_slot(self, world: Any) -> None:
        cluster = world.serve(concurrency=LIMITED)
        first = world.rest()
        world.rest()
        order: list[str] = []
        cluster.streams[0].reset = lambda code: order.append("reset")
        acquire = cluster.all[0].pool.acquire

        def acquired(waiter: Any) -> None:
            order.append("acquire")
            acquire(waiter)

        cluster.all[0].pool.acquire = acquired
        first.sink.reset_received(CANCEL, "gone")
        assert order == ["reset", "acquire"]

    def test_a_refusal_behind_it_gives_it_back(self, world: Any) -> None:
        cluster = world.serve(concurrency=LIMITED)
        cluster.no_endpoint = NoEndpoint("all are down")
        for _ in range(3):
            assert world.rest().status == 503
        cluster.no_endpoint = None
        cluster.error = ConnectError("refused")
        client = world.rest()
        world.wait(1)
        assert client.status == 503
        world.assert_let_go()

    def test_what_says_nothing_of_the_server_teaches_the_limit_nothing(self, world: Any, wire: Any) -> None:
        """A client that left, or a server that was never reached, is no measure of how long the model takes."""
        cluster = world.serve(2, concurrency=Concurrency(limit=9), try_timeout=5.0, retries=Retries(attempts=1))
        heard: list[Any] = []
        world.rest().sink.reset_received(CANCEL, "gone")
        ((_, _, admission),) = world.pipeline.admissions.rows()
        admission.limit = SimpleNamespace(
            current=9, finished=lambda seconds, in_flight, is_ok, now: heard.append((round(seconds, 3), is_ok))
        )
        cluster.all[0].pool.errors.append(ConnectError("refused"))
        world.rest()
        world.rest().sink.reset_received(CANCEL, "gone")
        world.rest(body=None, length=5).sink.rejected(Rejected(1, 400, "a chunk size is malformed"))
        world.rest()
        cluster.streams[-1].sink.reset_received(CANCEL, "gone")
        assert heard == []
        for status in (200, 404, 500, 503, 429):
            world.rest()
            world.loop.now += 1
            cluster.streams[-1].respond(status=status)
        world.grpc(wire.spec(b"open"))
        cluster.streams[-1].fail_grpc(b"8")
        world.grpc(wire.spec(b"open"))
        cluster.streams[-1].respond_grpc(status=b"3")
        world.rest()
        world.wait(5.1)
        assert heard == [
            (1, True), (1, True), (1, True), (1, False), (1, False), (0, False), (0, True), (5.0, False),
        ]  # fmt: skip
        world.assert_let_go()

    def test_also_when_an_answer_breaks_off(self, world: Any) -> None:
        cluster = world.serve(concurrency=Concurrency(limit=1, queue=1, queue_timeout=9.0), idle_timeout=1.0)
        world.rest()
        world.rest()
        order: list[str] = []
        cluster.streams[0].reset = lambda code: order.append("reset")
        acquire = cluster.all[0].pool.acquire

        def acquired(waiter: Any) -> None:
            order.append("acquire")
            acquire(waiter)

        cluster.all[0].pool.acquire = acquired
        cluster.streams[0].sink.head_received(ResponseHead(0, 200, (), end=False))
        world.wait(1.1)
        assert order == ["reset", "acquire"]

    def test_a_defect_in_turning_one_away_does_not_reach_others(
        self, world: Any, wire: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        cluster = world.serve(concurrency=Concurrency(limit=1, queue=3, queue_timeout=1.0))
        first = world.rest()
        broken, waiting = wire.client("HTTP/1.1"), wire.client("HTTP/1.1")
        broken.send_response = None
        world.rest(client=broken)
        world.loop.now += 0.5
        world.rest(client=waiting)
        world.loop.now += 0.6
        cluster.streams[0].respond()
        assert first.status == 200
        cluster.streams[1].respond()
        assert waiting.status == 200
        assert "internal error" in caplog.text

    def test_the_critical_go_first(self, world: Any, wire: Any) -> None:
        cluster = world.serve(concurrency=Concurrency(limit=1, queue=1))
        first = world.pipeline.snapshot.routes.match(Call(Verb.PREDICT), (), None)
        urgent = dataclasses.replace(first, name="urgent", priority=0)  # the other route of the model
        world.rest()
        default = world.rest()
        world.use(routes=Routes(urgent))
        world.rest(body=b"urgent")
        assert default.status == 503
        cluster.streams[0].respond()
        assert cluster.streams[1].body == b"urgent"

    def test_a_defect_costs_one_request_and_its_slot_is_given_back(
        self, world: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        cluster = world.serve(concurrency=Concurrency(limit=1, queue=5))
        world.rest()
        second, third = world.rest(), world.rest()
        pick, picks = cluster.pick, [None, cluster.pick]
        cluster.pick = lambda *what: picks.pop(0)(*what)
        cluster.streams[0].respond()
        assert second.status == 500
        cluster.pick = pick
        cluster.streams[1].respond()
        assert third.status == 200
        assert "internal error" in caplog.text
        world.assert_let_go()


def _task(spec: bytes) -> bytes:
    """An InferenceTask with this model_spec."""
    return b"\x0a" + bytes([len(spec)]) + spec
