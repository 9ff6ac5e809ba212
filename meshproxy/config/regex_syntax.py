"""Reads a regular expression in the syntax of RE2 into a tree.

The syntax is that of https://github.com/google/re2/wiki/Syntax, which Envoy, Istio and the Gateway API have, without
what asks for more than the characters in their order: `\\b`, `\\B`, `\\C`, `\\p{...}` and the flag `m` are refused, as
are look-around and back-references, which RE2 does not have either. What RE2 takes for text although it looks like an
operator (`a{`) is refused, too. Groups and lazy operators are read and mean nothing: whole texts are matched, and
nothing is captured. `(?i)` folds the letters of ASCII.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MOST_REPETITIONS = 1_000
"""As in RE2."""
NESTING = 50
LAST = 0x10FFFF

Ranges = tuple[tuple[int, int], ...]
"""Code points, both ends included."""


@dataclass(frozen=True, slots=True)
class Characters:
    """One character of these."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Edge:
    """The beginning of the text, or its end."""

    is_begin: bool


@dataclass(frozen=True, slots=True)
class Sequence:
    """Parts one after another; without parts, nothing."""

    parts: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some parts."""

    parts: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """A part several times in a row."""

    part: Tree
    least: int
    most: int | None
    """None: any number of times."""


Tree = Characters | Edge | Sequence | Choice | Repeat

_DIGITS: Ranges = ((0x30, 0x39),)
_UPPER: Ranges = ((0x41, 0x5A),)
_LOWER: Ranges = ((0x61, 0x7A),)
_SPACES: Ranges = ((9, 10), (12, 13), (32, 32))
_WORDS: Ranges = (*_DIGITS, *_UPPER, (0x5F, 0x5F), *_LOWER)
_PERL = {"d": _DIGITS, "s": _SPACES, "w": _WORDS}
_POSIX: dict[str, Ranges] = {
    "alnum": (*_DIGITS, *_UPPER, *_LOWER),
    "alpha": (*_UPPER, *_LOWER),
    "ascii": ((0, 0x7F),),
    "blank": ((9, 9), (32, 32)),
    "cntrl": ((0, 0x1F), (0x7F, 0x7F)),
    "digit": _DIGITS,
    "graph": ((0x21, 0x7E),),
    "lower": _LOWER,
    "print": ((0x20, 0x7E),),
    "punct": ((0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E)),
    "space": ((9, 13), (32, 32)),
    "upper": _UPPER,
    "word": _WORDS,
    "xdigit": (*_DIGITS, (0x41, 0x46), (0x61, 0x66)),
}
_CONTROLS = {"a": 7, "f": 12, "t": 9, "n": 10, "r": 13, "v": 11}
_HEX = re.compile(r"([0-9A-Fa-f]{2})|\{([0-9A-Fa-f]{1,6})\}")
_COUNTS = re.compile(r"\{([0-9]{1,6})(,)?([0-9]{1,6})?\}")
_GROUP = re.compile(r"\?(?:P?<[A-Za-z_][A-Za-z0-9_]*>|([isU]*(?:-[isU]+)?)([:)]))")
_CLASS_NAME = re.compile(r"\[:(\^?)([a-z]+):\]")


class BadRegex(ValueError):
    """An expression that we refuse; the text says why, and where."""


def parse(expression: str) -> Tree:
    """The tree of an expression.

    Raises:
        BadRegex
    """
    return _Parser(expression).whole()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._ignores_case = False
        self._dot_is_all = False
        self._depth = 0

    def whole(self) -> Tree:
        tree = self._choice()
        if self._at < len(self._text):
            raise self._bad('")" closes nothing: write "\\)" for the character')
        return tree

    def _bad(self, why: str, at: int | None = None) -> BadRegex:
        return BadRegex(f"at character {(self._at if at is None else at) + 1}: {why}")

    def _take(self, wanted: str) -> bool:
        if not self._text.startswith(wanted, self._at):
            return False
        self._at += len(wanted)
        return True

    def _next(self) -> str:
        if self._at == len(self._text):
            raise self._bad("the expression ends too early")
        self._at += 1
        return self._text[self._at - 1]

    # Operators

    def _choice(self) -> Tree:
        """Up to the end of a group. Flags hold up to there."""
        flags = self._ignores_case, self._dot_is_all
        parts = [self._sequence()]
        while self._take("|"):
            parts.append(self._sequence())
        self._ignores_case, self._dot_is_all = flags
        return parts[0] if len(parts) == 1 else Choice(tuple(parts))

    def _sequence(self) -> Tree:
        parts: list[Tree] = []
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            if self._take("\\Q"):
                parts += self._quoted()
                continue
            parts.append(self._repeated(self._one()))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _repeated(self, part: Tree) -> Tree:
        begin = self._at
        if not self._at < len(self._text) or self._text[begin] not in "*+?{":
            return part
        least, most = self._counts()
        self._take("?")  # lazy: the same texts
        if self._at < len(self._text) and self._text[self._at] in "*+?{":
            raise self._bad("one operator repeats another: put the first into a group")
        return Repeat(part, least, most)

    def _counts(self) -> tuple[int, int | None]:
        if self._text[self._at] != "{":
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[self._next()]
        match = _COUNTS.match(self._text, self._at)
        if match is None:
            raise self._bad('expected "{2}", "{2,}" or "{2,5}": write "\\{" for the character')
        least = int(match[1])
        most = (int(match[3]) if match[3] else None) if match[2] else least
        if (match[3] and not match[2]) or (most is not None and most < least):
            raise self._bad("the upper number is below the lower one")
        if max(least, most or 0) > MOST_REPETITIONS:
            raise self._bad(f"more than {MOST_REPETITIONS:,} repetitions")
        self._at = match.end()
        return least, most

    def _one(self) -> Tree:
        """What an operator may follow."""
        begin = self._at
        character = self._next()
        match character:
            case "(":
                return self._group(begin)
            case "[":
                return Characters(self._class(begin))
            case ".":
                return Characters(((0, LAST),) if self._dot_is_all else _without(((10, 10),)))
            case "^" | "$":
                return Edge(character == "^")
            case "\\":
                return self._escape(begin)
            case "*" | "+" | "?" | "{":
                raise self._bad(f'"{character}" repeats nothing: write "\\{character}" for the character', begin)
        return self._literal(ord(character))

    def _literal(self, code: int) -> Characters:
        return Characters(self._folded(((code, code),)))

    def _folded(self, ranges: Ranges) -> Ranges:
        return _fold(ranges) if self._ignores_case else ranges

    def _quoted(self) -> list[Tree]:
        end = self._text.find("\\E", self._at)
        text = self._text[self._at : end if end >= 0 else None]
        self._at = end + 2 if end >= 0 else len(self._text)
        return [self._literal(ord(character)) for character in text]

    def _group(self, begin: int) -> Tree:
        if self._text.startswith("?", self._at):
            match = _GROUP.match(self._text, self._at)
            if match is None:
                raise self._bad(
                    "only (?:...), (?P<name>...) and the flags i, s and U exist; look-around cannot be matched in "
                    "linear time",
                    begin,
                )
            self._at = match.end()
            if match[2] == ")":  # flags for the rest of the group around it
                self._set_flags(match[1])
                if self._text[self._at : self._at + 1] in ("*", "+", "?", "{"):
                    # RE2 repeats what stands before the flags.
                    raise self._bad(f'"{self._text[self._at]}" repeats flags: write it before them')
                return Sequence(())
            return self._inner(begin, match[1] or "")
        return self._inner(begin, "")

    def _inner(self, begin: int, flags: str) -> Tree:
        self._depth += 1
        if self._depth > NESTING:
            raise self._bad(f"more than {NESTING} groups within each other", begin)
        before = self._ignores_case, self._dot_is_all
        self._set_flags(flags)
        tree = self._choice()
        self._ignores_case, self._dot_is_all = before
        if not self._take(")"):
            raise self._bad('"(" is not closed: write "\\(" for the character', begin)
        self._depth -= 1
        return tree

    def _set_flags(self, flags: str) -> None:
        on, _, off = flags.partition("-")
        for names, value in ((on, True), (off, False)):
            if "i" in names:
                self._ignores_case = value
            if "s" in names:
                self._dot_is_all = value

    # Escapes and classes

    def _escape(self, begin: int) -> Tree:
        if self._take("A"):
            return Edge(True)
        if self._take("z"):
            return Edge(False)
        return Characters(self._folded(self._escaped(begin)))

    def _escaped(self, begin: int) -> Ranges:
        character = self._next()
        if (ranges := _PERL.get(character.lower())) is not None:
            return ranges if character.islower() else _without(ranges)
        if (code := _CONTROLS.get(character)) is not None:
            return ((code, code),)
        if character == "x":
            match = _HEX.match(self._text, self._at)
            if match is None or int(match[1] or match[2], 16) > LAST:
                raise self._bad('expected two hex digits, or "\\x{...}" with up to 10FFFF', begin)
            self._at = match.end()
            code = int(match[1] or match[2], 16)
            return ((code, code),)
        if character.isascii() and not character.isalnum():
            return ((ord(character), ord(character)),)
        raise self._bad(f'"\\{character}" is not supported', begin)

    def _class(self, begin: int) -> Ranges:
        is_negated = self._take("^")
        ranges: list[tuple[int, int]] = []
        is_first = True
        while is_first or not self._text.startswith("]", self._at):
            if self._at >= len(self._text):
                raise self._bad('"[" is not closed: write "\\[" for the character', begin)
            is_first = False
            ranges += self._class_item()
        self._at += 1
        found = self._folded(tuple(ranges))
        return _without(found) if is_negated else found

    def _class_item(self) -> Ranges:
        begin = self._at
        if (match := _CLASS_NAME.match(self._text, begin)) is not None:
            if match[2] not in _POSIX:
                raise self._bad(f'there is no class "{match[0]}"')
            self._at = match.end()
            # `(?i)[[:^upper:]]` is what is no letter in either case: folded first, and then negated.
            return _without(self._folded(_POSIX[match[2]])) if match[1] else _POSIX[match[2]]
        low = self._class_end()
        if not self._text.startswith("-", self._at) or self._text.startswith("-]", self._at):
            return low
        self._at += 1
        high = self._class_end() if self._at < len(self._text) else ()
        if len(low) != 1 or len(high) != 1 or low[0][0] != low[0][1] or not low[0][0] <= high[0][0] == high[0][1]:
            raise self._bad("not a range of characters", begin)
        return ((low[0][0], high[0][0]),)

    def _class_end(self) -> Ranges:
        """One character of a class, which may begin or end a range."""
        begin = self._at
        character = self._next()
        return self._escaped(begin) if character == "\\" else ((ord(character), ord(character)),)


def _without(ranges: Ranges) -> Ranges:
    """All other characters."""
    found = []
    at = 0
    for low, high in sorted(ranges):
        if at < low:
            found.append((at, low - 1))
        at = max(at, high + 1)
    return (*found, (at, LAST)) if at <= LAST else tuple(found)


def _fold(ranges: Ranges) -> Ranges:
    """With the letters of ASCII in both cases."""
    added = []
    for low, high in ranges:
        for first, last, other in ((0x41, 0x5A, 32), (0x61, 0x7A, -32)):
            if low <= last and high >= first:
                added.append((max(low, first) + other, min(high, last) + other))
    return (*ranges, *added)
