"""What pages tell a reader to type and to save, in their order, and what they say is printed then."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Block:
    """A block between fences.

    Attributes:
        language: what stands behind the first fence.
        shown: of commands (`sh`): the block `text` right behind it, which they print. None: the page does not say.
    """

    language: str
    text: str
    shown: str | None = None

    @property
    def file(self) -> str | None:
        """Where a reader saves it: the name in a comment in its first line."""
        found = re.match(r"# (\S+\.yaml)\n", self.text)
        return found[1] if found else None


def section(page: str, heading: str) -> str:
    """What stands below a heading of the second level. Raises ValueError."""
    found = re.search(rf"(?ms)^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", page)
    if found is None:
        raise ValueError(f"no section {heading}")
    return found[1]


def blocks(page: str, *languages: str) -> list[Block]:
    """All blocks in these languages."""
    found = re.findall(r"(?ms)^```(\w+)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", page)
    return [Block(language, text, shown or None) for language, text, shown in found if language in languages]


def prompted(page: str) -> list[Block]:
    """Each command behind a `$` in blocks `console`, its continued lines joined, with what is printed below it."""
    found = []
    for block in blocks(page, "console"):
        for typed in re.split(r"(?m)^\$ ", block.text)[1:]:
            command, _, shown = typed.replace("\\\n", "").partition("\n")
            found.append(Block("sh", command, shown))
    return found


def is_as_shown(shown: str, printed: str) -> bool:
    """Whether this is what the page shows: `…` stands for any text, and white space is not compared."""
    pattern = ".*".join(re.escape(part) for part in _squeezed(shown).split("…"))
    return re.fullmatch(pattern, _squeezed(printed)) is not None


def are_lines_as_shown(shown: str, printed: str) -> bool:
    """Whether each line that the page shows is among those that are printed, in whatever order, and however often."""
    lines = printed.splitlines()
    return all(any(is_as_shown(line, one) for one in lines) for line in shown.splitlines() if line)


def _squeezed(text: str) -> str:
    return "".join(text.split())
