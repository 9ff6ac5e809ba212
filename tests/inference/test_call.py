from __future__ import annotations

import pickle

import pytest

from meshproxy.inference.call import Call, ModelRef, Verb

IS_ADMIN = {
    Verb.PREDICT: False,
    Verb.CLASSIFY: False,
    Verb.REGRESS: False,
    Verb.MULTI_INFERENCE: False,
    Verb.METADATA: False,
    Verb.STATUS: False,
    Verb.RELOAD: True,
    Verb.METRICS: True,
    Verb.PROFILE: True,
    Verb.REFLECT: True,
    Verb.UNLISTED: True,
}
"""Written out: a new verb must be put here on purpose, because one that is not an admin verb needs no rule."""


@pytest.mark.parametrize("verb", Verb)
def test_what_changes_or_exposes_the_server_needs_a_rule_that_names_it(verb: Verb) -> None:
    assert verb.is_admin is IS_ADMIN[verb]


def test_a_decision_is_found_again_by_an_equal_call() -> None:
    decisions = {Call(Verb.PREDICT, (ModelRef("m", 1, None, "s"),)): "permitted"}
    assert decisions[Call(Verb.PREDICT, (ModelRef("m", 1, None, "s"),))] == "permitted"
    for other in (
        Call(Verb.CLASSIFY, (ModelRef("m", 1, None, "s"),)),
        Call(Verb.PREDICT, (ModelRef("m", 2, None, "s"),)),
        Call(Verb.PREDICT, (ModelRef("m", None, "1", "s"),)),
        Call(Verb.PREDICT, (ModelRef("m", 1, None, None),)),
        Call(Verb.PREDICT, (ModelRef("m", 1, None, "s"), ModelRef("n"))),
        Call(Verb.PREDICT),
    ):
        assert other not in decisions


def test_a_verb_is_itself_in_another_process_and_as_a_word() -> None:
    """Its hash is that of its identity: a copy that is not the member itself would be found in no table."""
    for verb in Verb:
        assert pickle.loads(pickle.dumps(verb)) is verb
        assert Verb(verb.value) is verb
