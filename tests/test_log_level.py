"""The level of the process log."""

from __future__ import annotations

import logging

from meshproxy.log_level import LEVELS


def test_its_words_are_those_of_logging_from_the_most_to_the_least() -> None:
    levels = [getattr(logging, level.upper()) for level in LEVELS]
    assert levels == sorted(levels)
