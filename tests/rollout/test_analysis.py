"""The defaults of the judge are those of a document without an analysis, but for what is judged."""

from __future__ import annotations

import msgspec

from meshproxy.config.rollouts import Arm, RolloutSpec
from meshproxy.rollout.analysis import METRICS, Analysis
from meshproxy.rollout.settings import analysis_of


def test_the_defaults_are_the_documents() -> None:
    spec = RolloutSpec(model="half", stable=Arm(version="1"), candidate=Arm(version="2"))
    made = analysis_of(spec)
    assert msgspec.structs.replace(made, metrics=Analysis().metrics) == Analysis()
    assert {limit.name for limit in made.metrics} < set(METRICS)
