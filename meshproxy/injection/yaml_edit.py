"""Changes of a YAML document that leave every other byte as it is: comments, order, quotes, indentation.

Nothing is written out again. The place of each value is known from the parser, and text is put in or taken out there.
What is put in looks like its surroundings: block style, or JSON inside of `{}` and `[]`, so JSON stays JSON. Taking out
is the exact inverse of putting in.
"""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from meshproxy.config.nodes import LOADER

Path = tuple[str | int, ...]


class CannotEdit(Exception):
    """The document is written in a way that this does not change. The text says what."""


class YamlDocument:
    """One document, as text and as a tree.

    Attributes:
        text: as it is now.
    """

    def __init__(self, text: str) -> None:
        """Raises CannotEdit: this is no YAML."""
        self.text = text
        self._root: yaml.Node | None = None
        self._parse()

    def content(self) -> Any:
        """The values, as PyYAML's safe loader reads them."""
        try:
            return yaml.load(self.text, Loader=LOADER)  # noqa: S506 a safe one
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise CannotEdit(said(error)) from error

    def slice(self, path: Path) -> str:
        """The text of a value, without what follows it on its last line, as `put` takes it."""
        node = self._node(path)
        start, end = self._range(node)
        text = self.text[start:end].replace("\r\n", "\n")
        if not _is_block(node):
            return text
        dedented = re.sub(rf"\n {{{node.start_mark.column}}}(?= *\S)", "\n", text)
        if _indented(dedented, node.start_mark.column) == text:
            return dedented
        return _json(yaml.safe_load(" " * node.start_mark.column + text))  # a comment stands further to the left

    def insert(self, path: Path, value: Any) -> None:
        """Put a value first into a list that is not empty."""
        parent = self._node(path)
        if not isinstance(parent, yaml.SequenceNode) or not parent.value:
            raise CannotEdit(f"{_shown(path)} is no list with something in it")
        if parent.flow_style:
            self._put(parent.value[0].start_mark.index, f"{_json(value)}, ")
            return
        dash = self._dash(parent.value[0])
        column = self._column(dash)
        block = _indented(as_block([value]), column)
        self._put(self._above_comments(dash, column), f"{block}\n{' ' * column}")

    def put(self, path: Path, value: Any, text: str | None = None) -> None:
        """Set a member of a mapping that is not empty.

        Args:
            text: how to write the value in place of the one that is there.
        """
        parent, key = self._node(path[:-1]), path[-1]
        if not isinstance(parent, yaml.MappingNode) or not parent.value:
            raise CannotEdit(f"{_shown(path[:-1])} is no mapping with something in it")
        present = next((pair for pair in parent.value if pair[0].value == key), None)
        if present is not None:
            self._replace(self._node(path), value, text)
            return
        if parent.flow_style:
            self._put(parent.value[0][0].start_mark.index, f"{_json(key)}: {_json(value)}, ")
            return
        before = _NEIGHBOUR.get(str(key))
        neighbour = next((each for each, _ in parent.value if each.value == before), parent.value[0][0])
        column = neighbour.start_mark.column
        block = _indented(as_block({key: value}), column)
        self._put(self._above_comments(neighbour.start_mark.index, column), f"{block}\n{' ' * column}")

    def remove(self, path: Path) -> None:
        """Take out a member of a mapping or an element of a list, which is not the only one of a block."""
        parent = self._node(path[:-1])
        if isinstance(parent, yaml.MappingNode):
            places = [(key, value) for key, value in parent.value]
            index = next(i for i, (key, _) in enumerate(places) if key.value == path[-1])
        else:
            assert isinstance(parent, yaml.SequenceNode)
            places = [(value, value) for value in parent.value]
            assert isinstance(path[-1], int)
            index = path[-1]
        start, (_, end) = places[index][0].start_mark.index, self._range(places[index][1])
        if parent.flow_style:
            if index + 1 < len(places):
                end = places[index + 1][0].start_mark.index
            elif index:
                start = self._range(places[index - 1][1])[1]
        else:
            if isinstance(parent, yaml.SequenceNode):
                start = self._dash(places[index][0])
            column = self._column(start)
            if len(places) == 1:
                raise CannotEdit(f"{_shown(path)} is the only one there")
            rest = self.text[end:]
            if index + 1 == len(places):  # with the line break before it
                start = len(self.text[:start].rstrip(" ").removesuffix("\n").removesuffix("\r"))
            elif rest.startswith(self._newline + " " * column):
                end += len(self._newline) + column
            else:
                raise CannotEdit(f"something follows {_shown(path)} on its line: take it out by hand")
        self.text = self.text[:start] + self.text[end:]
        self._parse()

    def _replace(self, node: yaml.Node, value: Any, text: str | None) -> None:
        start, end = self._range(node)
        if text is None:
            text = as_block(value) if _is_block(node) and isinstance(value, dict | list) else _json(value)
        if _is_block(node) and _is_block(yaml.compose(text, Loader=LOADER)):
            text = _indented(text, node.start_mark.column)
        if start == end and text:
            text = f" {text}"
        elif not text:  # what was not there had no space before it
            start = len(self.text[:start].rstrip(" "))
        self._put(start, text, end)

    # Places

    @property
    def _newline(self) -> str:
        return "\r\n" if "\r\n" in self.text else "\n"

    def _put(self, start: int, text: str, end: int | None = None) -> None:
        text = text.replace("\r\n", "\n").replace("\n", self._newline)
        self.text = self.text[:start] + text + self.text[start if end is None else end :]
        self._parse()

    def _parse(self) -> None:
        try:
            self._root = yaml.compose(self.text, Loader=LOADER)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise CannotEdit(said(error)) from error

    def _node(self, path: Path) -> yaml.Node:
        node = self._root
        if node is None:
            raise CannotEdit("there is nothing in it")
        for depth, step in enumerate(path):
            node = self._inside(node, step, _shown(path[:depth]), _shown(path[: depth + 1]))
        return node

    def _inside(self, node: yaml.Node, step: str | int, here: str, there: str) -> yaml.Node:
        """A member or an element. Where an alias stands, the parser gives the node of its anchor, which is before."""
        if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            element: yaml.Node = node.value[step]
            earliest = max((each.end_mark.index for each in node.value[:step]), default=node.start_mark.index)
            if element.start_mark.index < earliest:
                raise CannotEdit(f"{there} is an alias (*): write it out")
            return element
        if not isinstance(node, yaml.MappingNode):
            raise CannotEdit(f"{there} is not there")
        if any(key.value == "<<" for key, _ in node.value):
            raise CannotEdit(f"{here} is merged from another place (<<): write it out")
        found = [pair for pair in node.value if pair[0].value == step]
        if len(found) != 1:
            raise CannotEdit(f"{there} is there twice" if found else f"{there} is not there")
        ((key, member),) = found
        if member.start_mark.index < key.end_mark.index:
            raise CannotEdit(f"{there} is an alias (*): write it out")
        result: yaml.Node = member
        return result

    def _range(self, node: yaml.Node) -> tuple[int, int]:
        """Where a value begins and ends. The parser lets a block end where the next thing begins, after comments."""
        start, end = node.start_mark.index, _end(node)
        if end > start:
            end = start + len(self.text[start:end].rstrip())
        return start, end

    def _dash(self, element: yaml.Node) -> int:
        """Where the dash of an element of a block is."""
        return self.text.rindex("-", 0, element.start_mark.index)

    def _column(self, place: int) -> int:
        return place - self.text.rfind("\n", 0, place) - 1

    def _above_comments(self, place: int, column: int) -> int:
        """Where the lines of comment begin that stand above a place, in its column: they belong to what is there."""
        while True:
            line = self.text.rfind("\n", 0, place) + 1
            if self.text[line:place].strip() or not line:
                return place
            above = self.text.rfind("\n", 0, line - 1) + 1
            if above + column >= line or self.text[above : above + column + 1] != " " * column + "#":
                return place
            place = above + column


_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff]")
"""JSON may have them as they are, YAML may not."""
_LINES = re.compile(r"\S.*\n(?:|(?:.*\n)*.*\S\n?)")
"""Text of which a block keeps every line break, also where an edit puts it: it begins and ends with something."""
_NEIGHBOUR = {"initContainers": "containers", "volumes": "containers", "lifecycle": "image"}
"""Before which member a new one is put; without an entry it comes first."""


def _end(node: yaml.Node) -> int:
    """Where its last word ends."""
    if isinstance(node, yaml.CollectionNode) and _is_block(node) and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    index: int = node.end_mark.index
    return index


def _json(value: Any) -> str:
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))


class _Dumper(yaml.SafeDumper):
    """Text of several lines as a block, and nothing by reference."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = "|" if _LINES.fullmatch(text) else '"' if "\n" in text or text.startswith("{") else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _Dumper.represent_text)


def as_block(value: Any) -> str:
    """YAML in block style, nothing of it by reference."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=1_000_000, allow_unicode=True).rstrip("\n")


def _indented(text: str, column: int) -> str:
    """Lines after the first, moved to the right."""
    return re.sub(r"\n(?= *\S)", "\n" + " " * column, text)


def _is_block(node: yaml.Node | None) -> bool:
    return isinstance(node, yaml.CollectionNode) and not node.flow_style


def _shown(path: Path) -> str:
    return ".".join(map(str, path)) or "the document"


def said(error: Exception) -> str:
    """Why the parser does not take a text, on one line."""
    return " ".join(str(error).split()) or "too deep"
