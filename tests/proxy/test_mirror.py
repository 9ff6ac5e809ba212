"""Copies: when one goes out, with what, what is made of its answer, and that nobody else notices."""

from __future__ import annotations

from typing import Any

import pytest

from meshproxy.codec.events import RequestHead, ResponseHead
from meshproxy.config.routes import Compare, Mirror
from meshproxy.inference.surface import Comparison
from meshproxy.routing.split import Arm, Split
from meshproxy.transport.connector import ConnectError
from meshproxy.transport.stream import HeadRefused

CANCEL = 0x8
PREDICTIONS = b'{"predictions": [1.0, 2.0]}'


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
        assert world.other.reports == ["begin open", "cancelled"]  # which blames nobody
        world.assert_let_go()

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

    def test_otherwise_with_the_one_that_the_call_itself_got(self, world: Any, wire: Any) -> None:
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

    def test_for_so_many_of_the_calls(self, world: Any) -> None:
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


class TestStaysAtHome:
    @pytest.mark.parametrize("target", [b"/v1/models/open", b"/v1/models/open/metadata"])
    def test_what_is_no_inference(self, world: Any, target: bytes) -> None:
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

    def test_what_would_be_one_too_many(self, world: Any) -> None:
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
    def test_what_was_never_whole(self, world: Any, how: str) -> None:
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

    def test_what_would_be_a_probe(self, world: Any) -> None:
        cluster = mirrored(world)
        world.other.out.add("endpoint-0")
        world.rest()
        cluster.streams[0].respond()
        assert results(world) == ["failed"]
        assert world.other.reports == []
        world.assert_let_go()

    def test_where_there_is_no_such_server_any_more(self, world: Any) -> None:
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

    def test_is_not_if_the_clients_was_an_error_or_too_long(self, world: Any) -> None:
        cluster = mirrored(world, compare=Compare(), max_bytes=30)
        for body, status in ((b"sorry", 404), (b"x" * 31, 200)):
            world.rest()
            cluster.streams[-1].respond(body, status)
            world.other.streams[-1].respond(b"x")
        assert results(world) == ["answered", "answered"]

    def test_nor_while_comparing_takes_too_much_of_the_time(self, world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody is served meanwhile."""

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
        world.other.server_type = type("Full", (world.server_type,), {"__init__": _full})
        copy = self.ask(world)
        copy.respond(PREDICTIONS)
        assert copy.has_stopped
        world.assert_let_go()

    def test_interim_heads_say_nothing(self, world: Any) -> None:
        copy = self.ask(world)
        copy.sink.head_received(ResponseHead(0, 103, (), end=False))
        copy.respond(PREDICTIONS)
        assert results(world) == ["agrees"]


def _full(self: Any) -> None:
    type(self).__mro__[1].__init__(self)  # type: ignore[misc]
    self.is_full = True


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

    def test_but_not_too_long(self, world: Any) -> None:
        world.other.is_ready = False
        self.ask(world)
        world.wait(5.0)
        assert results(world) == ["timeout"]
        world.assert_let_go()

    def test_may_not_be_had(self, world: Any) -> None:
        world.other.error = ConnectError("refused")
        self.ask(world)
        assert results(world) == ["failed"]
        world.assert_let_go()

    @pytest.mark.parametrize(
        ("error", "result"), [(HeadRefused("too long"), "too-large"), (RuntimeError("a mistake of ours"), "failed")]
    )
    def test_or_not_be_used(self, world: Any, error: Exception, result: str) -> None:
        def fail(self: Any, head: Any) -> None:
            raise error

        world.other.server_type = type("Failing", (world.server_type,), {"send_request": fail})
        self.ask(world)
        assert results(world) == [result]
        world.assert_let_go()

    def test_a_mistake_costs_the_copy(self, world: Any, caplog: pytest.LogCaptureFixture) -> None:
        world.other.all[0].acquire = None
        self.ask(world)
        assert results(world) == ["failed"]
        assert "internal error in a mirrored request" in caplog.text
        world.assert_let_go()

    def test_at_the_end_of_the_process_nobody_waits(self, world: Any) -> None:
        self.ask(world)
        world.pipeline.mirrors.close()
        assert world.other.streams[0].reset_code == CANCEL
        world.assert_let_go()
