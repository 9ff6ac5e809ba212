"""Rollouts as text."""

from __future__ import annotations

import time

import pytest

from meshproxy.cli._rollout_text import show, watched
from meshproxy.config.rollouts import WarmUp
from meshproxy.control.rollouts import Shown
from meshproxy.rollout.analysis import Analysis
from meshproxy.rollout.judge import Judge
from meshproxy.rollout.steps import Gate, Notice, Phase, RolloutStatus
from meshproxy.rollout.verdict import Outcome, Verdict
from meshproxy.rollout.window import ArmWindow, bucket


def shown(**more: object) -> Shown:
    status = RolloutStatus("r1", 2, Phase.PROGRESSING, 25.0, **more)  # type: ignore[arg-type]
    stable = ArmWindow(calls=1_000, latency={bucket(0.02): 1_000})
    candidate = ArmWindow(calls=200, failures={"grpc 13": 10}, latency={bucket(0.04): 190}, answers=50, nan_answers=5)
    Judge(Analysis(), status.evidence).remember(candidate, stable)
    return Shown("half", "half", "version 1", "version 2", (25, 50), 60.0, "sequential", False, 2, status)


def test_both_versions_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    verdict = Verdict(Outcome.INSUFFICIENT, ("it may be chance",))
    show([shown(verdict=verdict, notices=[Notice(0.0, "Started", "25 %")], gate=Gate.INCREASE)])
    text = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "half half: version 1 -> version 2 progressing waits for the webhooks of increase" in " ".join(lines)
    assert any(line.endswith("25 % step 1 of 2, attempt 2, sequential") for line in lines)
    assert any(line.startswith("stable 1,000 0.00 %") for line in lines)
    assert any(line.startswith("candidate 200 5.00 %") and "10.00 %" in line for line in lines)
    assert "last window: insufficient" in lines
    assert "- it may be chance" in lines
    assert "1970-01-01 00:00:00Z Started: 25 %" in lines


def test_a_warm_up_is_told_where_nothing_has_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_000.0)
    status = RolloutStatus("r1", 1, Phase.PROGRESSING, 25.0, window_since=958.0)
    arms = ("half", "half", "version 1", "version 2", (25, 50), 60.0, "sequential")
    says = (
        "no calls of the candidate and the stable version have counted yet; the next window ends in 18 s",
        "warm-up: at each sidecar neither the first 20 calls of a version count, nor those of 10 s from the first on",
    )

    def text(paused: bool, warm_up: WarmUp) -> str:
        show([Shown(*arms, paused, 2, status, warm_up)])
        return " ".join(capsys.readouterr().out.split())

    assert " ".join(says) in text(False, WarmUp())
    without = text(False, WarmUp(0, 0.0))
    assert says[0] in without
    assert "warm-up" not in without
    assert "have counted" not in text(True, WarmUp())
    Judge(Analysis(), status.evidence).remember(ArmWindow(), ArmWindow(calls=5))
    assert "no calls of the candidate have counted yet" in text(False, WarmUp())
    Judge(Analysis(), status.evidence).remember(ArmWindow(calls=1), ArmWindow(calls=5))
    assert "have counted" not in text(False, WarmUp())


def test_none(capsys: pytest.CaptureFixture[str]) -> None:
    show([])
    assert "apply a ModelRollout" in capsys.readouterr().out


def test_again_and_again(capsys: pytest.CaptureFixture[str]) -> None:
    with watched() as draw:
        draw([shown()])
        draw([])
    assert "There are no rollouts" in capsys.readouterr().out


def test_text_of_others_does_not_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    show([shown(notices=[Notice(0.0, "CheckFailed", "\x1b[2J", is_warning=True)])])
    assert "\x1b[2J" not in capsys.readouterr().out
