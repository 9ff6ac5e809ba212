"""A wire surface that the proxy has never heard of, through the whole pipeline: a surface is data, not code of ours.

Kit serves models over REST, `POST /kit/MODEL[@VERSION]/run` with `{"rows": [...]}`, and over gRPC, `/kit.Runner/Run`
with a message whose first line is `MODEL[@VERSION]`.
"""

from __future__ import annotations

import json
import re

import pytest

from meshproxy.codec.events import RequestHead
from meshproxy.config.routes import Compare, Mirror
from meshproxy.inference.body_scan import ScanLimits
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.inference.surface import Comparison, Operation, Surface, Tolerance
from meshproxy.inference.surfaces import Surfaces
from meshproxy.policy.quota import Quota
from meshproxy.proxy.pipeline import Pipeline
from meshproxy.refusal import Reason, Refusal
from meshproxy.routing.routes import Routes
from meshproxy.routing.split import Arm, Split
from tests.proxy.conftest import World, framed, route
from tests.proxy.fakes import NOW, FakeDownstream, FakeTracer

RUN = b"/kit.Runner/Run"
PREFIX = 5
_TARGET = re.compile(rb"/kit/([a-z-]+)(?:@([0-9]+))?/run")


def read_name(line: bytes) -> Call:
    name, _, version = line.partition(b"@")
    return Call(Verb.PREDICT, (ModelRef(name.decode(), version.decode() or None),))


def write_name(call: Call, version: str | None) -> bytes:
    name = call.models[0].name.encode()
    return name if version is None else name + b"@" + version.encode()


class KitScan:
    """Reads the first line of a message (`surface.Scan`)."""

    def __init__(self, encoding: bytes | None, limits: ScanLimits) -> None:
        self.call: Call | None = None
        self._start = b""

    def feed(self, data: bytes, end: bool) -> Call | None:
        if self.call is not None:
            return None
        self._start += data
        line, newline, _ = self._start[PREFIX:].partition(b"\n")
        if newline:
            self.call = read_name(line)
        elif end:
            raise Refusal(Reason.MALFORMED_MESSAGE, "The message names no model: write its name first.")
        return self.call


class KitRewriter:
    """Writes another version into the first line, and the length before it (`surface.BodyRewriter`)."""

    def __init__(
        self, call: Call, version: str | None, label: str | None, limit: int, encoding: bytes | None, limits: ScanLimits
    ) -> None:
        self.call = call
        self._version = version
        self._start = b""
        self._is_written = False

    def feed(self, data: bytes, end: bool) -> bytes:
        if self._is_written:
            return data
        self._start += data
        line, newline, rest = self._start[PREFIX:].partition(b"\n")
        if not newline:
            return b""
        self._is_written = True
        written = write_name(self.call, self._version)
        size = int.from_bytes(self._start[1:PREFIX], "big") - len(line) + len(written)
        return b"\0" + size.to_bytes(4, "big") + written + newline + rest


class KitCounter:
    """Counts rows (`surface.ExampleCounter`)."""

    def __init__(self, encoding: bytes | None, limits: ScanLimits) -> None:
        self.count = 1
        self._body = b""

    def feed(self, data: bytes, end: bool) -> None:
        self._body += data
        if end:
            self.count = max(1, len(json.loads(self._body)["rows"]))


def compare(ours: bytes, theirs: bytes, tolerance: Tolerance) -> Comparison:
    return Comparison(agrees=ours == theirs)


def find_rest(method: bytes, target: bytes) -> Operation | None:
    match = _TARGET.fullmatch(target)
    if match is None or method != b"POST":
        return None
    name, version = match.groups()
    call = Call(Verb.PREDICT, (ModelRef(name.decode(), version.decode() if version else None),))
    return Operation(
        Verb.PREDICT,
        target,
        call,
        rewrite_target=lambda call, version, label: b"/kit/" + write_name(call, version) + b"/run",
        count_examples=KitCounter,
        compare=compare,
    )


KIT = Surface(
    "kit",
    find_rest=find_rest,
    methods={RUN: Operation(Verb.PREDICT, RUN, None, scan=KitScan, rewrite_body=KitRewriter, compare=compare)},
    packages=frozenset({b"kit"}),
)


class KitWorld(World):
    """A pipeline that knows no other surface."""

    def __init__(self) -> None:
        super().__init__()
        self.pipeline = Pipeline(
            loop=self.loop.real,
            now=self.loop.time,
            wall_clock=lambda: NOW,
            reaper=self.reaper,
            snapshot=self.make_snapshot(),
            observer=lambda exchange: self.finished.append(exchange),
            tracer=FakeTracer(),
            refresh_keys=lambda issuer, then: None,
            on_limit=self.limits_hit.append,
            traffic=self.traffic,
            draw=lambda: 0.5,
            cpu_time=self.loop.time,
            surfaces=Surfaces([KIT]),
        )

    def run(self, name: bytes, rows: int = 1) -> FakeDownstream:
        """A REST request."""
        return self.rest(b"/kit/" + name + b"/run", body=json.dumps({"rows": list(range(rows))}).encode())

    def run_grpc(self, message: bytes) -> FakeDownstream:
        """A gRPC request, cut into pieces of two bytes."""
        client = FakeDownstream()
        headers = ((b"content-type", b"application/grpc"),)
        self.pipeline.serve(client, RequestHead(1, b"POST", b"host", RUN, headers, end=False))
        body = framed(message)
        for at in range(0, len(body), 2):
            client.receive(body[at : at + 2], at + 2 >= len(body))
        return client


@pytest.fixture
def kit() -> KitWorld:
    return KitWorld()


def test_a_call_is_authorised_routed_and_carried(kit: KitWorld) -> None:
    clients = [kit.run(b"open-elsewhere"), kit.run_grpc(b"open-elsewhere\nrows")]
    rest, grpc = kit.other.streams
    assert kit.cluster.streams == []
    assert rest.head is not None
    assert (rest.head.target, rest.body) == (b"/kit/open-elsewhere/run", b'{"rows": [0]}')
    assert grpc.body == framed(b"open-elsewhere\nrows")
    rest.respond(b"[1]")
    grpc.respond_grpc()
    assert [client.body for client in clients] == [b"[1]", b"answer"]
    assert [exchange.asked for exchange in kit.finished] == [Call(Verb.PREDICT, (ModelRef("open-elsewhere"),))] * 2
    assert [exchange.server for exchange in kit.finished] == ["other", "other"]
    kit.assert_let_go()


def test_a_call_that_is_denied_never_leaves(kit: KitWorld) -> None:
    rest, grpc = kit.run(b"closed"), kit.run_grpc(b"closed\nrows")
    assert rest.status == 403
    assert grpc.headers[b"grpc-status"] == b"7"
    assert kit.cluster.streams == []
    kit.assert_let_go()


def test_a_message_that_names_no_model_is_refused(kit: KitWorld) -> None:
    client = kit.run_grpc(b"open without an end of line")
    assert client.headers[b"x-meshproxy-refusal"] == b"malformed-message"
    assert kit.cluster.streams == []
    kit.assert_let_go()


def test_what_the_surface_does_not_have_is_refused(kit: KitWorld) -> None:
    """Also TensorFlow Serving's: this pipeline does not know it."""
    assert kit.rest(b"/v1/models/open:predict").status == 404
    other = kit.grpc(b"", method=b"/kit.Runner/Delete")
    assert other.headers[b"grpc-status"] == b"7"
    kit.assert_let_go()


def test_another_version_is_written_into_it(kit: KitWorld) -> None:
    cluster = kit.serve(split=Split([Arm(1, None, "7")]))
    kit.run(b"open")
    kit.run(b"open@3")
    kit.run_grpc(b"open\nrows")
    first, named, grpc = cluster.streams
    assert first.head is not None
    assert named.head is not None
    assert first.head.target == b"/kit/open@7/run"
    assert named.head.target == b"/kit/open@3/run"
    assert grpc.body == framed(b"open@7\nrows")
    asked = [call.models[0].version for _, call in kit.policy.asked]
    assert asked == [None, "7", "3", None, "7"]  # each version is decided on before it is called


def test_it_is_mirrored_and_compared(kit: KitWorld) -> None:
    cluster = kit.serve(mirror=Mirror(server="other", version="8", compare=Compare()))
    kit.run(b"open")
    cluster.streams[0].respond(b"[1]")
    kit.run_grpc(b"open\nrows")
    cluster.streams[1].respond_grpc(framed(b"one"))
    rest, grpc = kit.other.streams
    assert rest.head is not None
    assert rest.head.target == b"/kit/open@8/run"
    assert grpc.body == framed(b"open@8\nrows")
    rest.respond(b"[1]")
    grpc.respond_grpc(framed(b"two"))
    assert kit.traffic.events == [("mirrored", "agrees"), ("mirrored", "differs")]
    kit.assert_let_go()


def test_its_examples_are_counted(kit: KitWorld) -> None:
    quota = Quota("model", None, None, 2.0, 1.0)
    cluster = kit.serve(quotas=(quota,), counts_examples=True)
    kit.run(b"open", rows=4)
    kit.wait(0.9)
    assert kit.run(b"open").status == 429
    assert kit.limits_hit == ["rate_examples"]
    kit.wait(0.2)
    kit.run(b"open")
    assert len(cluster.streams) == 2


def test_it_may_stand_beside_others(kit: KitWorld) -> None:
    from meshproxy.inference.tfserving import TENSORFLOW_SERVING

    kit.pipeline.surfaces = Surfaces([TENSORFLOW_SERVING, KIT])
    kit.use(routes=Routes(route()))
    kit.run(b"open")
    kit.rest(b"/v1/models/open:predict")
    targets = [stream.head.target for stream in kit.cluster.streams if stream.head is not None]
    assert targets == [b"/kit/open/run", b"/v1/models/open:predict"]
