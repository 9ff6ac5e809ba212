"""Conditions of a subject on the request itself: the address that it comes from, and its headers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from meshproxy.codec.headers import SPELLING
from meshproxy.config.fields import ClaimPattern, TextMatch
from meshproxy.config.ip_blocks import IpBlocks
from meshproxy.config.text_match import compile_text
from meshproxy.config.values import shown

if TYPE_CHECKING:
    from meshproxy.codec.events import Headers
    from meshproxy.config.ip_blocks import Address
    from meshproxy.identity.claims import ClaimPath, Wanted


class Conditions:
    """What a request must be like. Answers are True, False, or None for what cannot be evaluated."""

    __slots__ = ("_blocks", "_not_blocks", "_not_ip_blocks", "headers", "ip_blocks", "words")

    def __init__(
        self, ip_blocks: Sequence[str], not_ip_blocks: Sequence[str], headers: Mapping[str, str | TextMatch]
    ) -> None:
        self.ip_blocks = ip_blocks
        self._not_ip_blocks = not_ip_blocks
        self._blocks = IpBlocks(ip_blocks) if ip_blocks else None
        self._not_blocks = IpBlocks(not_ip_blocks) if not_ip_blocks else None
        self.headers = tuple(HeaderRule(name, wanted) for name, wanted in headers.items())
        words = [
            f"{name} {', '.join(blocks)}"
            for name, blocks in (("ipBlocks", ip_blocks), ("notIpBlocks", not_ip_blocks))
            if blocks
        ]
        self.words = "; ".join([*words, *(rule.words for rule in self.headers)])
        """For people who may read the policy."""

    def with_headers(self, headers: Mapping[str, str | TextMatch]) -> Conditions:
        """The same conditions on the address, and these on headers."""
        return Conditions(self.ip_blocks, self._not_ip_blocks, headers)

    @property
    def has_blocks(self) -> bool:
        """Whether the address matters."""
        return self._blocks is not None or self._not_blocks is not None

    def match(self, address: Address | None, headers: Headers | None) -> bool | None:
        """Whether all of them hold.

        Args:
            address: of the peer's end of the connection; None if it is not known.
            headers: of the request, names in lower case; None if they are not known.
        """
        result = self.match_address(address)
        for rule in self.headers:
            if result is False:
                break
            answer = None if headers is None else rule.match(headers)
            if answer is not True:
                result = answer
        return result

    def match_address(self, address: Address | None) -> bool | None:
        """Whether those on the address hold."""
        if not self.has_blocks:
            return True
        if address is None:
            return None
        if self._blocks is not None and address not in self._blocks:
            return False
        return self._not_blocks is None or address not in self._not_blocks


class HeaderRule:
    """What one header must be like."""

    __slots__ = ("_fits", "_is_presence", "_name", "name", "spelled", "values", "words")

    def __init__(self, name: str, wanted: str | TextMatch) -> None:
        self.name = name
        self._name = name.encode()
        self._fits = compile_text(wanted)
        self._is_presence = isinstance(wanted, TextMatch) and wanted.present is not None
        self.spelled = spelled(self._name)
        exact = wanted if isinstance(wanted, str) else wanted.exact
        self.values: frozenset[bytes] | None = frozenset([exact.encode()] if exact is not None else [])
        """The values that it tells from all others; None: there is no list of them."""
        if exact is None and not self._is_presence:
            self.values = None
        self.words = f"header {name}: {in_words(wanted)}"

    def match(self, headers: Headers) -> bool | None:
        """None for a header that occurs more than once, as nobody knows which one the model server would use, or in a
        spelling that some servers take for its name. Of a value that is not UTF-8, each byte that does not belong there
        is a character of its own."""
        alike = [field for field in headers if spelled(field[0]) == self.spelled]
        if not alike:
            return self._fits(None)
        values = [value for name, value in alike if name == self._name]
        if self._is_presence and values:
            return self._fits("")
        if len(alike) > 1 or not values:
            return None
        return self._fits(values[0].decode("utf-8", "surrogateescape"))


def exact_values(conditions: Iterable[Conditions]) -> dict[bytes, frozenset[bytes] | None]:
    """By header, `spelled`: the values that conditions tell from all others, None if there is no list of them."""
    lists: dict[bytes, set[bytes] | None] = {}
    for rule in [rule for each in conditions for rule in each.headers]:
        known = lists.setdefault(rule.spelled, set())
        if rule.values is None:
            lists[rule.spelled] = None
        elif known is not None:
            known |= rule.values
    return {name: None if known is None else frozenset(known) for name, known in lists.items()}


def reduce_headers(
    headers: Headers, names: frozenset[bytes], values: Mapping[bytes, frozenset[bytes] | None]
) -> Headers:
    """The headers of these names, `spelled`, without what no condition tells apart: a caller who varies that gets the
    same for all requests.

    Args:
        values: see `exact_values`.
    """
    alike: dict[bytes, list[tuple[bytes, bytes]]] = {}
    for field in headers:
        if (name := spelled(field[0])) in names:
            alike.setdefault(name, []).append(field)
    reduced: list[tuple[bytes, bytes]] = []
    for name, fields in sorted(alike.items()):
        known = values[name]
        if len(fields) > 1:
            spellings = sorted({(field[0], b"") for field in fields})
            reduced += spellings if len(spellings) > 1 else spellings * 2
        elif known is None or fields[0][1] in known:
            reduced += fields
        else:
            reduced.append((fields[0][0], b""))
    return tuple(reduced)


def spelled(name: bytes) -> bytes:
    """One spelling for all names that some server takes for the same (`x_tenant`, `x.tenant`, `x-tenant`)."""
    return name.translate(SPELLING)


def path_in_words(path: ClaimPath) -> str:
    """The name of a claim."""
    return path if isinstance(path, str) else f"[{', '.join(map(shown, path))}]"


def claim_in_words(path: ClaimPath, wanted: Wanted) -> str:
    """What a subject demands of a claim."""
    return f"{path_in_words(path)}: {in_words(wanted)}"


def in_words(wanted: Wanted) -> str:
    """What a header or a claim must be like."""
    if not isinstance(wanted, TextMatch):
        return shown(wanted)
    if isinstance(wanted, ClaimPattern):
        if wanted.words:
            return f"{in_words(replace(wanted, words=False))} among its words"
        for word, items in (("all of", wanted.all_of), ("any of", wanted.any_of)):
            if items:
                return f"{word} {', '.join(map(in_words, items))}"
    if wanted.present is not None:
        return "any value" if wanted.present else "no value"
    for word in ("exact", "prefix", "suffix", "contains", "regex"):
        if (text := getattr(wanted, word)) is not None:
            return f"{word} {shown(text)}"
    raise AssertionError  # TextMatch has one of its fields
