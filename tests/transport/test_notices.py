from __future__ import annotations

import logging

import pytest

from meshproxy.transport.notices import BURST, KEYS, PERIOD, Notices

logger = logging.getLogger("test")


def test_a_key_is_logged_once_in_a_period_and_lines_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    notices = Notices()
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            notices.info(logger, "a", 1.0, "first")
        notices.info(logger, "a", 1.0 + PERIOD, "second 100 %")
        assert caplog.messages == ["first", "second 100 % (lines suppressed before: 2)"]
        for number in range(3 * KEYS):
            notices.info(logger, str(number), 100.0, "flood")
        assert len(caplog.messages) == 2 + BURST
        notices.info(logger, "later", 101.0, "later")
    assert caplog.messages[-1] == f"later (lines suppressed before: {3 * KEYS - BURST})"


def test_memory_is_bounded() -> None:
    notices = Notices()
    for number in range(3 * KEYS):
        notices.info(logger, str(number), float(number), "x")
    assert len(notices._written) <= KEYS
