from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from meshproxy.injection.annotations import NAMES, PREFIX, read_choices
from meshproxy.injection.settings import Resources, amount
from tests.injection.pods import SETTINGS


def test_nothing_chosen_is_what_the_operator_says() -> None:
    choices, problems = read_choices({"example.com/a": "b"}, SETTINGS)
    assert problems == []
    assert (choices.image, choices.server, choices.resources) == (SETTINGS.image, "local", Resources())
    assert (choices.is_inbound, choices.is_outbound, choices.has_drain_hook) == (None, None, None)


def test_a_limit_and_a_request_that_do_not_fit() -> None:
    """One that is chosen alone takes the operator's other one with it."""
    small, problems = read_choices({f"{PREFIX}memory-limit": "32Mi"}, SETTINGS)
    assert not problems
    assert small.resources == Resources(memory_request="32Mi", memory_limit="32Mi")
    large, problems = read_choices({f"{PREFIX}memory-request": "1Gi"}, SETTINGS)
    assert not problems
    assert large.resources == Resources(memory_request="1Gi", memory_limit="1Gi")
    _, problems = read_choices({f"{PREFIX}cpu-limit": "1", f"{PREFIX}cpu-request": "2"}, SETTINGS)
    assert problems == [f"{PREFIX}cpu-request: 2 is above {PREFIX}cpu-limit, 1"]


def test_workers_are_limited_however_the_number_is_written() -> None:
    for text in ("0", "65", "00019999"):
        _, problems = read_choices({f"{PREFIX}workers": text}, SETTINGS)
        assert problems == [f'{PREFIX}workers: expected a whole number from 1 to 64, got "{text}"']


def test_each_worker_has_the_memory_of_one() -> None:
    def memory(**chosen: str) -> tuple[str, str | None]:
        found, problems = read_choices(
            {f"{PREFIX}{name.replace('_', '-')}": text for name, text in chosen.items()}, SETTINGS
        )
        assert not problems
        return found.resources.memory_request, found.resources.memory_limit

    assert memory(workers="1") == ("64Mi", "128Mi")
    assert memory(workers="8") == ("512Mi", "1024Mi")
    assert memory(workers="8", memory_limit="300Mi") == ("300Mi", "300Mi")
    assert memory(workers="2", memory_request="100Mi") == ("100Mi", "256Mi")
    assert memory(workers="2", memory_request="1Gi") == ("1Gi", "1Gi")
    unlimited = dataclasses.replace(SETTINGS, resources=Resources(memory_limit=None))
    assert read_choices({f"{PREFIX}workers": "2"}, unlimited)[0].resources.memory_limit is None


def test_a_name_that_is_none_is_shown_as_text() -> None:
    _, problems = read_choices({f"{PREFIX}a\nb": "x"}, SETTINGS)
    assert problems == [f"{PREFIX}a\\nb: no such setting"]


@given(st.dictionaries(st.sampled_from(NAMES), st.text(max_size=12) | st.sampled_from(["1", "enabled", "5s", "64Mi"])))
def test_any_text_is_a_choice_or_a_problem(texts: dict[str, str]) -> None:
    choices, problems = read_choices({f"{PREFIX}{name}": text for name, text in texts.items()}, SETTINGS)
    assert all(problem.startswith(PREFIX) and problem.isprintable() for problem in problems)
    resources = dataclasses.asdict(choices.resources)
    if not problems:
        for kind in ("cpu", "memory"):
            limit = resources[f"{kind}_limit"]
            assert limit is None or amount(resources[f"{kind}_request"]) <= amount(limit)
