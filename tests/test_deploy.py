"""What lies in deploy/ loads, as far as that can be said without an engine or a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from meshproxy.config.load import load

DEPLOY = Path(__file__).parents[1] / "deploy"


def test_the_documents_of_the_containers_load() -> None:
    documents = load([str(DEPLOY / "compose" / "mesh.yaml"), str(DEPLOY / "demo" / "policy.yaml")])
    assert documents.sidecar.spec.inbound.listen.port == 18500


def test_the_containers_mount_files_that_exist_and_publish_the_sidecar_only() -> None:
    compose = yaml.safe_load((DEPLOY / "docker-compose.yaml").read_text())
    services: dict[str, Any] = compose["services"]
    for service in services.values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).is_file()
    assert {name for name, service in services.items() if "ports" in service} == {"sidecar"}
    assert services["model-server"]["network_mode"] == services["issuer"]["network_mode"] == "service:sidecar"


def test_the_documents_in_the_manifest_load(tmp_path: Path) -> None:
    manifests = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "tensorflow-serving.yaml").read_text()))
    (config,) = (each for each in manifests if each["kind"] == "ConfigMap")
    for name, text in config["data"].items():
        (tmp_path / name).write_text(text)
    documents = load([str(tmp_path)])
    (deployment,) = (each for each in manifests if each["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    # The pod outlives the drain: killed in the middle of it, it would lose requests.
    assert documents.sidecar.spec.drain_timeout < pod["terminationGracePeriodSeconds"]
    (sidecar,) = pod["initContainers"]
    ports = {port["name"]: port["containerPort"] for port in sidecar["ports"]}
    assert ports == {
        "mesh": documents.sidecar.spec.inbound.listen.port,
        "mesh-admin": documents.sidecar.spec.admin.listen.port,
    }
    (policy,) = (each for each in manifests if each["kind"] == "NetworkPolicy")
    assert [port["port"] for port in policy["spec"]["ingress"][0]["ports"]] == sorted(ports.values())
