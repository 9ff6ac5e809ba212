from __future__ import annotations

import pytest

from meshproxy.config.routes import IDEMPOTENT_VERBS
from meshproxy.inference.call import Verb

INFERENCE = {Verb.PREDICT, Verb.CLASSIFY, Verb.REGRESS, Verb.MULTI_INFERENCE}
ADMIN = {Verb.RELOAD, Verb.METRICS, Verb.PROFILE, Verb.REFLECT, Verb.UNLISTED}


@pytest.mark.parametrize("verb", Verb)
def test_a_verb_says_what_it_is(verb: Verb) -> None:
    assert verb.is_inference == (verb in INFERENCE)
    assert verb.is_versioned == (verb in INFERENCE | {Verb.METADATA})
    assert verb.is_admin == (verb in ADMIN)
    assert Verb(verb.value) is verb


def test_the_verbs_that_documents_retry_by_default_only_read() -> None:
    assert set(IDEMPOTENT_VERBS) == {verb.value for verb in INFERENCE | {Verb.METADATA, Verb.STATUS}}
