"""What a route asks for beyond a server: limits, faults, shares, versions and places, by conversations."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from meshproxy.codec.events import Rejected, ResponseHead
from meshproxy.config.routes import Abort, Concurrency, Delay, Fault, Retries
from meshproxy.config.servers import Key
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.policy.decide import Permit
from meshproxy.policy.quota import Quota
from meshproxy.refusal import Reason, Refusal
from meshproxy.routing.fault import FaultRule
from meshproxy.routing.routes import Routes
from meshproxy.routing.split import Arm, Split
from meshproxy.transport.connector import ConnectError
from meshproxy.upstream.cluster import NoEndpoint

CANCEL = 0x8
LIMITED = Concurrency(limit=1, queue=1)


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
        cluster = world.serve(quotas=(Quota("model", 1.0, None, None, 1.0),))
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
        cluster = world.serve(quotas=(Quota("model", 1.0, None, None, 1.0),))
        world.rest()
        world.rest(b"/v1/models/open-other:predict")
        assert len(cluster.streams) == 2

    def test_callers_too_if_it_is_about_those(self, world: Any) -> None:
        cluster = world.serve(quotas=(Quota("caller", 1.0, None, None, 1.0),))
        world.rest()
        world.rest(headers=((b"authorization", b"Bearer good"),))
        assert len(cluster.streams) == 2
        assert world.rest().status == 429

    def test_bytes_are_charged_as_they_come(self, world: Any) -> None:
        quota = Quota("model", None, 10.0, None, 1.0)
        cluster = world.serve(quotas=(quota,))
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

    def test_what_is_refused_takes_nothing(self, world: Any) -> None:
        """Or those who go on asking would never be let in again."""
        quota = Quota("model", 1.0, 100.0, 1.0, 1.0)
        cluster = world.serve(quotas=(quota,), counts_examples=True)
        world.rest()
        for _ in range(10):
            assert world.rest(body=b"x" * 100).status == 429
        world.wait(1.0)
        world.rest()
        assert len(cluster.streams) == 2

    def test_examples_are_rows_of_the_batch(self, world: Any) -> None:
        quota = Quota("model", None, None, 2.0, 1.0)
        world.serve(quotas=(quota,), counts_examples=True)
        world.rest(body=b'{"instances": [[1], [2], [3], [4]]}')
        world.wait(0.9)
        client = world.rest()
        assert (client.status, world.limits_hit) == (429, ["rate_examples"])
        world.wait(0.2)
        assert world.rest().heads == []

    def test_a_call_without_a_body_is_one_example(self, world: Any) -> None:
        quota = Quota("model", None, None, 1.0, 0.5)
        cluster = world.serve(quotas=(quota,), counts_examples=True)
        world.rest(b"/v1/models/open", method=b"GET")
        cluster.streams[0].respond()
        assert world.rest(b"/v1/models/open", method=b"GET").status == 429

    def test_a_model_that_changes_later_cannot_be_charged_to_another(self, world: Any, wire: Any) -> None:
        cluster = world.serve(quotas=(Quota("model", 5.0, None, None, 1.0),))
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

    def test_some_wait(self, world: Any) -> None:
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

    def test_and_fail_after_that(self, world: Any) -> None:
        self.faulty(world, delay=Delay(percent=100, duration=2.0), abort=Abort(percent=100))
        client = world.rest()
        assert client.heads == []
        world.wait(2)
        assert client.status == 503
        assert str(world.finished[0].flags) == "DI,FI"
        world.assert_let_go()

    def test_who_leaves_meanwhile_is_gone(self, world: Any) -> None:
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

    def test_a_body_that_stalls_behind_a_delay_is_ours(self, world: Any) -> None:
        self.faulty(world, delay=Delay(percent=100, duration=100.0))
        client = world.rest(body=None, length=4)
        for _ in range(3):
            world.wait(world.snapshot.limits.stall + 0.1)
        assert client.heads == []

    def test_a_mistake_after_it_costs_one_request(self, world: Any, caplog: pytest.LogCaptureFixture) -> None:
        cluster = self.faulty(world, delay=Delay(percent=100, duration=2.0))
        client = world.rest()
        cluster.pick = None
        world.wait(2)
        assert client.status == 500
        assert "internal error" in caplog.text


class TestShares:
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

        def strict(caller: Any, call: Any) -> Any:
            if call.models[0].version == "2":
                raise Refusal(Reason.PERMISSION_DENIED, "not this one")
            return decide(caller, call)

        world.policy.decide = strict
        world.chance += [0.95, 0.95]
        assert world.rest().status == 403
        assert world.grpc(wire.spec(b"open")).headers[b"grpc-status"] == b"7"
        assert world.other.streams == []

    def test_both_what_was_asked_for_and_what_is_made_of_it_are_audited(self, world: Any) -> None:
        self.canary(world)
        world.policy.decide = lambda caller, call: Permit("b", ("all", f"version {call.models[0].version}"))
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
        message = wire.framed(wire.spec(b"open") + wire.tensor(100) + wire.spec(b"open"))
        client.receive(message[:40], False)
        client.receive(message[40:], True)
        if not is_ready:
            world.other.all[0].pool.give(world.other.waiting.pop())
        assert client.headers[b"x-meshproxy-refusal"] == b"model-changed"
        assert not world.other.streams[0].ended
        world.assert_let_go()

    def test_the_same_key_gets_the_same_share(self, world: Any) -> None:
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

    def test_a_retry_sends_what_was_rewritten(self, world: Any, wire: Any) -> None:
        cluster = world.serve(2, split=Split([Arm(1, None, "2")]), retries=Retries())
        world.grpc(wire.spec(b"open") + wire.tensor(3))
        cluster.streams[0].fail_grpc()
        assert cluster.streams[0].body == cluster.streams[1].body == wire.framed(versioned(b"open", 2) + wire.tensor(3))


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
    def test_one_that_comes_late_is_no_way_around(self, world: Any, wire: Any, later: bytes) -> None:
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


class TestPlaces:
    def rows(self, world: Any) -> tuple[int, int]:
        ((_, _, admission),) = world.pipeline.admissions.rows()
        return admission.in_flight, admission.waiting

    def test_a_call_without_a_deadline_is_let_in(self, world: Any) -> None:
        cluster = world.serve(concurrency=LIMITED)
        world.rest()
        assert len(cluster.streams) == 1
        cluster.streams[0].respond()
        world.assert_let_go()

    def test_the_next_waits_for_its_turn_and_the_one_after_is_sent_away(self, world: Any, wire: Any) -> None:
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

    def test_the_place_is_free_when_the_answer_has_come_however_slow_the_client(self, world: Any) -> None:
        cluster = world.serve(concurrency=LIMITED)
        slow = world.rest()
        world.rest()
        slow.is_full = True
        cluster.streams[0].respond()
        assert len(cluster.streams) == 2
        slow.sink.drained()
        cluster.streams[1].respond()
        world.assert_let_go()

    def test_nobody_waits_longer_than_the_queue_lets_them(self, world: Any) -> None:
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

    def test_who_would_be_too_late_is_told_at_once(self, world: Any, wire: Any) -> None:
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
    def test_who_leaves_makes_room(self, world: Any, who: str) -> None:
        cluster = world.serve(concurrency=LIMITED)
        clients = [world.rest(), world.rest()]
        leaving = clients[who == "waiting"]
        leaving.sink.reset_received(CANCEL, "gone")
        assert self.rows(world) == (1, 0)
        assert [stream.reset_code for stream in cluster.streams] == ([CANCEL, None] if who == "first" else [None])
        cluster.streams[-1].respond()
        world.assert_let_go()

    def test_the_upstream_is_let_go_before_the_place(self, world: Any) -> None:
        cluster = world.serve(concurrency=LIMITED)
        first = world.rest()
        world.rest()
        order: list[str] = []
        cluster.streams[0].reset = lambda code: order.append("reset")
        acquire = cluster.all[0].pool.acquire
        cluster.all[0].pool.acquire = lambda waiter: (order.append("acquire"), acquire(waiter))
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

    def test_what_nobody_knows_teaches_the_limit_nothing(self, world: Any, wire: Any) -> None:
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
        cluster.all[0].pool.acquire = lambda waiter: (order.append("acquire"), acquire(waiter))
        cluster.streams[0].sink.head_received(ResponseHead(0, 200, (), end=False))
        world.wait(1.1)
        assert order == ["reset", "acquire"]

    def test_a_mistake_in_sending_one_away_is_not_told_to_others(
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

    def test_the_important_go_first(self, world: Any, wire: Any) -> None:
        cluster = world.serve(concurrency=Concurrency(limit=1, queue=1))
        first = world.pipeline.snapshot.routes.match(Call(Verb.PREDICT), (), None)
        urgent = dataclasses.replace(first, priority=0)
        world.rest()
        default = world.rest()
        world.use(routes=Routes(urgent))
        world.rest(body=b"urgent")
        assert default.status == 503
        cluster.streams[0].respond()
        assert cluster.streams[1].body == b"urgent"

    def test_a_mistake_costs_one_request_and_its_place_goes_on(
        self, world: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        cluster = world.serve(concurrency=Concurrency(limit=1, queue=5))
        world.rest()
        second, third = world.rest(), world.rest()
        pick, picks = cluster.pick, [None, cluster.pick]
        cluster.pick = lambda *what: picks.pop(0)(*what)  # type: ignore[misc]
        cluster.streams[0].respond()
        assert second.status == 500
        cluster.pick = pick
        cluster.streams[1].respond()
        assert third.status == 200
        assert "internal error" in caplog.text
        world.assert_let_go()
