"""The simulation of hop lag, small and with a seed: healthy days are quiet, and a rise is found."""

from __future__ import annotations

from click.testing import CliRunner

from benchmarks import hop_lag
from benchmarks.hop_lag import DAY, SCENARIOS, draw, false_alarms, load, time_to_detect, watch

BUSY, USUAL, *_ = SCENARIOS


def test_healthy_days_are_quiet() -> None:
    alarms, readings = false_alarms(USUAL, seed=1, days=1)
    assert alarms == 0
    assert readings > 1_000


def test_a_rise_is_found() -> None:
    seconds = time_to_detect(BUSY, seed=1, rise=0.005, hour=1)
    assert seconds is not None
    assert seconds <= 300


def test_what_is_not_worth_an_alarm_is_not_found() -> None:
    assert time_to_detect(BUSY, seed=1, rise=0.000_1, hour=1) is None


def test_a_seed_repeats_a_run() -> None:
    first, again = (list(watch(USUAL, 7, 0.05)) for _ in range(2))
    assert first == again


def test_a_night_has_a_tenth_of_the_calls() -> None:
    assert [round(load(hour / 24 * DAY), 2) for hour in (4, 16)] == [0.1, 1.0]


def test_a_restart_of_the_model_server_is_no_alarm() -> None:
    scenario = hop_lag.Scenario("short", 20.0, 0.01, 0.001)
    points = list(watch(scenario, 3, 0.2, uptime=hop_lag.UPTIME - 0.1 * DAY))
    assert {point.state.value for point in points} == {"learning", "steady"}


def test_the_picture_has_the_alarm() -> None:
    assert "the alarm" in draw(USUAL, 1)


def test_the_command() -> None:
    done = CliRunner().invoke(hop_lag.main, ["--help"])
    assert done.exit_code == 0
    assert "--days" in done.output
