"""AuthorizationPolicy (security.istio.io) -> ModelRole and ModelRoleBinding.

Istio authorizes by path, this by model and verb. A role does not tell REST from gRPC, nor a call that names a version
from one that does not. So an ALLOW rule for a path would allow more here: it is left out, unless that is accepted. A
DENY rule that cannot be expressed exactly is written wider, which allows less. Nothing else is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, get_args

from meshproxy.config.fields import VerbWord
from meshproxy.migration.source import Document, Kind, Source, Translation

SECURITY = "security.istio.io/"
ALL_VERBS = list(get_args(VerbWord))
_POST = {"predict": "predict", "classify": "classify", "regress": "regress"}
_GET = ("metadata", "status")
_NAME = re.compile(r"[^/:*?]+")
_ACTION = re.compile(r"/v1/models/([^/:*]+)(?:/versions/([0-9]+)|/labels/([^/:*]+))?:(predict|classify|regress)")
_READ = re.compile(r"/v1/models/([^/:*]+)(?:/versions/([0-9]+)|/labels/([^/:*]+))?(/metadata)?")
_GRPC = {
    "/tensorflow.serving.PredictionService/Predict": "predict",
    "/tensorflow.serving.PredictionService/Classify": "classify",
    "/tensorflow.serving.PredictionService/Regress": "regress",
    "/tensorflow.serving.PredictionService/MultiInference": "multi-inference",
    "/tensorflow.serving.PredictionService/GetModelMetadata": "metadata",
    "/tensorflow.serving.ModelService/GetModelStatus": "status",
    "/tensorflow.serving.ModelService/HandleReloadConfigRequest": "reload",
}
_PRINCIPAL = re.compile(r"([^/]+)/ns/([^/]+)/sa/([^/]+)")
REASONS = {"selector": "roles are of models, whichever server has them", "targetRefs": "roles are of models"}
EVERYONE: Document = {"ipBlocks": ["0.0.0.0/0", "::/0"]}
BOTH = "roles do not tell REST from gRPC, nor calls that name a version from others"

OWN_TRUST_DOMAIN = "the denial is of this trust domain alone: write one with trustDomain for each of the others"


class Inexpressible(Exception):
    """A part of a rule has no counterpart."""


@dataclass
class _Rule:
    """What a rule comes to."""

    rules: list[Document] = field(default_factory=list)
    """Of the role."""
    subjects: list[Document] = field(default_factory=list)
    wider: list[tuple[Source, str, str]] = field(default_factory=list)
    """Fields that cover more here than in Istio, and why."""


@dataclass(frozen=True)
class Settings:
    """What the documents do not say."""

    trust_domain: str
    """The one that principals of this mesh have in Istio."""
    issuers: Mapping[str, str]
    """Names of issuers, by their URL."""
    accept_wider: bool = False
    """Write rules that allow more than they did."""
    root_namespace: str = "istio-system"
    """Policies of this namespace are of the whole mesh."""


def authorization_policy(
    source: Source, name: str, namespace: str, settings: Settings, translation: Translation
) -> None:
    """Translate one AuthorizationPolicy. `namespace`: of service accounts that are given by their names alone."""
    spec = source.part("spec")
    action = str((spec.value("action") if spec is not None else None) or "ALLOW")
    if action not in ("ALLOW", "DENY", "AUDIT"):
        source.note("", Kind.REFUSED, f"action {action}: there are no external authorizers")
        return
    rules = spec.parts("rules") if spec is not None else []
    if not rules:
        if action == "ALLOW":
            source.note("", Kind.DIFFERENT, "allows nothing: without a binding that allows, a role refuses everything")
        source.finish(REASONS)
        return
    for number, rule in enumerate(rules, 1):
        own = name if len(rules) == 1 else f"{name}-{number}"
        made = _rule(rule, action, namespace, settings)
        if made is None:
            continue
        is_of_some = namespace != settings.root_namespace or source.has_any(
            "spec", "selector", "targetRefs", "targetRef"
        )
        if is_of_some and any("*" in each["models"] for each in made.rules):
            made.wider.append(
                (rule, "", "the policy is of some workloads, and a role of every model is of all of them")
            )
        if action == "ALLOW" and made.wider and not settings.accept_wider:
            for part, field_name, why in made.wider:
                part.note(field_name, Kind.REFUSED, f"it would allow more: {why} (--accept-wider)")
            rule.read_all()
            continue
        for part, field_name, why in made.wider:
            part.note(field_name, Kind.WIDER if action == "ALLOW" else Kind.NARROWER, why)
        translation.add("ModelRole", own, {"rules": made.rules})
        binding = {"role": own, "action": action.lower(), "subjects": made.subjects}
        translation.add("ModelRoleBinding", own, binding)
    source.finish(REASONS)


def _rule(rule: Source, action: str, namespace: str, settings: Settings) -> _Rule | None:
    """None: it is not translated, which has been noted."""
    made = _Rule()
    is_strict = action == "ALLOW"
    for name in rule.names:
        if name not in ("from", "to", "when") or not isinstance(rule.value(name), list):
            rule.note(name, Kind.REFUSED if is_strict else Kind.NARROWER, "a rule has the lists from, to and when")
            if is_strict:
                return None
    conditions = _conditions(rule, is_strict, settings)
    callers = _callers(rule, is_strict, namespace, settings)
    covered = _operations(rule, is_strict, made)
    if conditions is None or callers is None or covered is None:
        return None
    made.rules = covered
    made.subjects = [each or EVERYONE for each in _combined([callers, conditions], is_strict)]
    if not made.subjects:
        rule.note("from", Kind.REFUSED, "no caller meets both from and when")
        return None
    return made


def _merged(one: Document, other: Document, is_strict: bool) -> Document | None:
    """Both at once. Where they name one thing differently: None, or (a denial) the first alone, which denies more."""
    made = dict(one)
    for name, value in other.items():
        if name == "headers":
            headers = dict(made.get("headers", {}))
            for header, wanted in value.items():
                if is_strict and headers.get(header, wanted) != wanted:
                    return None
                headers.setdefault(header, wanted)
            made["headers"] = headers
        elif is_strict and made.get(name, value) != value:
            return None
        else:
            made.setdefault(name, value)
    return made


def _combined(choices: Iterable[list[Document]], is_strict: bool) -> list[Document]:
    """One of each at once, in every way."""
    found: list[Document] = []
    for combination in product(*choices):
        subject: Document | None = {}
        for part in combination:
            subject = _merged(subject, part, is_strict) if subject is not None else None
        if subject is not None and subject not in found:
            found.append(subject)
    return found


# Who


def _callers(rule: Source, is_strict: bool, namespace: str, settings: Settings) -> list[Document] | None:
    sources = [each.part("source") for each in rule.parts("from")]
    if not sources:
        return [{}]
    found: list[Document] = []
    is_open = False
    for source in sources:
        if source is None:
            is_open = is_open or not is_strict
            continue
        made = _source(source, is_strict, namespace, settings)
        if made is None and not is_strict:
            is_open = True
        found += made or []
    if is_open:
        return [{}]  # a denial that cannot tell whom it means means everybody
    if not found:
        rule.note("from", Kind.REFUSED, "no source of it can be expressed")
        return None
    return found


def _source(source: Source, is_strict: bool, namespace: str, settings: Settings) -> list[Document] | None:
    """The subjects of one source; None if it cannot be expressed."""
    choices: list[list[Document]] = []
    for name in source.names:
        values = source.texts(name)
        try:
            choices.append([_subject(name, value, namespace, settings) for value in values])
        except Inexpressible as why:
            if is_strict:
                source.note(name, Kind.REFUSED, str(why))
                return None
            source.note(name, Kind.NARROWER, f"{why}: the denial is of all callers that the rest names")
        if not is_strict and name in ("namespaces", "serviceAccounts"):
            source.note(name, Kind.DIFFERENT, OWN_TRUST_DOMAIN)
    for name in ("ipBlocks", "notIpBlocks"):  # an address is in one of them, and in none of them
        choices = [_one_list(each, name) if each and name in each[0] else each for each in choices]
    return [each for each in _combined(choices, is_strict) if each] or None


def _one_list(subjects: list[Document], name: str) -> list[Document]:
    return [{name: [block for subject in subjects for block in subject[name]]}]


def _subject(name: str, value: str, namespace: str, settings: Settings) -> Document:
    """Raises Inexpressible."""
    match name:
        case "principals":
            return {"workload": _principal(value, settings)}
        case "namespaces":
            return {"workload": {"namespace": _glob(value)}}
        case "serviceAccounts":
            of, _, account = value.rpartition("/")
            if "*" in value:
                raise Inexpressible(f"{value}: Istio knows no stars in it")
            return {"workload": {"namespace": of or namespace, "serviceAccount": account}}
        case "ipBlocks" | "notIpBlocks":
            return {name: [value]}
        case "requestPrincipals":
            return {"token": _token(value, settings)}
        case "notRequestPrincipals":
            raise Inexpressible(f"{name} has no counterpart, as a subject of what allows may demand a `token`")
    raise Inexpressible(f"{name} has no counterpart")


def _principal(value: str, settings: Settings) -> Document:
    if value == "*":
        return {"namespace": "*"}
    if (found := _PRINCIPAL.fullmatch(value)) is None:
        found = re.fullmatch(r"([^/*]+)/ns/([^/*]+)/(\*)", value)
    if found is None or "*" in found[1]:
        raise Inexpressible(f"{value} is not DOMAIN/ns/NAMESPACE/sa/ACCOUNT")
    domain, of, account = found.groups()
    named: Document = {"namespace": _glob(of)}
    if account != "*":
        named["serviceAccount"] = _glob(account)
    return named if domain == settings.trust_domain else named | {"trustDomain": domain}


def _glob(value: str) -> str:
    if "*" in value.strip("*") or (value.startswith("*") and value.endswith("*") and value != "*"):
        raise Inexpressible(f"{value}: Istio knows one star, at the beginning or at the end")
    return value


def _token(value: str, settings: Settings) -> Document:
    issuer, _, subject = value.rpartition("/")
    name = settings.issuers.get(issuer)
    if name is None or "*" in issuer or ("*" in subject and subject != "*"):
        raise Inexpressible(f"{value}: give --issuer NAME={issuer or 'URL'} for its issuer")
    return {"issuer": name} if subject == "*" else {"issuer": name, "claims": {"sub": subject}}


def _conditions(rule: Source, is_strict: bool, settings: Settings) -> list[Document] | None:
    """What `when` comes to: subjects of which one must match beside the caller; None if it cannot be expressed."""
    found: list[list[Document]] = []
    for condition in rule.parts("when"):
        key, values = str(condition.value("key")), condition.texts("values")
        try:
            if not values:
                raise Inexpressible("no values are listed")
            if condition.has("notValues"):
                raise Inexpressible("what a value must not be has no counterpart")
            found.append(_condition(key, values, settings))
        except Inexpressible as why:
            condition.note("key", Kind.REFUSED if is_strict else Kind.NARROWER, str(why))
            condition.value("notValues")
            if is_strict:
                return None
    return _combined(found, is_strict)


def _condition(key: str, values: Iterable[str], settings: Settings) -> list[Document]:
    if (header := re.fullmatch(r"request\.headers\[([A-Za-z0-9-]+)\]", key)) is not None:
        return [{"headers": {header[1].lower(): _text(value)}} for value in values]
    if key == "source.ip":
        return [{"ipBlocks": list(values)}]
    if key == "source.namespace":
        return [{"workload": {"namespace": _glob(value)}} for value in values]
    if key == "source.principal":
        return [{"workload": _principal(value, settings)} for value in values]
    claim = re.fullmatch(r"request\.auth\.claims((?:\[[^\]]+\])+)", key)
    if claim is not None and len(settings.issuers) == 1:
        path = re.findall(r"\[([^\]]+)\]", claim[1])
        wanted = [_text(value) for value in values]
        pattern = wanted[0] if len(wanted) == 1 else {"anyOf": wanted}
        if len(path) == 1 and "." not in path[0]:
            (issuer,) = settings.issuers.values()
            return [{"token": {"issuer": issuer, "claims": {path[0]: pattern}}}]
    raise Inexpressible(f"{key} has no counterpart, or needs one --issuer")


def _text(value: str) -> Any:
    """Istio's one star, at the beginning or at the end."""
    if value == "*":
        return {"present": True}
    if value.endswith("*") and "*" not in value[:-1]:
        return {"prefix": value[:-1]}
    if value.startswith("*") and "*" not in value[1:]:
        return {"suffix": value[1:]}
    if "*" in value:
        raise Inexpressible(f"{value}: Istio knows one star, at the beginning or at the end")
    return value


# What


def _operations(rule: Source, is_strict: bool, made: _Rule) -> list[Document] | None:
    """The rules of the role; None if they cannot be expressed."""
    operations = [each.part("operation") for each in rule.parts("to")]
    if not operations:
        return [{"models": ["*"], "verbs": ALL_VERBS}]
    found: list[Document] = []
    for operation in operations:
        if operation is None:
            if not is_strict:
                found.append({"models": ["*"], "verbs": ALL_VERBS})
            continue
        try:
            found += _operation(operation, made, is_strict)
        except Inexpressible as why:
            if is_strict:
                operation.note("", Kind.REFUSED, str(why))
                for name in operation.names:
                    operation.value(name)
                continue
            operation.note("", Kind.NARROWER, f"{why}: the denial is of all models and verbs")
            for name in operation.names:
                operation.value(name)
            found.append({"models": ["*"], "verbs": ALL_VERBS})
    if not found:
        rule.note("to", Kind.REFUSED, "no operation of it can be expressed")
        return None
    return found


_ROOTS = ("/v1/models", "/tensorflow.serving.", "/monitoring/prometheus/metrics")
"""Where the paths of TensorFlow Serving begin."""


def _is_elsewhere(path: str) -> bool:
    """No call of a model server can have a path like this: a sidecar forwards none."""
    if path.startswith("*"):
        return False
    begin = path.removesuffix("*")
    is_prefix = begin != path
    return not any(begin.startswith(root) or (is_prefix and root.startswith(begin)) for root in _ROOTS)


def _operation(operation: Source, made: _Rule, is_strict: bool) -> list[Document]:
    """Raises Inexpressible."""
    for name in operation.names:
        if name not in ("paths", "methods"):
            if is_strict:
                raise Inexpressible(f"{name} has no counterpart")
            operation.note(name, Kind.NARROWER, "the denial is of all of them")
    methods = operation.texts("methods") if operation.has("methods") else None
    if not operation.has("paths"):
        if methods is not None and not is_strict:
            operation.note("methods", Kind.NARROWER, "the denial is of all of them")
        if methods is None or not is_strict:
            return [{"models": ["*"], "verbs": ALL_VERBS}]
        raise Inexpressible("methods without paths")
    found: list[Document] = []
    if not operation.texts("paths"):
        raise Inexpressible("no paths are listed")
    for path in operation.texts("paths"):
        if _is_elsewhere(path):
            operation.note("paths", Kind.LEFT_OUT, f"{path} is no path of TensorFlow Serving: sidecars forward none")
            continue
        covered = _path(path, methods)
        if covered is None:
            if is_strict:
                operation.note("paths", Kind.REFUSED, f"{path} is no path of TensorFlow Serving that names a model")
                continue
            raise Inexpressible(f"{path} is no path of TensorFlow Serving that names a model")
        if covered not in found:
            found.append(covered)
    if found and any(each["models"] != ["*"] or each["verbs"] != ALL_VERBS for each in found):
        made.wider.append((operation, "paths", BOTH))
    return found


def _path(path: str, methods: list[str] | None) -> Document | None:
    """The rule that covers a path; None if there is none."""
    is_get = methods is None or bool({"GET", "HEAD"} & set(methods))
    is_post = methods is None or "POST" in methods
    if path in ("*", "/*"):
        return {"models": ["*"], "verbs": ALL_VERBS} if methods is None else None
    if path in _GRPC:
        return {"models": ["*"], "verbs": [_GRPC[path]]} if is_post else None
    if path == "/tensorflow.serving.PredictionService/*":
        return {"models": ["*"], "verbs": ["predict", "classify", "regress", "multi-inference", "metadata"]}
    if (found := _ACTION.fullmatch(path)) is not None and is_post:
        return _covered(found[1], found[2], found[3], [found[4]])
    if (found := _READ.fullmatch(path)) is not None and is_get:
        return _covered(found[1], found[2], found[3], ["metadata" if found[4] else "status"])
    verbs = [*(_POST if is_post else ()), *(_GET if is_get else ())]
    if path.endswith("*") and (begin := re.fullmatch(r"/v1/models/([^/:*?]*)([/:])?\*", path)) is not None:
        name, end = begin.groups()
        if end is not None and not name:
            return None
        if end == ":":
            verbs = [verb for verb in verbs if verb in _POST]
        return {"models": [name if end else f"{name}*"], "verbs": verbs} if verbs else None
    return None


def _covered(model: str, version: str | None, label: str | None, verbs: list[str]) -> Document | None:
    if _NAME.fullmatch(model) is None or "%" in model or "{" in model:
        return None
    made: Document = {"models": [model], "verbs": verbs}
    if version is not None:
        made["versions"] = [version]
    if label is not None:
        made["labels"] = [label]
    return made
