"""What the client is sent: local responses in the words of its protocol, and the states of an answer."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import meshproxy.proxy
from meshproxy.codec.events import Rejected, RequestHead
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.proxy.client_side import BEGUN, NONE, OVER, REFUSED, REFUSING, WHOLE, ClientSide, ResponseState
from meshproxy.proxy.exchange import Happening
from meshproxy.refusal import Reason, Refusal

every_reason = pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.label)


class Recorded(ClientSide):
    """Writes down which hooks are called."""

    __slots__ = ("hooks",)

    def __init__(self, context: Any, stream: Any, head: RequestHead) -> None:
        ClientSide.__init__(self, context, stream, head)
        self.hooks: list[str] = []
        stream.sink = self

    def abandon(self) -> None:
        self.hooks.append("abandon")

    def response_buffered(self) -> None:
        self.hooks.append("response_buffered")

    def resume(self) -> None:
        self.hooks.append("resume")

    def timed_out(self) -> None:
        self.hooks.append("timed_out")

    def check_progress(self, now: float) -> None:
        self.hooks.append("check_progress")

    def closed(self, is_whole: bool) -> None:
        self.hooks.append(f"closed whole={is_whole}")


def make(world: Any, wire: Any, *, is_grpc: bool = False, end: bool = True, length: int | None = None) -> Any:
    client = wire.client("HTTP/2" if is_grpc else "HTTP/1.1")
    side = Recorded(world.pipeline, client, RequestHead(1, b"POST", b"host", b"/v1/models/m", (), end, length))
    side.is_grpc = is_grpc
    return side


class TestRefusals:
    @every_reason
    def test_over_rest_it_looks_like_tensorflow_serving(self, world: Any, wire: Any, reason: Reason) -> None:
        side = make(world, wire)
        side.refuse(Refusal(reason, 'It said "no": try again.'))
        client = side.stream
        assert client.status == side.status == reason.http_status
        assert json.loads(client.body) == {"error": 'It said "no": try again.'}
        assert client.headers == {
            b"content-type": b"application/json",
            b"x-meshproxy-refusal": reason.label.encode(),
        }
        assert (side.bytes_sent, client.ended, side.answer) == (len(client.body), True, OVER)
        assert world.finished == [side]

    @every_reason
    def test_over_grpc_it_is_trailers_only(self, world: Any, wire: Any, reason: Reason) -> None:
        side = make(world, wire, is_grpc=True, end=False)
        side.refuse(Refusal(reason, "No."))
        client = side.stream
        assert (client.status, side.grpc_status) == (200, reason.grpc_status)
        assert client.headers == {
            b"content-type": b"application/grpc",
            b"grpc-status": b"%d" % reason.grpc_status,
            b"grpc-message": b"No.",
            b"x-meshproxy-refusal": reason.label.encode(),
        }
        assert client.ended
        assert client.body == b""

    def test_a_challenge_and_when_to_retry_are_told(self, world: Any, wire: Any) -> None:
        rest, grpc = make(world, wire), make(world, wire, is_grpc=True)
        for side in (rest, grpc):
            side.refuse(Refusal(Reason.UNAUTHENTICATED, "no", challenge="Bearer", retry_after=3))
        assert rest.stream.headers[b"www-authenticate"] == b"Bearer"
        assert rest.stream.headers[b"retry-after"] == b"3"
        assert grpc.stream.headers[b"grpc-retry-pushback-ms"] == b"3000"

    def test_after_the_head_there_is_only_a_break(self, world: Any, wire: Any) -> None:
        side = make(world, wire)
        side.begin_answer(200, (), 1.0)
        side.refuse(Refusal(Reason.INTERNAL, "no"))
        assert side.stream.reset_code == ErrorCode.INTERNAL_ERROR
        assert not side.stream.ended
        assert side.hooks == ["abandon", "closed whole=False"]

    @every_reason
    def test_over_grpc_the_head_may_be_out(self, world: Any, wire: Any, reason: Reason) -> None:
        side = make(world, wire, is_grpc=True, end=False)
        side.begin_answer(200, ((b"x", b"y"),), 1.0)
        side.refuse(Refusal(reason, "No.", retry_after=3))
        client = side.stream
        assert client.heads == [(200, {b"x": b"y"})]
        assert client.trailers == (
            (b"grpc-status", b"%d" % reason.grpc_status),
            (b"grpc-message", b"No."),
            (b"x-meshproxy-refusal", reason.label.encode()),
            (b"grpc-retry-pushback-ms", b"3000"),
        )
        assert (client.body, client.reset_code, client.has_stopped) == (b"", None, True)
        assert (side.answer, side.status, side.grpc_status, side.first_byte) == (OVER, 200, reason.grpc_status, 0.0)
        assert side.hooks == ["abandon", "closed whole=False"]
        assert world.finished == [side]

    @pytest.mark.parametrize(("status", "body"), [(200, b"x"), (503, b"")])
    def test_but_nothing_else(self, world: Any, wire: Any, status: int, body: bytes) -> None:
        side = make(world, wire, is_grpc=True, end=False)
        side.begin_answer(status, (), 1.0)
        if body:
            side.send_body(body, 1, False)
        side.refuse(Refusal(Reason.INTERNAL, "no"))
        client = side.stream
        assert (client.reset_code, client.trailers, client.ended) == (ErrorCode.INTERNAL_ERROR, None, False)
        assert (side.grpc_status, side.first_byte) == (None, 1.0)

    def test_trailers_that_cannot_be_sent_break_the_stream(
        self, world: Any, wire: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        side = make(world, wire, is_grpc=True, end=False)
        side.begin_answer(200, (), 1.0)
        side.stream.send_trailers = None
        side.crashed(Refusal(Reason.OVERLOADED, "later"))
        assert (side.answer, side.stream.reset_code) == (OVER, ErrorCode.INTERNAL_ERROR)
        assert "internal error in the response" in caplog.text

    def test_the_rest_of_a_short_body_is_read_first(self, world: Any, wire: Any) -> None:
        side = make(world, wire, end=False, length=10)
        side.refuse(Refusal(Reason.PERMISSION_DENIED, "no"))
        assert side.answer is REFUSING
        side.discard(10, True)
        assert (side.answer, side.stream.status, side.stream.credited) == (OVER, 403, 10)

    def test_the_first_refusal_counts(self, world: Any, wire: Any) -> None:
        side = make(world, wire, end=False, length=10)
        side.refuse(Refusal(Reason.PERMISSION_DENIED, "no", limit="one"))
        side.refuse(Refusal(Reason.INTERNAL, "no", limit="two"))
        side.rejected(Rejected(1, 413, "too long", "body_bytes"))
        assert side.stream.status == 403
        assert world.limits_hit == ["one"]

    def test_a_defect_is_logged_and_costs_the_request(
        self, world: Any, wire: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        side = make(world, wire)
        side.crashed(KeyError("x"))
        assert side.stream.status == 500
        assert "internal error in a request for b'/v1/models/m'" in caplog.text

    def test_one_that_cannot_be_sent_breaks_the_stream(
        self, world: Any, wire: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        side = make(world, wire)
        side.stream.send_response = None
        side.crashed(Refusal(Reason.OVERLOADED, "later"))
        assert (side.answer, side.stream.reset_code) == (OVER, ErrorCode.INTERNAL_ERROR)
        assert "internal error in the response" in caplog.text

    def test_a_defect_while_it_is_refused_breaks_the_stream(
        self, world: Any, wire: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The refusal is recorded by then: a second one would be ignored, and the client would wait for ever."""
        side = make(world, wire)

        def fail(self: ClientSide) -> None:
            raise RuntimeError("a defect")

        monkeypatch.setattr(Recorded, "abandon", fail)
        side.time_out()
        assert (side.answer, side.stream.reset_code) == (OVER, ErrorCode.INTERNAL_ERROR)
        assert world.finished == [side]
        assert "internal error" in caplog.text

    def test_a_defect_while_the_rest_of_the_body_is_read_changes_nothing(
        self, world: Any, wire: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        side = make(world, wire, end=False, length=10)
        side.refuse(Refusal(Reason.PERMISSION_DENIED, "no"))
        side.crashed(RuntimeError("a defect"))
        side.discard(10, True)
        assert side.stream.status == 403


class TestAnswers:
    def test_one_that_is_taken_at_once(self, world: Any, wire: Any) -> None:
        side = make(world, wire)
        side.send_interim(103, ())
        side.begin_answer(200, ((b"a", b"b"),), 101.0, length=2)
        assert side.send_body(b"h", 1, False)
        assert side.send_body(b"i", 1, True)
        assert [status for status, _ in side.stream.heads] == [103, 200]
        assert (side.stream.body, side.first_byte, side.bytes_sent, side.status) == (b"hi", 101.0, 2, 200)
        assert side.hooks == ["closed whole=True"]

    def test_a_head_alone_may_tell_how_a_grpc_call_went(self, world: Any, wire: Any) -> None:
        side = make(world, wire, is_grpc=True)
        side.begin_answer(200, ((b"grpc-status", b"5"),), 101.0, end=True)
        assert (side.grpc_status, side.answer) == (5, OVER)

    def test_one_that_is_not_taken_waits_and_counts(self, world: Any, wire: Any) -> None:
        side = make(world, wire)
        side.begin_answer(200, (), 101.0)
        side.stream.is_full = True
        assert not side.send_body(b"h", 1, False)
        assert (side.is_blocked, world.pipeline.response_buffer.total) == (True, 1)
        side.drained()
        assert (side.is_blocked, side.hooks) == (False, ["resume"])
        assert not side.send_body(b"i", 1, True)
        assert (side.answer, side.hooks[1:]) == (WHOLE, ["response_buffered"])
        side.drained()
        assert (side.answer, world.pipeline.response_buffer.total) == (OVER, 0)

    def test_the_client_that_has_not_read_for_longest_is_given_up(self, world: Any, wire: Any) -> None:
        sides = [make(world, wire), make(world, wire)]
        for side in sides:
            side.begin_answer(200, (), 101.0)
            side.stream.is_full = True
            side.send_body(b"x", side.snapshot.limits.response_buffer_total, False)
        assert [side.answer for side in sides] == [OVER, BEGUN]
        assert str(sides[0].flags) == "DT"
        assert world.limits_hit == ["response_buffer_total_bytes"]
        assert [note[1:] for note in sides[0].notes] == [(Happening.LIMIT, (("limit", "response_buffer_total_bytes"),))]

    @pytest.mark.parametrize(
        ("trailers", "status", "is_refused"),
        [
            (((b"x-meshproxy-refusal", b"overloaded"),), 8, True),
            (((b"x-meshproxy-refusal", b"overloaded"),), 0, False),
            ((), 8, False),
        ],
    )
    def test_trailers_may_say_that_another_sidecar_refused(
        self, world: Any, wire: Any, trailers: Any, status: int, is_refused: bool
    ) -> None:
        side = make(world, wire, is_grpc=True)
        side.begin_answer(200, (), 1.0)
        side.send_trailers(trailers, status)
        assert (side.is_refused_remotely, side.grpc_status, side.first_byte) == (is_refused, status, 1.0)

    @pytest.mark.parametrize("ends", ["reset", "break"])
    def test_a_grpc_head_alone_is_none(self, world: Any, wire: Any, ends: str) -> None:
        """The record says when an answer began."""
        side = make(world, wire, is_grpc=True)
        side.begin_answer(200, (), 1.0)
        if ends == "reset":
            side.reset_received(ErrorCode.CANCEL, "gone")
        else:
            side.break_off(ErrorCode.INTERNAL_ERROR)
        assert (side.status, side.first_byte) == (200, 0.0)


class TestTime:
    def test_the_shortest_limit_counts_exactly(self, world: Any, wire: Any) -> None:
        side = make(world, wire)
        side.limit_time(5.0)
        side.limit_time(0.2)
        side.limit_time(9.0)
        world.loop.advance(0.19)
        assert side.answer is NONE
        world.loop.advance(0.02)
        assert (side.stream.status, str(side.flags)) == (504, "UT")
        assert side.hooks[0] == "timed_out"

    def test_a_long_one_gets_its_timer_when_it_is_near(self, world: Any, wire: Any) -> None:
        side = make(world, wire)
        side.limit_time(5.0)
        assert world.loop.timers == []
        world.wait(5.1)
        assert side.stream.status == 504

    def test_a_refusal_waits_two_seconds_for_the_rest(self, world: Any, wire: Any) -> None:
        side = make(world, wire, end=False, length=10)
        side.refuse(Refusal(Reason.PERMISSION_DENIED, "no"))
        world.wait(1.9)
        assert side.answer is REFUSING
        world.wait(0.5)
        assert side.stream.status == 403

    def test_one_that_nobody_reads_ends_the_exchange(self, world: Any, wire: Any) -> None:
        side = make(world, wire)
        side.stream.is_full = True
        side.refuse(Refusal(Reason.PERMISSION_DENIED, "no"))
        assert side.answer is REFUSED
        world.wait(side.snapshot.limits.stall + 0.5)
        assert (side.answer, str(side.flags)) == (OVER, "DT")


WRITES = frozenset({"send_response", "send_data", "send_trailers", "reset", "stop_receiving", "close_connection"})
"""Commands that the client sees. `credit` is none: readers of the body give it."""


def writes_to_the_client(source: str) -> set[str]:
    """The lines that write to the client's stream: what is called `.stream`, was assigned from that, or is annotated as
    a Downstream. The streams of attempts and mirrored requests have other names, and are Upstreams."""
    tree = ast.parse(source)

    def is_stream(node: ast.AST | None) -> bool:
        return isinstance(node, ast.Attribute) and node.attr == "stream"

    names = {
        node.arg
        for node in ast.walk(tree)
        if isinstance(node, ast.arg) and node.annotation is not None and "Downstream" in ast.unparse(node.annotation)
    }
    assigned: list[tuple[ast.expr, ast.expr | None]]
    for node in ast.walk(tree):
        if isinstance(node, (ast.AnnAssign, ast.NamedExpr)):
            assigned = [(node.target, node.value)]
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
            several = [target.elts for target in node.targets if isinstance(target, ast.Tuple)]
            assigned = [pair for targets in several for pair in zip(targets, node.value.elts, strict=False)]
        elif isinstance(node, ast.Assign):
            assigned = [(target, node.value) for target in node.targets]
        else:
            continue
        names |= {target.id for target, value in assigned if isinstance(target, ast.Name) and is_stream(value)}
    return {
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in WRITES
        and (is_stream(node.value) or (isinstance(node.value, ast.Name) and node.value.id in names))
    }


class TestTheOnlyWriter:
    def test_no_other_file_writes_to_the_clients_stream(self) -> None:
        files = sorted(Path(meshproxy.proxy.__path__[0]).glob("*.py"))
        writing = {file.name: found for file in files if (found := writes_to_the_client(file.read_text()))}
        assert set(writing) == {"client_side.py"}
        assert {line.rpartition(".")[2] for line in writing["client_side.py"]} == WRITES

    @pytest.mark.parametrize(
        "source",
        [
            "self.stream.send_data(b'', True)",
            "self._request.stream.reset(8)",
            "write = request.stream.send_trailers",
            "stream = self.stream\nstream.stop_receiving()",
            "stream, self.sink = self.stream, None\nstream.send_data(b'', True)",
            "if (s := self.stream): s.send_response(200, (), True)",
            "def serve(stream: Downstream): stream.reset(8)",
            "def serve(stream: Downstream | None): stream.reset(8)",
        ],
    )
    def test_one_that_did_would_be_found(self, source: str) -> None:
        assert writes_to_the_client(source)

    @pytest.mark.parametrize(
        "source",
        [
            "self.stream.credit(3)",
            "self.upstream.send_data(b'', True)",
            "def connected(stream: Upstream): stream.send_data(b'', True)",
            "stream, self._stream = self._stream, None\nstream.reset(8)",
            "self.upstream.reset(8)",
        ],
    )
    def test_what_goes_to_a_server_is_not(self, source: str) -> None:
        assert not writes_to_the_client(source)


HEADS = ["begin", "begin-end"]
PIECES = ["data", "end", "trailers", "discard", "drained", "full", "empty"]
ENDS = ["refuse", "reset", "break", "evict", "late", "crash", "reject"]
STEPS = st.lists(st.sampled_from(HEADS + PIECES + ENDS), max_size=12)


@given(steps=STEPS, is_grpc=st.booleans(), ends=st.booleans())
def test_whatever_happens_it_ends_once_and_nothing_is_left(steps: list[str], is_grpc: bool, ends: bool) -> None:
    from tests.proxy.conftest import World
    from tests.proxy.fakes import FakeDownstream

    world = World()
    client = FakeDownstream()
    side = Recorded(world.pipeline, client, RequestHead(1, b"POST", b"host", b"/", (), ends, None))
    side.is_grpc = is_grpc
    for step in steps:
        before: ResponseState = side.answer
        if step in ("begin", "begin-end") and before is NONE:
            side.begin_answer(200, (), 1.0, end=step == "begin-end")
        elif step in ("data", "end") and before is BEGUN and not side.is_blocked:
            side.send_body(b"x", 1, step == "end")
        elif step == "trailers" and before is BEGUN and not side.is_blocked:
            side.send_trailers((), 0)
        elif step == "refuse":
            side.refuse(Refusal(Reason.OVERLOADED, "no"))
        elif step == "discard" and side.refusal is not None:
            side.discard(1, True)
        elif step == "drained" and not client.is_full:
            side.drained()
        elif step in ("full", "empty"):
            client.is_full = step == "full"
        elif step == "reset":
            side.reset_received(8, "gone")
        elif step == "break" and before is BEGUN:
            side.break_off(2)
        elif step == "evict" and side.is_blocked:
            side.evicted()
        elif step == "late":
            side.expire(side.deadline + 100.0)
        elif step == "crash":
            side.crashed(ValueError())
        elif step == "reject" and not side.request_ended:
            side.rejected(Rejected(1, 400, "bad"))
        if before is OVER:
            assert side.answer is OVER
    side.reset_received(8, "gone")
    assert side.answer is OVER
    assert world.finished == [side]
    assert sum(hook.startswith("closed") for hook in side.hooks) == 1
    assert (world.pipeline.live, world.pipeline.response_buffer.total) == (set(), 0)
    assert client.sink is None
