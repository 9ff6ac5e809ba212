"""A set of documents that is checked again as it changes, at the cost of what a change touches: the documents that
change, and those that have looked at what these define. The result is that of `check.check_set`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshproxy.config.check import Names, check_document, check_references, definitions

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence

    from meshproxy.config.check import Defined, Placed
    from meshproxy.config.problems import Problem


class CheckedSet:
    """Documents, and which of them have problems with others. What the problems are is found when it is asked for: a
    document that thousands refer to may be missing for a moment only."""

    def __init__(self) -> None:
        self._names = Names()
        self._places: dict[Placed, Any] = {}
        self._asked: dict[Placed, set[Defined]] = {}
        """What each has looked at, apart from what it defines itself."""
        self._askers: dict[Defined, dict[Placed, None]] = {}
        self._faulty: set[Placed] = set()

    def change(self, gone: Iterable[Placed], come: Mapping[Placed, Any]) -> None:
        """Documents are gone, others have come, with their places (`Names.add`). One that moves is in both."""
        touched: set[Defined] = set()
        for each in gone:
            touched |= self._names.remove(each, self._places.pop(each))
            self._forget(each)
            self._faulty.discard(each)
        for each, place in come.items():
            touched |= self._names.add(each, place)
            self._places[each] = place
        due = dict.fromkeys(come)
        for what, name in touched:
            due.update(dict.fromkeys(self._names.look(what, name)))
            due.update(self._askers.get((what, name), {}))
        for each in due:
            self._look_at(each)

    def has_any(self, kind: str) -> bool:
        """Whether there is a document of a kind."""
        return self._names.has_any(kind)

    def problems(self, *, is_whole: bool) -> Iterator[Problem]:
        """As `check_set` finds them, by the places of their documents."""
        for each in sorted(self._faulty, key=self._places.__getitem__):
            if is_whole:
                yield from check_references(each, self._names.look, self._names.hint)
            yield from check_document(each, self._names.look)

    def _look_at(self, each: Placed) -> None:
        """Find out whether a document has problems. What comes after the first need not be known: that goes only if
        something is changed that it has looked at so far."""
        asked: set[Defined] = set()

        def look(what: str, name: Hashable) -> Sequence[Placed]:
            asked.add((what, name))
            return self._names.look(what, name)

        is_faulty = any(True for _ in check_references(each, look, lambda what, word: "")) or any(
            True for _ in check_document(each, look)
        )
        asked -= set(definitions(each))
        self._forget(each)
        self._asked[each] = asked
        for defined in asked:
            self._askers.setdefault(defined, {})[each] = None
        (self._faulty.add if is_faulty else self._faulty.discard)(each)

    def _forget(self, each: Placed) -> None:
        for defined in self._asked.pop(each, ()):
            askers = self._askers[defined]
            del askers[each]
            if not askers:
                del self._askers[defined]
