"""A mirrored request alone; then conversations: when a copy goes out, with what, and what is made of its answer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.codec.events import RequestHead, ResponseHead
from meshproxy.config.routes import Compare, Mirror
from meshproxy.inference.body_scan import DEFAULT_LIMITS
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.inference.surface import Comparison, Operation
from meshproxy.inference.surfaces import SURFACES
from meshproxy.proxy.exchange import Exchange
from meshproxy.proxy.mirror import DONE, RECORDING, RESULTS, SENT, MirroredRequest, Mirrors
from meshproxy.routing.routes import Route
from meshproxy.routing.split import Arm, Split
from meshproxy.telemetry.b3 import B3Format, B3Propagator
from meshproxy.telemetry.sampling import Sampler
from meshproxy.telemetry.trace import Tracer
from meshproxy.transport.connect_failures import ConnectError
from meshproxy.transport.stream import HeadRefused
from tests.proxy.fakes import FakeDownstream, FakeUpstream, Surroundings, full_upstream
from tests.thorough import tries

CANCEL = 0x8
PREDICT = b"/tensorflow.serving.PredictionService/Predict"
PREDICTIONS = b'{"predictions": [1.0, 2.0]}'
CALL = Call(Verb.PREDICT, (ModelRef("open"),))


def head(status: int = 200) -> ResponseHead:
    return ResponseHead(0, status, (), end=False)


class Alone:
    """One copy between an exchange and a fake cluster."""

    def __init__(
        self,
        mirror: Mirror | None = None,
        *,
        around: Surroundings | None = None,
        target: bytes = b"/v1/models/open:predict",
        is_grpc: bool = False,
        forwarded: Call | None = None,
        operation: Operation | None = None,
    ) -> None:
        around = self.around = around or Surroundings()
        self.loop, self.cluster = around.loop, around.other
        self.mirrors = Mirrors(around.context)
        method = b"POST" if is_grpc or target.endswith(b":predict") else b"GET"
        self.operation = operation or (SURFACES.find_grpc(target) if is_grpc else SURFACES.find_rest(method, target))
        head = RequestHead(0, b"POST", b"host", target, (), False)
        exchange = self.exchange = Exchange(head, FakeDownstream().info, self.loop.now)
        exchange.is_grpc = is_grpc
        exchange.asked = self.operation.call or CALL
        exchange.forwarded = forwarded or exchange.asked
        exchange.status = 200
        self.route = Route("route", "main", mirror=mirror or Mirror(server="other"))
        self.copy = self.begin()

    def begin(self) -> MirroredRequest | None:
        return self.mirrors.begin(
            self.exchange, self.route, "main", self.operation, self.exchange.head, None, DEFAULT_LIMITS
        )

    @property
    def made(self) -> MirroredRequest:
        assert self.copy is not None
        return self.copy

    @property
    def stream(self) -> FakeUpstream:
        return self.cluster.streams[0]

    @property
    def results(self) -> list[str]:
        return [event[1] for event in self.around.traffic.events]

    def launch(self, answer: bytes = PREDICTIONS, request: bytes = b"{}", *, is_whole: bool = True) -> Alone:
        """The request and its answer are over: the copy goes out."""
        self.made.take_request(request, True)
        self.made.take_answer(answer)
        self.made.launch(self.exchange, is_whole)
        return self

    def assert_done(self, result: str) -> None:
        """It has ended with `result`, counted once, and has left nothing."""
        assert self.made.state is DONE
        assert self.results == [result]
        assert (self.mirrors.in_flight, self.mirrors.live) == ({}, set())
        self.around.assert_nothing_left()
        assert self.cluster.reports in ([], ["begin open", "cancelled"])


class TestBegin:
    @pytest.mark.parametrize(("drawn", "is_made"), [(0.29, True), (0.3, False), (0.99, False)])
    def test_a_share_of_the_calls(self, drawn: float, is_made: bool) -> None:
        around = Surroundings()
        around.draws.append(drawn)
        made = Alone(Mirror(server="other", percent=30.0), around=around)
        assert (made.copy is not None) == is_made
        assert made.results == []

    def test_inference_only(self) -> None:
        made = Alone(target=b"/v1/models/open/metadata")
        assert made.operation.verb is Verb.METADATA
        assert (made.copy, made.results) == (None, [])

    @pytest.mark.parametrize(
        ("mirror", "version", "is_made"),
        [
            (Mirror(server="main", version="2"), "2", False),
            (Mirror(server="main", version="2"), "1", True),
            (Mirror(server="other", version="2"), "2", True),
            (Mirror(version="2"), "2", False),
            (Mirror(model="open"), None, False),
            (Mirror(model="open"), "2", True),
            (Mirror(server="main"), None, False),
        ],
    )
    def test_not_to_where_the_call_goes_itself(self, mirror: Mirror, version: str | None, is_made: bool) -> None:
        made = Alone(mirror, forwarded=Call(Verb.PREDICT, (ModelRef("open", version),)))
        assert (made.copy is not None) == is_made
        assert (made.results, len(made.mirrors.in_flight)) == ([], is_made)

    def test_not_more_than_the_limit(self) -> None:
        made = Alone(Mirror(server="other", max_in_flight=1))
        assert made.begin() is None
        assert made.results == ["limited"]
        assert made.mirrors.in_flight == {"route": 1}

    def test_there_is_room_again_when_the_copy_has_ended(self) -> None:
        made = Alone(Mirror(server="other", max_in_flight=1))
        made.launch(is_whole=False)
        assert made.begin() is not None


class TestStates:
    def test_from_recording_to_the_answer(self) -> None:
        made = Alone()
        made.cluster.is_ready = False
        assert made.made.state is RECORDING
        made.launch()
        assert (made.made.state, made.mirrors.live) == (SENT, {made.made})
        made.cluster.give(made.cluster.waiting.pop())
        assert (made.made.state, made.stream.body, made.stream.ended) == (SENT, b"{}", True)
        made.stream.respond()
        made.assert_done("answered")

    def test_recording_ends_with_too_much(self) -> None:
        made = Alone(Mirror(server="other", max_bytes=3))
        made.made.take_request(b"ab", False)
        assert made.made.state is RECORDING
        made.made.take_request(b"cd", True)
        made.assert_done("too-large")
        made.made.launch(made.exchange, True)
        made.made.take_request(b"e", True)
        made.assert_done("too-large")

    @pytest.mark.parametrize("what", ["time_out", "acquire_failed"])
    def test_connecting_ends(self, what: str) -> None:
        made = Alone(Mirror(server="other", timeout=2.0))
        made.cluster.is_ready = False
        made.launch()
        if what == "time_out":
            made.loop.advance(2.0)
            made.assert_done("timeout")
        else:
            made.cluster.waiting.pop().acquire_failed(ConnectError("refused"))
            made.assert_done("failed")

    def test_done_is_the_end(self) -> None:
        made = Alone().launch()
        copy, reader = made.made, made.stream.reader
        made.loop.advance(5.0)
        reader.head_received(head())
        reader.data_received(b"x", 1, False)
        reader.data_received(b"x", 1, True)
        reader.trailers_received(())
        reader.reset_received(CANCEL, "gone")
        reader.drained()
        copy.time_out()
        copy.launch(made.exchange, True)
        made.assert_done("timeout")
        assert (made.stream.reset_code, made.stream.credited) == (CANCEL, 0)


class TestResults:
    """Each of `RESULTS`, once; `limited` is in TestBegin."""

    compares = Mirror(server="other", compare=Compare())

    @pytest.mark.parametrize(
        ("theirs", "result"),
        [
            (b'{"predictions": [[0.1, 0.9]]}', "agrees"),
            (b'{"predictions": [[0.2, 0.8]]}', "differs"),
            (b'{"predictions": [[0.9, 0.1]]}', "differs-top1"),
        ],
    )
    def test_a_comparison(self, theirs: bytes, result: str) -> None:
        made = Alone(self.compares).launch(b'{"predictions": [[0.1, 0.9]]}')
        made.stream.respond(theirs)
        made.assert_done(result)

    @pytest.mark.parametrize(
        "why", ["no compare", "client's error", "too long", "compressed", "no comparison", "too much", "late"]
    )
    def test_answered_where_nothing_is_compared(self, why: str) -> None:
        operation = Operation(Verb.PREDICT, b"/x", CALL) if why == "no comparison" else None
        if why == "too much":
            operation = Operation(Verb.PREDICT, b"/x", CALL, compare=lambda ours, theirs, tolerance: None)
        mirror = Mirror(server="other") if why == "no compare" else self.compares
        if why == "too long":
            mirror = Mirror(server="other", compare=Compare(), max_bytes=30)
        made = Alone(mirror, operation=operation)
        if why == "client's error":
            made.exchange.status = 404
        if why == "late":
            made.mirrors._compares_again = made.loop.now + 1.0
        made.launch(PREDICTIONS + PREDICTIONS if why == "too long" else PREDICTIONS)
        headers = ((b"content-encoding", b"gzip"),) if why == "compressed" else ()
        made.stream.respond(b"[]", headers=headers)
        made.assert_done("answered")

    def test_failed_by_its_status(self) -> None:
        made = Alone(self.compares).launch()
        made.stream.respond(status=500)
        made.assert_done("failed")

    def test_failed_by_a_break(self) -> None:
        made = Alone().launch()
        made.stream.reader.reset_received(CANCEL, "gone")
        made.assert_done("failed")
        assert made.stream.reset_code is None

    @pytest.mark.parametrize("status", [b"13", b"0"])
    def test_failed_by_a_grpc_status(self, status: bytes) -> None:
        made = Alone(target=PREDICT, is_grpc=True).launch(b"", b"\0\0\0\0\x08\x0a\x06\x0a\x04open")
        made.stream.respond_grpc(status=status)
        made.assert_done("answered" if status == b"0" else "failed")

    @pytest.mark.parametrize("why", ["no endpoint", "no server", "no version", "head refused", "defect"])
    def test_failed_before_it_was_sent(self, why: str, caplog: pytest.LogCaptureFixture) -> None:
        version = "not-a-number" if why == "no version" else None
        made = Alone(Mirror(server="nowhere" if why == "no server" else "other", version=version))
        if why == "no endpoint":
            made.cluster.out.add("endpoint-0")
        elif why in ("head refused", "defect"):
            stream = FakeUpstream()
            stream.refuses = HeadRefused("long") if why == "head refused" else RuntimeError("a defect")
            made.cluster.make_stream = lambda: stream
        made.launch()
        made.assert_done("too-large" if why == "head refused" else "failed")
        if why == "head refused":  # nothing was sent: the stream is left alone, as an attempt leaves it
            assert made.stream.reset_code is None
        assert ("internal error in a mirrored request" in caplog.text) == (why == "defect")

    def test_timeout(self) -> None:
        made = Alone(Mirror(server="other", timeout=2.0)).launch()
        made.stream.reader.head_received(head())
        made.loop.advance(2.0)
        made.assert_done("timeout")
        assert made.stream.reset_code == CANCEL

    def test_timeout_of_all_when_the_process_ends(self) -> None:
        made = Alone().launch()
        made.mirrors.close()
        made.assert_done("timeout")

    def test_too_large_an_answer(self) -> None:
        made = Alone(Mirror(server="other", max_bytes=3)).launch(b"")
        made.stream.reader.head_received(head())
        made.stream.reader.data_received(b"abc", 3, False)
        assert made.stream.credited == 3
        made.stream.reader.data_received(b"d", 1, False)
        made.assert_done("too-large")
        assert made.stream.reset_code == CANCEL

    @pytest.mark.parametrize("why", ["request", "answer"])
    def test_incomplete(self, why: str) -> None:
        made = Alone()
        made.made.take_request(b"{}", why != "request")
        made.made.launch(made.exchange, why != "answer")
        made.assert_done("incomplete")
        assert made.cluster.streams == []


class TestRequest:
    """What the copy asks for."""

    @pytest.mark.parametrize(
        ("mirror", "forwarded", "target"),
        [
            (Mirror(server="other"), None, b"/v1/models/open:predict"),
            (Mirror(server="other", version="9"), None, b"/v1/models/open/versions/9:predict"),
            (Mirror(server="other", label="canary"), None, b"/v1/models/open/labels/canary:predict"),
            (Mirror(server="other"), "2", b"/v1/models/open/versions/2:predict"),
            (Mirror(server="other", version="9"), "2", b"/v1/models/open/versions/9:predict"),
            (Mirror(server="other", model="next"), None, b"/v1/models/next:predict"),
            (Mirror(server="other", model="next"), "2", b"/v1/models/next:predict"),
            (Mirror(server="other", model="next", version="9"), "2", b"/v1/models/next/versions/9:predict"),
        ],
    )
    def test_its_version(self, mirror: Mirror, forwarded: str | None, target: bytes) -> None:
        call = Call(Verb.PREDICT, (ModelRef("open", forwarded),)) if forwarded else None
        made = Alone(mirror, forwarded=call).launch()
        assert made.stream.head is not None
        assert (made.stream.head.target, made.stream.head.length) == (target, 2)

    def test_without_an_authority_it_has_the_endpoints(self) -> None:
        made = Alone()
        made.exchange.head.authority = b""
        made.launch()
        assert made.stream.head is not None
        assert made.stream.head.authority == b"127.0.0.1:8500"

    def test_to_the_requests_own_server_if_none_is_named(self) -> None:
        made = Alone(Mirror(version="9"))
        made.launch()
        assert (len(made.around.cluster.streams), made.cluster.streams) == (1, [])

    @pytest.mark.parametrize("is_full", [False, True])
    def test_what_is_answered_before_it_was_sent_is_stopped(self, is_full: bool) -> None:
        made = Alone()
        made.cluster.make_stream = full_upstream
        made.launch()
        if not is_full:
            made.stream.reader.drained()
        made.stream.respond()
        assert made.stream.has_stopped == is_full
        made.assert_done("answered")

    def test_the_share_of_time_that_comparing_takes(self) -> None:
        """20 ms of comparing are followed by 380 without."""
        slow = Operation(Verb.PREDICT, b"/x", CALL, compare=lambda ours, theirs, tolerance: Comparison(agrees=True))
        made = Alone(Mirror(server="other", compare=Compare()), operation=slow)
        clock = iter([1.0, 1.02, 2.0, 2.0])
        made.around.context.cpu_time = lambda: next(clock)
        compare = Compare()
        assert made.mirrors.compare(slow, b"", b"", compare) == "agrees"
        made.loop.now += 0.379
        assert made.mirrors.compare(slow, b"", b"", compare) == "answered"
        made.loop.now += 0.002
        assert made.mirrors.compare(slow, b"", b"", compare) == "agrees"


STEPS = st.lists(
    st.sampled_from(
        [
            *("piece", "last piece", "answer", "launch whole", "launch broken", "give", "fail"),
            *("head 200", "head 103", "head 500", "data", "end", "trailers", "reset", "drained", "later"),
        ]
    ),
    max_size=16,
)


@settings(max_examples=tries(300))
@given(steps=STEPS, is_grpc=st.booleans(), max_bytes=st.sampled_from([10, 1000]), ready=st.booleans())
def test_whatever_happens_it_ends_once_with_one_of_the_results(
    steps: list[str], is_grpc: bool, max_bytes: int, ready: bool
) -> None:
    target = PREDICT if is_grpc else b"/v1/models/open:predict"
    made = Alone(Mirror(server="other", max_bytes=max_bytes, compare=Compare()), target=target, is_grpc=is_grpc)
    made.cluster.is_ready = ready
    copy = made.made
    launched = has_head = False
    for step in [*steps, "launch broken", "later", "later"]:
        was_done = copy.state is DONE
        reader = made.stream.sink if made.cluster.streams and made.stream.reset_code is None else None
        if step.endswith("piece"):
            if not launched:
                copy.take_request(b"abc", step == "last piece")
        elif step == "answer":
            copy.take_answer(b"abcd")
        elif step.startswith("launch"):
            if not launched:
                launched = True
                copy.launch(made.exchange, step == "launch whole")
        elif step in ("give", "fail"):
            if made.cluster.waiting:
                if step == "give":
                    made.cluster.give(made.cluster.waiting.pop())
                else:
                    made.cluster.waiting.pop().acquire_failed(ConnectError("refused"))
        elif step == "later":
            made.loop.advance(3.0)
        elif reader is not None:
            if step.startswith("head") and not has_head:
                has_head = step != "head 103"
                reader.head_received(head(int(step[5:])))
            elif step in ("data", "end") and has_head:
                reader.data_received(b"abc", 3, step == "end")
            elif step == "trailers" and has_head:
                reader.trailers_received(((b"grpc-status", b"0"),))
            elif step == "drained":
                reader.drained()
            elif step == "reset":
                reader.reset_received(CANCEL, "gone")
        if was_done:
            assert copy.state is DONE
        assert len(made.results) == (copy.state is DONE)
    assert made.results[0] in RESULTS
    made.assert_done(made.results[0])


# Conversations


def mirrored(world: Any, **fields: Any) -> Any:
    """A route with a copy to the other server; returns the client's."""
    route = {name: fields.pop(name) for name in ("split", "labels") if name in fields}
    if "server" not in fields:
        fields["server"] = "other"
    return world.serve(mirror=Mirror(**fields), **route)


def results(world: Any) -> list[str]:
    return [event[1] for event in world.traffic.events if event[0] == "mirrored"]


class TestGoesOut:
    def test_once_the_client_has_its_answer(self, world: Any) -> None:
        cluster = mirrored(world)
        client = world.rest(headers=((b"x-user", b"1"),), body=b"body", trace=b"theirs")
        assert world.other.streams == []
        cluster.streams[0].respond(b"answer")
        assert client.body == b"answer"
        (copy,) = world.other.streams
        assert (copy.head.target, copy.head.method, copy.head.length) == (b"/v1/models/open:predict", b"POST", 4)
        assert (b"x-user", b"1") in copy.head.headers
        assert copy.head.trace == b"ours"
        assert (copy.body, copy.ended) == (b"body", True)
        copy.respond()
        assert results(world) == ["answered"]
        assert world.other.reports == ["begin open", "cancelled"]  # no blame
        world.assert_let_go()

    def test_with_the_trace_in_zipkins_format_too(self, world: Any) -> None:
        world.pipeline.tracer = Tracer(Sampler(1.0), None, B3Propagator({B3Format.SINGLE}))
        cluster = mirrored(world)
        world.rest(headers=((b"b3", b"0"),))
        cluster.streams[0].respond()
        (copy,) = world.other.streams
        (exchange,) = world.finished
        b3 = exchange.trace.trace_id + b"-" + exchange.trace.span_id + b"-0"
        assert [value for name, value in copy.head.headers if name == b"b3"] == [b3]

    def test_grpc_too(self, world: Any, wire: Any) -> None:
        cluster = mirrored(world)
        world.grpc(wire.spec(b"open") + wire.tensor(3))
        cluster.streams[0].respond_grpc()
        (copy,) = world.other.streams
        assert copy.body == wire.framed(wire.spec(b"open") + wire.tensor(3))
        copy.respond_grpc()
        assert results(world) == ["answered"]
        world.assert_let_go()

    def test_with_the_version_it_is_about(self, world: Any, wire: Any) -> None:
        cluster = mirrored(world, version="9")
        world.rest(b"/v1/models/open/versions/3:predict")
        world.grpc(wire.spec(b"open"))
        cluster.streams[0].respond()
        cluster.streams[1].respond_grpc()
        rest, grpc = world.other.streams
        assert rest.head.target == b"/v1/models/open/versions/9:predict"
        assert grpc.body == wire.framed(b"\x0a\x0a\x0a\x04open\x12\x02\x08\x09")

    def test_otherwise_with_the_version_that_the_split_chose(self, world: Any, wire: Any) -> None:
        cluster = mirrored(world, split=Split([Arm(1, None, "2")]))
        world.rest()
        world.grpc(wire.spec(b"open"))
        cluster.streams[0].respond()
        cluster.streams[1].respond_grpc()
        rest, grpc = world.other.streams
        assert rest.head.target == b"/v1/models/open/versions/2:predict"
        assert grpc.body == cluster.streams[1].body

    def test_to_the_same_server_if_no_other_is_named(self, world: Any) -> None:
        cluster = mirrored(world, server=None, version="9")
        world.rest()
        cluster.streams[0].respond()
        assert cluster.streams[1].head.target == b"/v1/models/open/versions/9:predict"
        cluster.streams[1].respond()
        world.assert_let_go()

    def test_for_a_percentage_of_the_calls(self, world: Any) -> None:
        cluster = mirrored(world, percent=30)
        world.chance += [0.29, 0.31]
        for number in range(2):
            world.rest()
            cluster.streams[number].respond()
        assert len(world.other.streams) == 1

    def test_a_host_that_the_client_did_not_name_is_the_servers(self, world: Any, wire: Any) -> None:
        cluster = mirrored(world)
        client = wire.client("HTTP/1.1")
        world.pipeline.serve(client, RequestHead(1, b"POST", b"", b"/v1/models/open:predict", (), False, 2))
        client.receive(b"{}", True)
        cluster.streams[0].respond()
        assert world.other.streams[0].head.authority == b"127.0.0.1:8500"


class TestNotSent:
    @pytest.mark.parametrize("target", [b"/v1/models/open", b"/v1/models/open/metadata"])
    def test_what_is_not_inference(self, world: Any, target: bytes) -> None:
        cluster = mirrored(world)
        world.rest(target, method=b"GET")
        cluster.streams[0].respond()
        assert world.other.streams == []
        assert results(world) == []

    def test_what_is_too_long(self, world: Any) -> None:
        cluster = mirrored(world, max_bytes=10)
        client = world.rest(body=b"x" * 11)
        cluster.streams[0].respond()
        assert client.status == 200
        assert results(world) == ["too-large"]
        world.assert_let_go()

    def test_beyond_the_limit_of_copies_in_flight(self, world: Any) -> None:
        cluster = mirrored(world, max_in_flight=1)
        for _ in range(2):
            world.rest()
        for server in cluster.streams:
            server.respond()
        assert results(world) == ["limited"]
        world.other.streams[0].respond()
        assert results(world) == ["limited", "answered"]
        world.rest()
        cluster.streams[2].respond()
        assert len(world.other.streams) == 2

    @pytest.mark.parametrize("how", ["refused", "client leaves", "client leaves in the answer", "answer breaks"])
    def test_what_was_never_complete(self, world: Any, how: str) -> None:
        """Half an answer would be compared to a whole one."""
        cluster = mirrored(world, compare=Compare())
        client = world.rest(body=None, length=2)
        (server,) = cluster.streams
        if how == "refused":
            server.sink.reset_received(CANCEL, "gone")
            client.receive(b"{}", True)
        elif how == "client leaves":
            client.sink.reset_received(CANCEL, "gone")
        else:
            client.receive(b"{}", True)
            server.sink.head_received(ResponseHead(0, 200, (), end=False))
            server.sink.data_received(b'{"predictions": [1.0', 20, False)
            (client if how.startswith("client") else server).sink.reset_received(CANCEL, "gone")
        assert world.other.streams == []
        assert results(world) == ["incomplete"]
        world.assert_let_go()

    def test_to_an_endpoint_whose_breaker_is_not_closed(self, world: Any) -> None:
        cluster = mirrored(world)
        world.other.out.add("endpoint-0")
        world.rest()
        cluster.streams[0].respond()
        assert results(world) == ["failed"]
        assert world.other.reports == []
        world.assert_let_go()

    def test_where_the_server_was_removed(self, world: Any) -> None:
        cluster = mirrored(world)
        world.rest()
        world.use(clusters={})
        cluster.streams[0].respond()
        assert results(world) == ["failed"]
        world.assert_let_go()


class TestAnswer:
    def ask(self, world: Any, answer: bytes = PREDICTIONS, **fields: Any) -> Any:
        cluster = mirrored(world, **{"compare": Compare(), **fields})
        client = world.rest()
        cluster.streams[0].respond(answer)
        assert client.ended
        return world.other.streams[0]

    @pytest.mark.parametrize(
        ("theirs", "result"),
        [
            (b'{"predictions": [1.0, 2.0001]}', "agrees"),
            (b'{"predictions": [1.0, 3.0]}', "differs"),
            (b"no numbers", "differs"),
        ],
    )
    def test_is_compared(self, world: Any, theirs: bytes, result: str) -> None:
        self.ask(world).respond(theirs)
        assert results(world) == [result]
        world.assert_let_go()

    def test_the_largest_number_counts_for_more(self, world: Any) -> None:
        self.ask(world, b'{"predictions": [[0.1, 0.9]]}').respond(b'{"predictions": [[0.9, 0.1]]}')
        assert results(world) == ["differs-top1"]

    def test_is_not_compared_if_the_clients_was_an_error_or_too_long(self, world: Any) -> None:
        cluster = mirrored(world, compare=Compare(), max_bytes=30)
        for body, status in ((b"sorry", 404), (b"x" * 31, 200)):
            world.rest()
            cluster.streams[-1].respond(body, status)
            world.other.streams[-1].respond(b"x")
        assert results(world) == ["answered", "answered"]

    def test_nor_while_comparing_takes_too_much_time(self, world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """No request is served meanwhile."""

        def slowly(*what: Any) -> Comparison:
            world.loop.now += 0.03
            return Comparison(agrees=True)

        monkeypatch.setattr("meshproxy.inference.tfserving_answers.compare", slowly)
        cluster = mirrored(world, compare=Compare())
        for wait in (0.0, 0.5, 0.08):
            world.wait(wait)
            world.rest()
            cluster.streams[-1].respond(PREDICTIONS)
            world.other.streams[-1].respond(PREDICTIONS)
        assert results(world) == ["agrees", "answered", "agrees"]

    def test_nor_if_it_is_compressed(self, world: Any, wire: Any) -> None:
        self.ask(world).respond(b"\x1f\x8b...", headers=((b"content-encoding", b"gzip"),))
        world.grpc(wire.spec(b"open"))
        world.cluster.streams[1].respond_grpc(b"\1\0\0\0\3abc")
        world.other.streams[1].respond_grpc(b"\1\0\0\0\3abd")
        assert results(world) == ["answered", "answered"]
        world.assert_let_go()

    def test_too_long_is_broken_off(self, world: Any) -> None:
        copy = self.ask(world, max_bytes=30)
        copy.sink.head_received(ResponseHead(0, 200, (), end=False))
        copy.sink.data_received(b"x" * 30, 30, False)
        assert copy.credited == 30
        copy.sink.data_received(b"x", 1, False)
        assert copy.reset_code == CANCEL
        assert results(world) == ["too-large"]
        world.assert_let_go()

    @pytest.mark.parametrize("how", ["status", "head only", "reset"])
    def test_may_be_a_failure(self, world: Any, how: str) -> None:
        copy = self.ask(world)
        if how == "status":
            copy.respond(status=500)
        elif how == "head only":
            copy.sink.head_received(ResponseHead(0, 503, (), end=True))
        else:
            copy.sink.reset_received(CANCEL, "gone")
        assert results(world) == ["failed"]
        assert world.other.reports == ["begin open", "cancelled"]
        world.assert_let_go()

    @pytest.mark.parametrize("how", ["trailers only", "trailers", "no trailers", "OK"])
    def test_of_grpc_says_so_at_its_end(self, world: Any, wire: Any, how: str) -> None:
        cluster = mirrored(world)
        world.grpc(wire.spec(b"open"))
        cluster.streams[0].respond_grpc()
        (copy,) = world.other.streams
        if how == "trailers only":
            copy.fail_grpc(b"13")
        elif how == "no trailers":
            copy.sink.head_received(ResponseHead(0, 200, (), end=True))
        else:
            copy.respond_grpc(status=b"0" if how == "OK" else b"13")
        assert results(world) == ["answered" if how == "OK" else "failed"]
        world.assert_let_go()

    def test_takes_too_long(self, world: Any) -> None:
        copy = self.ask(world, timeout=2.0)
        world.wait(2.0)
        assert copy.reset_code == CANCEL
        copy.sink.reset_received(CANCEL, "as you wish")
        copy.sink.head_received(ResponseHead(0, 200, (), end=False))
        copy.sink.data_received(b"late", 4, True)
        copy.sink.trailers_received(())
        assert results(world) == ["timeout"]
        world.assert_let_go()

    def test_before_the_request_has_gone_out_stops_that(self, world: Any) -> None:
        world.other.make_stream = full_upstream
        copy = self.ask(world)
        copy.respond(PREDICTIONS)
        assert copy.has_stopped
        world.assert_let_go()

    def test_interim_heads_say_nothing(self, world: Any) -> None:
        copy = self.ask(world)
        copy.sink.head_received(ResponseHead(0, 103, (), end=False))
        copy.respond(PREDICTIONS)
        assert results(world) == ["agrees"]


class TestConnection:
    def ask(self, world: Any) -> None:
        cluster = mirrored(world)
        client = world.rest()
        cluster.streams[0].respond()
        assert client.status == 200

    def test_may_have_to_be_waited_for(self, world: Any) -> None:
        world.other.is_ready = False
        self.ask(world)
        world.other.give(world.other.waiting.pop())
        world.other.streams[0].sink.drained()
        world.other.streams[0].respond()
        assert results(world) == ["answered"]
        world.assert_let_go()

    def test_is_not_waited_for_too_long(self, world: Any) -> None:
        world.other.is_ready = False
        self.ask(world)
        world.wait(5.0)
        assert results(world) == ["timeout"]
        world.assert_let_go()

    def test_may_fail(self, world: Any) -> None:
        world.other.error = ConnectError("refused")
        self.ask(world)
        assert results(world) == ["failed"]
        world.assert_let_go()

    @pytest.mark.parametrize(
        ("error", "result"), [(HeadRefused("too long"), "too-large"), (RuntimeError("a defect"), "failed")]
    )
    def test_may_be_unusable(self, world: Any, error: Exception, result: str) -> None:
        def fail(self: Any, head: Any) -> None:
            raise error

        world.other.make_stream = type("Failing", (world.upstream_type,), {"send_request": fail})
        self.ask(world)
        assert results(world) == [result]
        world.assert_let_go()

    def test_a_defect_costs_the_copy(self, world: Any, caplog: pytest.LogCaptureFixture) -> None:
        world.other.all[0].pool.acquire = None
        self.ask(world)
        assert results(world) == ["failed"]
        assert "internal error in a mirrored request" in caplog.text
        world.assert_let_go()

    def test_at_the_end_of_the_process_copies_are_cancelled(self, world: Any) -> None:
        self.ask(world)
        world.pipeline.mirrors.close()
        assert world.other.streams[0].reset_code == CANCEL
        world.assert_let_go()
