from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from meshproxy.cli.install import command
from tests.cli.conftest import needed


def run(bundle: Path, *arguments: str) -> Result:
    return CliRunner().invoke(command, [*needed(bundle), *arguments])


@pytest.mark.parametrize(
    ("injector", "kind"), [("webhook", "MutatingWebhookConfiguration"), ("policy", "MutatingAdmissionPolicy")]
)
def test_what_is_printed(bundle: Path, injector: str, kind: str) -> None:
    result = run(bundle, "--injector", injector)
    assert result.exit_code == 0, result.output
    assert not [token for token in yaml.scan(result.stdout) if isinstance(token, yaml.AliasToken)]
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


def test_a_certificate_of_cert_manager(bundle: Path) -> None:
    result = run(bundle, "--injector", "webhook", "--cert-manager", "ClusterIssuer/ca")
    found = {each["kind"]: each for each in yaml.safe_load_all(result.stdout)}
    certificate, configuration = found["Certificate"], found["MutatingWebhookConfiguration"]
    assert certificate["spec"]["issuerRef"] == {"group": "cert-manager.io", "kind": "ClusterIssuer", "name": "ca"}
    assert certificate["spec"]["dnsNames"] == ["meshproxy-injector.meshproxy.svc"]
    where = configuration["metadata"]["annotations"]["cert-manager.io/inject-ca-from"]
    assert where == f"meshproxy/{certificate['metadata']['name']}"
    assert all("caBundle" not in webhook["clientConfig"] for webhook in configuration["webhooks"])
    assert "ClusterRole" not in found
    assert "kind: Issuer" in run(bundle, "--injector", "webhook", "--cert-manager", "ca").stdout


@pytest.mark.parametrize("arguments", [("webhook", "Other/ca"), ("webhook", "Issuer/"), ("policy", "ca")])
def test_no_issuer_of_cert_manager(bundle: Path, arguments: tuple[str, str]) -> None:
    result = run(bundle, "--injector", arguments[0], "--cert-manager", arguments[1])
    assert result.exit_code == 2
    assert "expected an issuer" in result.output
