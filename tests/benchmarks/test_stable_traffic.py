"""The simulation of drift, small and with a seed."""

from __future__ import annotations

import numpy as np
from click.testing import CliRunner

from benchmarks.rollouts.stable_traffic import A_DAY, NONE, Change, Model, Traffic, detectors, found_after, main
from meshproxy.rollout.drift import Signal
from meshproxy.rollout.levels import Share, Times

USUAL = Model("usual", peak=300.0, wander=0.02)


def test_a_change_is_found() -> None:
    hours = found_after(USUAL, Change("slower", Signal.UPSTREAM, slower=2.0), seed=1, learned=A_DAY // 4)
    assert hours is not None
    assert hours < 6


def test_a_seed_repeats_a_run_and_nights_have_few_calls() -> None:
    def sizes(number: int) -> tuple[int, float]:
        watching = detectors()
        Traffic(USUAL, np.random.default_rng(5)).fill(watching, number, NONE)
        errors, upstream = watching[Signal.ERRORS].reading, watching[Signal.UPSTREAM].reading
        assert isinstance(errors, Share)
        assert isinstance(upstream, Times)
        return errors.size, upstream.level

    assert sizes(0) == sizes(0)
    assert sizes(0)[0] < 80
    assert 200 < sizes(A_DAY // 2)[0] < 400
    assert 0.015 < sizes(0)[1] < sizes(A_DAY // 2)[1] < 0.05


def test_the_command() -> None:
    done = CliRunner().invoke(main, ["--help"])
    assert done.exit_code == 0
    assert "--months" in done.output
