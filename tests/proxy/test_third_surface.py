"""A wire surface is one file: the one in here is routed, authorised, rewritten, counted and compared by the proxy, and
no other file knows of it.

Its versions are text, and its messages name model and version in fields of their own:

    POST /echo/NAME[/VERSION]       one line of text for each example
    /echo.Echo/Say                  Said { string name = 1; string version = 2; repeated string lines = 3; }
    /echo.Echo/List                 about the server as a whole
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from meshproxy.config import schema
from meshproxy.config.fields import BindingSubject, Metadata, WorkloadSubject
from meshproxy.config.routes import Compare, Mirror
from meshproxy.inference.body_rewrite import MessageRewriter
from meshproxy.inference.body_scan import BodyKind, BodyScan, Replaced, ScanLimits
from meshproxy.inference.call import Call, Chosen, ModelRef, Verb
from meshproxy.inference.protobuf import FieldWalker, malformed
from meshproxy.inference.surface import Comparison, ExampleCounter, Operation, Surface, Tolerance, show_request
from meshproxy.inference.surfaces import Surfaces
from meshproxy.inference.tfserving import TENSORFLOW_SERVING
from meshproxy.inference.unary import read_text, write_text
from meshproxy.policy.compile import compile_policy
from meshproxy.refusal import Reason, Refusal
from meshproxy.routing.rate_limit import RateLimiter
from meshproxy.routing.routes import Route, Routes
from meshproxy.routing.split import Arm, Split
from meshproxy.telemetry.model_labels import ModelLabels

# The surface

NAME, VERSION = 0x0A, 0x12
TARGET = re.compile(rb"/echo/([a-z]+)(?:/([a-z0-9.-]+))?")


class Said:
    """What a message has said of its model (`body_scan.Naming`)."""

    def __init__(self, limits: ScanLimits | None = None, walker: FieldWalker | None = None) -> None:
        self.name = ""
        self.version = ""

    def add(self, tag: int, value: bytes) -> None:
        if tag == NAME:
            self.name = read_text(value, "the name of the model")
        else:
            self.version = read_text(value, "the version")

    def models(self) -> tuple[ModelRef, ...]:
        return (ModelRef(self.name, self.version or None),) if self.name else ()

    def finish(self) -> tuple[ModelRef, ...]:
        if not self.name:
            raise malformed("it names no model")
        return self.models()


def sayable(chosen: Chosen) -> str:
    if chosen.label is not None:
        raise Refusal(Reason.NO_ROUTE, "Echo has no version labels: the ModelRoute needs a version.")
    return chosen.version or ""


def replace(occurrences: Sequence[tuple[int, bytes]], chosen: Chosen) -> Replaced:
    said = Said()
    for tag, value in occurrences:
        said.add(tag, value)
    return said.finish(), write_text(1, chosen.model or said.name) + write_text(2, sayable(chosen))


class Lines:
    """Counts lines of a REST body (`surface.ExampleCounter`)."""

    def __init__(self) -> None:
        self.count = 1
        self._ends = 0

    def feed(self, data: bytes, end: bool) -> None:
        self._ends += data.count(b"\n")
        self.count = max(1, self._ends)


def count_lines(encoding: bytes | None, limits: ScanLimits) -> ExampleCounter:
    return Lines()


def compare(first: bytes, second: bytes, tolerance: Tolerance) -> Comparison:
    return Comparison(first.lower() == second.lower())


def rewrite_target(call: Call, chosen: Chosen) -> bytes:
    asked = sayable(chosen)
    return b"/".join((b"/echo", (chosen.model or call.models[0].name).encode(), *([asked.encode()] if asked else [])))


def find_rest(method: bytes, target: bytes) -> Operation | None:
    if not target.startswith(b"/echo"):
        return None
    match = TARGET.fullmatch(target)
    if match is None or method != b"POST":
        raise Refusal(Reason.BAD_REQUEST, f"Malformed request: {show_request(method, target)}")
    name, version = match.groups()
    call = Call(Verb.PREDICT, (ModelRef(name.decode(), version.decode() if version else None),))
    return Operation(
        Verb.PREDICT,
        rewrite_target(call, Chosen(version=call.models[0].version)),
        call,
        rewrite_target=rewrite_target,
        count_examples=count_lines,
        compare=compare,
    )


SAY = BodyKind(Verb.PREDICT, Said, replace, tags=(NAME, VERSION))
ECHO = Surface(
    "echo",
    find_rest,
    methods={
        b"/echo.Echo/Say": Operation(
            Verb.PREDICT,
            b"/echo.Echo/Say",
            None,
            scan=partial(BodyScan, SAY),
            rewrite_body=partial(MessageRewriter, SAY),
            affinity_key=lambda body: body[7:11],
        ),
        b"/echo.Echo/List": Operation(Verb.STATUS, b"/echo.Echo/List", Call(Verb.STATUS)),
        b"/echo.Echo/Describe": Operation(Verb.METADATA, b"/echo.Echo/Describe", None, scan=partial(BodyScan, SAY)),
    },
    packages=frozenset({b"echo"}),
)

# How the proxy carries it

LINES = b"".join(write_text(3, line) for line in ("one", "two"))


def said(name: str, version: str = "") -> bytes:
    return write_text(1, name) + write_text(2, version) + LINES


@pytest.fixture
def echo(world: Any) -> Any:
    world.surfaces = Surfaces((TENSORFLOW_SERVING, ECHO))
    world.use()
    return world


def policy(**only: Any) -> Any:
    """Alice may predict with `open`, as far as `only` says."""
    rule = schema.Rule(models=("open",), verbs=("predict",), **only)
    role = schema.ModelRole(metadata=Metadata(name="r"), spec=schema.RoleSpec(rules=(rule,)))
    alice = BindingSubject(workload=WorkloadSubject(namespace="a", service_account="alice"))
    binding = schema.ModelRoleBinding(
        metadata=Metadata(name="b"), spec=schema.BindingSpec(role="r", subjects=(alice,), action="allow")
    )
    return compile_policy((role,), (binding,), "dev.example")


CANARY = Split([Arm(1, None, "2024-06-rc1")])


class TestRouted:
    def test_rest(self, echo: Any) -> None:
        client = echo.rest(b"/echo/open/rc1", body=b"hello\n")
        [stream] = echo.cluster.streams
        assert (stream.head.target, stream.body) == (b"/echo/open/rc1", b"hello\n")
        stream.respond()
        assert client.status == 200
        [exchange] = echo.finished
        assert exchange.forwarded == Call(Verb.PREDICT, (ModelRef("open", "rc1"),))
        assert ModelLabels().read(exchange.forwarded, was_served=True) == ("open", "rc1")
        echo.assert_let_go()

    @pytest.mark.parametrize("step", [1, 3, 1000])
    def test_grpc(self, echo: Any, wire: Any, step: int) -> None:
        client = echo.grpc(None, method=b"/echo.Echo/Say")
        body = wire.framed(said("open", "rc1"))
        for at in range(0, len(body), step):
            client.receive(body[at : at + step], at + step >= len(body))
        [stream] = echo.cluster.streams
        assert (stream.head.target, stream.body) == (b"/echo.Echo/Say", body)
        stream.respond_grpc()
        assert echo.finished[0].forwarded == Call(Verb.PREDICT, (ModelRef("open", "rc1"),))
        echo.assert_let_go()

    def test_what_is_not_in_its_table_is_not_called(self, echo: Any) -> None:
        assert echo.grpc(b"", method=b"/echo.Echo/Shout").headers[b"grpc-status"] == b"7"
        assert echo.rest(b"/echo/open/rc1/more").status == 400
        assert echo.rest(b"/other").status == 404

    def test_the_others_are_what_they_were(self, echo: Any, wire: Any) -> None:
        echo.rest()
        echo.grpc(wire.spec(b"open"))
        assert [stream.head.target for stream in echo.cluster.streams] == [
            b"/v1/models/open:predict",
            b"/tensorflow.serving.PredictionService/Predict",
        ]


class TestAuthorised:
    def statuses(self, echo: Any, version: str) -> set[int | bytes | str]:
        rest = echo.rest(b"/echo/open/%s" % version.encode())
        grpc = echo.grpc(said("open", version), method=b"/echo.Echo/Say")
        return {rest.status if rest.heads else "carried", grpc.headers[b"grpc-status"] if grpc.heads else "carried"}

    def test_by_the_text_of_its_version(self, echo: Any) -> None:
        echo.use(policy=policy(versions=("rc1",)))
        assert self.statuses(echo, "rc1") == {"carried"}
        assert self.statuses(echo, "rc2") == {403, b"7"}
        assert self.statuses(echo, "rc") == {403, b"7"}

    def test_by_its_name(self, echo: Any) -> None:
        echo.use(policy=policy())
        assert echo.grpc(said("other"), method=b"/echo.Echo/Say").headers[b"grpc-status"] == b"7"
        assert echo.cluster.streams == []

    def test_a_version_that_comes_late_is_decided_on_before_it_goes_on(self, echo: Any, wire: Any) -> None:
        echo.use(policy=policy(versions=("rc1",)))
        client = echo.grpc(None, method=b"/echo.Echo/Say")
        body = wire.framed(said("open", "rc1") + write_text(2, "rc2"))
        client.receive(body[:-1], False)
        client.receive(body[-1:], True)
        assert client.headers[b"grpc-status"] == b"7"
        assert all(not stream.body.endswith(b"rc2") for stream in echo.cluster.streams)

    def test_a_message_without_a_name_is_refused(self, echo: Any) -> None:
        client = echo.grpc(LINES, method=b"/echo.Echo/Say")
        assert client.headers[b"x-meshproxy-refusal"] == b"malformed-message"


class TestRewritten:
    def test_into_the_path(self, echo: Any) -> None:
        cluster = echo.serve(split=CANARY)
        echo.rest(b"/echo/open")
        assert cluster.streams[0].head.target == b"/echo/open/2024-06-rc1"

    @pytest.mark.parametrize("step", [1, 3, 1000])
    def test_into_the_message(self, echo: Any, wire: Any, step: int) -> None:
        cluster = echo.serve(split=CANARY)
        client = echo.grpc(None, method=b"/echo.Echo/Say")
        body = wire.framed(said("open"))
        for at in range(0, len(body), step):
            client.receive(body[at : at + step], at + step >= len(body))
        assert cluster.streams[0].body == wire.framed(said("open", "2024-06-rc1"))

    def test_only_if_that_version_is_permitted_too(self, echo: Any) -> None:
        echo.use(policy=policy(versions=("rc1",)), routes=Routes(Route("r", "main", split=CANARY)))
        assert echo.rest(b"/echo/open").status == 403
        assert echo.cluster.streams == []

    def test_not_where_the_surface_cannot(self, echo: Any) -> None:
        echo.serve(split=CANARY)
        client = echo.grpc(said("open"), method=b"/echo.Echo/Describe")
        assert client.headers[b"x-meshproxy-refusal"] == b"no-route"

    def test_text_is_no_version_of_tensorflow_serving(self, echo: Any, wire: Any) -> None:
        cluster = echo.serve(split=CANARY)
        assert echo.rest().headers[b"x-meshproxy-refusal"] == b"no-route"
        assert echo.grpc(wire.spec(b"open")).headers[b"x-meshproxy-refusal"] == b"no-route"
        assert cluster.streams == []

    def test_not_with_a_label_it_does_not_have(self, echo: Any) -> None:
        cluster = echo.serve(split=Split([Arm(1, None, None, "stable")]))
        assert echo.rest(b"/echo/open").headers[b"x-meshproxy-refusal"] == b"no-route"
        assert echo.grpc(said("open"), method=b"/echo.Echo/Say").headers[b"x-meshproxy-refusal"] == b"no-route"
        assert all(stream.body == b"" for stream in cluster.streams)


class TestCounted:
    def rate_limiter(self) -> RateLimiter:
        return RateLimiter("model", None, None, 4.0, 1.0)

    def test_by_its_own_counter(self, echo: Any) -> None:
        echo.serve(rate_limiters=(self.rate_limiter(),), counts_examples=True)
        echo.rest(b"/echo/open", body=b"line\n" * 5)
        assert echo.rest(b"/echo/open", body=b"line\n").status == 429

    def test_as_one_without_a_counter(self, echo: Any) -> None:
        echo.serve(rate_limiters=(self.rate_limiter(),), counts_examples=True)
        for _ in range(5):  # one more than there are: it is owed
            assert echo.grpc(said("open"), method=b"/echo.Echo/Say").heads == []
        assert echo.grpc(said("open"), method=b"/echo.Echo/Say").headers[b"grpc-status"] == b"8"


class TestCopied:
    @pytest.mark.parametrize(("theirs", "result"), [(b"HI", "agrees"), (b"ho", "differs")])
    def test_compared_by_its_own_comparison(self, echo: Any, theirs: bytes, result: str) -> None:
        mirror = Mirror(server="other", version="rc2", compare=Compare())
        echo.serve(mirror=mirror)
        echo.rest(b"/echo/open", body=b"hello")
        echo.cluster.streams[0].respond(b"hi")
        assert echo.other.streams[0].head.target == b"/echo/open/rc2"
        echo.other.streams[0].respond(theirs)
        assert echo.traffic.events == [("mirrored", result)]

    def test_not_compared_without_one(self, echo: Any, wire: Any) -> None:
        echo.serve(mirror=Mirror(server="other", version="rc2", compare=Compare()))
        echo.grpc(said("open"), method=b"/echo.Echo/Say")
        echo.cluster.streams[0].respond_grpc(wire.framed(b"a"))
        assert echo.other.streams[0].body == wire.framed(said("open", "rc2"))
        echo.other.streams[0].respond_grpc(wire.framed(b"b"))
        assert echo.traffic.events == [("mirrored", "answered")]


def test_what_keeps_clients_together_is_asked_of_it(echo: Any, wire: Any) -> None:
    from meshproxy.config.servers import Key
    from meshproxy.inference.hash_key import stable_hash

    arms = [Arm(1, "main"), Arm(1, "other")]
    echo.serve(split=Split(arms), sticky=Key(by="client-id"))
    echo.grpc(said("open"), method=b"/echo.Echo/Say")
    first = stable_hash(b"open") / 2**64 < 0.5
    assert (len(echo.cluster.streams), len(echo.other.streams)) == ((1, 0) if first else (0, 1))
