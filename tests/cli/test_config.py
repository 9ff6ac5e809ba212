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


IGNORED = ["--suppress", "MP0603"]
"""Its certificates are not in the repository."""


POLICY = """\
apiVersion: meshproxy.dev/v1alpha1
kind: ModelRole
metadata: {name: r}
spec: {rules: [{models: ["MODEL"], verbs: [predict]}]}
---
apiVersion: meshproxy.dev/v1alpha1
kind: ModelRoleBinding
metadata: {name: b}
spec: {role: ROLE, subjects: [{workload: {namespace: a}}]}
"""


def test_good_documents_are_summed_up_on_standard_error() -> None:
    result = CliRunner().invoke(main, ["config", "check", *IGNORED, FIRST])
    assert result.exit_code == 0
    assert result.stdout == ""
    lines = [line.split() for line in result.stderr.splitlines()]
    assert lines == [
        ["MeshConfig", "1", "mesh"],
        ["ModelRole", "1", "finance-reader"],
        ["ModelRoleBinding", "1", "finance-team"],
        ["ModelServer", "1", "local"],
        ["ModelRoute", "0"],
        ["ModelRollout", "0"],
        ["Sidecar", "1", "first"],
    ]


def test_a_set_without_roles_says_what_that_means(tmp_path: Path) -> None:
    parts = Path(FIRST).read_text().split("---\n")
    (tmp_path / "a.yaml").write_text("---\n".join(part for part in parts if "kind: ModelRole" not in part))
    result = CliRunner().invoke(main, ["config", "check", str(tmp_path)])
    assert result.exit_code == 0
    assert "without a ModelRole every caller may call every model" in result.stdout
    assert "[MP0701]\n" in result.stdout


def test_warnings_go_to_standard_output_and_fail_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(Path(FIRST).read_text().replace("{groups: finance}", "{groups: finance, sub.name: alice}"))
    result = CliRunner().invoke(main, ["config", "check", *IGNORED, str(file)])
    assert result.exit_code == 0
    (line,) = result.stdout.splitlines()
    assert line.startswith(f"warning: {file}:")
    assert 'spec.subjects[0].token.claims.sub.name: "sub" is never an object' in line
    assert line.endswith(" [MP0501]")
    assert result.stderr.endswith("1 warning\n")
    found = json.loads(CliRunner().invoke(main, ["config", "check", *IGNORED, str(file), "-o", "json"]).stdout)
    assert found["ok"] is True
    assert [each["field"] for each in found["problems"]] == ["spec.subjects[0].token.claims.sub.name"]


@pytest.mark.parametrize(
    ("text", "statuses"),
    [
        (POLICY.replace("MODEL", "m").replace("ROLE", "nobody"), (3, 3, 3)),
        (POLICY.replace("MODEL", "^m$").replace("ROLE", "r"), (0, 3, 3)),
        (POLICY.replace("MODEL", "m").replace("ROLE", "r"), (0, 0, 3)),
    ],
    ids=["error", "warning", "info"],
)
def test_what_fails_is_chosen(text: str, statuses: tuple[int, ...]) -> None:
    for threshold, status in zip(("error", "warning", "info"), statuses, strict=True):
        for output in ("text", "json"):
            command = ["config", "check", "-", "--failure-threshold", threshold, "-o", output]
            assert CliRunner().invoke(main, command, input=text).exit_code == status


def test_what_is_suppressed() -> None:
    text = POLICY.replace("MODEL", "^m$").replace("ROLE", "r")
    command = ["config", "check", "-", "--suppress", "MP0509", "--suppress", "MP0702", "--failure-threshold", "info"]
    result = CliRunner().invoke(main, command, input=text)
    assert (result.exit_code, result.stdout) == (0, "")
    for code, why in (("MP0999", "there is no code MP0999"), ("MP0204", "MP0204 is an error")):
        result = CliRunner().invoke(main, ["config", "check", "-", "--suppress", code], input=text)
        assert result.exit_code == 2
        assert why in result.stderr


def test_a_part_of_a_set() -> None:
    mesh = Path(FIRST).read_text().partition("---")[0]
    assert CliRunner().invoke(main, ["config", "check", "-"], input=mesh).exit_code == 3
    result = CliRunner().invoke(main, ["config", "check", "--partial", "-"], input=mesh)
    assert result.exit_code == 0
    assert result.stdout.startswith("info: <stdin>: checked as a part of a set without ModelRole, ")


def test_a_code_is_explained() -> None:
    result = CliRunner().invoke(main, ["config", "explain", "MP0503"])
    assert result.output == "MP0503  (warning)\n  A role that no binding names: it has no effect of its own.\n"


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
    problems = [f"{problem} [{problem.code}]" for problem in raised.value.problems]
    assert [line for line in lines if not line.startswith("warning: ")] == problems
    assert lines[0].startswith(f"{file}:{mtls_line}: MeshConfig/mesh: spec.mtls: YAML 1.1 reads on as true: write ")
    assert lines[1].endswith('spec.inbound.lisen: no such field (did you mean "listen"?) [MP0202]')
    assert result.stderr == "3 errors\n"


def test_json() -> None:
    good = json.loads(CliRunner().invoke(main, ["config", "check", *IGNORED, FIRST, "-o", "json"]).stdout)
    assert good == {
        "apiVersion": fields.API_VERSION,
        "kind": "ConfigCheck",
        "ok": True,
        "partial": False,
        "documents": {
            "MeshConfig": ["mesh"],
            "ModelRole": ["finance-reader"],
            "ModelRoleBinding": ["finance-team"],
            "ModelServer": ["local"],
            "ModelRoute": [],
            "ModelRollout": [],
            "Sidecar": ["first"],
        },
        "fingerprint": load([FIRST]).fingerprint,
        "problems": [],
    }
    result = CliRunner().invoke(main, ["config", "check", "absent.yaml", "-o", "json"])
    assert result.exit_code == 3
    bad = json.loads(result.stdout)
    assert bad["ok"] is False
    assert bad["problems"] == [
        {
            "file": "absent.yaml",
            "line": None,
            "code": "MP0101",
            "severity": "error",
            "kind": None,
            "name": None,
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
        ("retries", 'there is no kind "retries": "retries" is a field of ModelRoute.spec\n'),
        ("ModelRoute.retries", 'ModelRoute has no field "retries": "retries" is a field of ModelRoute.spec\n'),
        ("VirtualService", "is a kind of Istio; here it is ModelRoute\n"),
        ("ModelRoute.spec.retryOn", '"retryOn" is a word of Istio'),
    ],
)
def test_what_is_not_there_is_called_wrong_usage(path: str, hint: str) -> None:
    result = CliRunner().invoke(main, ["config", "explain", path])
    assert result.exit_code == 2
    assert hint in result.output


def test_the_whole_reference() -> None:
    assert CliRunner().invoke(main, ["config", "explain", "-o", "markdown"]).output == reference.page()
    assert CliRunner().invoke(main, ["config", "explain", "-o", "markdown", "Sidecar"]).exit_code == 2


def test_crds_are_printed() -> None:
    result = CliRunner().invoke(main, ["config", "crds"])
    assert result.exit_code == 0
    assert result.output == Path("deploy/kubernetes/crds.yaml").read_text()
