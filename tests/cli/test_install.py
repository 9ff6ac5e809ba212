from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from meshproxy.cli.install import command
from tests.cli.conftest import needed


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["--image", "meshproxy:1", "--trust-domain", "prod.example", *arguments])


def printed(*arguments: str) -> list[Any]:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return list(yaml.safe_load_all(result.stdout))


def test_everything_but_documents_is_printed() -> None:
    kinds = [each["kind"] for each in printed()]
    assert {"CustomResourceDefinition", "Deployment", "MutatingWebhookConfiguration"} <= set(kinds)
    assert "ValidatingAdmissionPolicyBinding" in kinds
    assert "MeshConfig" not in kinds


def test_parts_of_it() -> None:
    assert {each["kind"] for each in printed("--only", "crds")} == {"CustomResourceDefinition"}
    kinds = [each["kind"] for each in printed("--only", "documents", "--only", "control-plane")]
    assert (kinds[0], kinds[-1]) == ("Namespace", "ModelServer")


def test_a_policy_holds_the_trust_bundle(bundle: Path) -> None:
    result = CliRunner().invoke(command, [*needed(bundle), "--injector", "policy", "--only", "injector"])
    assert "MutatingAdmissionPolicy" in [each["kind"] for each in yaml.safe_load_all(result.stdout)]
    assert bundle.read_text().splitlines()[1] in result.stdout
    result = run("--injector", "policy")
    assert result.exit_code == 2
    assert "holds the trust bundle" in result.output
    assert "--trust-bundle: only a policy takes it" in CliRunner().invoke(command, needed(bundle)).output


def test_whose_service_account_it_is() -> None:
    found = printed("--service-account", "mine", "--control-namespace", "mesh")
    subjects = [each["subjects"] for each in found if each["kind"].endswith("RoleBinding")]
    assert subjects == [[{"kind": "ServiceAccount", "name": "mine", "namespace": "mesh"}]] * 3
    (deployment,) = (each for each in found if each["kind"] == "Deployment")
    assert deployment["spec"]["template"]["spec"]["serviceAccountName"] == "mine"


def test_a_certificate_of_cert_manager() -> None:
    found = {each["kind"]: each for each in printed("--cert-manager", "ClusterIssuer/ca", "--only", "injector")}
    certificate, configuration = found["Certificate"], found["MutatingWebhookConfiguration"]
    assert certificate["spec"]["issuerRef"] == {"group": "cert-manager.io", "kind": "ClusterIssuer", "name": "ca"}
    assert certificate["spec"]["dnsNames"] == ["meshproxy-injector.meshproxy.svc"]
    where = configuration["metadata"]["annotations"]["cert-manager.io/inject-ca-from"]
    assert where == f"meshproxy/{certificate['metadata']['name']}"
    assert all("caBundle" not in webhook["clientConfig"] for webhook in configuration["webhooks"])
    assert "ClusterRole" not in found
    assert "kind: Issuer" in run("--cert-manager", "ca").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cert-manager", "Other/ca"), "expected an issuer"),
        (("--cert-manager", "Issuer/"), "expected an issuer"),
        (("--injector", "none", "--cert-manager", "ca"), "without the webhook"),
        (("--control-plane", "here"), '--control-plane: expected "HOST:PORT"'),
        (("--kubernetes", "new"), "--kubernetes: expected a release"),
        (("--service-account", "A B"), "--service-account: expected a name"),
        (("--injector", "policy"), "name the file with --trust-bundle"),
    ],
)
def test_what_cannot_be_used(arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.output
