"""One admission for each model at a server, as long as its settings stay the same."""

from __future__ import annotations

from math import inf
from types import SimpleNamespace
from typing import Any

from meshproxy.config.routes import Concurrency
from meshproxy.proxy.admissions import MOST, Admissions
from meshproxy.routing.admission import Entry
from meshproxy.routing.concurrency import FixedLimit, GradientLimit

FIXED = Concurrency(limit=1, queue=2, queue_timeout=1.0)


class Waiting:
    def __init__(self) -> None:
        self.told: list[Entry | str] = []

    def admitted(self) -> None:
        self.told.append("admitted")

    def rejected(self, why: Entry) -> None:
        self.told.append(why)


def make() -> tuple[Admissions, set[Any]]:
    members: set[Any] = set()
    reaper: Any = SimpleNamespace(add=members.add, discard=members.discard, period=0.25)
    return Admissions(reaper), members


def test_each_model_of_each_server_has_its_own() -> None:
    admissions, members = make()
    first = admissions.of("r", "s", "m", FIXED)
    assert admissions.of("r", "s", "m", Concurrency(limit=1, queue=2, queue_timeout=1.0)) is first
    others = [admissions.of(*key, FIXED) for key in (("r", "s", "n"), ("r", "t", "m"))]
    assert len({id(each) for each in [first, *others]}) == 3
    assert [(route, model) for route, model, _ in admissions.rows()] == [("r", "m"), ("r", "n"), ("r", "m")]
    assert members == {admissions}


def test_routes_of_a_model_share_it_where_their_settings_are_equal() -> None:
    """Or priorities would be of no use: a route has one."""
    admissions, _ = make()
    first = admissions.of("online", "s", "m", FIXED)
    assert admissions.of("batch", "s", "m", Concurrency(limit=1, queue=2, queue_timeout=1.0)) is first
    other = admissions.of("nightly", "s", "m", Concurrency(limit=9))
    assert other is not first
    assert [(route, model, each) for route, model, each in admissions.rows()] == [
        ("online", "m", first),
        ("nightly", "m", other),
    ]
    changed = admissions.of("online", "s", "m", Concurrency(limit=9))
    assert changed is other
    assert [(route, each) for route, _, each in admissions.rows()] == [("online", other), ("batch", first)]


def test_the_limit_is_what_the_document_says() -> None:
    admissions, _ = make()
    assert isinstance(admissions.of("r", "s", "m", FIXED).limit, FixedLimit)
    limit = admissions.of("r", "s", "n", Concurrency(initial=7)).limit
    assert isinstance(limit, GradientLimit)
    assert limit.current == 7


def test_other_settings_are_another_one_and_who_waits_in_the_last_is_still_told() -> None:
    admissions, _ = make()
    old = admissions.of("r", "s", "m", FIXED)
    inside, waiting = Waiting(), Waiting()
    assert old.enter(inside, 1, inf, 100.0) is Entry.ADMITTED
    assert old.enter(waiting, 1, inf, 100.0) is Entry.QUEUED
    new = admissions.of("r", "s", "m", Concurrency(limit=9))
    assert new is not old
    admissions.expire(100.5)
    assert waiting.told == []
    admissions.expire(101.5)
    assert waiting.told == [Entry.FULL]
    assert admissions.deadline > 101.5
    old.leave(0.1, True, 102.0)
    admissions.expire(102.0)
    assert admissions._past == []


def test_who_has_waited_too_long_is_told() -> None:
    admissions, _ = make()
    admission = admissions.of("r", "s", "m", FIXED)
    waiting = Waiting()
    admission.enter(Waiting(), 1, inf, 100.0)
    admission.enter(waiting, 1, inf, 100.0)
    admissions.expire(100.9)
    assert (waiting.told, admissions.deadline) == ([], 101.0)
    admissions.expire(101.0)
    assert (waiting.told, admissions.deadline) == ([Entry.FULL], 101.25)


def test_those_in_which_nothing_happens_go_first() -> None:
    admissions, _ = make()
    busy = admissions.of("r", "s", "busy", FIXED)
    busy.enter(Waiting(), 1, inf, 100.0)
    for number in range(MOST):
        admissions.of("r", "s", f"m{number}", FIXED)
    assert len(list(admissions.rows())) <= MOST
    assert len(admissions._all) < MOST
    assert admissions.of("r", "s", "busy", FIXED) is busy
