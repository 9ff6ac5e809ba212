"""Sessions: bounded in number and time, and not to be guessed."""

from __future__ import annotations

import pytest

from meshproxy.web import sessions as module
from meshproxy.web.permissions import Permission
from meshproxy.web.sessions import IDLE, LIFE, SESSIONS_OF_ONE, Sessions

SEES = frozenset({Permission.GRAPH})


def begin(sessions: Sessions, subject: str = "ann", now: float = 0.0) -> str:
    return sessions.begin(subject, ("viewer",), SEES, now)


def test_a_session_is_found_by_its_name_only() -> None:
    sessions = Sessions()
    name = begin(sessions)
    found = sessions.use(name, 1.0)
    assert found is not None
    assert (found.subject, found.roles, found.sees) == ("ann", ("viewer",), SEES)
    for other in ("", name[:-1], name + "x", "x" * 65, "\xe9", "\udc80"):
        assert sessions.use(other, 1.0) is None
    assert name not in repr(vars(sessions))  # what is in memory opens no session
    assert begin(sessions) != name


def test_it_ends_when_nobody_uses_it_and_in_any_case() -> None:
    sessions = Sessions()
    name = begin(sessions)
    assert sessions.use(name, IDLE - 1) is not None
    assert sessions.look(name, 2 * IDLE - 2) is not None  # to look does not count
    assert sessions.use(name, 2 * IDLE - 1) is None
    name = begin(sessions)
    now = 0.0
    while now < LIFE - IDLE / 2:
        assert sessions.use(name, now) is not None
        now += IDLE / 2
    assert sessions.use(name, LIFE) is None
    assert len(sessions) == 0


def test_end() -> None:
    sessions = Sessions()
    name = begin(sessions)
    sessions.end(name)
    sessions.end(name)
    assert sessions.use(name, 1.0) is None


def test_whoever_logs_in_again_and_again_ends_their_own() -> None:
    sessions = Sessions()
    other = begin(sessions, "bob")
    own = [begin(sessions, now=float(number)) for number in range(SESSIONS_OF_ONE + 1)]
    assert [sessions.look(name, 20.0) is not None for name in own] == [False] + [True] * SESSIONS_OF_ONE
    assert sessions.look(other, 20.0) is not None
    assert sessions.evicted == 1


def test_there_are_no_more_than_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SESSIONS", 3)
    sessions = Sessions()
    names = [begin(sessions, f"person {number}") for number in range(3)]
    sessions.use(names[0], 1.0)  # so the second one is the least recently used
    newest = begin(sessions, "another", 2.0)
    held = [sessions.look(name, 3.0) is not None for name in (*names, newest)]
    assert held == [True, False, True, True]
    # Those that are over make room before others are ended.
    begin(sessions, "late", IDLE + 2.0)
    assert sessions.evicted == 1
