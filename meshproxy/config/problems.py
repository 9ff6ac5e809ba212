"""What is wrong with documents: every problem with its place, and the error that carries all of them."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from meshproxy.config.codes import Code, Severity


def _printable(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


class Problem(msgspec.Struct, frozen=True, order=True):
    """One thing to mend, and where."""

    file: str
    line: int
    """Counted from 1; 0 when it is about the file or the set of files as a whole."""
    document: str
    """`Kind/name`, or as much of it as could be read; empty when no single document is to blame."""
    field: str
    """A path such as `spec.rules[0].models[1]`; empty when no single field is to blame."""
    message: str
    code: Code

    @property
    def severity(self) -> Severity:
        return self.code.severity

    @property
    def may_pass(self) -> bool:
        """Whether something could not be read: the same documents may be good later."""
        return self.code is Code.NOT_LOADED

    def __str__(self) -> str:
        """On one line: files and fields may be of somebody whose change is looked at, in a terminal or a build."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        text = ": ".join(part for part in (place, self.document, self.field, self.message) if part)
        return text if text.isprintable() else "".join(map(_printable, text))


class ConfigError(Exception):
    """The documents cannot be used. `problems` lists everything that was found, in the order of files and lines."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)

    @property
    def may_pass(self) -> bool:
        """Whether one of them may (`Problem.may_pass`)."""
        return any(problem.may_pass for problem in self.problems)


def closest(word: str, known: Collection[str]) -> str:
    """` (did you mean ...?)` if one of the known words is much like `word`, otherwise nothing."""
    if len(known) > 1_000:  # 10 us a word
        return ""
    # Imported only when there is a mistake to explain.
    from difflib import get_close_matches

    lowered = {name.lower(): name for name in known}
    found = get_close_matches(word.lower()[:64], list(lowered), n=1, cutoff=0.7)
    return f' (did you mean "{lowered[found[0]]}"?)' if found else ""
