"""`meshproxy check --pre` before something that answers as an API server does. The findings: tests/control."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from meshproxy.cli._precheck import NAMES
from meshproxy.cli.check import command
from meshproxy.cli.main import main
from tests.control.fake_cluster import NOW, FakeCluster


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    found = FakeCluster()
    monkeypatch.setattr("meshproxy.control.cluster.connect_paths", found.client)
    monkeypatch.setattr("time.time", lambda: NOW)
    return found


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["check", "--pre", *arguments])


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("options", [(), ("--injector", "policy"), ("--cert-manager", "ClusterIssuer/ca", "--capture")])
def test_a_cluster_that_lacks_nothing(options: tuple[str, ...]) -> None:
    result = run(*options)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("API server\n----------\n√ the API server answers\n√ its release is 1.")
    assert "\n\nnot checked: nobody can tell from here\n-" in result.stdout
    assert "\nresult: √  0 errors, 0 warnings, " in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_warnings(cluster: FakeCluster) -> None:
    cluster.answers["GET /api/v1/nodes"] = 403
    result = run()
    assert result.exit_code == 1
    assert "‼ the kubelets start native sidecars (1.29 and newer)\n    not known: the API server an" in result.stdout


def test_errors(cluster: FakeCluster) -> None:
    cluster.denied = {"create services"}
    result = run("--control-namespace", "mesh")
    assert result.exit_code == 2
    assert "× you may apply services in mesh\n    not allowed: create\n    next: take another context" in result.stdout


def test_json(cluster: FakeCluster) -> None:
    cluster.release = "v1.28.0"
    result = run("-o", "json")
    assert result.exit_code == 2
    found = json.loads(result.stdout)
    assert (found["kind"], found["result"]) == ("MeshCheck", "error")
    (bad,) = (each for each in found["checks"] if each["level"] != "well")
    assert (bad["section"], bad["check"]) == ("API server", "its release is 1.30 or newer")
    assert found["notChecked"][0]["check"] == "the API server reaches the webhook"


def test_nobody_answers(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    server = {"server": "https://127.0.0.1:1", "insecure-skip-tls-verify": True}
    content = {
        "current-context": "there",
        "clusters": [{"name": "there", "cluster": server}],
        "users": [],
        "contexts": [{"name": "there", "context": {"cluster": "there"}}],
    }
    kubeconfig.write_text(json.dumps(content))
    result = run("--kubeconfig", str(kubeconfig))
    assert result.exit_code == 2
    assert "× the API server answers\n    no answer (ConnectError: " in result.stdout
    assert result.stdout.endswith("\nresult: ×  1 error, 0 warnings, 0 well\n")
    result = run("--kubeconfig", str(kubeconfig), "--context", "other")
    assert result.exit_code == 2
    assert "Context 'other' not found" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--pre", "--control", "127.0.0.1:1"), "--pre asks the API server, not a control plane: leave --control out"),
        (("--pre", "--timeout", "1"), "leave --timeout out"),
        (("--capture",), "--capture takes --pre"),
        (("--context", "x"), "--context takes --pre"),
        (("--pre", "--injector", "policy", "--cert-manager", "ca"), "--cert-manager is for the webhook"),
        (("--pre", "--cert-manager", "Other/ca"), "expected an issuer"),
        (("--pre", "--kubernetes", "new"), "--kubernetes: expected a release"),
        (("--pre", "--control-namespace", "A"), "--control-namespace: "),
    ],
)
def test_options_that_do_not_fit(arguments: tuple[str, ...], says: str) -> None:
    result = CliRunner().invoke(main, ["check", *arguments])
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())


def test_each_option_is_named() -> None:
    assert set(NAMES) <= {parameter.name for parameter in command.params}
    others = {"pre", "addresses", "timeout", "output"}
    assert {parameter.name for parameter in command.params} == set(NAMES) | others
