"""`meshproxy config`, as somebody at a terminal or in CI meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from meshproxy.cli.main import main
from meshproxy.config import fields, reference, schema
from meshproxy.config.load import load
from meshproxy.config.problems import ConfigError

FIRST = "deploy/examples/first.yaml"


def test_good_documents_are_summed_up_on_standard_error() -> None:
    result = CliRunner().invoke(main, ["config", "check", FIRST])
    assert result.exit_code == 0
    assert result.stdout == ""
    lines = [line.split() for line in result.stderr.splitlines()]
    assert lines == [
        ["MeshConfig", "1", "mesh"],
        ["ModelRole", "1", "finance-reader"],
        ["ModelRoleBinding", "1", "finance-team"],
        ["ModelServer", "1", "local"],
        ["ModelRoute", "0"],
        ["Sidecar", "1", "first"],
    ]


def test_a_set_without_roles_says_what_that_means(tmp_path: Path) -> None:
    parts = Path(FIRST).read_text().split("---\n")
    (tmp_path / "a.yaml").write_text("---\n".join(part for part in parts if "kind: ModelRole" not in part))
    result = CliRunner().invoke(main, ["config", "check", str(tmp_path)])
    assert result.exit_code == 0
    assert "without a ModelRole, every caller may call every model" in result.stderr


def test_warnings_go_to_standard_output_and_fail_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(Path(FIRST).read_text().replace("{groups: finance}", "{groups: finance, sub.name: alice}"))
    result = CliRunner().invoke(main, ["config", "check", str(file)])
    assert result.exit_code == 0
    (line,) = result.stdout.splitlines()
    assert line.startswith(f"warning: {file}:")
    assert 'spec.subjects[0].token.claims.sub.name: "sub" is never an object' in line
    found = json.loads(CliRunner().invoke(main, ["config", "check", str(file), "-o", "json"]).stdout)
    assert found["ok"] is True
    assert [each["field"] for each in found["warnings"]] == ["spec.subjects[0].token.claims.sub.name"]


def test_problems_go_to_standard_output(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    text = Path(FIRST).read_text().replace("mtls: strict", "mtls: on").replace("listen:", "lisen:")
    file.write_text(text)
    mtls_line = text[: text.index("mtls: on")].count("\n") + 1
    result = CliRunner().invoke(main, ["config", "check", str(file)])
    assert result.exit_code == 3
    lines = result.stdout.splitlines()
    with pytest.raises(ConfigError) as raised:
        load([file])
    assert lines == [str(problem) for problem in raised.value.problems]
    assert lines[0].startswith(f"{file}:{mtls_line}: MeshConfig/mesh: spec.mtls: YAML 1.1 reads on as true: write ")
    assert lines[1].endswith('spec.inbound.lisen: no such field (did you mean "listen"?)')
    assert result.stderr == "3 problems\n"


def test_json() -> None:
    good = json.loads(CliRunner().invoke(main, ["config", "check", FIRST, "-o", "json"]).stdout)
    assert good == {
        "apiVersion": fields.API_VERSION,
        "kind": "ConfigCheck",
        "ok": True,
        "documents": {
            "MeshConfig": ["mesh"],
            "ModelRole": ["finance-reader"],
            "ModelRoleBinding": ["finance-team"],
            "ModelServer": ["local"],
            "ModelRoute": [],
            "Sidecar": ["first"],
        },
        "fingerprint": load([FIRST]).fingerprint,
        "problems": [],
        "warnings": [],
    }
    result = CliRunner().invoke(main, ["config", "check", "absent.yaml", "-o", "json"])
    assert result.exit_code == 3
    bad = json.loads(result.stdout)
    assert bad["ok"] is False
    assert bad["problems"] == [
        {
            "file": "absent.yaml",
            "line": None,
            "document": None,
            "field": None,
            "message": "cannot be read: No such file or directory",
        }
    ]
    assert set(bad) == set(good)


def test_something_must_be_named() -> None:
    assert CliRunner().invoke(main, ["config", "check"]).exit_code == 2


def test_the_kinds_are_explained() -> None:
    result = CliRunner().invoke(main, ["config", "explain"])
    assert result.exit_code == 0
    for kind in schema.KINDS:
        assert f"{kind.__name__}\n" in result.output


def test_a_field_is_explained() -> None:
    result = CliRunner().invoke(main, ["config", "explain", "MeshConfig.spec.limits.idleTimeout"])
    assert result.output.startswith(
        "MeshConfig.spec.limits.idleTimeout\n(duration; default 75s)\n  How long a client connection"
    )
    result = CliRunner().invoke(main, ["config", "explain", "ModelRole.spec.rules"])
    assert "What a call does not state counts against the caller." in result.output
    assert "verbs  (list of predict, classify, " in result.output
    assert max(map(len, result.output.splitlines())) < 140


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("Sidcar", 'did you mean "Sidecar"'),
        ("ModelRole.spec.x", 'ModelRole.spec has no field "x" (there are: rules)'),
        ("Sidecar.kind.x", ""),
    ],
)
def test_what_is_not_there_is_called_wrong_usage(path: str, hint: str) -> None:
    result = CliRunner().invoke(main, ["config", "explain", path])
    assert result.exit_code == 2
    assert hint in result.output


def test_the_whole_reference() -> None:
    assert CliRunner().invoke(main, ["config", "explain", "-o", "markdown"]).output == reference.page()
    assert CliRunner().invoke(main, ["config", "explain", "-o", "markdown", "Sidecar"]).exit_code == 2
