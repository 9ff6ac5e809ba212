"""`meshproxy config init` and `config schema`, as somebody who begins meets them."""

from __future__ import annotations

import json
from pathlib import Path

import click
import jsonschema
import pytest
import yaml
from click.testing import CliRunner, Result

from meshproxy.cli import _config_init, _first_policy
from meshproxy.cli.main import main
from meshproxy.config.load import load

FLAGS = ["--trust-domain", "prod.example", "--model", "fraud", "--caller", "payments/checkout"]


def init(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["config", "init", str(folder), *arguments])


def test_what_is_written_loads_and_refuses_by_default(tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    result = init(folder, *FLAGS, "--issuer", "https://login.prod.example")
    assert result.exit_code == 0, result.stderr
    assert [Path(line).name for line in result.stdout.splitlines()] == list(
        _first_policy.files(_first_policy.Answers("", "", "", "", None, ""))
    )
    documents = load([folder])
    assert documents.mesh.spec.issuers[0].audiences == ("prod.example",)
    more = ["--config", str(folder)]
    tested = CliRunner().invoke(main, ["policy", "test", str(folder / "expectations.yaml"), *more])
    assert tested.exit_code == 0, tested.stdout
    assert "5 cases, 0 failed" in tested.stderr


@pytest.mark.parametrize(("caller", "name"), [("payments/checkout", "checkout"), ("payments/*", "quoter")])
def test_the_certificates_of_a_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caller: str, name: str) -> None:
    """The command that is in the file makes what it says."""
    assert init(tmp_path, *FLAGS[:4], "--caller", caller).exit_code == 0
    [line] = [line for line in (tmp_path / "sidecar.yaml").read_text().splitlines() if line.startswith("# meshproxy ")]
    monkeypatch.chdir(tmp_path)
    made = CliRunner().invoke(main, line.split()[2:])
    assert made.exit_code == 0, made.stderr
    assert {"server.pem", "server-key.pem", "ca.pem", f"{name}.pem"} <= {path.name for path in Path("certs").iterdir()}


def test_editors_find_the_schema(tmp_path: Path) -> None:
    assert init(tmp_path, *FLAGS).exit_code == 0
    for name in ("mesh.yaml", "policy.yaml", "sidecar.yaml"):
        text = (tmp_path / name).read_text()
        first, _, _ = text.partition("\n")
        schema = tmp_path / first.removeprefix("# yaml-language-server: $schema=")
        validator = jsonschema.Draft202012Validator(json.loads(schema.read_text()))
        for document in yaml.safe_load_all(text):
            validator.validate(document)
    printed = CliRunner().invoke(main, ["config", "schema"]).stdout
    assert json.loads(printed) == json.loads((tmp_path / _first_policy.SCHEMA_FILE).read_text())


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "sidecar.yaml").write_text("mine")
    result = init(tmp_path, *FLAGS)
    assert result.exit_code == 1
    assert "sidecar.yaml" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["sidecar.yaml"]
    assert (tmp_path / "sidecar.yaml").read_text() == "mine"
    assert "cannot be written" in init(tmp_path / "sidecar.yaml" / "x", *FLAGS).stderr


def test_what_is_not_given_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--trust-domain is missing" in init(tmp_path).stderr
    answers = iter(["prod.example", "fraud", "payments/checkout"])
    monkeypatch.setattr(click, "prompt", lambda question: next(answers))
    monkeypatch.setattr(_config_init, "_is_terminal", lambda: True)
    assert init(tmp_path).exit_code == 0
    assert "payments" in (tmp_path / "policy.yaml").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--trust-domain", "A B", *FLAGS[2:]], "--trust-domain"),
        ([*FLAGS[:4], "--caller", "checkout"], "expected NAMESPACE/ACCOUNT"),
        ([*FLAGS[:4], "--caller", "a b/c"], "--caller"),
        ([*FLAGS, "--audience", "x"], "--audience needs --issuer"),
        ([*FLAGS, "--issuer", "corp"], "--issuer"),
    ],
)
def test_mistakes(tmp_path: Path, flags: list[str], message: str) -> None:
    result = init(tmp_path / "new", *flags)
    assert (result.exit_code, message in result.stderr) == (2, True)
    assert not (tmp_path / "new").exists()
