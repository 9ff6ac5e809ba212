"""Compares a claim of a token with the value that a document names: yes, no, or unclear.

The name of a claim may hold dots, slashes and colons (`kubernetes.io`, `https://corp.example/groups`), and the same
dots select members of objects (`realm_access.roles`). A path therefore resolves at the longest name that exists, at
each level: `kubernetes.io.namespace` is the claim of that name, else `namespace` in `kubernetes.io`, else what is in
`kubernetes`. Whatever cannot be compared, or could be read in another way, is `UNCLEAR`: it never allows, and it
denies.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import Enum, IntEnum

Value = str | int | bool
"""What documents compare claims with."""

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


def match_claim(claims: Mapping[str, object], path: str, wanted: Value) -> ClaimMatch:
    """Whether the claim at `path` equals `wanted`, or is a list that holds it.

    Text, numbers and booleans are never equal to each other. Of `scope` and `scp`, all words of `wanted` must be there.
    An absent claim, or a null, has no value: that is `NO`.
    """
    if path in SCOPE_CLAIMS:
        return _match_scope(claims.get(path), wanted)
    readings = [_compare(value, wanted) for value in _readings(claims, path)]
    if readings[0] is ClaimMatch.YES:
        return ClaimMatch.YES
    return min(max(readings), ClaimMatch.UNCLEAR)


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


def _compare(found: object, wanted: Value) -> ClaimMatch:
    if found is _Reached.NOTHING:
        return ClaimMatch.NO
    if not isinstance(found, list | tuple):
        return _compare_one(found, wanted)
    results = [_compare_one(item, wanted) for item in found if item is not None]
    return max(results, default=ClaimMatch.NO)


def _compare_one(found: object, wanted: Value) -> ClaimMatch:
    # True == 1 == 1.0 in Python; in a token they are three different things.
    if type(found) is not type(wanted):
        return ClaimMatch.UNCLEAR
    return ClaimMatch.YES if found == wanted else ClaimMatch.NO


def _match_scope(found: object, wanted: Value) -> ClaimMatch:
    if found is None:
        return ClaimMatch.NO
    items = [found] if isinstance(found, str) else found
    if not isinstance(wanted, str) or not isinstance(items, list | tuple):
        return ClaimMatch.UNCLEAR
    if not all(isinstance(item, str) for item in items):
        return max(_compare(items, wanted), ClaimMatch.UNCLEAR)
    asked = set(wanted.split())
    if not asked:
        return ClaimMatch.UNCLEAR
    words = set(found.split(" ")) if isinstance(found, str) else set(items)
    if asked <= words:
        return ClaimMatch.YES
    # Some issuers separate with commas, or put several words into one item of a list.
    loose = {word for item in items for word in _LOOSE_SEPARATOR.split(item)}
    return ClaimMatch.UNCLEAR if asked <= loose else ClaimMatch.NO
