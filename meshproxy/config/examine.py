"""`config check`: everything that can be said about documents, in files, folders, manifests and standard input.

More forgiving than `load`, which says whether a sidecar takes the documents: a part of a set is checked as far as it
goes, and documents of other applications are set aside.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from meshproxy.config.check import check_set
from meshproxy.config.codes import Code, Severity
from meshproxy.config.file_warnings import warn_of_files
from meshproxy.config.files import FILE_BYTES, Source, digest, read_files
from meshproxy.config.hints import is_of_another_mesh, of_kind
from meshproxy.config.idle_settings import warn_of_idle_settings
from meshproxy.config.parse import PROBLEMS, Parsed, parse
from meshproxy.config.places import find
from meshproxy.config.policy_warnings import warn_of_policy
from meshproxy.config.problems import Problem
from meshproxy.config.schema import KINDS
from meshproxy.config.telemetry_warnings import warn_of_telemetry
from meshproxy.config.traffic_warnings import warn_of_traffic
from meshproxy.config.unread import warn_of_unread
from meshproxy.config.warnings import warn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from meshproxy.config.check import Placed

STDIN = "<stdin>"


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found."""

    problems: tuple[Problem, ...]
    """Of every severity, in the order of files and lines."""
    names: Mapping[str, tuple[str, ...]]
    """Of the documents, by kind."""
    is_partial: bool
    """A part of a set, which no sidecar would take alone."""
    fingerprint: str | None
    """Of the content, as a sidecar shows it; None where a sidecar would read other files, or not take these."""

    def count(self, severity: Severity) -> int:
        return sum(problem.severity is severity for problem in self.problems)


def examine(paths: Sequence[str], stdin: bytes | None = None, *, is_partial: bool = False) -> Examination:
    """Check the documents in files and folders, and in a text that came from standard input.

    Args:
        is_partial: the documents are a part of a set. Otherwise they are if there is neither a MeshConfig nor a
            Sidecar among them.
    """
    parsed = Parsed()
    sources = read_files(paths, parsed.problems)
    if stdin is not None:
        if len(stdin) > FILE_BYTES:
            parsed.problems.append(Problem(STDIN, 0, "", "", f"larger than {FILE_BYTES >> 20} MiB", Code.UNREADABLE))
        else:
            sources.append(Source(Path(STDIN), stdin, is_named=True, is_local=False))
    parsed.is_whole = not parsed.problems
    for source in sources:
        parse(source, parsed, among_others=True)
    where = ", ".join([*paths, *([STDIN] if stdin is not None else [])])
    kinds = {each.kind for each in parsed.placed}
    is_partial = is_partial or bool(kinds and not kinds & {"MeshConfig", "Sidecar"})
    if parsed.placed:
        found = check_set(parsed.placed, is_whole=parsed.is_whole, where=where, is_partial=is_partial)
        parsed.problems.extend(map(_with_option, islice(found, PROBLEMS)))
    elif not parsed.problems:
        parsed.problems.append(Problem(where, 0, "", "", "no document of meshproxy is here", Code.MISSING_DOCUMENT))
    if parsed.is_whole:
        parsed.problems.extend(islice(_suspicions(parsed, where, is_partial=is_partial), PROBLEMS))
        parsed.problems.extend(warn_of_unread(paths))
    is_good = not any(problem.severity is Severity.ERROR for problem in parsed.problems)
    is_as_loaded = is_good and not is_partial and stdin is None and all(each.is_local for each in parsed.placed)
    return Examination(
        tuple(sorted(parsed.problems)),
        {kind.__name__: tuple(each.name for each in parsed.placed if each.kind == kind.__name__) for kind in KINDS},
        is_partial,
        digest(sources) if is_as_loaded and not parsed.others else None,
    )


def _with_option(problem: Problem) -> Problem:
    """What a command can do about documents that are elsewhere, which a sidecar cannot."""
    if problem.code is not Code.MISSING_DOCUMENT:
        return problem
    return replace(problem, message=f"{problem.message}; --partial checks a part of a set")


def _suspicions(parsed: Parsed, where: str, *, is_partial: bool) -> Iterator[Problem]:
    """Warnings and information."""
    placed = parsed.placed
    yield from warn(placed)
    yield from warn_of_policy(placed, is_partial=is_partial)
    yield from warn_of_traffic(placed)
    yield from warn_of_idle_settings(placed, is_partial=is_partial)
    yield from warn_of_telemetry(placed, is_partial=is_partial)
    yield from warn_of_files(placed)
    yield from parsed.unread
    yield from _others(parsed.others)
    if is_partial:
        missing = [kind.__name__ for kind in KINDS if kind.__name__ not in {each.kind for each in placed}]
        message = f"checked as a part of a set without {_listed(missing)}: what refers to these is not looked up"
        yield Problem(where, 0, "", "", message, Code.PARTIAL)
    elif _authorizes(placed) and not any(each.kind == "ModelRole" for each in placed):
        message = "without a ModelRole every caller may call every model; only verbs of administrators are denied"
        yield Problem(where, 0, "", "", message, Code.NO_ROLE)


def _authorizes(placed: Sequence[Placed]) -> bool:
    """Whether the sidecar has an inbound port: no policy applies to outbound calls."""
    return any(each.kind == "Sidecar" and find(each.node, "spec", "inbound") is not None for each in placed)


def _others(others: Sequence[Placed]) -> Iterator[Problem]:
    """What was set aside: each document of another mesh, and the kinds of everything else in a file."""
    skipped: dict[str, Counter[str]] = {}
    for each in others:
        version = str(each.document)
        if is_of_another_mesh(version, each.kind):
            message = f"not a document of meshproxy, and skipped{of_kind(each.kind)}"
            yield each.at(each.node, "", message, Code.OTHER_MESH)
        else:
            skipped.setdefault(each.file, Counter())[each.kind] += 1
    for file, kinds in skipped.items():
        shown = _listed([kind if count == 1 else f"{count} {kind}" for kind, count in kinds.items()][:12])
        message = f"skipped {shown}: not of meshproxy. A sidecar takes no file with other documents"
        yield Problem(file, 0, "", "", message, Code.SKIPPED)


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
