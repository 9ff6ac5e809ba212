"""Sessions of the page: kept here, bounded in number and in time; a browser has nothing but a random name.

Pure: `now` is an argument, in seconds of a clock that is never set back. The names are kept as hashes, so that what is
in memory opens no session.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshproxy.web.permissions import Permission

IDLE = 1_800.0
"""Seconds after its last use that a session ends."""
LIFE = 28_800.0
"""Seconds after the login that it ends in any case: whoever lost a role sees on for that long."""
SESSIONS = 1_000
SESSIONS_OF_ONE = 10
"""Of one subject: whoever logs in again and again ends their own."""
NAME_BYTES = 32
NAME_CHARACTERS = 64
"""The longest text that is taken for a name."""


@dataclass(slots=True)
class Session:
    """One browser that has logged in."""

    subject: str
    roles: tuple[str, ...]
    sees: frozenset[Permission]
    form_token: str
    """That a form of this session has: other sites cannot know it."""
    began: float
    used: float

    def is_over(self, now: float) -> bool:
        return now >= min(self.used + IDLE, self.began + LIFE)


class Sessions:
    """All sessions, the least recently used first."""

    def __init__(self) -> None:
        self._held: dict[bytes, Session] = {}
        self.evicted = 0
        """Sessions that ended because there were too many."""

    def __len__(self) -> int:
        return len(self._held)

    def begin(self, subject: str, roles: tuple[str, ...], sees: frozenset[Permission], now: float) -> str:
        """The name of a new session."""
        self._held = {name: session for name, session in self._held.items() if not session.is_over(now)}
        own = [name for name, session in self._held.items() if session.subject == subject]
        if len(own) >= SESSIONS_OF_ONE:
            self._evict(own[0])
        elif len(self._held) >= SESSIONS:
            self._evict(next(iter(self._held)))
        name = secrets.token_urlsafe(NAME_BYTES)
        self._held[_key(name)] = Session(subject, roles, sees, secrets.token_urlsafe(NAME_BYTES), now, now)
        return name

    def use(self, name: str, now: float) -> Session | None:
        """The session of that name; None if there is none, or it is over."""
        session = self.look(name, now)
        if session is not None:
            session.used = now
            key = _key(name)
            self._held[key] = self._held.pop(key)
        return session

    def look(self, name: str, now: float) -> Session | None:
        """The same, and it does not count as use: an open page that nobody looks at keeps no session alive."""
        if not 0 < len(name) <= NAME_CHARACTERS or not name.isascii():
            return None
        key = _key(name)
        session = self._held.get(key)
        if session is not None and session.is_over(now):
            del self._held[key]
            return None
        return session

    def end(self, name: str) -> None:
        """There need not be one."""
        self._held.pop(_key(name), None)

    def _evict(self, key: bytes) -> None:
        del self._held[key]
        self.evicted += 1


def _key(name: str) -> bytes:
    return hashlib.sha256(name.encode(errors="replace")).digest()
