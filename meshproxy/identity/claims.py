"""Compares a claim of a token with what a document demands of it: yes, no, or unclear.

The name of a claim may hold dots, slashes and colons (`kubernetes.io`, `https://corp.example/groups`), and the same
dots select members of objects (`realm_access.roles`). A path therefore resolves at the longest name that exists, at
each level: `kubernetes.io.namespace` is the claim of that name, else `namespace` in `kubernetes.io`, else what is in
`kubernetes`. Whatever cannot be compared, or could be read in another way, is `UNCLEAR`: it never allows, and it
denies.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from enum import Enum, IntEnum

from meshproxy.config import fields
from meshproxy.config.text_match import compile_text

Wanted = str | int | bool | fields.TextMatch
"""What documents compare claims with: a value, or what it must be like (`fields.ClaimPattern` among them)."""
Compare = Callable[[object], "ClaimMatch"]
"""Of a single value in a token."""

SCOPE_CLAIMS = frozenset({"scope", "scp"})
"""One text of words, separated by spaces (RFC 8693 section 4.2, RFC 9068 section 2.2.3; `scp`: Azure), or a list of
them (`scp`: Okta)."""
_LOOSE_SEPARATOR = re.compile(r"[\s,;|]+")


class ClaimMatch(IntEnum):
    """Whether a claim has a value."""

    NO = 0
    UNCLEAR = 1
    """It cannot be compared (the path ends in something that is not an object, or the types differ), or another
    reading of the path has the value."""
    YES = 2


class _Reached(Enum):
    """Where a path leads, if not to a value."""

    NOTHING = "no such member; null counts as none"
    BLOCKED = "the path goes on below something that is not an object"


def match_claim(claims: Mapping[str, object], path: str, wanted: Wanted) -> ClaimMatch:
    """Whether the claim at `path` is what is wanted, or is a list of which an item is.

    Text, numbers and booleans are never equal to each other. Of `scope` and `scp`, all words of `wanted` must be there.
    An absent claim, or a null, has no value: that is `NO`, unless absence is what is wanted.
    """
    if isinstance(wanted, fields.ClaimPattern) and wanted.all_of:
        return min(match_claim(claims, path, each) for each in wanted.all_of)
    if isinstance(wanted, fields.ClaimPattern) and wanted.any_of:
        return max(match_claim(claims, path, each) for each in wanted.any_of)
    if isinstance(wanted, fields.TextMatch) and wanted.present is not None:
        return _match_presence(claims, path, wanted.present)
    if path in SCOPE_CLAIMS:
        return _match_scope(claims.get(path), wanted)
    compare = _comparison(wanted)
    return _resolve([_compare(value, compare) for value in _readings(claims, path)])


def _resolve(readings: list[ClaimMatch]) -> ClaimMatch:
    """Of all readings of a path the first decides, and another one is not overlooked."""
    if readings[0] is ClaimMatch.YES:
        return ClaimMatch.YES
    return min(max(readings), ClaimMatch.UNCLEAR)


def _match_presence(claims: Mapping[str, object], path: str, is_wanted: bool) -> ClaimMatch:
    present = _resolve([_is_there(value) for value in _readings(claims, path)])
    return present if is_wanted else ClaimMatch(ClaimMatch.YES - present)


def _is_there(value: object) -> ClaimMatch:
    if value is _Reached.NOTHING:
        return ClaimMatch.NO
    return ClaimMatch.UNCLEAR if value is _Reached.BLOCKED else ClaimMatch.YES


def find_text(claims: Mapping[str, object], path: str) -> str | None:
    """The text at `path`; None if there is none or the path can be read in several ways."""
    values = list(_readings(claims, path))
    return values[0] if len(values) == 1 and isinstance(values[0], str) else None


def _readings(members: Mapping[str, object], path: str) -> Iterator[object]:
    """All that `path` may lead to; first, what it resolves to: the longest name that exists, at each level.

    An object is reached by one sequence of names only, so each is visited once at most.
    """
    end = len(path)
    is_empty = True
    while end >= 0:
        name = path[:end]
        if name in members:
            is_empty = False
            found = members[name]
            if found is None:
                yield _Reached.NOTHING
            elif end == len(path):
                yield found
            elif isinstance(found, Mapping):
                yield from _readings(found, path[end + 1 :])
            else:
                yield _Reached.BLOCKED
        end = path.rfind(".", 0, end)
    if is_empty:
        yield _Reached.NOTHING


def _compare(found: object, compare: Compare) -> ClaimMatch:
    if found is _Reached.NOTHING:
        return ClaimMatch.NO
    if not isinstance(found, list | tuple):
        return compare(found)
    results = [compare(item) for item in found if item is not None]
    return max(results, default=ClaimMatch.NO)


def _comparison(wanted: Wanted) -> Compare:
    """How a single value is compared. True == 1 == 1.0 in Python; in a token they are three different things."""
    if not isinstance(wanted, fields.TextMatch):
        kind = type(wanted)
        return lambda found: _answer(found == wanted) if type(found) is kind else ClaimMatch.UNCLEAR
    fits = compile_text(wanted)
    return lambda found: _answer(fits(found)) if isinstance(found, str) else ClaimMatch.UNCLEAR


def _answer(fits: bool) -> ClaimMatch:
    return ClaimMatch.YES if fits else ClaimMatch.NO


def _match_scope(found: object, wanted: Wanted) -> ClaimMatch:
    if found is None:
        return ClaimMatch.NO
    items = [found] if isinstance(found, str) else found
    if not isinstance(wanted, str | fields.TextMatch) or not isinstance(items, list | tuple):
        return ClaimMatch.UNCLEAR
    if not all(isinstance(item, str) for item in items):
        return max(_compare(items, _comparison(wanted)), ClaimMatch.UNCLEAR)
    has = _scope_test(wanted)
    if has is None:
        return ClaimMatch.UNCLEAR
    if has({word for word in found.split(" ") if word} if isinstance(found, str) else set(items)):
        return ClaimMatch.YES
    # Some issuers separate with commas, or put several words into one item of a list.
    loose = {word for item in items for word in _LOOSE_SEPARATOR.split(item) if word}
    return ClaimMatch.UNCLEAR if has(loose) else ClaimMatch.NO


def _scope_test(wanted: str | fields.TextMatch) -> Callable[[set[str]], bool] | None:
    """Whether the words of a scope are what is wanted; None if nothing is."""
    if isinstance(wanted, fields.TextMatch):
        fits = compile_text(wanted)
        return lambda words: any(map(fits, words))
    asked = set(wanted.split())
    return asked.issubset if asked else None
