"""What a sidecar is sent and keeps of 10,000 roles, ten for each of 1,000 models, if its `ModelServer` lists one model.

    python docs/decisions/figures/narrowed_roles.py

Bytes of the documents as they are sent; memory that tracemalloc counts for the decoded documents and the compiled
policy together; CPU time to decode and compile.
"""
# ruff: noqa: T201

from __future__ import annotations

import gc
import time
import tracemalloc

from meshproxy.config import fields, schema
from meshproxy.config.sent import decode
from meshproxy.config.servers import Endpoint, ModelServer, ServerSpec
from meshproxy.control.scope import Held, Selection
from meshproxy.control_api import Scope
from meshproxy.policy.compile import compile_policy

RULES, MODELS = 10_000, 1_000


def mesh(listed: tuple[str, ...]) -> dict[str, Held]:
    """Each role is about one model, and is given to one service account with a group of its token."""
    server = ServerSpec((Endpoint(rest="127.0.0.1:8501"),), models=listed)
    documents: list[ModelServer | schema.ModelRole | schema.ModelRoleBinding] = [
        ModelServer(metadata=schema.Metadata(name="mine"), spec=server)
    ]
    for number in range(RULES):
        named = schema.Metadata(name=f"rule-{number}")
        rule = schema.Rule(models=(f"model-{number % MODELS}",), verbs=("predict", "metadata"))
        subject = fields.BindingSubject(
            workload=fields.WorkloadSubject(namespace="pricing", service_account=f"caller-{number}"),
            token=fields.TokenSubject(issuer="corp", claims={"groups": "finance"}),
        )
        documents.append(schema.ModelRole(metadata=named, spec=schema.RoleSpec((rule,))))
        documents.append(schema.ModelRoleBinding(metadata=named, spec=schema.BindingSpec(named.name, (subject,))))
    held = [Held.of(document, f"{place:06}") for place, document in enumerate(documents)]
    return {each.key: each for each in held}


def main() -> None:
    for listed in ((), ("model-7",)):
        sent = [each.sent for each in Selection(Scope("mine", models=True), mesh(listed)).documents.values()]
        gc.collect()
        tracemalloc.start()
        started = time.process_time()
        documents = [decode(each.document) for each in sent]
        roles = [each for each in documents if isinstance(each, schema.ModelRole)]
        bindings = [each for each in documents if isinstance(each, schema.ModelRoleBinding)]
        policy = compile_policy(roles, bindings, "d.example", models=listed)
        spent = time.process_time() - started
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        print(
            f"{len(listed) or 'no'} models listed: {len(policy.roles):,} roles, {len(sent):,} documents of "
            f"{sum(len(bytes(each.document)) for each in sent):,} bytes, {taken / 1e6:.2f} MB of memory, "
            f"{spent * 1e3:.0f} ms of CPU"
        )


if __name__ == "__main__":
    main()
