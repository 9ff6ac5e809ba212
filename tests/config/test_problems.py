"""Problems and the error that carries them."""

from __future__ import annotations

import pickle

from meshproxy.config.codes import Code
from meshproxy.config.problems import ConfigError, Problem, closest


def test_a_problem_reads_as_a_place_and_a_sentence() -> None:
    assert (
        str(Problem("a.yaml", 3, "ModelRole/r", "spec.rules", "no", Code.INVALID_VALUE))
        == "a.yaml:3: ModelRole/r: spec.rules: no"
    )
    assert str(Problem("a.yaml", 0, "", "", "cannot be read", Code.UNREADABLE)) == "a.yaml: cannot be read"


def test_a_problem_is_one_line_that_moves_no_cursor() -> None:
    told = str(
        Problem("é\n::error::x.yaml", 1, "Kind/a\x1b[2J", "headers.x-\n::a", "no \u2028 \udc80", Code.INVALID_VALUE)
    )
    assert told == r"é\n::error::x.yaml:1: Kind/a\x1b[2J: headers.x-\n::a: no \u2028 \udc80"


def test_the_error_shows_all_and_can_be_sent_to_another_process() -> None:
    code = Code.INVALID_VALUE
    error = ConfigError((Problem("a", 1, "", "", "x", code), Problem("a", 2, "", "", "y", code)))
    assert str(error) == "a:1: x\na:2: y"
    assert pickle.loads(pickle.dumps(error)).problems == error.problems


def test_near_misses_are_recognised_and_others_are_not_guessed_at() -> None:
    assert closest("modelrole", ["ModelRole", "Sidecar"]) == ' (did you mean "ModelRole"?)'
    assert closest("Deployment", ["ModelRole", "Sidecar"]) == ""


def test_nobody_waits_for_a_hint_among_very_many() -> None:
    assert closest("role-1", [f"role-{number}" for number in range(1, 2_000)]) == ""
