from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from meshproxy.config.load import load
from meshproxy.injection.yaml_edit import as_block
from meshproxy.installation.choices import CertManager, Choices, Injection
from meshproxy.installation.parts import LABEL, Part, installation
from tests.injection.pods import SETTINGS
from tests.installation.test_choices import choices

POLICY = choices(injection=Injection.POLICY, trust_bundle=SETTINGS.trust_bundle)


def kinds(made: Choices, *parts: Part) -> list[str]:
    return [each["kind"] for each in installation(made, parts)]


def test_what_others_refer_to_comes_first() -> None:
    found = [each["kind"] for each in installation(choices())]
    assert found.index("CustomResourceDefinition") == 0
    positions = [found.index(kind) for kind in ("Namespace", "ServiceAccount", "Role", "RoleBinding", "Deployment")]
    assert positions == sorted(positions)
    assert found.index("MutatingWebhookConfiguration") > found.index("Deployment")
    assert not {"MeshConfig", "ModelServer"} & set(found)


def test_parts_are_printed_in_their_order() -> None:
    assert kinds(choices(), Part.DOCUMENTS, Part.CRDS)[0] == "CustomResourceDefinition"
    assert kinds(choices(), Part.DOCUMENTS) == ["MeshConfig", "ModelServer"]
    everything = installation(choices(), list(Part))
    assert everything == [each for part in Part for each in installation(choices(), [part])]


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        (choices(), "MutatingWebhookConfiguration"),
        (choices(cert_manager=CertManager("Issuer", "ca")), "Certificate"),
        (POLICY, "MutatingAdmissionPolicy"),
        (choices(injection=Injection.NONE), "ValidatingAdmissionPolicy"),
    ],
    ids=["webhook", "cert-manager", "policy", "none"],
)
def test_who_puts_sidecars_into_pods(made: Choices, kind: str) -> None:
    found = kinds(made, Part.INJECTOR)
    assert kind in found
    assert ("MutatingWebhookConfiguration" in found) is (made.injection is Injection.WEBHOOK)
    assert "ValidatingAdmissionPolicyBinding" in found


def test_every_object_can_be_found_again() -> None:
    found = installation(choices(namespace="mesh"), list(Part))
    names = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in found]
    assert len(set(names)) == len(names)
    assert {namespace for _, namespace, _ in names} == {None, "mesh"}
    labelled = [each for each in found if each["kind"] != "CustomResourceDefinition"]
    assert all(each["metadata"]["labels"][LABEL] == "meshproxy" for each in labelled)


def test_the_first_documents_load(tmp_path: Path) -> None:
    """Beside the Sidecar that an injected pod has."""
    own: dict[str, Any] = {
        "apiVersion": "meshproxy.dev/v1alpha1", "kind": "Sidecar", "metadata": {"name": "s"},
        "spec": {
            "identity": {"files": {"certificate": "c.pem", "key": "k.pem", "trustBundle": "b.pem"}},
            "inbound": {"listen": "127.0.0.1:18500", "server": "local"},
        },
    }  # fmt: skip
    found = [*installation(choices(), [Part.DOCUMENTS]), own]
    (tmp_path / "mesh.yaml").write_text("\n---\n".join(map(as_block, found)))
    documents = load([str(tmp_path / "mesh.yaml")])
    assert documents.mesh.spec.trust_domain == "prod.example"
    assert [server.metadata.name for server in documents.servers] == ["local"]


def test_nothing_is_printed_by_reference() -> None:
    text = "\n---\n".join(map(as_block, installation(choices(), list(Part))))
    assert not [token for token in yaml.scan(text) if isinstance(token, yaml.AliasToken)]
    assert list(yaml.safe_load_all(text)) == installation(choices(), list(Part))
