"""Compares a claim of a token with what a document demands of it: yes, no, or unclear.

The name of a claim may hold dots, slashes and colons (`kubernetes.io`, `https://corp.example/groups`), and the same
dots select members of objects (`realm_access.roles`). A path therefore resolves at the longest name that exists, at
each level: `kubernetes.io.namespace` is the claim of that name, else `namespace` in `kubernetes.io`, else what is in
`kubernetes`. A path that is a list of names has one reading. Whatever cannot be compared, or could be read in another
way, is `UNCLEAR`: it never allows, and it denies.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from enum import Enum, IntEnum

from meshproxy.config import fields
from meshproxy.config.text_match import compile_text

ClaimPath = str | tuple[str, ...]
"""The name of a claim, with dots between levels, or the names of all levels."""
Wanted = str | int | bool | fields.TextMatch
"""What documents compare claims with: a value, or what it must be like (`fields.ClaimPattern` among them)."""
Compare = Callable[[object], "ClaimMatch"]
"""Of a single value in a token."""

SCOPE_CLAIMS = frozenset({"scope", "scp"})
"""One text of words, separated by spaces (RFC 8693 section 4.2, RFC 9068 section 2.2.3; `scp`: Azure), or a list of
them (`scp`: Okta)."""
_CLAIM_NAMES = "_claim_names"
_HAS_GROUPS = "hasgroups"
_GROUPS = ("groups", ("groups",))
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
    ELSEWHERE = "another server has the claim"


# Looked up once: a member costs 0.4 us on Python 3.11.
_NO, _UNCLEAR, _YES = ClaimMatch
_NOTHING, _BLOCKED, _ELSEWHERE = _Reached.NOTHING, _Reached.BLOCKED, _Reached.ELSEWHERE


def match_claim(claims: Mapping[str, object], path: ClaimPath, wanted: Wanted) -> ClaimMatch:
    """Whether the claim at `path` is what is wanted, or is a list of which an item is.

    Text, numbers and booleans are never equal to each other. Of `scope` and `scp`, and of claims that are words because
    `wanted` says so, all words of `wanted` must be there. An absent claim, or a null, has no value: that is `NO`,
    unless absence is what is wanted.
    """
    is_words = isinstance(wanted, fields.ClaimPattern) and wanted.words
    readings = list(_readings(claims, path))
    if readings == [_NOTHING] and _is_elsewhere(claims, path):
        readings = [_ELSEWHERE]
    return _match(readings, wanted, is_words=is_words or _first_of(path) in SCOPE_CLAIMS)


def _is_elsewhere(claims: Mapping[str, object], path: ClaimPath) -> bool:
    """Whether the token says that another server has the claim (OpenID Connect Core 1.0 section 5.6.2), as Microsoft
    Entra ID does of many groups; in the implicit flow it says of them only that there are some (access token claims
    reference, `hasgroups`)."""
    if path in _GROUPS and claims.get(_HAS_GROUPS):
        return True
    elsewhere = claims.get(_CLAIM_NAMES)
    if not isinstance(elsewhere, Mapping):
        return False
    return (
        path[0] in elsewhere
        if not isinstance(path, str)
        else any(path == name or path.startswith(f"{name}.") for name in elsewhere)
    )


def _first_of(path: ClaimPath) -> str:
    """The claim, if the path has one level."""
    return path if isinstance(path, str) else path[0] if len(path) == 1 else ""


def _match(readings: list[object], wanted: Wanted, *, is_words: bool) -> ClaimMatch:
    if isinstance(wanted, fields.TextMatch):
        if isinstance(wanted, fields.ClaimPattern) and wanted.all_of:
            return min(_match(readings, each, is_words=is_words) for each in wanted.all_of)
        if isinstance(wanted, fields.ClaimPattern) and wanted.any_of:
            return max(_match(readings, each, is_words=is_words) for each in wanted.any_of)
        if wanted.present is not None:
            present = _resolve([_is_there(value) for value in readings])
            return present if wanted.present else ClaimMatch(_YES - present)
    if is_words:
        return _resolve([_match_words(value, wanted) for value in readings])
    compare = _comparison(wanted)
    return _resolve([_compare(value, compare) for value in readings])


def _resolve(readings: list[ClaimMatch]) -> ClaimMatch:
    """Of all readings of a path the first decides, and another one is not overlooked."""
    first = readings[0]
    return first if first is _YES or len(readings) == 1 else min(max(readings), _UNCLEAR)


def _is_there(value: object) -> ClaimMatch:
    if value is _NOTHING:
        return _NO
    return _UNCLEAR if isinstance(value, _Reached) else _YES


def find_text(claims: Mapping[str, object], path: ClaimPath) -> str | None:
    """The text at `path`; None if there is none or the path can be read in several ways."""
    values = list(_readings(claims, path))
    return values[0] if len(values) == 1 and isinstance(values[0], str) else None


def texts_of_claim(claims: Mapping[str, object], path: ClaimPath) -> set[str] | None:
    """All texts for which `match_claim` of a claim that is not words is not `NO`; None if that is not known: there is
    something unclear, or not text."""
    texts: set[str] = set()
    readings = list(_readings(claims, path))
    if readings == [_NOTHING] and _is_elsewhere(claims, path):
        return None
    for found in readings:
        for item in found if isinstance(found, list | tuple) else (found,):
            if isinstance(item, str):
                texts.add(item)
            elif item is not None and item is not _NOTHING:
                return None
    return texts


def is_one_text(path: ClaimPath, wanted: Wanted) -> bool:
    """Whether the claim must be one text, or a list that has it: see `texts_of_claim`."""
    return isinstance(wanted, str) and _first_of(path) not in SCOPE_CLAIMS


def _readings(members: Mapping[str, object], path: ClaimPath) -> Iterator[object]:
    """All that `path` may lead to; first, what it resolves to: the longest name that exists, at each level.

    An object is reached by one sequence of names only, so each is visited once at most.
    """
    if not isinstance(path, str):
        yield _walk(members, path)
        return
    end = len(path)
    is_empty = True
    while end >= 0:
        name = path[:end]
        if name in members:
            is_empty = False
            found = members[name]
            if found is None:
                yield _NOTHING
            elif end == len(path):
                yield found
            elif isinstance(found, Mapping):
                yield from _readings(found, path[end + 1 :])
            else:
                yield _BLOCKED
        end = path.rfind(".", 0, end)
    if is_empty:
        yield _NOTHING


def _walk(members: Mapping[str, object], path: tuple[str, ...]) -> object:
    """What the names lead to, one for each level."""
    found: object = members
    for name in path:
        if found is None:
            return _NOTHING
        if not isinstance(found, Mapping):
            return _BLOCKED
        found = found.get(name)
    return _NOTHING if found is None else found


def _compare(found: object, compare: Compare) -> ClaimMatch:
    if found is _NOTHING:
        return _NO
    if not isinstance(found, list | tuple):
        return compare(found)
    results = [compare(item) for item in found if item is not None]
    return max(results, default=_NO)


def _comparison(wanted: Wanted) -> Compare:
    """How a single value is compared. True == 1 == 1.0 in Python; in a token they are three different things."""
    if not isinstance(wanted, fields.TextMatch):
        kind = type(wanted)
        return lambda found: _answer(found == wanted) if type(found) is kind else _UNCLEAR
    fits = compile_text(wanted)
    return lambda found: _answer(fits(found)) if isinstance(found, str) else _UNCLEAR


def _answer(fits: bool) -> ClaimMatch:
    return _YES if fits else _NO


def _match_words(found: object, wanted: Wanted) -> ClaimMatch:
    if found is _NOTHING:
        return _NO
    items = [found] if isinstance(found, str) else found
    if not isinstance(wanted, str | fields.TextMatch) or not isinstance(items, list | tuple):
        return _UNCLEAR
    if not all(isinstance(item, str) for item in items):
        return max(_compare(items, _comparison(wanted)), _UNCLEAR)
    has = _words_test(wanted)
    if has is None:
        return _UNCLEAR
    if has({word for word in found.split(" ") if word} if isinstance(found, str) else set(items)):
        return _YES
    # Some issuers separate with commas, or put several words into one item of a list; and an expression may be about
    # the whole text.
    whole = " ".join(items)
    loose = {word for word in (*_LOOSE_SEPARATOR.split(whole), whole) if word}
    return _UNCLEAR if has(loose) else _NO


def _words_test(wanted: str | fields.TextMatch) -> Callable[[set[str]], bool] | None:
    """Whether words are what is wanted; None if nothing is."""
    text = wanted.exact if isinstance(wanted, fields.TextMatch) else wanted
    if text is None:
        fits = compile_text(wanted)
        return lambda words: any(map(fits, words))
    asked = set(text.split())
    return asked.issubset if asked else None
