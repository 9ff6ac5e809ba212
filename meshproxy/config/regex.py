"""Regular expressions whose matching takes a step for each character, whatever the expression and the text.

Python's `re` tries alternatives one after another, which takes exponential time for some expressions and texts, and
texts here come from callers. An expression is compiled to a table instead when documents are loaded (a deterministic
automaton, by Glushkov's construction and that of subsets), and one whose table would be large is refused then, so
that nothing is left to bound when a request comes. `docs/decisions/0014` compares it with google-re2.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from meshproxy.config.regex_syntax import (
    LAST,
    BadRegex,
    Characters,
    Choice,
    Edge,
    Ranges,
    Repeat,
    Sequence,
    Tree,
    parse,
)

MOST_PLACES = 1_000
"""Characters of an expression, with its repetitions written out."""
MOST_STATES = 1_000
MOST_CELLS = 16_384
"""States x kinds of characters: 130 KB, made in 20 ms."""
MOST_KINDS = 255


class Regex:
    """A compiled expression."""

    __slots__ = ("_finals", "_letters", "_rows", "_start")

    def __init__(self, kinds: _Kinds, start: int, rows: list[list[int]], finals: list[bool]) -> None:
        self._letters = kinds
        self._start = start
        self._rows = rows
        self._finals = finals

    def fits(self, text: str) -> bool:
        """The whole text matches. 0.3 us and 0.03 for each character."""
        rows, state = self._rows, self._start
        for letter in text.translate(self._letters).encode("latin-1"):
            state = rows[state][letter]
        return self._finals[state]


@lru_cache(maxsize=64)
def compile_regex(expression: str) -> Regex:
    """
    Raises:
        BadRegex: it cannot be read, or is too large.
    """
    tree = parse(expression)
    if _places(tree) > MOST_PLACES:
        raise BadRegex(f"with its repetitions it has more than {MOST_PLACES:,} characters")
    return _build_table(tree)


def _places(tree: Tree) -> int:
    """How many characters it has when repetitions are written out. What has none counts as one: it takes time, too."""
    match tree:
        case Characters() | Edge():
            return 1
        case Repeat(part, least, most):
            return _places(part) * max(least if most is None else most, 1)
        case Sequence(parts) | Choice(parts):
            return sum(map(_places, parts)) or 1


class _Kinds(dict[int, int]):
    """Code point -> its kind: characters of one kind are in the same classes of the expression. For `str.translate`;
    only those of ASCII are kept, since callers choose the others."""

    def __init__(self, classes: set[Ranges]) -> None:
        borders = {border for ranges in classes for low, high in ranges for border in (low, high + 1)}
        self._borders = sorted(borders - {0, LAST + 1})
        self.count = len(self._borders) + 1
        super().__init__((code, bisect_right(self._borders, code)) for code in range(128))

    def __missing__(self, code: int) -> int:
        return bisect_right(self._borders, code)

    def of(self, ranges: Ranges) -> set[int]:
        return {kind for low, high in ranges for kind in range(self[low], self[high] + 1)}


NOTHING, AT_BEGIN, AT_END = 0, 1, 2


@dataclass(frozen=True, slots=True)
class _Part:
    """What a part of the expression can begin and end with. Places are bits of a number: the n-th character of the
    expression is 1 << n."""

    first: int
    first_at_begin: int
    """Only where nothing stands before."""
    last: int
    last_at_end: int
    """Only where nothing follows."""
    empty: frozenset[int]
    """It may also match nothing: under each of these conditions (`AT_BEGIN`, `AT_END`, their sum, or `NOTHING`)."""


_NOTHING = _Part(0, 0, 0, 0, frozenset({NOTHING}))


class _Places:
    """Numbers the characters of an expression, and finds which can follow which (Glushkov's construction)."""

    def __init__(self) -> None:
        self.classes: list[Ranges] = []
        self.follow: list[int] = []

    def part(self, tree: Tree) -> _Part:
        match tree:
            case Characters(ranges):
                place = 1 << len(self.classes)
                self.classes.append(ranges)
                self.follow.append(0)
                return _Part(place, 0, place, 0, frozenset())
            case Edge(is_begin):
                return _Part(0, 0, 0, 0, frozenset({AT_BEGIN if is_begin else AT_END}))
            case Sequence(parts):
                return self._joined([self.part(each) for each in parts])
            case Choice(parts):
                return _either([self.part(each) for each in parts])
            case Repeat(inner, least, most):
                return self._repeated(inner, least, most)

    def _repeated(self, inner: Tree, least: int, most: int | None) -> _Part:
        if most is None:
            return self._joined([self.part(inner) for _ in range(least - 1)] + [self._again(inner, least)])
        # x{1,3} is x(x(x)?)?: each place is connected with the next one only.
        tail = _NOTHING
        for _ in range(most - least):
            tail = _optional(self._join(self.part(inner), tail))
        return self._joined([*(self.part(inner) for _ in range(least)), tail])

    def _again(self, tree: Tree, least: int) -> _Part:
        part = self.part(tree)
        self._connect(part.last, part.first)
        return part if least else _optional(part)

    def _joined(self, parts: list[_Part]) -> _Part:
        joined = _NOTHING
        for part in parts:
            joined = self._join(joined, part)
        return joined

    def _join(self, left: _Part, right: _Part) -> _Part:
        self._connect(left.last, right.first)
        first, first_at_begin = left.first, left.first_at_begin
        if NOTHING in left.empty:
            first |= right.first
            first_at_begin |= right.first_at_begin
        if AT_BEGIN in left.empty:
            first_at_begin |= right.first | right.first_at_begin
        last, last_at_end = right.last, right.last_at_end
        if NOTHING in right.empty:
            last |= left.last
            last_at_end |= left.last_at_end
        if AT_END in right.empty:
            last_at_end |= left.last | left.last_at_end
        empty = frozenset(one | other for one, other in product(left.empty, right.empty))
        return _Part(first, first_at_begin, last, last_at_end, empty)

    def _connect(self, last: int, first: int) -> None:
        for place in _bits(last):
            self.follow[place] |= first


def _either(parts: list[_Part]) -> _Part:
    first = first_at_begin = last = last_at_end = 0
    empty: frozenset[int] = frozenset()
    for part in parts:
        first |= part.first
        first_at_begin |= part.first_at_begin
        last |= part.last
        last_at_end |= part.last_at_end
        empty |= part.empty
    return _Part(first, first_at_begin, last, last_at_end, empty)


def _optional(part: _Part) -> _Part:
    return _Part(part.first, part.first_at_begin, part.last, part.last_at_end, part.empty | {NOTHING})


def _bits(number: int) -> list[int]:
    found = []
    while number:
        lowest = number & -number
        found.append(lowest.bit_length() - 1)
        number ^= lowest
    return found


def _build_table(tree: Tree) -> Regex:
    places = _Places()
    whole = places.part(tree)
    kinds = _Kinds(set(places.classes))
    if kinds.count > MOST_KINDS:
        raise BadRegex("it distinguishes too many characters")
    by_kind = [0] * kinds.count
    for place, ranges in enumerate(places.classes):
        for kind in kinds.of(ranges):
            by_kind[kind] |= 1 << place
    # A state is the set of the places where the last character may have been; 0 is a dead end.
    numbers: dict[int, int] = {0: 0}
    rows = [[0] * kinds.count]
    start_row = _row(whole.first | whole.first_at_begin, by_kind, numbers)
    found = [0]
    while len(rows) < len(numbers):
        places_before = list(numbers)[len(rows)]
        reached = 0
        for place in _bits(places_before):
            reached |= places.follow[place]
        rows.append(_row(reached, by_kind, numbers))
        found.append(places_before)
        if len(numbers) > MOST_STATES or len(numbers) * kinds.count > MOST_CELLS:
            raise BadRegex("its table would be too large: write it with fewer or smaller repetitions")
    final = whole.last | whole.last_at_end
    return Regex(kinds, len(rows), [*rows, start_row], [*(bool(each & final) for each in found), bool(whole.empty)])


def _row(reached: int, by_kind: list[int], numbers: dict[int, int]) -> list[int]:
    """The state after a character of each kind."""
    return [numbers.setdefault(reached & places, len(numbers)) for places in by_kind]
