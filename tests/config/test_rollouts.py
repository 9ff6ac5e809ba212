"""`ModelRollout`: what a struct by itself knows to be wrong, and what it says."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from meshproxy.config import rollouts

ARMS = {"stable": {"version": "3"}, "candidate": {"version": "4"}}


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (rollouts.Arm, {}),
        (rollouts.Arm, {"version": "1", "label": "a"}),
        (rollouts.ThresholdRange, {}),
        (rollouts.ThresholdRange, {"min": 2, "max": 1}),
        (rollouts.Metric, {"name": "request-duration", "quantile": 1.0}),
        (rollouts.Analysis, {"stepWeights": [5, 5]}),
        (rollouts.Analysis, {"stepWeights": [0, 5]}),
        (rollouts.Analysis, {"stepWeights": [50, 101]}),
        (rollouts.Analysis, {"maxWeight": 101}),
        (rollouts.Analysis, {"metrics": [{"name": "not-a-number"}, {"name": "not-a-number"}]}),
        (rollouts.RolloutSpec, {"model": "m", "stable": {"version": "3"}, "candidate": {"version": "3"}}),
        (
            rollouts.RolloutSpec,
            {"model": "m", "stable": {"server": "a"}, "candidate": {"server": "b"}, "direction": "inbound"},
        ),
    ],
)
def test_what_a_struct_knows_to_be_wrong(kind: type[Any], given: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(given, kind)


def test_the_steps() -> None:
    assert rollouts.Analysis().weights == (10, 20, 30, 40, 50)
    assert rollouts.Analysis(step_weight=30, max_weight=50).weights == (30, 50)
    assert rollouts.Analysis(step_weight=60, max_weight=50).weights == (50,)
    assert rollouts.Analysis(step_weights=(1, 5, 20)).weights == (1, 5, 20)


def test_one_direction_chooses() -> None:
    """If sidecars on both sides chose, a share of 10 % would become 19."""
    assert msgspec.convert({"model": "m", **ARMS}, rollouts.RolloutSpec).chosen_by == "inbound"
    servers = {"stable": {"server": "a"}, "candidate": {"server": "b"}}
    assert msgspec.convert({"model": "m", **servers}, rollouts.RolloutSpec).chosen_by == "outbound"
    given = {"model": "m", **ARMS, "direction": "outbound"}
    assert msgspec.convert(given, rollouts.RolloutSpec).chosen_by == "outbound"


def test_defaults_pass_their_own_bounds() -> None:
    for struct in (rollouts.Analysis, rollouts.WarmUp, rollouts.Rollback):
        assert msgspec.convert(msgspec.to_builtins(struct()), struct) == struct()
