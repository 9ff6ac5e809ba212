"""What is suspicious about roles and bindings."""

from __future__ import annotations

from typing import get_args

import pytest

from meshproxy.config.fields import VerbWord
from meshproxy.config.policy_warnings import ADMINISTRATORS
from meshproxy.inference.call import Verb
from tests.config.conftest import Check, codes, document, mesh, said, server, sidecar

CORP = ", issuers: [{name: corp, issuer: x, audiences: [a], keys: {file: /dev/null}}]"


def role(name: str, models: str = "[fraud]", verbs: str = "[predict]", more: str = "") -> str:
    return document("ModelRole", name, f"{{rules: [{{models: {models}, verbs: {verbs}{more}}}]}}")


def binding(name: str, of: str, subject: str = "{workload: {namespace: a}}", action: str = "allow") -> str:
    return document("ModelRoleBinding", name, f"{{role: {of}, action: {action}, subjects: [{subject}]}}")


def route(name: str, models: str) -> str:
    return document("ModelRoute", name, f"{{models: {models}}}")


GOOD = (mesh(CORP), sidecar(), server(), role("readers"), binding("readers", "readers"))


def test_a_good_policy(check: Check) -> None:
    assert codes(check(*GOOD)) == []
    assert codes(check(*GOOD[3:])) == []


def test_the_verbs_of_administrators() -> None:
    assert {verb for verb in get_args(VerbWord) if Verb(verb).is_admin} == ADMINISTRATORS


def test_a_spiffe_id_of_another_trust_domain(check: Check) -> None:
    far = binding("far", "readers", '{workload: {spiffeId: "spiffe://other.example/ns/a/sa/b"}}')
    near = binding("near", "readers", '{workload: {spiffeId: "spiffe://prod.example/ns/a/sa/b"}}')
    (found,) = said(check(*GOOD, far, near), "MP0502")
    assert found.startswith("29: ModelRoleBinding/far: spec.subjects[0].workload.spiffeId: ")
    assert 'the mesh does not trust "other.example"' in found
    assert codes(check(*GOOD[3:], far)) == []  # which domains are trusted is said elsewhere


def test_an_issuer_of_everybody(check: Check) -> None:
    google = mesh(
        ", issuers: [{name: google, issuer: 'https://accounts.google.com', audiences: [a], keys: {file: /dev/null}}]"
    )
    good = (google, *GOOD[1:])
    for subject in ("{token: {issuer: google}}", "{token: {issuer: google}, ipBlocks: [0.0.0.0/0]}"):
        (found,) = said(check(*good, binding("b", "readers", subject)), "MP0511")
        assert "spec.subjects[0].token: allows everybody" in found
    for subject, action in (
        ("{token: {issuer: google, claims: {email: a@b.example}}}", "allow"),
        ("{token: {issuer: google, claimPaths: [{path: [email], exact: a@b.example}]}}", "allow"),
        ("{token: {issuer: google, claims: {sub: {present: true}, email: a@b.example}}}", "allow"),
        ("{token: {issuer: google}, workload: {namespace: gateway}}", "allow"),
        ("{token: {issuer: google}, ipBlocks: [10.0.0.0/8]}", "allow"),
        ("{token: {issuer: google}}", "audit"),
    ):
        assert said(check(*good, binding("b", "readers", subject, action)), "MP0511") == []


class TestRolesWithoutEffect:
    def test_a_role_that_nobody_binds(self, check: Check) -> None:
        assert said(check(*GOOD, role("spare")), "MP0503") == [
            "26: ModelRole/spare: : no ModelRoleBinding names this role: it has no effect"
        ]

    def test_roles_alone_may_be_bound_elsewhere(self, check: Check) -> None:
        assert codes(check(role("a"))) == []
        assert codes(check(*GOOD[:3], role("a"))) == ["NOTHING_ALLOWED", "UNBOUND_ROLE"]

    @pytest.mark.parametrize("action", ["deny", "audit"])
    def test_when_there_is_a_role_and_nothing_is_allowed(self, check: Check, action: str) -> None:
        found = check(*GOOD[:4], binding("b", "readers", action=action))
        assert codes(found) == ["NOTHING_ALLOWED"]

    def test_what_a_document_with_a_problem_may_say_is_not_missed(self, check: Check) -> None:
        broken = binding("b", "spare").replace("action: allow", "action: alow")
        assert codes(check(*GOOD, role("spare"), broken)) == ["INVALID_VALUE"]


def test_conditions_that_anybody_can_meet(check: Check) -> None:
    alone = binding("b", "readers", "{headers: {x-a: b}}, {notIpBlocks: [10.0.0.0/8]}")
    found = said(check(*GOOD, alone), "MP0511")
    assert [line.partition(": allows anybody")[0] for line in found] == [
        "29: ModelRoleBinding/b: spec.subjects[0]",
        "29: ModelRoleBinding/b: spec.subjects[1]",
    ]
    for blocks in ("0.0.0.0/0", "'::/0', 10.0.0.0/8", "128.0.0.0/1, 0.0.0.0/1"):
        (line,) = said(check(*GOOD, binding("b", "readers", f"{{ipBlocks: [{blocks}]}}")), "MP0511")
        assert "spec.subjects[0]: allows everybody with IPv4, or with IPv6" in line
        (line,) = said(
            check(*GOOD, binding("b", "readers", f"{{ipBlocks: [{blocks}], headers: {{x-a: b}}}}")), "MP0511"
        )
        assert "allows anybody who meets a condition" in line
    for subject in (
        "{headers: {x-a: b}, workload: {namespace: gateway}}",
        "{ipBlocks: [0.0.0.0/1, '::/1']}",
        "{headers: {x-a: b}, ipBlocks: [10.0.0.1]}",
        "{notIpBlocks: [10.0.0.0/8], token: {issuer: corp, claims: {sub: a}}}",
    ):
        assert codes(check(*GOOD, binding("b", "readers", subject))) == []
    assert codes(check(*GOOD, binding("b", "readers", "{headers: {x-a: b}}", "deny"))) == []


def test_addresses_that_are_all_excluded(check: Check) -> None:
    for blocks, excluded in (
        ("10.1.0.0/16, 10.2.0.1", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/1, 128.0.0.0/1"),
        ("'::ffff:10.0.0.1'", "10.0.0.1"),
    ):
        subject = f"{{ipBlocks: [{blocks}], notIpBlocks: [{excluded}]}}"
        for action in ("allow", "deny"):
            (line,) = said(check(*GOOD, binding("b", "readers", subject, action)), "MP0513", "MP0511")
            assert line.startswith("29: ModelRoleBinding/b: spec.subjects[0].ipBlocks: never matches")
    for blocks, excluded in (("10.0.0.0/8", "10.1.0.0/16"), ("10.0.0.0/8, '::1'", "10.0.0.0/8")):
        subject = f"{{ipBlocks: [{blocks}], notIpBlocks: [{excluded}]}}"
        assert codes(check(*GOOD, binding("b", "readers", subject))) == []


class TestDenials:
    def test_not_of_some_addresses_or_headers(self, check: Check) -> None:
        for condition in ("ipBlocks: [10.0.0.0/8]", "headers: {x-a: b}", "notIpBlocks: [10.0.0.0/8]"):
            deny = binding("b", "readers", f"{{workload: {{namespace: a}}, {condition}}}", "deny")
            assert codes(check(*GOOD, deny)) == []
            assert codes(check(*GOOD, binding("c", "readers", f"{{{condition}}}", "deny"))) == []

    def test_of_everyone_with_a_token(self, check: Check) -> None:
        found = said(check(*GOOD, binding("b", "readers", "{token: {issuer: corp}}", "deny")), "MP0505")
        assert found[0].startswith("29: ModelRoleBinding/b: spec.subjects[0]: matches every caller with a token")
        one = binding("b", "readers", "{token: {issuer: corp, claims: {sub: a}}}", "deny")
        assert codes(check(*GOOD, one)) == []
        assert codes(check(*GOOD, binding("b", "readers", "{token: {issuer: corp}}", "audit"))) == []

    def test_of_all_that_another_binding_allows(self, check: Check) -> None:
        deny = binding("b", "all", "{workload: {namespace: a}}", "deny")
        (found,) = said(check(*GOOD, role("all", '["*"]'), deny), "MP0506")
        assert "ModelRoleBinding/b: spec.action: denies everything that ModelRoleBinding/readers at " in found

    @pytest.mark.parametrize(
        ("models", "subject"),
        [('["*"]', "{workload: {namespace: b}}"), ("[other]", "{workload: {namespace: a}}")],
        ids=["others", "another model"],
    )
    def test_not_of_a_part(self, check: Check, models: str, subject: str) -> None:
        assert codes(check(*GOOD, role("all", models), binding("b", "all", subject, "deny"))) == []

    def test_of_administrators(self, check: Check) -> None:
        """A rule that denies verbs of administrators for one model denies them for the server, which has it."""
        admins = [
            role("admin", '["*"]', "[reload, metrics, predict]"),
            binding("admins", "admin", "{workload: {namespace: ops, serviceAccount: admin}}"),
            role("one", "[fraud]", "[predict, reload]"),
        ]
        deny = binding("no-ops", "one", "{workload: {namespace: ops}}", "deny")
        (found,) = said(check(*GOOD, *admins, deny), "MP0507")
        assert "ModelRoleBinding/no-ops: spec.action: denies reload to administrators: ModelRoleBinding/admins" in found
        others = binding("no-ops", "one", "{workload: {namespace: dev}}", "deny")
        assert codes(check(*GOOD, *admins, others)) == []


class TestNames:
    @pytest.mark.parametrize(
        ("models", "named"),
        [("[fruad]", "fraud"), ("[Fraud]", "fraud"), ("[frauds]", "fraud"), ('["recomend-*"]', "recommend-eu")],
    )
    def test_that_may_be_misspelt(self, check: Check, models: str, named: str) -> None:
        found = check(*GOOD[:3], role("r", models), binding("b", "r"), route("t", f"[{named}]"))
        (line,) = said(found, "MP0508")
        assert line.startswith("19: ModelRole/r: spec.rules[0].models[0]: is ")
        assert f'no role covers "{named}", which ModelRoute/t at ' in line

    @pytest.mark.parametrize("where", ["split: [{model: fraud}]", "fallback: {model: fraud}"])
    def test_that_a_route_sends_calls_to(self, check: Check, where: str) -> None:
        other = document("ModelRoute", "t", f'{{models: ["something-*"], {where}}}')
        assert codes(check(*GOOD[:3], role("r", "[fruad]"), binding("b", "r"), other)) == ["MISSPELT_MODEL"]

    def test_that_a_server_checks(self, check: Check) -> None:
        checked = server(", health: {models: [fraud]}")
        assert codes(check(*GOOD[:2], checked, role("r", "[fruad]"), binding("b", "r"))) == ["MISSPELT_MODEL"]

    @pytest.mark.parametrize(
        ("models", "named"),
        [
            ("[fraud]", "fraud"),
            ("[fraud, fruad]", "fraud"),
            ('["frau?", fruad]', "fraud"),
            ('["*"]', "fraud"),
        ],
    )
    def test_that_are_not(self, check: Check, models: str, named: str) -> None:
        found = check(*GOOD[:3], role("r", models), binding("b", "r"), route("t", f"[{named}]"))
        assert codes(found) == []

    @pytest.mark.parametrize(("models", "named"), [("[model_1]", "model_2"), ("[payroll]", "fraud"), ("[a]", "b")])
    def test_of_models_that_nobody_may_call(self, check: Check, models: str, named: str) -> None:
        found = check(*GOOD[:3], role("r", models), binding("b", "r"), route("t", f"[{named}]"))
        assert codes(found) == ["UNCOVERED_MODEL"]
        (line,) = said(found, "MP0606")
        assert line.startswith(f'29: ModelRoute/t: spec.models[0]: no role that is allowed covers the model "{named}"')

    def test_a_role_that_is_only_denied_allows_nothing(self, check: Check) -> None:
        found = check(*GOOD, role("x", "[other]"), binding("x", "x", action="deny"), route("t", "[other]"))
        assert codes(found) == ["UNCOVERED_MODEL"]

    @pytest.mark.parametrize("where", ["split: [{weight: 90}, {weight: 10, model: vgg}]", "fallback: {model: vgg}"])
    def test_of_another_model_that_nobody_may_call(self, check: Check, where: str) -> None:
        (found,) = said(check(*GOOD, document("ModelRoute", "t", f"{{models: [fraud], {where}}}")), "MP0606")
        assert '.model: no role that is allowed covers the model "vgg"' in found

    @pytest.mark.parametrize("name", ["outbound", "no role"])
    def test_where_no_policy_applies(self, check: Check, name: str) -> None:
        other = document("ModelRoute", "t", "{models: [other], directions: [outbound], server: local}")
        documents = GOOD if name == "outbound" else GOOD[:3]
        assert codes(check(*documents, other if name == "outbound" else route("t", "[other]"))) == []

    def test_a_role_for_everything_covers_no_name_in_particular(self, check: Check) -> None:
        everything = [role("all", '["*"]'), binding("all", "all")]
        found = check(*GOOD[:3], role("r", "[fruad]"), binding("b", "r"), *everything, route("t", "[fraud]"))
        assert codes(found) == ["MISSPELT_MODEL"]


class TestPatterns:
    @pytest.mark.parametrize(
        ("pattern", "hint"),
        [
            ("^fraud-.*$", ', write "fraud-*"'),
            ("fraud.+", ', write "fraud?*"'),
            ("(a|b)", ""),
            ("model[0-9]", ""),
            ("model-\\\\d", ""),
            ("m{2,3}", ""),
        ],
    )
    def test_regular_expressions(self, check: Check, pattern: str, hint: str) -> None:
        found = said(check(role("r", f'["{pattern}"]'), route("t", f'["{pattern}"]')), "MP0509")
        assert [line.partition(": spec.")[0] for line in found] == ["4: ModelRole/r", "9: ModelRoute/t"]
        assert all(line.endswith(f"only * and ? are special{hint}") for line in found)

    @pytest.mark.parametrize("pattern", ["*", "fraud-*", "a?b", "fraud.v1", "a+b", "a-b_c"])
    def test_globs(self, check: Check, pattern: str) -> None:
        assert codes(check(role("r", f'["{pattern}"]'))) == []

    def test_of_workloads(self, check: Check) -> None:
        found = check(*GOOD[3:], binding("b", "readers", '{workload: {namespace: "team-.*", serviceAccount: "a-*"}}'))
        (line,) = said(found, "MP0509")
        assert line.startswith('14: ModelRoleBinding/b: spec.subjects[0].workload.namespace: "team-.*" is no regular')
        assert line.endswith('write "team-*"')

    def test_globs_where_there_are_none(self, check: Check) -> None:
        found = check(role("r", more=', signatures: ["*"], labels: ["can?ry"]'))
        assert [line.partition(" is compared")[0] for line in said(found, "MP0509")] == [
            '4: ModelRole/r: spec.rules[0].labels[0]: "can?ry"',
            '4: ModelRole/r: spec.rules[0].signatures[0]: "*"',
        ]


class TestVersions:
    @pytest.mark.parametrize("version", ["stable", "v3", "2024-06-rc1"])
    def test_that_are_labels(self, check: Check, version: str) -> None:
        (found,) = said(check(role("r", more=f", versions: [3, {version}]")), "MP0510")
        assert found.startswith("4: ModelRole/r: spec.rules[0].versions[1]: TensorFlow Serving has no version ")
        assert found.endswith(f"Then write labels: [{version}]")

    def test_labels_that_are_versions(self, check: Check) -> None:
        (found,) = said(check(role("r", more=', labels: [stable, "3"]')), "MP0510")
        assert found == '4: ModelRole/r: spec.rules[0].labels[1]: is "3" a version? Then write versions: [3]'


def listing(models: str, name: str = "local") -> str:
    return document("ModelServer", name, f'{{endpoints: [{{rest: "127.0.0.1:8501"}}], models: {models}}}')


def rollout(more: str = "") -> str:
    return document(
        "ModelRollout", "r", f"{{model: fraud, stable: {{version: 1}}, candidate: {{model: fraud-v2}}{more}}}"
    )


def test_a_model_that_no_server_lists(check: Check) -> None:
    """Its sidecar refuses calls of it, also if the name was written by a route or a rollout."""
    split = document("ModelRoute", "to", "{models: [fraud], split: [{weight: 100, model: fraud-v2}]}")
    good = (mesh(), sidecar(), role("all", "['*']"), binding("b", "all"))
    for named, where in (
        (split, "ModelRoute/to: spec.split[0].model: "),
        (rollout(), "ModelRollout/r: spec.candidate.model: "),
    ):
        (found,) = said(check(*good, listing("[fraud]"), named), "MP0608")
        assert where in found
        assert 'no ModelServer lists the model "fraud-v2"' in found
        assert said(check(*good, listing("[fraud, fraud-v2]"), named), "MP0608") == []
        assert said(check(*good, listing("[fraud]"), listing("[fraud-v2]", "other"), named), "MP0608") == []
        assert said(check(*good, server(), named), "MP0608") == []  # it serves whatever there is
    assert said(check(*good, listing("[fraud]"), rollout(", direction: outbound")), "MP0608") == []
    health = '{endpoints: [{rest: "127.0.0.1:8501"}], models: [fraud], health: {models: [other]}}'
    (found,) = said(check(*good, document("ModelServer", "local", health)), "MP0608")
    assert "ModelServer/local: spec.health.models[0]: " in found


@pytest.mark.parametrize("claims", ["{sub: {present: true}}", "{aud: a}", "{iss: x, hd: {anyOf: [{present: true}]}}"])
def test_claims_that_everybody_has(check: Check, claims: str) -> None:
    google = mesh(", issuers: [{name: google, issuer: accounts.google.com, audiences: [a], keys: {file: /dev/null}}]")
    subject = f"{{token: {{issuer: google, claims: {claims}}}}}"
    (found,) = said(check(google, *GOOD[1:], binding("b", "readers", subject)), "MP0511")
    assert "allows everybody" in found


@pytest.mark.parametrize(
    ("subject", "field", "instead"),
    [
        ('token: {issuer: corp, claims: {sub: "repo:a/*"}}', "token.claims.sub", '{prefix: "repo:a/"}'),
        ('token: {issuer: corp, claims: {sub: "*"}}', "token.claims.sub", "{present: true}"),
        ('token: {issuer: corp, claims: {sub: {prefix: "repo:*"}}}', "token.claims.sub", "{regex: ...}"),
        ('token: {issuer: corp, claims: {g: {anyOf: [a, {suffix: "*b"}]}}}', "token.claims.g", "{regex: ...}"),
        ('token: {issuer: corp, claims: {g: {regex: "^team-"}}}', "token.claims.g", ".* for the rest of it"),
        ('token: {issuer: corp, claims: {g: {regex: "@a[.]b$"}}}', "token.claims.g", ".* for the rest of it"),
        ('token: {issuer: corp, claimPaths: [{path: [a, b], exact: "x*y"}]}', "token.claimPaths[0]", "{regex: ...}"),
        ('workload: {namespace: a}, headers: {x-tenant: "a-*"}', "headers.x-tenant", '{prefix: "a-"}'),
    ],
)
def test_values_that_are_patterns_of_another_kind(check: Check, subject: str, field: str, instead: str) -> None:
    """Where they deny, they let everybody through."""
    (found,) = said(check(*GOOD, binding("b", "readers", f"{{{subject}}}", "deny")), "MP0509")
    assert f"spec.subjects[0].{field}: " in found
    assert f": write {instead}" in found


@pytest.mark.parametrize("value", ['" a"', '"a "', '{exact: " a"}', '{prefix: " a"}', '{suffix: "a "}'])
def test_headers_with_spaces_that_are_no_part_of_a_value(check: Check, value: str) -> None:
    subject = f"{{workload: {{namespace: a}}, headers: {{x-tenant: {value}}}}}"
    (found,) = said(check(*GOOD, binding("b", "readers", subject, "deny")), "MP0509")
    assert "spec.subjects[0].headers.x-tenant: " in found
    assert "no header's value begins or ends with a space" in found
    for good in ("a b", '""', '{prefix: "a "}', '{suffix: " a"}', '{contains: " a "}'):
        subject = f"{{workload: {{namespace: a}}, headers: {{x-tenant: {good}}}}}"
        assert said(check(*GOOD, binding("b", "readers", subject, "deny")), "MP0509") == []


@pytest.mark.parametrize("value", ['"team-*"', '{regex: "^team-"}', '" a"'])
def test_headers_of_a_route_that_match_nothing(check: Check, value: str) -> None:
    matches = f"{{models: [m], match: [{{headers: {{x-a: a}}}}, {{headers: {{x-tenant: {value}}}}}]}}"
    (found,) = said(check(*GOOD, document("ModelRoute", "t", matches)), "MP0509")
    assert "spec.match[1].headers.x-tenant: " in found


@pytest.mark.parametrize(
    "claims",
    [
        'scope: "models:*"',
        'g: {regex: "team-.*"}',
        'g: {regex: "^team-[a-z]+$"}',
        'g: {regex: "^team-.*"}',
        'g: {regex: ".*@a[.]b$"}',
        "g: 5",
    ],
)
def test_values_that_are_meant_as_they_are_written(check: Check, claims: str) -> None:
    subject = f"{{token: {{issuer: corp, claims: {{{claims}}}}}}}"
    assert said(check(*GOOD, binding("b", "readers", subject, "deny")), "MP0509") == []


class TestRolesOfAws:
    ROLE = '{iamRole: "arn:aws:iam::123456789012:role/service-role/batch"}'
    BARE = '{iamRole: "arn:aws:iam::123456789012:role/batch"}'

    def test_a_path_that_no_session_has(self, check: Check) -> None:
        (found,) = said(check(*GOOD, binding("b", "readers", self.ROLE)), "MP0512")
        assert "spec.subjects[0].iamRole: a session of this role never matches" in found
        assert found.endswith('name "arn:aws:iam::123456789012:role/batch", too')

    def test_in_a_route(self, check: Check) -> None:
        routed = document(
            "ModelRoute",
            "t",
            f"{{models: [m], directions: [inbound], server: local, match: [{{caller: {self.ROLE}}}]}}",
        )
        (found,) = said(check(*GOOD, routed), "MP0512")
        assert "ModelRoute/t: spec.match[0].caller.iamRole: " in found

    def test_both_forms_and_what_denies(self, check: Check) -> None:
        for subject, action in ((f"{self.ROLE}, {self.BARE}", "allow"), (self.BARE, "allow"), (self.ROLE, "deny")):
            assert said(check(*GOOD, binding("b", "readers", subject, action)), "MP0512") == []
