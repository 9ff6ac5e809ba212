"""Rollouts as text."""

from __future__ import annotations

import pytest

from meshproxy.cli._rollout_text import show, watched
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
