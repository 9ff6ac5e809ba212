from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from meshproxy.cli.install import command
from tests.injection.pods import SETTINGS


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "authority.pem"
    path.write_text(SETTINGS.trust_bundle)
    return path


def run(bundle: Path, *arguments: str) -> Result:
    needed = ["--image", "meshproxy:1", "--trust-domain", "prod.example", "--trust-bundle", str(bundle)]
    return CliRunner().invoke(command, [*needed, *arguments])


@pytest.mark.parametrize(
    ("injector", "kind"), [("webhook", "MutatingWebhookConfiguration"), ("policy", "MutatingAdmissionPolicy")]
)
def test_what_is_printed(bundle: Path, injector: str, kind: str) -> None:
    result = run(bundle, "--injector", injector)
    assert result.exit_code == 0, result.output
    kinds = [each["kind"] for each in yaml.safe_load_all(result.stdout)]
    assert kind in kinds
    assert "ValidatingAdmissionPolicyBinding" in kinds


def test_whose_service_account_it_is(bundle: Path) -> None:
    result = run(bundle, "--injector", "webhook", "--service-account", "mine", "--control-namespace", "mesh")
    (binding,) = (each for each in yaml.safe_load_all(result.stdout) if each["kind"] == "ClusterRoleBinding")
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "mine", "namespace": "mesh"}]


def test_a_policy_needs_a_new_cluster(bundle: Path) -> None:
    result = run(bundle, "--injector", "policy", "--kubernetes", "1.28")
    assert result.exit_code == 2
    assert "native sidecars" in result.output
