"""A pod that is being changed: each change becomes an operation of a JSON patch (RFC 6902), and how to take it back."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Path = tuple[str, ...]
"""Members of mappings, and names of elements of lists: `("spec", "containers", "tensorflow-serving", "lifecycle")`."""
Operation = dict[str, Any]
"""Of a JSON patch."""
TextOf = Callable[[Path], str]
"""What stands in a pod at this path, as YAML."""


@dataclass(slots=True)
class Undo:
    """What `record` writes down."""

    made: list[Path] = field(default_factory=list)
    """Mappings and lists that were made to put something in."""
    was: dict[Path, str | None] = field(default_factory=dict)
    """What was replaced, as YAML. None: there was nothing."""


class Draft:
    """A pod with changes: a copy of it.

    Attributes:
        pod: with the changes made so far.
        patch: the operations that lead there.
    """

    def __init__(self, pod: object, text_of: TextOf | None = None, *, in_place: bool = False) -> None:
        """
        Args:
            text_of: None: what is replaced is noted down as JSON.
            in_place: nobody else has this pod: it is changed itself.
        """
        self.pod: Any = pod if in_place else copy.deepcopy(pod)
        self.patch: list[Operation] = []
        self.undo = Undo()
        self._text_of = text_of if text_of is not None else self._as_json

    def find(self, path: Path) -> Any:
        """What is there; None if nothing is."""
        found = self.pod
        for step in path:
            if isinstance(found, list):
                found = next((each for each in found if isinstance(each, dict) and each.get("name") == step), None)
            else:
                found = (found or {}).get(step)
        return found

    def insert(self, path: Path, item: dict[str, Any]) -> None:
        """Put a named element first into a list. One that is absent or empty is made: the API server leaves empty lists
        out of what it sends, and refuses to add to them."""
        present = self.find(path)
        if present:
            present.insert(0, item)
            self._add("add", f"{self._pointer(path)}/0", item)
        else:
            self._set(path, [item], is_made=True)

    def put(self, path: Path, value: Any) -> None:
        """Set a member of a mapping, which is made if it is absent or empty."""
        self._set(path, value, is_made=False)

    def remove(self, path: Path) -> None:
        """Take an element or a member away."""
        pointer = self._pointer(path)
        parent, target = self.find(path[:-1]), self.find(path)
        if isinstance(parent, list):
            parent.remove(target)
        else:
            del parent[path[-1]]
        self.patch.append({"op": "remove", "path": pointer})

    def _set(self, path: Path, value: Any, *, is_made: bool) -> None:
        """Set a member of a mapping; one that is absent or empty is made with this member.

        Args:
            is_made: the value is a list or a mapping that is there only for what is put in.
        """
        parent = self.find(path[:-1])
        if not parent:
            self._set(path[:-1], {path[-1]: value}, is_made=True)
            return
        is_there = path[-1] in parent
        if is_made and not is_there:
            self.undo.made.append(path)
        else:
            self.undo.was[path] = self._text_of(path) if is_there else None
        parent[path[-1]] = value
        self._add("replace" if is_there else "add", self._pointer(path), value)

    def _add(self, op: str, pointer: str, value: Any) -> None:
        # What is changed later must not change what was noted down here.
        self.patch.append({"op": op, "path": pointer, "value": copy.deepcopy(value)})

    def _as_json(self, path: Path) -> str:
        return json.dumps(self.find(path), separators=(",", ":"), ensure_ascii=False)

    def _pointer(self, path: Path) -> str:
        """RFC 6901."""
        steps, found = [], self.pod
        for step in path:
            if isinstance(found, list):
                index = next(i for i, each in enumerate(found) if isinstance(each, dict) and each.get("name") == step)
                steps.append(str(index))
                found = found[index]
            else:
                steps.append(step.replace("~", "~0").replace("/", "~1"))
                found = (found or {}).get(step)
        return "".join(f"/{step}" for step in steps)
