"""`meshproxy policy unused` and `matrix`, as a reviewer meets them."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from click.testing import CliRunner, Result

from meshproxy.cli.main import main

POLICY = ["--config", "deploy/demo/policy.yaml", "--trust-domain", "demo.example"]
LINE: dict[str, Any] = {
    "start_time": "2026-11-29T10:00:00.000000Z",
    "direction": "inbound",
    "policy": "finance-team",
    "peer_spiffe_id": "spiffe://demo.example/ns/shop/sa/checkout",
    "verb": "predict",
    "model": "finance-prod",
    "path": "/v1/models/finance-prod:predict",
}
DENIED = LINE | {"policy": "old\x1b[1m", "refusal": "permission-denied"}


def policy(*arguments: str, lines: list[dict[str, Any]] | None = None) -> Result:
    text = "".join(json.dumps(line) + "\n" for line in lines or [])
    return CliRunner().invoke(main, ["policy", *arguments, *POLICY], input=text)


def test_unused() -> None:
    result = policy("unused", "-", "--since", "2026-11-01", lines=[LINE, DENIED])
    assert result.exit_code == 3
    assert result.stdout.splitlines() == [
        "deploy/demo/policy.yaml:18: ModelRoleBinding/finance-team: spec.subjects[0]: fits no caller of this binding",
        "deploy/demo/policy.yaml:21: ModelRoleBinding/finance-team: spec.subjects[1]: fits no caller of this binding",
        "deploy/demo/policy.yaml:24: ModelRole/canaries: no binding to it decided a call",
        "deploy/demo/policy.yaml:34: ModelRoleBinding/batch-stays-stable: decided no call (action deny)",
    ]
    assert result.stderr.splitlines() == [
        "note: 2 calls (1 allowed, 1 denied) from 2026-11-29T10:00:00.000000Z to 2026-11-29T10:00:00.000000Z",
        "note: no line is older than 2026-11-01T00:00:00.000000Z: the logs may begin later than --since",
        "note: decided calls, and are not in the policy: old\\x1b[1m",
    ]


def test_denials_alone_say_nothing_of_what_is_allowed() -> None:
    result = policy("unused", "-", lines=[DENIED])
    assert [line.split(": ")[1] for line in result.stdout.splitlines()] == [
        "ModelRole/canaries",
        "ModelRoleBinding/batch-stays-stable",
    ]
    assert "no call that was allowed is among them" in result.stderr


def test_nothing_is_known() -> None:
    result = policy("unused", "-", lines=[])
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing is known about what is used" in result.stderr


def test_unused_for_programs() -> None:
    page = json.loads(policy("unused", "-", "-o", "json", lines=[LINE, DENIED]).stdout)
    assert (page["kind"], page["calls"], page["gone"]) == ("PolicyUnused", 2, {"old\x1b[1m": 1})
    assert page["unused"][-1]["document"] == "ModelRoleBinding/batch-stays-stable"
    rows = list(csv.reader(io.StringIO(policy("unused", "-", "-o", "csv", lines=[LINE]).stdout)))
    assert rows[0] == ["place", "document", "field", "what"]
    assert len(rows) == 5


def test_matrix() -> None:
    result = policy("matrix")
    assert result.exit_code == 0
    for word in ("WHO", "half_plus_*", "canary", "(other)"):
        assert word in result.stdout.replace("\n", "")


def test_matrix_for_spreadsheets_and_programs() -> None:
    rows = list(csv.DictReader(io.StringIO(policy("matrix", "-o", "csv").stdout)))
    assert rows[0] == {
        "workload": "spiffe://demo.example/ns/pricing/sa/quoter",
        "token": 'token of corp (groups: "finance")',
        "iam role": "",
        "conditions": "",
        "model": "half_plus_*",
        "verbs": "predict classify regress multi-inference metadata status",
        "allowed by": "finance-team",
        "unless denied by": "",
    }
    page = json.loads(policy("matrix", "--model", "half_plus_two", "-o", "json").stdout)
    assert {grant["model"]["name"] for grant in page["grants"]} == {"half_plus_two"}


def test_a_matrix_of_nothing() -> None:
    more = ["--config", "deploy/examples/traffic.yaml"]
    result = CliRunner().invoke(main, ["policy", "matrix", *more])
    assert "nothing is allowed to anybody" in result.stderr
    assert "there is no ModelRole" in result.stderr
