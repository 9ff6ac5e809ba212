"""Sidecars that are gone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshproxy.control.lost import LEAST_SECONDS, LostSidecars
from meshproxy.control.status import SidecarState, moment
from tests.control.statuses import NOW, ago, entry

GONE = entry(SidecarState.GONE)
KEY = ("spiffe://m.example/ns/models/sa/resnet", "resnet", "resnet-0")
AT = NOW.timestamp()


def test_one_that_stops_is_forgotten() -> None:
    sidecars = LostSidecars()
    sidecars.connected(KEY)
    sidecars.stopped(KEY)
    assert list(sidecars.entries(AT)) == []


def test_one_that_is_lost_is_known_until_its_certificate_expires() -> None:
    sidecars = LostSidecars()
    sidecars.connected(KEY)
    sidecars.lost(KEY, GONE, AT)
    expires = GONE.certificate_expires.timestamp()
    assert (list(sidecars.entries(expires - 1)), sidecars.count(expires - 1)) == ([GONE], 1)
    assert sidecars.count(expires) == 0
    assert sidecars.forgotten == 0


def test_or_an_hour_if_it_has_expired() -> None:
    """The worst case is one that could not renew it: it must not vanish with its certificate."""
    sidecars = LostSidecars()
    sidecars.connected(KEY)
    sidecars.lost(KEY, entry(SidecarState.GONE, certificate_expires=ago(5)), AT)
    assert sidecars.count(AT + LEAST_SECONDS - 1) == 1
    assert sidecars.count(AT + LEAST_SECONDS) == 0


def test_one_that_comes_again_is_not_gone() -> None:
    sidecars = LostSidecars()
    sidecars.connected(KEY)
    sidecars.lost(KEY, GONE, AT)
    sidecars.connected(KEY)
    assert sidecars.count(AT) == 0
    sidecars.stopped(KEY)
    assert sidecars.count(AT) == 0


def test_one_that_was_back_before_the_loss_was_noticed_is_not_gone() -> None:
    sidecars = LostSidecars()
    sidecars.connected(KEY)
    sidecars.connected(KEY)
    sidecars.lost(KEY, GONE, AT)
    assert sidecars.count(AT) == 0
    sidecars.lost(KEY, GONE, AT)
    assert sidecars.count(AT) == 1


def test_the_longest_gone_is_forgotten_first_and_counted() -> None:
    sidecars = LostSidecars(kept=2)
    for number in range(3):
        key = ("id", "name", str(number))
        sidecars.connected(key)
        sidecars.lost(key, entry(SidecarState.GONE, host=str(number)), AT)
    assert [each.host for each in sidecars.entries(AT)] == ["1", "2"]
    assert sidecars.forgotten == 1


@given(st.lists(st.tuples(st.sampled_from(["come", "stop", "lose"]), st.integers(0, 3))))
def test_nobody_is_both_there_and_gone(events: list[tuple[str, int]]) -> None:
    sidecars, streams = LostSidecars(), [0] * 4
    for what, number in events:
        key = ("id", "name", str(number))
        if what == "come":
            streams[number] += 1
            sidecars.connected(key)
        elif streams[number]:
            streams[number] -= 1
            if what == "stop":
                sidecars.stopped(key)
            else:
                sidecars.lost(key, entry(SidecarState.GONE, host=str(number), since=moment(AT)), AT)
        gone = {int(each.host) for each in sidecars.entries(AT)}
        assert not any(streams[each] for each in gone)
