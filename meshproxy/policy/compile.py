"""`ModelRole` and `ModelRoleBinding` documents -> `Policy`. Once per snapshot."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cache

from meshproxy.config import fields, schema
from meshproxy.identity.cache_misses import CacheMisses
from meshproxy.inference.call import Verb
from meshproxy.policy.conditions import Conditions
from meshproxy.policy.decide import Policy
from meshproxy.policy.rules import Binding, Rule, Subject
from meshproxy.policy.served import concerns


def compile_policy(
    roles: Sequence[schema.ModelRole],
    bindings: Sequence[schema.ModelRoleBinding],
    trust_domain: str,
    misses: CacheMisses | None = None,
    models: Collection[str] = (),
) -> Policy:
    """Compile documents that have been loaded together.

    Args:
        trust_domain: the mesh's own, of workloads whose trust domain the bindings do not name.
        misses: where decisions are counted that are not remembered.
        models: those that the model server lists; empty if it lists none.

    Raises:
        ValueError: a binding names a role that is not there. Loading has made sure that this does not happen.
    """
    listed = frozenset(models)
    if listed:
        others = {role.metadata.name for role in roles if not concerns(role, listed)}
        roles = [role for role in roles if role.metadata.name not in others]
        bindings = [binding for binding in bindings if binding.spec.role not in others]
    places = {role.metadata.name: place for place, role in enumerate(roles)}
    compiled = []
    for index, binding in enumerate(bindings):
        if binding.spec.role not in places:
            raise ValueError(f"{binding.metadata.name}: no ModelRole named {binding.spec.role}")
        subjects = tuple(compile_subject(subject, trust_domain) for subject in binding.spec.subjects)
        action = binding.spec.action
        compiled.append(Binding(index, binding.metadata.name, action, places[binding.spec.role], subjects))
    # Rules mostly name the same few sets. Shared, 10,000 rules take 2 MB and 45 ms; each with its own, 11 MB and 70 ms.
    verbs = cache(_verbs)
    words: Callable[[tuple[str, ...]], frozenset[str]] = cache(frozenset)

    def compile_rule(index: int, rule: schema.Rule) -> Rule:
        return Rule(
            index=index,
            models=rule.models,
            verbs=verbs(rule.verbs),
            versions=words(rule.versions),
            labels=words(rule.labels),
            signatures=words(rule.signatures),
        )

    return Policy(
        [(role.metadata.name, [compile_rule(*each) for each in enumerate(role.spec.rules)]) for role in roles],
        compiled,
        misses,
        models=listed or None,
    )


def _verbs(words: tuple[str, ...]) -> frozenset[Verb]:
    return frozenset(map(Verb, words))


def compile_subject(subject: fields.Subject, trust_domain: str) -> Subject:
    """A subject of a document, ready to be compared with callers.

    Args:
        trust_domain: the mesh's own, of workloads whose trust domain it does not name.
    """
    workload = subject.workload
    # One service account is one id, byte for byte: nothing is left to take apart when a caller comes.
    spiffe_id = workload.one_id(trust_domain) if workload is not None else None
    named = workload if spiffe_id is None else None
    return Subject(
        spiffe_id=spiffe_id,
        trust_domain=named.trust_domain or trust_domain if named is not None else None,
        namespace=named.namespace if named is not None else None,
        service_account=named.service_account if named is not None else None,
        issuer=subject.token.issuer if subject.token else None,
        claims=fields.claims_of(subject.token.claims, subject.token.claim_paths) if subject.token else (),
        iam_role=subject.iam_role,
        conditions=_compile_conditions(subject) if isinstance(subject, fields.BindingSubject) else None,
    )


def _compile_conditions(subject: fields.BindingSubject) -> Conditions | None:
    if subject.ip_blocks is None and subject.not_ip_blocks is None and not subject.headers:
        return None
    return Conditions(subject.ip_blocks or (), subject.not_ip_blocks or (), subject.headers)
