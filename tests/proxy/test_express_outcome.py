from __future__ import annotations

from meshproxy.proxy.express_outcome import Outcome, new_tally


def test_each_outcome_has_labels_of_its_own_and_begins_at_zero() -> None:
    assert len({outcome.value for outcome in Outcome}) == len(Outcome)
    assert {result for result, _ in (outcome.value for outcome in Outcome)} == {
        "carried",
        "missed",
        "unfolded",
        "failed",
    }
    tally = new_tally()
    assert set(tally) == set(Outcome)
    assert set(tally.values()) == {0}
