"""Pieces of a body that wait: with their credit owed, or credited and counted."""

from __future__ import annotations

import tracemalloc

import pytest

from meshproxy.codec.events import RequestHead
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.proxy.client_side import OVER
from meshproxy.proxy.held_body import HeldBody
from meshproxy.proxy.snapshot import BodyLimits
from meshproxy.refusal import Reason, Refusal
from tests.proxy.fakes import FakeDownstream, RecordedRequest, Surroundings

LIMITS = BodyLimits(scan_buffer=10, scan_buffer_total=15)


class Held:
    """A request whose body is held."""

    def __init__(self, around: Surroundings) -> None:
        self.client = FakeDownstream()
        self.request = RecordedRequest(around.context, self.client, RequestHead(1, b"POST", b"host", b"/", (), False))
        self.body = HeldBody(self.request)
        self.request.on_closed = lambda is_whole: self.body.close()
        self.budget = around.context.scan_buffer


@pytest.fixture
def around() -> Surroundings:
    return Surroundings(limits=LIMITS)


@pytest.fixture
def held(around: Surroundings) -> Held:
    return Held(around)


class TestOwed:
    def test_pieces_keep_their_credit_and_their_end(self, held: Held) -> None:
        large = bytes(1024)
        held.body.hold(b"ab", 3, False)
        held.body.hold(large, 1025, True)
        assert held.body.start() == b"ab" + large
        assert held.body.owes_credit
        assert (held.client.credited, held.budget.total) == (0, 0)
        assert held.body.take() == [(b"ab", 3, False), (large, 1025, True)]
        assert (held.body.take(), held.body.start(), held.body.owes_credit) == ([], b"", False)

    def test_they_are_not_limited_since_flow_control_does_that(self, held: Held) -> None:
        held.body.hold(b"x" * 100, 100, True)
        assert held.request.refusal is None

    def test_small_ones_are_joined(self, held: Held) -> None:
        for byte in b"abcde":
            held.body.hold(bytes([byte]), 10, byte == ord("e"))
        assert held.body.start() == b"abcde"
        taken = held.body.take()
        assert taken == [(b"abcde", 50, True)]
        assert type(taken[0][0]) is bytes


class TestUnnamed:
    def test_pieces_are_credited_and_counted(self, held: Held) -> None:
        held.body.hold_unnamed(b"ab", 3, False)
        assert (held.client.credited, held.budget.total, held.body.owes_credit) == (3, 2, False)
        assert held.body.take() == [(b"ab", 0, False)]
        assert (held.budget.total, len(held.budget)) == (0, 0)

    def test_one_body_has_a_limit_of_its_own(self, held: Held) -> None:
        held.body.hold_unnamed(b"x" * 10, 10, False)
        with pytest.raises(Refusal) as raised:
            held.body.hold_unnamed(b"x", 1, False)
        assert (raised.value.reason, raised.value.limit) == (Reason.SCAN_LIMIT, "scan_buffer_bytes")
        assert held.client.credited == 10

    def test_so_has_one_connection(self) -> None:
        around = Surroundings(limits=BodyLimits(scan_buffer=10, scan_buffer_total=1000))
        first, second, third = Held(around), Held(around), Held(around)
        second.request.connection = third.request.connection = connection = first.request.connection
        first.body.hold_unnamed(b"x" * 10, 10, False)
        second.body.hold_unnamed(b"x" * 10, 10, False)
        with pytest.raises(Refusal) as raised:
            third.body.hold_unnamed(b"x", 1, False)
        assert (raised.value.reason, raised.value.limit) == (Reason.OVERLOADED, "scan_buffer_connection_bytes")
        for each in (first, second, third):
            each.body.close()
        assert connection.unnamed_bytes == 0
        third.body.hold_unnamed(b"x" * 10, 10, False)

    @pytest.mark.parametrize("size", [1, 2, 100])
    def test_a_byte_takes_about_a_byte_however_small_the_pieces_are(self, size: int) -> None:
        held = Held(Surroundings())
        pieces = [bytes([number % 251]) * size for number in range(100_000 // size)]
        tracemalloc.start()
        try:
            for piece in pieces:
                held.body.hold_unnamed(piece, 9 + size, False)
            assert tracemalloc.get_traced_memory()[0] < 1.3 * 100_000
        finally:
            tracemalloc.stop()
        assert held.body.start() == b"".join(pieces)

    def test_what_follows_the_model_is_owed_but_the_client_is_not_waiting_for_it(self, held: Held) -> None:
        held.body.hold_unnamed(b"ab", 2, False)
        held.body.hold(b"cd", 2, False)
        assert not held.body.owes_credit
        assert held.body.take() == [(b"abcd", 2, False)]

    def test_of_all_the_oldest_is_refused(self, around: Surroundings) -> None:
        first, second = Held(around), Held(around)
        for each in (first, second):
            each.request.is_grpc = True
            each.body.hold_unnamed(b"x" * 8, 8, False)
        refusal = first.request.refusal
        assert refusal is not None
        assert (refusal.reason, refusal.limit, refusal.retry_after) == (Reason.OVERLOADED, "scan_buffer_total_bytes", 1)
        assert (first.request.answer, first.body.start()) == (OVER, b"")
        assert (second.request.refusal, second.budget.total) == (None, 8)

    def test_a_defect_in_refusing_it_does_not_reach_the_other(
        self, around: Surroundings, caplog: pytest.LogCaptureFixture
    ) -> None:
        first, second = Held(around), Held(around)

        def fail() -> None:
            raise RuntimeError("a defect")

        first.request.on_abandon = fail
        first.body.hold_unnamed(b"x" * 8, 8, False)
        second.body.hold_unnamed(b"x" * 8, 8, False)
        assert (second.body.start(), second.request.refusal) == (b"x" * 8, None)
        assert (first.request.answer, first.client.reset_code) == (OVER, ErrorCode.INTERNAL_ERROR)
        assert "internal error" in caplog.text

    @pytest.mark.parametrize("twice", [False, True])
    def test_closing_releases_it_once(self, held: Held, twice: bool) -> None:
        held.body.hold_unnamed(b"ab", 2, False)
        for _ in range(1 + twice):
            held.body.close()
        assert (held.budget.total, held.body.start()) == (0, b"")
