"""When somebody is told that a certificate runs out."""

from __future__ import annotations

import pytest

from meshproxy.identity.expiry import Alarm, Expiry
from meshproxy.identity.renewal import RENEW_AT

DAY = 86_400.0


def test_each_alarm_is_raised_once() -> None:
    expiry = Expiry(1_000.0, 1_000.0 + DAY)
    alarms = [(hour, expiry.alarm(1_000.0 + hour * 3_600.0)) for hour in range(26)]
    told = [(hour, alarm) for hour, alarm in alarms if alarm is not None]
    assert told == [(18, Alarm.SOON), (22, Alarm.URGENT), (24, Alarm.EXPIRED)]
    assert expiry.wait(1_000.0) is None


def test_how_long_to_wait_for_the_next() -> None:
    expiry = Expiry(0.0, 120.0)
    assert expiry.wait(0.0) == 90.0
    assert expiry.wait(100.0) == 0.0
    assert expiry.alarm(90.0) is Alarm.SOON
    assert expiry.wait(100.0) == pytest.approx(10.0)


def test_a_host_that_was_suspended_hears_the_last_only() -> None:
    expiry = Expiry(0.0, 120.0)
    assert expiry.alarm(500.0) is Alarm.EXPIRED
    assert expiry.alarm(501.0) is None


def test_a_renewal_in_time_raises_none() -> None:
    assert Expiry(0.0, DAY).alarm(DAY * (RENEW_AT + 0.05)) is None
