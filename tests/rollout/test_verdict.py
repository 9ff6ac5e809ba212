"""Outcomes are words of the status."""

from __future__ import annotations

import msgspec

from meshproxy.rollout.verdict import Outcome, Verdict


def test_it_is_readable_json() -> None:
    assert msgspec.json.encode(Verdict(Outcome.FAIL, ("it is slow",))) == b'{"outcome":"fail","reasons":["it is slow"]}'
