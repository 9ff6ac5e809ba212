"""YAML text -> trees of plain values that remember their lines.

Built on the event stream of `yaml` instead of its loaders, because of what those do quietly: take the last of two equal
keys, run tags, expand aliases without end, recurse until the stack is gone, and read `on`, `010` and `12:30` as
something that was not written. What YAML parsers may read differently is refused here, so that a document
means the same to us, to kubectl and to the person who wrote it.

This module is the only one that imports `yaml`: import it inside functions, so that a process that never parses does
not load it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from meshproxy.config.codes import Code

# libyaml reads about five times faster. A PyYAML built without it lacks the name.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

DEPTH = 64
NODES = 400_000
"""Values of one file, with every alias written out: 400,000 take about 10 s to read; 10,000 rules have less than
150,000."""

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,18})")
_FLOAT = re.compile(r"-?(?:0|[1-9][0-9]{0,18})\.[0-9]{1,18}")
# What YAML 1.1 reads as true or false beside the words themselves. PyYAML leaves out `y` and `n`; Go's reader takes
# them.
_YES_NO = re.compile(r"y|n|yes|no|on|off", re.IGNORECASE)
_YES = frozenset({"y", "yes", "on"})
# Octal, hexadecimal, binary, sexagesimal and spaced-out numbers, exponents, infinities and dates: text or a number, and
# which one differs between YAML 1.1, YAML 1.2 and JSON.
_ODD = re.compile(
    r"[-+]?(?:0[0-9_]+|0[xob][0-9a-fA-F_]+|[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?"
    r"|[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?|\.[0-9_]+(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))"
    r"|\.(?:nan|NaN|NAN)|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}.*|<<|="
)
# A JSON reader finds these inside of a text; YAML 1.1 breaks the line there and folds it to a space.
_ODD_BREAKS = re.compile("[\x85\u2028\u2029]")
# How JSON escapes what is beyond U+FFFF (RFC 8259 section 7), behind an even number of backslashes.
_PAIRS = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")


class Node:
    """A value and the line that it starts on (from 1).

    `value` is text, a number, a boolean, None, `list[Node]`, `dict[str, Node]`, or `BROKEN`: a problem has been
    reported and needs no further message.
    """

    __slots__ = ("is_literal", "key_line", "line", "size", "value")

    def __init__(self, value: object, line: int, size: int = 1) -> None:
        self.value = value
        self.is_literal = False
        """A block of text as it stands in the file (`|`): its first line is the one after `line`."""
        self.line = line
        self.key_line = line
        """The line of the key that names it; its own if nothing does."""
        self.size = size
        """Values below and including this one, aliases written out."""


class _Broken:
    def __repr__(self) -> str:
        return "BROKEN"


BROKEN = _Broken()

Report = Callable[[int, str, str, Code], None]
"""Takes line, field path, message and code."""


class Unreadable(Exception):
    """The text is no YAML from here on, or too much of it."""

    def __init__(self, line: int, message: str, code: Code = Code.UNREADABLE) -> None:
        super().__init__(line, message)
        self.line = line
        self.message = message
        self.code = code


def read_documents(text: str, report: Report, first_line: int = 1, *, numbers_are_keys: bool = False) -> Iterator[Node]:
    """The documents of a YAML (or JSON) text, one after the other; empty ones are left out.

    Args:
        first_line: where the text begins in its file.
        numbers_are_keys: a key that is a whole number is the text of it, as for kubectl (`portLevelMtls` of Istio).

    What is wrong with a value goes to `report`, before the document is handed out. Raises `Unreadable` where nothing
    after can be made sense of.
    """
    if odd := _ODD_BREAKS.search(text):
        line = text.count("\n", 0, odd.start()) + first_line
        raise Unreadable(line, f"U+{ord(odd[0]):04X} ends a line in YAML 1.1 only: write it as an escape in quotes")
    if "\\u" in text and text.lstrip("\ufeff \t\r\n").startswith("{"):
        text = _PAIRS.sub(_join_pair, text)
    reader = _Reader(text, report, first_line, numbers_are_keys=numbers_are_keys)
    while (node := reader.next_document()) is not None:
        if node.value is not None:
            yield node


class _Reader:
    def __init__(self, text: str, report: Report, first_line: int, *, numbers_are_keys: bool) -> None:
        self._events = yaml.parse(text, Loader=LOADER)
        self._numbers_are_keys = numbers_are_keys
        self._report_with_code = report
        self._first_line = first_line
        self._anchors: dict[str, Node | None] = {}
        """None while the node that the anchor names is still being read."""
        self._budget = NODES

    def next_document(self) -> Node | None:
        event = self._next()
        while not isinstance(event, yaml.DocumentStartEvent):
            if isinstance(event, yaml.StreamEndEvent):
                return None
            event = self._next()
        self._anchors = {}
        return self._node(self._next(), "", DEPTH)

    def _next(self) -> Any:
        try:
            return next(self._events)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            context = f" ({error.context})" if error.context else ""
            raise Unreadable(
                (mark.line if mark else 0) + self._first_line, f"not YAML: {error.problem}{context}"
            ) from None
        except yaml.YAMLError as error:
            reason = getattr(error, "reason", "") or "the text cannot be read"
            raise Unreadable(self._first_line, f"not YAML: {reason}") from None

    def _report(self, line: int, path: str, message: str) -> None:
        self._report_with_code(line, path, message, Code.AMBIGUOUS_YAML)

    def _node(self, event: Any, path: str, depth: int) -> Node:
        line = event.start_mark.line + self._first_line
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event.anchor, line, path)
        if depth == 0:
            raise Unreadable(line, f"nested more than {DEPTH} levels deep")
        self._spend(1, line)
        if event.anchor is not None:
            if event.anchor in self._anchors:
                # YAML 1.2 takes the latest, PyYAML none.
                why = "names a value before it: write another name"
                self._report(line, path, f'the anchor "&{event.anchor[:60]}" {why}')
            self._anchors[event.anchor] = None
        node = Node(None, line)
        if isinstance(event, yaml.ScalarEvent):
            node.value = self._scalar(event, path, line)
            node.is_literal = event.style == "|"
        elif isinstance(event, yaml.SequenceStartEvent):
            node.value = self._sequence(node, path, depth)
        else:
            node.value = self._mapping(node, path, depth)
        # "!" alone is on quoted scalars of some writers and asks for what they are anyway.
        if event.tag not in (None, "!"):
            self._report(line, path, f'the tag "{event.tag[:60]}" is not supported: write the value without it')
            node.value = BROKEN
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, anchor: str | None, line: int, path: str) -> Node:
        anchor = anchor or ""
        node = self._anchors.get(anchor)
        if node is None:
            why = "is inside the value that it names" if anchor in self._anchors else "names no anchor before it"
            self._report(line, path, f'the alias "*{anchor[:60]}" {why}')
            return Node(BROKEN, line)
        self._spend(node.size, line)
        return Node(node.value, line, node.size)

    def _spend(self, nodes: int, line: int) -> None:
        self._budget -= nodes
        if self._budget < 0:
            raise Unreadable(line, f"more than {NODES:,} values in one file, with aliases expanded")

    def _sequence(self, node: Node, path: str, depth: int) -> list[Node]:
        items: list[Node] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            item = self._node(event, f"{path}[{len(items)}]", depth - 1)
            node.size += item.size
            items.append(item)
        return items

    def _mapping(self, node: Node, path: str, depth: int) -> dict[str, Node]:
        items: dict[str, Node] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._node(event, path, depth - 1)
            name = key.value
            if self._numbers_are_keys and type(name) is int:
                name = event.value
            field = path if not isinstance(name, str) else f"{path}.{name}" if path else name
            value = self._node(self._next(), field, depth - 1)
            value.key_line = key.line
            node.size += key.size + value.size
            if not isinstance(name, str):
                if name is not BROKEN:
                    hint = "" if isinstance(name, list | dict) else f": write it in quotes, as {_quoted(event.value)}"
                    self._report(key.line, path, f"a key must be text{hint}")
            elif name in items:
                self._report(key.line, field, f"duplicate key, first on line {items[name].key_line}")
            else:
                items[name] = value
        return items

    def _scalar(self, event: Any, path: str, line: int) -> object:
        text: str = event.value
        if not event.implicit[0]:  # quoted, or a block of text
            if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
                # libyaml refuses these itself; PyYAML's own reader does not.
                self._report(line, path, "an unpaired surrogate: write the character itself")
                return BROKEN
            return text
        if text in _NULL:
            return None
        if text in _BOOLEANS:
            return _BOOLEANS[text]
        # The first character decides for nearly every word, without the expressions.
        if text[0] not in "-+.0123456789<=yYnNoO":
            return text
        if _INTEGER.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
        if _YES_NO.fullmatch(text):
            word = "true" if text.lower() in _YES else "false"
            self._report(
                line, path, f"YAML 1.1 reads {text} as {word}: write {_quoted(text)} for the word, {word} for the value"
            )
            return BROKEN
        if _ODD.fullmatch(text):
            self._report(
                line,
                path,
                f"not every YAML reader takes {_quoted(text, '')} for the same: quote text, write numbers plainly",
            )
            return BROKEN
        return text


def _join_pair(found: re.Match[str]) -> str:
    """The character itself, as YAML does not join the halves of JSON."""
    high, low = int(found[2], 16), int(found[3], 16)
    return found[1] + chr(0x10000 + (high - 0xD800 << 10) + low - 0xDC00)


def _quoted(text: str, quote: str = '"') -> str:
    return f"{quote}{ascii(text[:60])[1:-1]}{quote}"
