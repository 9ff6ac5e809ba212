"""What a decision costs with ten rules and with 10,000 rules over 1,000 models: remembered; for another token of the
same workload; and for a workload and a call that were not looked at before. And what the compiled policy takes.

    python docs/decisions/figures/decisions.py

CPU time of one process: medians over pairs of runs, one with each size, in turn. Both are asked about ten models, and
then the larger one about all of its 1,000, which are not in the processor's caches.
"""
# ruff: noqa: T201

from __future__ import annotations

import contextlib
import gc
import time
import tracemalloc
from collections.abc import Callable
from statistics import median
from typing import Any

from meshproxy.config import fields, schema
from meshproxy.identity.caller import Caller, Token, workload_of
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.policy.compile import compile_policy
from meshproxy.policy.decide import Policy
from meshproxy.refusal import Refusal

SIZES = ((10, 10), (10_000, 1_000))
"""Rules, and models that they are about."""
PAIRS, ASKED = 31, 1_000
Question = tuple[Caller, Call]
Documents = list[tuple[schema.ModelRole, schema.ModelRoleBinding]]


def document(
    number: int, model: str, *subjects: fields.BindingSubject, action: Any = "allow", verb: Any = "predict"
) -> tuple[schema.ModelRole, schema.ModelRoleBinding]:
    name = f"rule-{number}"
    role = schema.RoleSpec((schema.Rule(models=(model,), verbs=(verb,)),))
    binding = schema.BindingSpec(name, subjects, action)
    named = schema.Metadata(name=name)
    return schema.ModelRole(metadata=named, spec=role), schema.ModelRoleBinding(metadata=named, spec=binding)


def account(namespace: str, name: str, **claims: Any) -> fields.BindingSubject:
    workload = fields.WorkloadSubject(namespace=namespace, service_account=name)
    return fields.BindingSubject(workload=workload, token=fields.TokenSubject(issuer="corp", claims=claims))


def group(**claims: Any) -> fields.BindingSubject:
    return fields.BindingSubject(token=fields.TokenSubject(issuer="corp", claims=claims))


def accounts(rules: int, models: int) -> Documents:
    """Each rule is for a service account with a group of its token. The first of each model is the same one."""
    return [
        document(
            number,
            f"model-{number % models}",
            account("pricing", "quoter" if number < models else f"other-{number}", groups="finance"),
        )
        for number in range(rules)
    ]


def mixed(rules: int, models: int) -> Documents:
    """Of ten models, four are named, three matched by a head and one by a tail, one is denied to contractors, and for
    one there are rules about all models. Each rule is for another service account, a third by a prefix of a claim."""
    found = []
    for number in range(rules):
        place, kind = number % models, number % 10
        claim = fields.ClaimPattern(prefix="fin") if number % 3 == 0 else "finance"
        subject = account(f"team-{place}", "quoter" if number < models else f"other-{number}", groups=claim)
        if kind == 8 and number < models:
            found.append(document(number, f"model-{place}", group(groups="contractors"), action="deny"))
        elif kind == 9:
            found.append(document(number, "*", subject, verb="status"))
        else:
            model = {4: f"model-{place}*", 5: f"model-{place}*", 6: f"model-{place}?", 7: f"*-{place}"}.get(kind)
            found.append(document(number, model or f"model-{place}", subject))
    return found


def groups(rules: int, models: int) -> Documents:
    """Each rule is for people of another group, whatever the workload: ten groups for each of 1,000 models."""
    return [
        document(number, f"model-{number % models}", group(groups="finance" if number < models else f"group-{number}"))
        for number in range(rules)
    ]


def questions(models: int) -> list[Question]:
    found = []
    for number in range(ASKED):
        place = number % models
        namespace = f"team-{place}" if number % 2 else "pricing"
        caller = Caller(
            workload_of(f"spiffe://d.example/ns/{namespace}/sa/quoter"),
            Token("corp", "quoter", {"groups": ["staff", "finance"]}, 1e12),
        )
        found.append((caller, Call(Verb.PREDICT, (ModelRef(f"model-{place}", "3", None, "serving_default"),))))
    return found


def cost(policy: Policy, asked: list[Question], kind: str) -> float:
    """Microseconds of CPU for one decision."""
    gc.collect()
    started = time.process_time()
    for caller, call in asked:
        if kind != "remembered":
            policy._memo.clear()
        if kind == "never looked at":
            policy._about_memo.clear()
        with contextlib.suppress(Refusal):
            policy.decide(caller, call)
    spent = time.process_time() - started
    return spent / len(asked) * 1e6


def compare(make: Callable[[int, int], Documents]) -> None:
    print(make.__name__)
    policies = []
    for rules, about in SIZES:
        roles, bindings = zip(*make(rules, about), strict=True)
        gc.collect()
        tracemalloc.start()
        policies.append(compile_policy(roles, bindings, "d.example"))
        gc.collect()
        print(f"  {rules:,} rules compiled take {tracemalloc.get_traced_memory()[0] / 1e6:.2f} MB")
        tracemalloc.stop()
    for kind, models in (
        ("never looked at", 10),
        ("never looked at", 1_000),
        ("another token", 10),
        ("remembered", 10),
    ):
        asked = [questions(10), questions(models)]
        costs = [[cost(*each, kind) for each in zip(policies, asked, strict=True)] for _ in range(PAIRS)]
        ratio = median(large / small for small, large in costs)
        small, large = (median(each) for each in zip(*costs, strict=True))
        print(
            f"  {kind}: {small:.2f} us with 10 rules, {large:.2f} us with 10,000, asked about {models:,} models: "
            f"{ratio:.2f} times"
        )


def main() -> None:
    for make in (accounts, mixed, groups):
        compare(make)


if __name__ == "__main__":
    main()
