"""Whether one subject or role covers another: every caller, or every call, that the second one matches, the first one
matches too. Where that cannot be told from the documents alone, it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshproxy.config.fields import ClaimPattern
from meshproxy.config.globs import compile_glob, is_literal
from meshproxy.config.ip_blocks import are_within, hold_all

if TYPE_CHECKING:
    from meshproxy.config.fields import Part, Subject, TokenSubject, WorkloadSubject
    from meshproxy.config.schema import ModelRole, Rule


def covers(wide: Subject, narrow: Subject, domain: str | None) -> bool:
    """Whether every caller that `narrow` matches is one of `wide`. `domain`: the trust domain of the mesh, which is
    meant where a subject names none; None: unknown."""
    return all(_value_covers(name, value, getattr(narrow, name), domain) for name, value in _given(wide))


def _value_covers(name: str, wide: Any, narrow: Any, domain: str | None) -> bool:
    if not narrow:
        return False
    match name:
        case "workload":
            return _workload_covers(wide, narrow, domain)
        case "token":
            ours, theirs = _claims(wide), _claims(narrow)
            return wide.issuer == narrow.issuer and all(
                any(_claim_covers(wanted, other) for other in theirs.get(path, ()))
                for path, demands in ours.items()
                for wanted in demands
            )
        case "ip_blocks":
            return are_within(narrow, wide)
        case "headers":
            return dict(wide).items() <= dict(narrow).items()
        case _:
            return bool(wide == narrow)


def _claims(token: TokenSubject) -> dict[str | tuple[str, ...], list[object]]:
    """What a token must be like, by where."""
    found: dict[str | tuple[str, ...], list[object]] = {name: [wanted] for name, wanted in token.claims.items()}
    for each in token.claim_paths:
        found.setdefault(each.path, []).append(each)
    return found


def _claim_covers(wide: object, narrow: object) -> bool:
    if type(wide) is type(narrow) and wide == narrow:
        return True
    if not isinstance(wide, ClaimPattern):
        return False
    if isinstance(narrow, ClaimPattern) and narrow.words != wide.words:
        return False
    if wide.any_of is not None:
        choices = narrow.any_of if isinstance(narrow, ClaimPattern) else (narrow,)
        return choices is not None and all(any(_claim_covers(ours, each) for ours in wide.any_of) for each in choices)
    if wide.present:
        return not isinstance(narrow, ClaimPattern) or narrow.present is not False
    return isinstance(narrow, str) and wide.prefix is not None and narrow.startswith(wide.prefix)


def _workload_covers(wide: WorkloadSubject, narrow: WorkloadSubject, domain: str | None) -> bool:
    if wide.spiffe_id is not None:
        return domain is not None and wide.spiffe_id == narrow.one_id(domain)
    theirs, namespace, account = narrow.trust_domain or domain, narrow.namespace, narrow.service_account
    if narrow.spiffe_id is not None:
        theirs, namespace, account = _parts(narrow.spiffe_id)
    return (
        (wide.trust_domain or domain) == theirs
        and (wide.namespace is None or _glob_covers(wide.namespace, namespace))
        and (wide.service_account is None or _glob_covers(wide.service_account, account))
    )


def _parts(spiffe_id: str) -> tuple[str, str | None, str | None]:
    """Trust domain, namespace and service account of `spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT`."""
    domain, *path = spiffe_id.removeprefix("spiffe://").split("/")
    if len(path) == 4 and path[0] == "ns" and path[2] == "sa":
        return domain, path[1], path[3]
    return domain, None, None


def is_everyone(subject: Subject) -> str | None:
    """Which callers a subject matches that leaves next to nothing out; None for one that names somebody."""
    if not all(_names_nobody(name, value) for name, value in _given(subject)):
        return None
    if subject.token is not None:
        return f"every caller with a token of the issuer {subject.token.issuer}"
    domain = subject.workload.trust_domain if subject.workload is not None else None
    if domain:
        return f"every workload of the trust domain {domain}"
    return "every workload" if subject.workload is not None else "every caller"


def _names_nobody(field: str, value: Any) -> bool:
    match field:
        case "token":
            return not value.claims and not value.claim_paths
        case "workload":
            return all(name == "trust_domain" or pattern == "*" for name, pattern in _given(value))
        case "ip_blocks":
            return hold_all(value)
        case _:
            return False


def role_covers(wide: ModelRole, narrow: ModelRole) -> bool:
    """Whether every call that `narrow` covers is one of `wide`."""
    return all(any(_rule_covers(ours, theirs) for ours in wide.spec.rules) for theirs in narrow.spec.rules)


def _rule_covers(wide: Rule, narrow: Rule) -> bool:
    if not set(narrow.verbs) <= set(wide.verbs):
        return False
    if not all(any(_glob_covers(ours, theirs) for ours in wide.models) for theirs in narrow.models):
        return False
    return all(value == getattr(narrow, name) for name, value in _given(wide) if name not in ("models", "verbs"))


def _glob_covers(wide: str, narrow: str | None) -> bool:
    if narrow is None:
        return False
    return wide in ("*", narrow) or (is_literal(narrow) and bool(compile_glob(wide)(narrow)))


def _given(part: Part) -> list[tuple[str, Any]]:
    """The fields that a part names, with their values: what is left out is None or empty."""
    return [(name, value) for name in part.__struct_fields__ if (value := getattr(part, name))]
