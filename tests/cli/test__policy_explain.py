"""`meshproxy policy explain`, as somebody at a terminal or in CI meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from meshproxy.cli.main import main

FIRST = "deploy/examples/first.yaml"
QUOTER = ["--as", "spiffe://dev.example/ns/pricing/sa/quoter"]
PREDICT = ["--model", "half_plus_two", "--verb", "predict"]
FINANCE = ["--issuer", "corp", "--claims", '{"sub": "alice", "groups": ["finance"]}']


def check(*arguments: str, config: str = FIRST) -> Result:
    return CliRunner().invoke(main, ["policy", "explain", "--config", config, *arguments])


def test_a_call_that_is_permitted() -> None:
    result = check(*QUOTER, *PREDICT, *FINANCE)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        'ALLOW  predict on model "half_plus_two"',
        "by     finance-team",
        "caller spiffe://dev.example/ns/pricing/sa/quoter (corp:alice)",
        "",
        "* allow finance-team (role finance-reader)",
        "    caller: subjects[0] matches",
        "    call:   rules[0] matches",
    ]


OTHERS = """apiVersion: meshproxy.dev/v1alpha1
kind: ModelRole
metadata: {name: other}
spec: {rules: [{models: [other], verbs: [predict]}]}
---
apiVersion: meshproxy.dev/v1alpha1
kind: ModelRoleBinding
metadata: {name: nearly}
spec: {role: other, subjects: [{workload: {namespace: pricing}}]}
---
apiVersion: meshproxy.dev/v1alpha1
kind: ModelRoleBinding
metadata: {name: far}
spec: {role: other, subjects: [{workload: {namespace: far}}]}
"""


def test_what_nearly_decides_is_shown_and_the_rest_counted(tmp_path: Path) -> None:
    (tmp_path / "others.yaml").write_text(OTHERS)
    more = [*QUOTER, *PREDICT, *FINANCE, "--config", str(tmp_path / "others.yaml")]
    lines = check(*more).stdout.splitlines()
    assert "~ allow nearly (role other)" in lines
    assert '    call:   no rule covers predict on model "half_plus_two"' in lines
    assert lines[-1] == "1 other binding matches neither the caller nor the call: --all"
    assert "  allow far (role other)" in check(*more, "--all").stdout.splitlines()


def test_the_policy_alone(tmp_path: Path) -> None:
    policy = "deploy/demo/policy.yaml"
    nightly = ["--as", "spiffe://demo.example/ns/batch/sa/nightly", "--model", "finance-prod", "--verb", "predict"]
    assert check(*nightly, "--label", "stable", "--trust-domain", "demo.example", config=policy).exit_code == 0
    missing = check(*nightly, config=policy)
    assert missing.exit_code == 2
    assert "no MeshConfig" in missing.stderr


def test_a_token_that_is_refused_is_told_with_its_claims(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("Bearer e30.eyJpc3MiOiAiaHR0cHM6Ly94In0.AAAA\n")
    result = check(*QUOTER, *PREDICT, "--token", str(token))
    assert result.exit_code == 3
    assert result.stdout.splitlines() == [
        'DENY   predict on model "half_plus_two"',
        "by     the token, which is refused: The token has no algorithm (alg).",
        "caller spiffe://dev.example/ns/pricing/sa/quoter",
        'claim  iss: "https://x"',
    ]
    page = json.loads(check(*QUOTER, *PREDICT, "--token", str(token), "-o", "json").stdout)
    assert page["refused"] == {"the token": "The token has no algorithm (alg)."}
    assert (page["decision"], page["rule"], page["steps"]) == ("DENY", None, [])


def test_a_call_that_is_denied() -> None:
    result = check(*QUOTER, *PREDICT)
    assert result.exit_code == 3
    needs_token = 'predict on model "half_plus_two" requires a token: send authorization: Bearer TOKEN'
    lines = result.stdout.splitlines()
    assert lines[:3] == [
        'DENY   predict on model "half_plus_two"',
        "by     default-deny",
        f"answer 401 unauthenticated: {needs_token}",
    ]
    assert "    caller: subjects[0]: needs a token, and none was sent" in lines
    assert lines[-2].startswith("            subjects[1]: the workload is ")


def test_json() -> None:
    result = check(*QUOTER, *FINANCE, "--verb", "reload", "-o", "json")
    assert result.exit_code == 3
    assert json.loads(result.stdout) == {
        "apiVersion": "meshproxy.dev/v1alpha1",
        "kind": "AuthzCheck",
        "decision": "DENY",
        "refused": {},
        "rule": "default-deny",
        "part": None,
        "audits": [],
        "conditions": [],
        "reason": "permission-denied",
        "message": "reload on the server as a whole is not permitted",
        "caller": "spiffe://dev.example/ns/pricing/sa/quoter (corp:alice)",
        "certificate": {},
        "claims": {},
        "notes": [],
        "call": "reload on the server as a whole",
        "steps": [
            {
                "binding": "finance-team",
                "action": "allow",
                "role": "finance-reader",
                "applies": False,
                "is_near": True,
                "caller": ["subjects[0] matches"],
                "call": ["no rule covers reload on the server as a whole"],
            }
        ],
    }


CONDITIONS = """apiVersion: meshproxy.dev/v1alpha1
kind: ModelRoleBinding
metadata: {name: office}
spec:
  role: finance-reader
  subjects:
  - workload: {serviceAccount: quoter}
    ipBlocks: [10.0.0.0/8]
    headers: {x-tenant: {prefix: team-}}
"""


def test_conditions_on_address_and_headers(tmp_path: Path) -> None:
    (tmp_path / "office.yaml").write_text(CONDITIONS)
    more = ["--config", str(tmp_path / "office.yaml")]
    words = 'office: ipBlocks 10.0.0.0/8; header x-tenant: prefix "team-"'
    met = check(*QUOTER, *PREDICT, *more, "--address", "10.1.2.3", "--header", "X-Tenant: team-a")
    assert met.exit_code == 0
    assert met.stdout.splitlines()[1:4] == [
        "by     office",
        "caller spiffe://dev.example/ns/pricing/sa/quoter",
        f"when   {words}",
    ]
    for arguments, why in (
        (["--address", "192.0.2.1", "--header", "x-tenant:team-a"], "does not hold"),
        (["--address", "10.1.2.3"], "does not hold"),
        (["--header", "x-tenant:team-a"], "cannot be evaluated"),
        (["--address", "10.1.2.3", *(["--header", "x-tenant:team-a"] * 2)], "cannot be evaluated"),
    ):
        result = check(*QUOTER, *PREDICT, *more, *arguments)
        assert result.exit_code == 3
        assert f"when   {words} ({why})" in result.stdout


def test_versions_labels_and_several_models() -> None:
    result = check(*QUOTER, *FINANCE, *PREDICT, "--model", "other", "--label", "stable", "--signature", "s")
    assert result.exit_code == 3
    assert 'model "other", label stable, signature s' in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*QUOTER, "--verb", "predict"], "the verb predict needs --model"),
        ([*QUOTER, *PREDICT, "--version", "1", "--label", "x"], "--version and --label exclude each other"),
        ([*QUOTER, "--verb", "reload", "--version", "1"], "--signature need --model"),
        ([*QUOTER, *PREDICT, "--version", "-1"], "--version"),
        (
            ["--as", "spiffe://other/ns/a/sa/b", *PREDICT],
            "other is not a trust domain of the mesh (there are: dev.example)",
        ),
        (["--as", "quoter", *PREDICT], "expected a SPIFFE id"),
        ([*QUOTER, *PREDICT, "--claims", "{}"], "--iam-role need --issuer"),
        ([*QUOTER, *PREDICT, "--issuer", "cor"], 'did you mean "corp"'),
        ([*QUOTER, *PREDICT, "--issuer", "corp", "--claims", "[]"], "not a JSON object"),
        ([*QUOTER, *PREDICT, "--issuer", "corp", "--claims", "{"], "not a JSON object"),
        ([*QUOTER, *PREDICT, "--issuer", "corp", "--claims", "[" * 100_000], "not a JSON object"),
        ([*QUOTER, *PREDICT, "--issuer", "corp", "--iam-role", "x"], "expected a role ARN"),
        ([*QUOTER, "--model", "a", "--verb", "predcit"], "predcit"),
        ([*QUOTER, *PREDICT, "--address", "localhost"], "is not an IP address"),
        ([*QUOTER, *PREDICT, "--header", "x-tenant"], "expected NAME:VALUE"),
        ([*QUOTER, *PREDICT, "--cert", FIRST], "--as and --cert exclude each other"),
        ([*QUOTER, *PREDICT, *FINANCE, "--token", FIRST], "--token excludes --issuer"),
        ([*QUOTER, *PREDICT, "--jwks", "corp=x"], "--jwks needs --token"),
    ],
)
def test_what_is_called_wrongly(arguments: list[str], message: str) -> None:
    result = check(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_documents_that_cannot_be_used() -> None:
    result = check(*QUOTER, *PREDICT, config="absent.yaml")
    assert result.exit_code == 1
    assert "absent.yaml: cannot be read" in result.stderr


def test_a_caller_without_a_certificate(tmp_path: Path) -> None:
    result = check(*PREDICT)
    assert result.exit_code == 3
    assert "a sidecar refuses a caller without a certificate" in result.stderr
    file = tmp_path / "a.yaml"
    file.write_text(Path(FIRST).read_text().replace("mtls: strict", "mtls: disabled"))
    assert check(*PREDICT, config=str(file)).stderr == ""
    assert check(*QUOTER, *PREDICT, config=str(file)).exit_code == 2


def test_who_is_audited_and_who_comes_by_a_role_of_aws(tmp_path: Path) -> None:
    arn = "arn:aws:iam::123456789012:role/quoter"
    file = tmp_path / "a.yaml"
    file.write_text(
        Path(FIRST).read_text()
        + "---\napiVersion: meshproxy.dev/v1alpha1\nkind: ModelRoleBinding\nmetadata: {name: watch}\n"
        + f'spec: {{role: finance-reader, action: audit, subjects: [{{iamRole: "{arn}"}}]}}\n'
    )
    result = check(*QUOTER, *FINANCE, *PREDICT, "--iam-role", arn, config=str(file))
    assert result.exit_code == 0
    assert "audit  watch" in result.stdout.splitlines()


def test_a_part_of_the_answer(tmp_path: Path) -> None:
    (tmp_path / "others.yaml").write_text(OTHERS.replace("verbs: [predict]", 'verbs: [status], versions: ["3"]'))
    arguments = [*QUOTER, "--model", "other", "--verb", "status", "--config", str(tmp_path / "others.yaml")]
    result = check(*arguments)
    assert result.exit_code == 3
    assert "part   only the versions that the caller may see, by nearly: the answer has no others" in result.stdout
    assert json.loads(check(*arguments, "-o", "json").stdout)["part"] == "nearly"
