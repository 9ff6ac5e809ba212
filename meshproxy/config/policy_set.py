"""Roles and bindings of files, without what else a sidecar needs: what commands about the policy read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from meshproxy.config import schema
from meshproxy.config.check import Placed, check_references, check_set
from meshproxy.config.codes import Code
from meshproxy.config.files import Paths, read_files
from meshproxy.config.parse import PROBLEMS, Parsed, parse
from meshproxy.config.problems import Problem


@dataclass(frozen=True, slots=True)
class PolicySet:
    """Documents that have been read together."""

    placed: tuple[Placed, ...]
    """All of them."""

    @property
    def mesh(self) -> schema.MeshConfig | None:
        """None: it is elsewhere."""
        return next(iter(self.of(schema.MeshConfig)), None)

    @property
    def roles(self) -> list[schema.ModelRole]:
        return self.of(schema.ModelRole)

    @property
    def bindings(self) -> list[schema.ModelRoleBinding]:
        return self.of(schema.ModelRoleBinding)

    def of(self, kind: type[Any]) -> list[Any]:
        """The documents of a kind, in their order."""
        return [each.document for each in self.placed if isinstance(each.document, kind)]


def load_policy(paths: Paths) -> PolicySet:
    """The documents in files and folders, of which a MeshConfig and a Sidecar may be missing. Manifests of Kubernetes
    may hold other documents, too, which are set aside.

    Raises:
        ConfigError: with all problems. A role that a binding names must be there.
    """
    parsed = Parsed()
    sources = read_files(paths, parsed.problems)
    parsed.is_whole = not parsed.problems
    for source in sources:
        parse(source, parsed, among_others=True)
    where = ", ".join(map(str, paths))
    if not parsed.placed and not parsed.problems:
        message = "no document of meshproxy is here"
        parsed.problems.append(Problem(where, 0, "", "", message, Code.MISSING_DOCUMENT))
    found = check_set(parsed.placed, is_whole=parsed.is_whole, where=where, is_partial=True)
    parsed.problems.extend(islice(found, PROBLEMS))
    parsed.problems.extend(_unknown_roles(parsed))
    parsed.raise_problems()
    return PolicySet(tuple(parsed.placed))


def _unknown_roles(parsed: Parsed) -> list[Problem]:
    """A set without any role is a part of one to `check_set`; to a policy, it is a set of bindings to nothing."""
    if not parsed.is_whole or any(each.kind == "ModelRole" for each in parsed.placed):
        return []
    bindings = [each for each in parsed.placed if each.kind == "ModelRoleBinding"]
    found = [problem for each in bindings for problem in check_references(each, _no_role, lambda what, word: "")]
    return [problem for problem in found if problem.message.startswith("no ModelRole ")]


def _no_role(what: str, name: object) -> Sequence[Placed]:
    """A `check.Look` for documents that define no role; of everything else nothing is said."""
    return ()
