"""Who may do what: every grant holds for a caller who is just the subject."""

from __future__ import annotations

from meshproxy.config import fields, schema
from meshproxy.config.load import load
from meshproxy.config.policy_set import load_policy
from meshproxy.inference.call import ModelRef, Verb
from meshproxy.policy.compile import compile_policy
from meshproxy.policy.decide import Policy
from meshproxy.policy.matrix import OTHER, Grant, matrix

ACCESS = load(["deploy/examples/access.yaml"])
DEMO = load_policy(["deploy/demo/policy.yaml"])


def policy(*bindings: tuple[schema.Rule, str, fields.BindingSubject]) -> Policy:
    roles, bound = [], []
    for index, (rule, action, subject) in enumerate(bindings):
        name = schema.Metadata(name=f"b{index}")
        roles.append(schema.ModelRole(metadata=name, spec=schema.RoleSpec(rules=(rule,))))
        spec = schema.BindingSpec(role=name.name, subjects=(subject,), action=action)  # type: ignore[arg-type]
        bound.append(schema.ModelRoleBinding(metadata=name, spec=spec))
    return compile_policy(roles, bound, "d.example")


def subject(**named: object) -> fields.BindingSubject:
    return fields.BindingSubject(**named)  # type: ignore[arg-type]


def shown(grants: list[Grant]) -> list[tuple[str, str | None, tuple[str, ...]]]:
    return [(str(each.who), each.model.name if each.model else None, each.unless) for each in grants]


PREDICT = schema.Rule(models=("m", "n*"), verbs=("predict",))
WEB = fields.WorkloadSubject(namespace="web")


def test_patterns_conditions_and_claims_have_a_row_each() -> None:
    compiled = compile_policy(ACCESS.roles, ACCESS.bindings, "dev.example")
    assert shown(matrix(compiled)) == [
        ("spiffe://dev.example/ns/*/sa/quoter", "*", ("no-guests",)),
        ("spiffe://dev.example/ns/team-*/sa/*", "*", ("no-guests",)),
        (
            "spiffe://legacy.example/ns/batch/sa/* + ipBlocks 10.20.0.0/16, fd00:20::/32; notIpBlocks 10.20.9.0/24",
            "*",
            ("no-guests",),
        ),
        (
            'token of corp (groups: all of "finance", prefix "level-", scope: any of "predict", "admin")',
            "*",
            ("no-guests",),
        ),
    ]


def test_a_denied_label_leaves_the_others() -> None:
    compiled = compile_policy(DEMO.roles, DEMO.bindings, "demo.example")
    nightly = {each.model: each.verbs for each in matrix(compiled) if "nightly" in each.who.workload}
    assert nightly[ModelRef("finance-prod", label="canary")] == (Verb.METADATA, Verb.STATUS)
    assert Verb.PREDICT in nightly[ModelRef("finance-prod", label=OTHER)]
    assert Verb.PREDICT not in nightly[ModelRef("finance-prod")]


def test_denials_are_told_where_they_concern_some() -> None:
    allow = (PREDICT, "allow", subject(workload=fields.WorkloadSubject(namespace="team-*")))
    for deny, concerned in (
        (subject(workload=fields.WorkloadSubject(namespace="team-a")), True),
        (subject(workload=WEB), False),
        (subject(workload=fields.WorkloadSubject(spiffe_id="spiffe://d.example/other")), False),
        (subject(token=fields.TokenSubject(issuer="corp")), True),
        (subject(ip_blocks=("10.0.0.0/8",), headers={"x-a": "1"}), True),
    ):
        grants = matrix(policy(allow, (schema.Rule(models=("no",), verbs=("predict",)), "deny", deny)))
        assert shown(grants)[1] == ("spiffe://d.example/ns/team-*/sa/*", "n*", ("b1",) if concerned else ())
        assert shown(grants)[0][2] == ()


def test_administrators_and_other_models() -> None:
    everything = schema.Rule(models=("*",), verbs=("reload", "status"))
    compiled = policy((everything, "allow", subject(workload=WEB)))
    assert [(each.model, each.verbs) for each in matrix(compiled, ["m"])] == [
        (ModelRef("*"), (Verb.STATUS, Verb.RELOAD)),
        (ModelRef("m"), (Verb.STATUS, Verb.RELOAD)),
        (None, (Verb.RELOAD,)),
    ]


def test_subjects_that_say_only_where_they_are_not() -> None:
    compiled = policy((PREDICT, "allow", subject(not_ip_blocks=("0.0.0.0/0",))))
    assert [each.who.conditions for each in matrix(compiled)] == ["notIpBlocks 0.0.0.0/0"] * 2
    role = "arn:aws:iam::123456789012:role/r"
    assert [each.who.iam_role for each in matrix(policy((PREDICT, "allow", subject(iam_role=role))))] == [role] * 2


def test_a_role_may_be_the_one_that_is_denied_with_a_path() -> None:
    role = "arn:aws:iam::123456789012:role/"
    for denied, unless in (("r", ("b1",)), ("team/r", ("b1",)), ("s", ())):
        allow = (PREDICT, "allow", subject(iam_role=f"{role}r"))
        deny = (PREDICT, "deny", subject(iam_role=role + denied, workload=WEB))
        assert {each.unless for each in matrix(policy(allow, deny))} == {unless}


def test_what_is_denied_to_all_is_not_there() -> None:
    assert matrix(policy((PREDICT, "allow", subject(workload=WEB)), (PREDICT, "deny", subject(workload=WEB)))) == []


def test_what_is_seen_in_part_is_told() -> None:
    """The signatures of metadata that a rule names. A status of one version is whole."""
    signed = schema.Rule(models=("m",), verbs=("metadata", "predict"), signatures=("s",))
    versioned = schema.Rule(models=("n",), verbs=("status",), versions=("3",))
    compiled = policy((signed, "allow", subject(workload=WEB)), (versioned, "allow", subject(workload=WEB)))
    found = {each.model: (each.verbs, each.parts) for each in matrix(compiled, ["n"])}
    assert found == {
        ModelRef("m", signature="s"): ((Verb.PREDICT, Verb.METADATA), {Verb.METADATA}),
        ModelRef("m", signature=OTHER): ((Verb.METADATA,), {Verb.METADATA}),
        ModelRef("n", version="3"): ((Verb.STATUS,), frozenset()),
        ModelRef("n"): ((Verb.STATUS,), {Verb.STATUS}),
    }
