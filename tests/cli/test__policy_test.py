"""`meshproxy policy test`, as CI meets it."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from meshproxy.cli.main import main
from meshproxy.config.load import load

POLICY = "deploy/demo/policy.yaml"
GOOD = """expectations:
- name: finance
  workload: {namespace: shop, serviceAccount: checkout}
  model: finance-prod
  verbs: [predict]
  expect: allow
  by: finance-team
"""
BAD = """- token: {issuer: corp, claims: {sub: "\\u0001\\u001B[31m<&"}}
  model: other
  verbs: [predict]
  expect: allow
"""


def check(path: Path, text: str, *arguments: str) -> Result:
    path.write_text(text)
    more = ["--config", POLICY, "--trust-domain", "demo.example"]
    return CliRunner().invoke(main, ["policy", "test", str(path), *more, *arguments])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "expectations.yaml"


def test_all_hold(file: Path) -> None:
    result = check(file, GOOD)
    assert result.exit_code == 0
    assert result.stdout == f'ok    {file}:2: finance: predict on model "finance-prod": allow by finance-team\n'
    assert result.stderr.splitlines() == ["1 case, 0 failed", "note: no case is decided by batch-stays-stable"]


def test_one_does_not(file: Path, tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    result = check(file, GOOD + BAD, "--junit", str(junit))
    assert result.exit_code == 3
    assert "\x1b" not in result.stdout
    assert (
        "expected allow, got deny by default-deny\n      caller: anonymous (corp:\\x01\\x1b[31m<&)\n" in result.stdout
    )
    (suite,) = ElementTree.parse(junit).getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    good, bad = suite
    assert (len(good), good.get("line")) == (0, "2")
    assert bad[0].get("message") == "expected allow, got deny by default-deny"


def test_json(file: Path) -> None:
    page = json.loads(check(file, GOOD, "-o", "json").stdout)
    assert (page["kind"], page["ok"], page["untested"]) == ("PolicyTest", True, ["batch-stays-stable"])
    assert page["results"][0]["rule"] == "finance-team"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("predict]", "predit]"), ":5: expectations[0].verbs[0]: expected one of"),
        (GOOD.replace("by: finance-team", "by: finance-taem"), 'did you mean "finance-team"'),
    ],
)
def test_mistakes(file: Path, text: str, message: str) -> None:
    result = check(file, text)
    assert result.exit_code == 1
    assert message in result.stderr


def test_an_issuer_that_the_mesh_does_not_have(file: Path) -> None:
    text = GOOD.replace("  model:", "  token: {issuer: cropo}\n  model:").replace("  by: finance-team\n", "")
    result = check(file, text, "--config", "deploy/examples/first.yaml")
    assert result.exit_code == 1


def test_files_that_cannot_be_read_or_written(file: Path, tmp_path: Path) -> None:
    assert "cannot be written" in check(file, GOOD, "--junit", str(tmp_path / "no" / "x.xml")).stderr
    missing = CliRunner().invoke(main, ["policy", "test", "missing.yaml", "--config", POLICY, "--trust-domain", "d.e"])
    assert (missing.exit_code, "cannot be read" in missing.stderr) == (1, True)


def test_a_sidecar_takes_no_notice_of_them(tmp_path: Path) -> None:
    """They may lie beside the policy."""
    (tmp_path / "first.yaml").write_text(Path("deploy/examples/first.yaml").read_text())
    (tmp_path / "expectations.yaml").write_text(GOOD)
    assert load([tmp_path]).roles
