"""`meshproxy policy diff`, as somebody who changes a policy meets it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from meshproxy.cli.main import main

OLD = "deploy/demo/policy.yaml"
LINE: dict[str, Any] = {
    "start_time": "2026-11-29T10:00:00.000000Z",
    "direction": "inbound",
    "policy": "finance-team",
    "peer_spiffe_id": "spiffe://demo.example/ns/pricing/sa/quoter",
    "jwt_issuer": "corp",
    "jwt_sub": "alice",
    "verb": "predict",
    "model": "finance-prod",
    "path": "/v1/models/finance-prod:predict",
}
CHECKOUT = LINE | {"peer_spiffe_id": "spiffe://demo.example/ns/shop/sa/checkout", "jwt_issuer": None, "jwt_sub": None}
EVIL = CHECKOUT | {"model": "\x1b[31m=x", "policy": "default-deny", "refusal": "permission-denied"}


@pytest.fixture
def new(tmp_path: Path) -> str:
    """Another claim, and no access for checkout but to whatever begins with an escape."""
    text = Path(OLD).read_text().replace("groups: finance", "groups: treasury")
    text = text.replace("  - workload: {namespace: shop, serviceAccount: checkout}\n", "")
    text += """---
apiVersion: meshproxy.dev/v1alpha1
kind: ModelRole
metadata: {name: odd}
spec: {rules: [{models: ["?[31m*"], verbs: [predict]}]}
---
apiVersion: meshproxy.dev/v1alpha1
kind: ModelRoleBinding
metadata: {name: odd}
spec: {role: odd, subjects: [{workload: {namespace: shop}}]}
"""
    path = tmp_path / "new.yaml"
    path.write_text(text)
    return str(path)


def diff(*arguments: str, lines: list[dict[str, Any]] | None = None) -> Result:
    text = "".join(json.dumps(line) + "\n" for line in lines or [])
    more = ["--against", "-", "--trust-domain", "demo.example"] if lines is not None else []
    return CliRunner().invoke(main, ["policy", "diff", *arguments, *more], input=text)


def test_who_gains_and_who_loses(new: str) -> None:
    result = diff(OLD, new, lines=[LINE, LINE, CHECKOUT, EVIL, LINE | {"direction": "outbound"}])
    assert result.exit_code == 3
    assert result.stdout.splitlines() == [
        "LOSES           1 calls  spiffe://demo.example/ns/shop/sa/checkout",
        '                         predict on model "finance-prod"',
        "                         allowed by finance-team -> denied by default-deny",
        "GAINS           1 calls  spiffe://demo.example/ns/shop/sa/checkout",
        '                         predict on model "\\x1b[31m=x"',
        "                         denied by default-deny -> allowed by odd",
        "MAY LOSE        2 calls  spiffe://demo.example/ns/pricing/sa/quoter (corp:alice)",
        '                         predict on model "finance-prod"',
        "                         allowed by finance-team -> not known",
        '                         depends on claim groups: "treasury"',
        "0 of 4 calls from 2026-11-29T10:00:00.000000Z to 2026-11-29T10:00:00.000000Z are decided as before",
    ]
    assert result.stderr.splitlines() == ["note: 1 line left out that are of outbound calls, which no policy decides"]


def test_nothing_changes() -> None:
    result = diff(OLD, OLD, lines=[LINE, LINE | {"policy": "gone"}])
    assert result.exit_code == 0
    assert result.stdout.startswith("2 of 2 calls")
    assert "1 call was decided otherwise than OLD decides" in result.stderr


def test_nothing_is_known() -> None:
    result = diff(OLD, OLD, lines=[])
    assert result.exit_code == 0
    assert "nothing is known about the change" in result.stderr


def test_json_and_csv(new: str) -> None:
    page = json.loads(diff(OLD, new, "-o", "json", lines=[CHECKOUT]).stdout)
    assert (page["kind"], page["calls"], page["outcomes"]["loses"]) == ("PolicyDiff", 1, 1)
    (change,) = page["changes"]
    assert change["caller"]["spiffeId"] == CHECKOUT["peer_spiffe_id"]
    assert change["new"] == {"permitted": False, "inPart": False, "rule": "default-deny"}
    head, row = csv.reader(io.StringIO(diff(OLD, new, "-o", "csv", lines=[CHECKOUT]).stdout))
    assert dict(zip(head, row, strict=True))["outcome"] == "loses"


def test_documents_alone(new: str) -> None:
    result = diff(OLD, new)
    assert result.exit_code == 3
    assert result.stdout.splitlines()[:2] == [
        "ModelRole/odd",
        '  + spec: {"rules":[{"models":["?[31m*"],"verbs":["predict"]}]}',
    ]
    assert '  - spec.subjects[]: {"workload":{"namespace":"shop","serviceAccount":"checkout"}}' in result.stdout
    assert json.loads(diff(OLD, new, "-o", "json").stdout)["differences"][0]["is_new"] is True
    assert diff(OLD, new, "-o", "csv").stdout.startswith("document,field,side,value\n")
    same = diff(OLD, OLD)
    assert (same.exit_code, same.stdout) == (0, "")


def test_mistakes() -> None:
    assert "--since needs --against" in diff(OLD, OLD, "--since", "30d").stderr
    assert "expected an age" in diff(OLD, OLD, "--since", "x", lines=[]).stderr
    assert diff(OLD, "missing.yaml").exit_code == 1
