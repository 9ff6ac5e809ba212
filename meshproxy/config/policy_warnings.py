"""Warnings about roles and bindings: what hardly means what it says, and what denies more than its author expects.

Only documents without problems are looked at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

from meshproxy.config.check import subjects, workloads
from meshproxy.config.codes import Code
from meshproxy.config.coverage import covers, is_everyone, role_covers
from meshproxy.config.fields import claims_of
from meshproxy.config.globs import compile_glob, is_literal
from meshproxy.config.ip_blocks import are_within, hold_all
from meshproxy.config.places import find, items
from meshproxy.config.strangers import is_met, strangers_of
from meshproxy.config.values import is_whole_version, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from meshproxy.config.check import Placed
    from meshproxy.config.fields import BindingSubject
    from meshproxy.config.nodes import Node
    from meshproxy.config.problems import Problem
    from meshproxy.config.strangers import Strangers

ADMINISTRATORS = frozenset({"reload", "metrics", "profile", "reflect", "unlisted"})
"""Verbs that are denied unless they are granted."""
MUCH_ALIKE = 0.8
"""Of 1: two names of which one may be a misspelling of the other (`difflib`)."""
COMPARED = 250_000
"""Pairs of names that are compared, about 20 us each: names of a larger set are not."""
_EXPRESSION = re.compile(r"\.[*+]|[\^$\\|]|\[.*\]|\(.*\)|\{[0-9,]+\}")
_PLAIN = r"(?:\[[^\]]\]|\\[^\w\s$]|[^*+?|()\[\]{}\\^$])+"
_HALF_ANCHORED = re.compile(rf"\^{_PLAIN}|{_PLAIN}\$")
"""An expression of plain text that is anchored at one end only."""
_SCOPES = frozenset({"scope", "scp"})
"""Their words may hold a star (`models:*`)."""
_SPECIAL = re.compile(r"[\^$\\|\[\](){}+]")


def warn_of_policy(placed: Sequence[Placed], *, is_partial: bool) -> Iterator[Problem]:
    """Everything that is suspicious about the roles and bindings.

    Args:
        is_partial: documents of kinds that are not there at all are elsewhere.
    """
    whole = [each for each in placed if each.document is not None]
    roles = {each.name: each for each in whole if each.kind == "ModelRole"}
    bindings = [each for each in whole if each.kind == "ModelRoleBinding"]
    issuers = {
        issuer.name: (issuer.issuer, strangers)
        for each in whole
        if each.kind == "MeshConfig"
        for issuer in each.document.spec.issuers
        if (strangers := strangers_of(issuer)) is not None
    }
    domain = next((each.document.spec.trust_domain for each in whole if each.kind == "MeshConfig"), None)
    for role in roles.values():
        yield from _patterns(role, [f"spec.rules[{index}]" for index in range(len(role.document.spec.rules))])
        yield from _versions(role)
    yield from _open_to_anybody(bindings, issuers)
    yield from _denials(roles, bindings, domain)
    if len(whole) == len(placed):  # otherwise what is not there may be in a document with a problem
        if bindings or not is_partial:
            yield from _without_effect(roles, bindings)
        yield from _names(whole, roles, bindings, is_partial=is_partial)
        yield from _unlisted(whole)
    for each in whole:
        yield from _name_patterns(each)
        yield from _value_patterns(each)
        yield from _role_paths(each)
        yield from _nowhere(each)
        if each.kind == "ModelRoute":
            yield from _patterns(each, ["spec"])


# Patterns, versions, labels


def _patterns(each: Placed, fields: Sequence[str]) -> Iterator[Problem]:
    """Model names that are expressions of another kind, and globs where none are known."""
    for field in fields:
        path = [int(part) if part.isdigit() else part for part in re.findall(r"\w+", field)]
        node = _at(each, path)
        for index, pattern in enumerate(items(find(node, "models"))):
            if isinstance(pattern.value, str) and _EXPRESSION.search(pattern.value):
                message = f"{shown(pattern.value)} is no regular expression here: only * and ? are special"
                yield each.at(pattern, f"{field}.models[{index}]", message + _plain(pattern.value), Code.NOT_A_PATTERN)
        for what in ("labels", "signatures") if each.kind == "ModelRole" else ():
            for index, word in enumerate(items(find(node, what))):
                if isinstance(word.value, str) and not is_literal(word.value):
                    message = f"{shown(word.value)} is compared as it is written: * and ? are special in models only"
                    yield each.at(word, f"{field}.{what}[{index}]", message, Code.NOT_A_PATTERN)


def _name_patterns(each: Placed) -> Iterator[Problem]:
    """Names of workloads that are regular expressions: a namespace has no dots."""
    for field, workload in workloads(each):
        for name in ("namespace", "serviceAccount"):
            node = find(workload, name)
            if node is not None and isinstance(node.value, str) and ".*" in node.value:
                message = f"{shown(node.value)} is no regular expression here: only * and ? are special"
                yield each.at(node, f"{field}.{name}", message + _plain(node.value), Code.NOT_A_PATTERN)


def _value_patterns(each: Placed) -> Iterator[Problem]:
    """Claims and headers that are compared with what they never are: a `deny` never applies, nor a route's `match`."""
    matches = items(find(each.node, "spec", "match")) if each.kind == "ModelRoute" else ()
    for field, subject in (*subjects(each), *((f"spec.match[{index}]", node) for index, node in enumerate(matches))):
        paths = items(find(subject, "token", "claimPaths"))
        demands = [(f"token.claimPaths[{index}]", "", wanted) for index, wanted in enumerate(paths)]
        for place, node in (("token.claims", find(subject, "token", "claims")), ("headers", find(subject, "headers"))):
            for name, wanted in node.value.items() if node is not None and isinstance(node.value, dict) else ():
                demands.append((f"{place}.{name}", name, wanted))
        for place, name, wanted in demands:
            for word, text in _texts(wanted) if name not in _SCOPES else ():
                why = _why_no_pattern(word, str(text.value))
                if place.startswith("headers."):
                    why = _why_no_header(word, str(text.value)) or why
                if why is not None:
                    yield each.at(text, f"{field}.{place}", why, Code.NOT_A_PATTERN)


def _role_paths(each: Placed) -> Iterator[Problem]:
    """IAM roles with a path, which sessions of them do not prove; `deny` and `audit` take them for the role."""
    if each.kind == "ModelRoleBinding" and each.document.spec.action != "allow":
        return
    named = {
        node.value: (field, node)
        for field, subject in subjects(each)
        if (node := find(subject, "iamRole")) is not None and isinstance(node.value, str)
    }
    for role, (field, node) in named.items():
        bare = re.sub("(?<=:role/).+/", "", role)
        if bare not in named:
            message = f"a session of this role never matches, since its ARN has no path: name {shown(bare, 200)}, too"
            yield each.at(node, f"{field}.iamRole", message, Code.ROLE_PATH)


def _nowhere(each: Placed) -> Iterator[Problem]:
    """Subjects of which every address is excluded."""
    for index, subject in enumerate(each.document.spec.subjects if each.kind == "ModelRoleBinding" else ()):
        if _is_nowhere(subject):
            node = _at(each, ["spec", "subjects", index, "ipBlocks"])
            message = "never matches, since notIpBlocks excludes all of these addresses"
            yield each.at(node, f"spec.subjects[{index}].ipBlocks", message, Code.NOWHERE)


def _is_nowhere(subject: BindingSubject) -> bool:
    return bool(subject.ip_blocks) and are_within(subject.ip_blocks or (), subject.not_ip_blocks or ())


def _texts(wanted: Node, word: str = "exact") -> Iterator[tuple[str, Node]]:
    """What a text is compared with, and how."""
    if isinstance(wanted.value, str):
        yield word, wanted
    for name, node in wanted.value.items() if isinstance(wanted.value, dict) else ():
        if name in ("allOf", "anyOf"):
            for item in items(node):
                yield from _texts(item)
        elif name in ("exact", "prefix", "suffix", "contains", "regex"):
            yield from _texts(node, name)


def _why_no_pattern(word: str, text: str) -> str | None:
    if word == "regex":
        if _HALF_ANCHORED.fullmatch(text) is None:
            return None
        return f"{shown(text)} must match the whole text, so ^ and $ change nothing: write .* for the rest of it"
    if "*" not in text:
        return None
    instead = "regex: ..."
    if word == "exact" and text.find("*") == len(text) - 1:
        instead = f"prefix: {shown(text[:-1])}" if text != "*" else "present: true"
    return f"{shown(text)} is compared as it is written, with the *: write {{{instead}}}"


def _why_no_header(word: str, text: str) -> str | None:
    """White space around a header's value is no part of it."""
    begins, ends = word in ("exact", "prefix"), word in ("exact", "suffix")
    is_stripped = (begins and text.startswith(" ")) or (ends and text.endswith(" "))
    return f"{shown(text)} never matches, since no header's value begins or ends with a space" if is_stripped else None


def _at(each: Placed, path: Sequence[int | str]) -> Any:
    node: Any = each.node
    for part in path:
        node = items(node)[part] if isinstance(part, int) else find(node, part)
    return node


def _plain(expression: str) -> str:
    """What the expression means as a glob, if it is simple enough."""
    glob = expression.removeprefix("^").removesuffix("$").replace(".*", "*").replace(".+", "?*")
    return f", write {shown(glob)}" if glob != expression and not _SPECIAL.search(glob) else ""


def _versions(role: Placed) -> Iterator[Problem]:
    for number, rule in enumerate(items(find(role.node, "spec", "rules"))):
        versions = role.document.spec.rules[number].versions
        for index, node in enumerate(items(find(rule, "versions"))):
            if not is_whole_version(versions[index]):
                message = (
                    f"TensorFlow Serving has no version {shown(versions[index])}, only whole numbers: is it a label? "
                    f"Then write labels: [{versions[index]}]"
                )
                yield role.at(node, f"spec.rules[{number}].versions[{index}]", message, Code.VERSION_OR_LABEL)
        for index, node in enumerate(items(find(rule, "labels"))):
            if isinstance(node.value, str) and is_whole_version(node.value):
                message = f"is {shown(node.value)} a version? Then write versions: [{node.value}]"
                yield role.at(node, f"spec.rules[{number}].labels[{index}]", message, Code.VERSION_OR_LABEL)


# What the bindings come to


def _without_effect(roles: Mapping[str, Placed], bindings: Sequence[Placed]) -> Iterator[Problem]:
    bound = {binding.document.spec.role for binding in bindings}
    for name, role in roles.items():
        if name not in bound:
            yield role.at(role.node, "", "no ModelRoleBinding names this role: it has no effect", Code.UNBOUND_ROLE)
    if roles and not any(binding.document.spec.action == "allow" for binding in bindings):
        first = next(iter(roles.values()))
        message = "no ModelRoleBinding has action allow: as there is a ModelRole, every call is denied"
        yield first.at(first.node, "", message, Code.NOTHING_ALLOWED)


def _open_to_anybody(bindings: Sequence[Placed], issuers: Mapping[str, tuple[str, Strangers]]) -> Iterator[Problem]:
    """Subjects that allow whoever sends a header, or comes from any address or from all but certain ones, or has any
    token of one of these issuers."""
    for binding in bindings:
        if binding.document.spec.action != "allow":
            continue
        for index, subject in enumerate(binding.document.spec.subjects):
            if _is_nowhere(subject):
                continue
            is_near = bool(subject.ip_blocks) and not hold_all(subject.ip_blocks)
            named = (subject.workload, subject.token, subject.iam_role, is_near)
            if not any(named):
                message = (
                    "allows everybody with IPv4, or with IPv6: name fewer addresses, a workload or a token"
                    if subject.ip_blocks and not subject.headers and not subject.not_ip_blocks
                    else "allows anybody who meets a condition that callers choose: name a workload or a token, too"
                )
                yield binding.at(
                    _at(binding, ["spec", "subjects", index]), f"spec.subjects[{index}]", message, Code.ANYBODY
                )
            token = subject.token
            if token is None or subject.workload or is_near:
                continue
            url, strangers = issuers.get(token.issuer, ("", None))
            if strangers is not None and all(
                is_met(strangers, path, wanted) for path, wanted in claims_of(token.claims, token.claim_paths)
            ):
                message = (
                    f"allows everybody: whoever has an account gets tokens of {url} for any audience"
                    f"{', and they meet this' if token.claims or token.claim_paths else ''}: name {strangers.instead}"
                )
                node = _at(binding, ["spec", "subjects", index])
                yield binding.at(node, f"spec.subjects[{index}].token", message, Code.ANYBODY)


def _denials(roles: Mapping[str, Placed], bindings: Sequence[Placed], domain: str | None) -> Iterator[Problem]:
    """What `deny` bindings take from everyone, from whoever another binding allows it, and from administrators.
    `domain`: the trust domain of the mesh, if it is known."""
    allowing = [binding for binding in bindings if binding.document.spec.action == "allow"]
    for deny in bindings:
        role = roles.get(deny.document.spec.role)
        if deny.document.spec.action != "deny" or role is None:
            continue
        for index, subject in enumerate(deny.document.spec.subjects):
            if (everyone := is_everyone(subject)) is not None:
                node = _at(deny, ["spec", "subjects", index])
                message = f"matches {everyone}: nobody of them can make the calls of ModelRole/{role.name} any more"
                yield deny.at(node, f"spec.subjects[{index}]", message, Code.DENIES_EVERYONE)
        for allow in allowing:
            if (other := roles.get(allow.document.spec.role)) is not None:
                denied = [
                    any(covers(ours, theirs, domain) for ours in deny.document.spec.subjects)
                    for theirs in allow.document.spec.subjects
                ]
                yield from _overridden(deny, role, allow, other, denied)


def _overridden(deny: Placed, role: Placed, allow: Placed, other: Placed, denied: Sequence[bool]) -> Iterator[Problem]:
    """What one `deny` binding takes from one `allow` binding. `denied`: which of the latter's subjects it covers."""
    node = find(deny.node, "spec", "action") or deny.node
    if all(denied) and role_covers(role.document, other.document):
        message = f"denies everything that {allow.label} at {allow.place} allows: deny overrides allow"
        yield deny.at(node, "spec.action", message, Code.DENIES_ALLOWED)
        return
    verbs = sorted(_verbs(role) & _verbs(other) & ADMINISTRATORS)
    if verbs and any(denied):
        message = (
            f"denies {', '.join(verbs)} to administrators: {allow.label} at {allow.place} allows it to callers that "
            "this binding covers, and such calls are about every model of the server"
        )
        yield deny.at(node, "spec.action", message, Code.DENIES_ADMINISTRATORS)


def _verbs(role: Placed) -> set[str]:
    return {verb for rule in role.document.spec.rules for verb in rule.verbs}


# Names of models


@dataclass(frozen=True, slots=True)
class _Named:
    """Where a model is named first."""

    by: Placed
    field: str
    node: Node

    @property
    def place(self) -> str:
        return f"{self.by.label} at {self.by.file}:{self.node.line}"


def _names(
    placed: Sequence[Placed], roles: Mapping[str, Placed], bindings: Sequence[Placed], *, is_partial: bool
) -> Iterator[Problem]:
    """Of a name in a role that nothing else names, and a similar name that no role covers, one is a mistake. Any other
    name that no role covers is denied."""
    known = _named_models(placed)
    patterns = {pattern for role in roles.values() for rule in role.document.spec.rules for pattern in rule.models}
    # What covers every model, as a role of administrators does, says nothing about one.
    uncovered = _uncovered(known, {pattern for pattern in patterns if pattern.strip("*?")})
    mistaken: set[str] = set()
    for role in roles.values() if len(uncovered) * len(patterns) <= COMPARED else ():
        for number, rule in enumerate(role.document.spec.rules):
            for index, pattern in enumerate(rule.models):
                if pattern in known or (found := _alike(pattern, uncovered)) is None:
                    continue
                mistaken.add(found)
                message = (
                    f"is {shown(pattern)} misspelt? No route and no server names it, and no role covers "
                    f"{shown(found)}, which {known[found].place} names"
                )
                node = _at(role, ["spec", "rules", number, "models", index])
                yield role.at(node, f"spec.rules[{number}].models[{index}]", message, Code.MISSPELT_MODEL)
    if bindings or not is_partial:
        yield from _denied(known, roles, bindings, mistaken)


def _denied(
    known: Mapping[str, _Named], roles: Mapping[str, Placed], bindings: Sequence[Placed], mistaken: set[str]
) -> Iterator[Problem]:
    """Models that nobody may call, since there is a role and none that is allowed covers them."""
    allowed = {binding.document.spec.role for binding in bindings if binding.document.spec.action == "allow"}
    if not allowed or not allowed <= roles.keys():
        return  # everything is denied, which is said once; or a role is not known
    rules = [rule for name, role in roles.items() if name in allowed for rule in role.document.spec.rules]
    for name in _uncovered(known, {pattern for rule in rules for pattern in rule.models}):
        if name not in mistaken:
            where = known[name]
            message = (
                f"no role that is allowed covers the model {shown(name)}: as there is a ModelRole, nobody may call it"
            )
            yield where.by.at(where.node, where.field, message, Code.UNCOVERED_MODEL)


def _unlisted(placed: Sequence[Placed]) -> Iterator[Problem]:
    """Models that no server lists, where all servers list theirs: whichever is meant refuses them."""
    lists = [each.document.spec.models for each in placed if each.kind == "ModelServer"]
    if not lists or not all(lists):
        return
    listed = {name for names in lists for name in names}
    for name, where in _named_models(placed, with_rollouts=True).items():
        if name not in listed:
            message = f"no ModelServer lists the model {shown(name)} in spec.models: its sidecar refuses calls of it"
            yield where.by.at(where.node, where.field, message, Code.UNLISTED_MODEL)


def _uncovered(known: Mapping[str, _Named], patterns: set[str]) -> list[str]:
    matching = [compile_glob(pattern) for pattern in patterns if not is_literal(pattern)]
    return [name for name in known if name not in patterns and not any(matches(name) for matches in matching)]


def _named_models(placed: Sequence[Placed], *, with_rollouts: bool = False) -> dict[str, _Named]:
    """Every model that inbound routes, the health checks of servers and, if asked for, inbound rollouts name."""
    named: dict[str, _Named] = {}
    for each in placed:
        for field, node in (*_model_nodes(each), *(_of_rollout(each) if with_rollouts else ())):
            if isinstance(node.value, str) and is_literal(node.value):
                named.setdefault(node.value, _Named(each, field, node))
    return named


def _model_nodes(each: Placed) -> Iterator[tuple[str, Node]]:
    if each.kind == "ModelServer":
        for index, node in enumerate(items(find(each.node, "spec", "health", "models"))):
            yield f"spec.health.models[{index}]", node
    # Outbound calls are authorized at the other end.
    if each.kind != "ModelRoute" or "inbound" not in each.document.spec.directions:
        return
    for index, node in enumerate(items(find(each.node, "spec", "models"))):
        yield f"spec.models[{index}]", node
    for index, share in enumerate(items(find(each.node, "spec", "split"))):
        if (other := find(share, "model")) is not None:
            yield f"spec.split[{index}].model", other
    if (other := find(each.node, "spec", "fallback", "model")) is not None:
        yield "spec.fallback.model", other


def _of_rollout(each: Placed) -> Iterator[tuple[str, Node]]:
    if each.kind != "ModelRollout" or each.document.spec.chosen_by != "inbound":
        return
    for path in (("model",), ("stable", "model"), ("candidate", "model")):
        if (node := find(each.node, "spec", *path)) is not None:
            yield f"spec.{'.'.join(path)}", node


def _alike(pattern: str, names: Sequence[str]) -> str | None:
    """The name that is most like a pattern: like all of it, or like what stands before its first star. Numbers tell
    names apart: `model_1` is no misspelling of `model_2`."""
    head = re.split(r"[*?]", pattern)[0]
    if len(head) < (1 if head == pattern else 4):
        return None
    best, found = MUCH_ALIKE, None
    for name in names:
        other = name if head == pattern else name[: len(head)]
        if _without_digits(head) == _without_digits(other) and head.lower() != other.lower():
            continue
        ratio = SequenceMatcher(None, head.lower(), other.lower(), autojunk=False).ratio()
        if ratio < 1 and sorted(head.lower()) == sorted(other.lower()):
            ratio = max(ratio, MUCH_ALIKE)  # letters that have changed places
        if ratio >= best:
            best, found = ratio, name
    return found


def _without_digits(text: str) -> str:
    return re.sub(r"[0-9]+", "0", text)
