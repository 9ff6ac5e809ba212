"""What became of streams, and what frames on them mean."""

from __future__ import annotations

import pytest

from meshproxy.codec.h2.frames import DATA, HEADERS, RST_STREAM, WINDOW_UPDATE
from meshproxy.codec.h2.stream import KEPT_GAPS, KEPT_RESETS, VERDICTS, History, Past, Verdict


def test_every_past_has_a_verdict_for_every_frame() -> None:
    assert set(VERDICTS) == set(Past)
    for verdicts in VERDICTS.values():
        assert set(verdicts) == {DATA, HEADERS, RST_STREAM, WINDOW_UPDATE}


def test_late_updates_and_resets_are_ignored() -> None:
    """RFC 9113 section 5.1: the peer may have sent them before it knew."""
    for past, verdicts in VERDICTS.items():
        if past is not Past.IDLE:
            assert verdicts[RST_STREAM] is verdicts[WINDOW_UPDATE] is Verdict.IGNORE


def test_streams_in_order() -> None:
    history = History()
    assert history.past(1) is Past.IDLE
    history.opened(1)
    history.opened(3)
    assert [history.past(number) for number in (1, 3, 5)] == [Past.FINISHED, Past.FINISHED, Past.IDLE]


@pytest.mark.parametrize("number", [2, 4, 2**31 - 2])
def test_even_streams_are_idle_for_ever(number: int) -> None:
    history = History()
    history.opened(2**31 - 1)
    assert history.past(number) is Past.IDLE


def test_streams_that_were_left_out() -> None:
    history = History()
    history.opened(7)
    history.opened(9)
    history.opened(13)
    pasts = {number: history.past(number) for number in range(1, 15, 2)}
    assert [number for number, past in pasts.items() if past is Past.SKIPPED] == [1, 3, 5, 11]
    assert [number for number, past in pasts.items() if past is Past.FINISHED] == [7, 9, 13]


def test_resets_are_remembered_for_a_while() -> None:
    history = History()
    for number in range(1, 6_000, 2):
        history.opened(number)
        history.reset(number, Past.RESET_BY_PEER if number % 4 == 1 else Past.RESET_BY_US)
    assert history.past(5_999) is Past.RESET_BY_US
    assert history.past(5_997) is Past.RESET_BY_PEER
    kept = [number for number in range(1, 6_000, 2) if history.past(number) is not Past.FINISHED]
    assert len(kept) == KEPT_RESETS
    assert kept[-1] - kept[0] == 2 * (KEPT_RESETS - 1)


def test_what_is_remembered_at_rest() -> None:
    history = History()
    for number, past in ((1, Past.RESET_BY_PEER), (5, Past.RESET_BY_US)):
        history.opened(number)
        history.reset(number, past)
    history.rest()
    assert [history.past(number) for number in (1, 3, 5)] == [Past.FINISHED, Past.SKIPPED, Past.RESET_BY_US]


def test_gaps_are_remembered_for_a_while() -> None:
    history = History()
    for number in range(5, 1_000, 4):
        history.opened(number)
    skipped = [number for number in range(1, 1_000, 2) if history.past(number) is Past.SKIPPED]
    assert len(skipped) == KEPT_GAPS
