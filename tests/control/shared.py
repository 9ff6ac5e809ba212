"""`SharedObjects` in memory, where a test is about what is decided and not about HTTP; the same as the real ones, which
tests/control/test_shared_objects.py and tests/e2e show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count

from meshproxy.control.shared_objects import SharedObjects, Version
from meshproxy.control.store import Changed, StoreError


class Killed(BaseException):
    """The process ends: nothing after it runs."""


class Memory(SharedObjects):
    """Objects.

    Attributes:
        data: of each object, by its kind and name.
        writes: the objects that were written, by kind and name.
        is_away: the API server is.
        created: when objects are made, from now on.
        kill_at: the process ends at this write of a Secret: before it, or, if negative, after it.
        before_write: called before each write, as somebody who is quicker.
    """

    def __init__(self) -> None:
        self.namespace = "mesh"
        self.data: dict[tuple[str, str], dict[str, str]] = {}
        self.writes: list[tuple[str, str]] = []
        self.is_away = False
        self.created = 0.0
        self.kill_at = 0
        self.before_write: Callable[[], None] = lambda: None
        self._versions: dict[tuple[str, str], Version] = {}
        self._next = count(1)

    def read(self, plural: str, name: str) -> tuple[dict[str, str], Version]:
        self._check()
        key = plural, name
        return dict(self.data.get(key, {})), self._versions.get(key, Version(""))

    def write(self, plural: str, name: str, changes: Mapping[str, str | None], version: Version | None = None) -> None:
        self._check()
        self.before_write()
        key = plural, name
        before = self._versions.get(key, Version(""))
        if version not in (None, before):
            raise Changed(f"others write {self.where(plural, name)} all the time")
        self.writes.append(key)
        number = sum(written == "secrets" for written, _ in self.writes) if plural == "secrets" else 0
        if number and number == self.kill_at:
            raise Killed
        data = {**self.data.get(key, {}), **changes}
        self.data[key] = {entry: text for entry, text in data.items() if text is not None}
        created = before.created if before.text else self.created
        self._versions[key] = Version(str(next(self._next)), created, sum(map(len, self.data[key].values())))
        if number and number == -self.kill_at:
            raise Killed

    def touch(self) -> None:
        """Somebody writes every object anew, with the same content."""
        for key, before in self._versions.items():
            self._versions[key] = replace(before, text=str(next(self._next)))

    def delete(self, plural: str, name: str) -> None:
        """Somebody deletes an object."""
        del self.data[plural, name], self._versions[plural, name]

    def _check(self) -> None:
        if self.is_away:
            raise StoreError("it is away")
