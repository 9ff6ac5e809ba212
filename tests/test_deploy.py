"""What lies in deploy/ loads, as far as that can be said without an engine or a cluster."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from meshproxy.config.load import load
from meshproxy.identity.caller import Caller, Token, Workload
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.policy.compile import compile_policy
from meshproxy.refusal import Refusal

DEPLOY = Path(__file__).parents[1] / "deploy"


COMPOSE = DEPLOY / "compose"


def test_the_documents_of_the_containers_load() -> None:
    for sidecar in ("replica", "application"):
        documents = load([COMPOSE / "documents", COMPOSE / "sidecars" / f"{sidecar}.yaml"])
        assert documents.sidecar.spec.control_plane is not None
        assert documents.sidecar.spec.admin.listen.port == 18502
        assert documents.sidecar.metadata.name == sidecar


def test_the_example_of_traffic_loads_and_shows_what_it_says() -> None:
    documents = load([DEPLOY / "examples" / "traffic.yaml"])
    assert documents.sidecar.spec.inbound is None
    assert documents.sidecar.spec.outbound is not None
    stable, canary = documents.servers
    assert stable.spec.dns is not None
    assert stable.spec.health is not None
    assert {endpoint.locality for endpoint in canary.spec.endpoints} == {"zone-a", "zone-b"}
    fraud = documents.routes[0].spec
    assert [(each.weight, each.server) for each in fraud.split] == [(90, "stable"), (10, "canary")]
    assert fraud.mirror is not None
    assert fraud.retries is not None
    assert fraud.fallback == "stable"


def test_the_example_of_access_loads_and_decides_as_it_says() -> None:
    documents = load([DEPLOY / "examples" / "access.yaml"])
    policy = compile_policy(documents.roles, documents.bindings, documents.mesh.spec.trust_domain)
    call = Call(Verb.PREDICT, (ModelRef("fraud"),))

    def rule(caller: Caller, remote: str = "192.0.2.1:1", *headers: tuple[bytes, bytes]) -> str | None:
        try:
            return policy.decide(caller, call, remote, headers).rule
        except Refusal as refusal:
            return refusal.rule

    def workload(domain: str, namespace: str, account: str) -> Caller:
        return Caller(Workload(f"spiffe://{domain}/ns/{namespace}/sa/{account}", domain, namespace, account, 1e12))

    def token(**claims: object) -> Caller:
        return Caller(None, Token("corp", "alice", claims, 1e12))

    nightly = workload("legacy.example", "batch", "nightly")
    gateway = workload("dev.example", "edge", "gateway")
    quoter = workload("dev.example", "anywhere", "quoter")
    assert rule(quoter) == rule(workload("dev.example", "team-a", "x")) == "callers"
    assert rule(workload("legacy.example", "anywhere", "quoter")) == "default-deny"
    assert rule(nightly, "10.20.0.7:1") == rule(nightly, "[fd00:20::1]:1") == "callers"
    assert rule(nightly, "10.20.9.7:1") == rule(nightly) == "default-deny"
    finance = {"groups": ["finance", "level-2"], "scope": "openid predict"}
    assert rule(token(**finance)) == "callers"
    assert rule(token(**finance, guest=False)) == "no-guests"
    assert rule(gateway, "192.0.2.1:1", (b"x-client-tier", b"trial-2")) == "no-guests"
    assert rule(gateway, "192.0.2.1:1", (b"x-client-tier", b"paid")) == "default-deny"


def services() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "docker-compose.yaml").read_text())["services"])


def test_the_containers_mount_what_exists_and_publish_on_loopback() -> None:
    volumes = yaml.safe_load((DEPLOY / "docker-compose.yaml").read_text())["volumes"]
    for service in services().values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert source in volumes or (DEPLOY / source).exists()
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    for name in ("model-server", "issuer"):
        assert services()[name]["network_mode"] == "service:replica"
        assert services()[name]["depends_on"]["replica"]["restart"]


def test_the_containers_are_built_from_a_stage_of_the_dockerfile() -> None:
    for service in services().values():
        if "build" in service:
            folder = (DEPLOY / service["build"]["context"]).resolve()
            assert f" AS {service['build']['target']}\n" in (folder / "Dockerfile").read_text()
            assert service["image"] == "meshproxy:development"
        else:  # what is pulled is pinned
            assert re.search(r":v?[0-9.]+$", service["image"])


def test_prometheus_scrapes_services_that_there_are() -> None:
    jobs = yaml.safe_load((COMPOSE / "prometheus.yml").read_text())["scrape_configs"]
    targets = {target for job in jobs for config in job["static_configs"] for target in config["targets"]}
    assert targets == {"replica:18502", "application:18502", "control:18512"}
    assert {target.partition(":")[0] for target in targets} <= services().keys()


def test_spans_go_to_a_service_that_there_is() -> None:
    traces = load([COMPOSE / "documents", COMPOSE / "sidecars" / "replica.yaml"]).mesh.spec.telemetry.traces
    assert traces is not None
    host, port = traces.endpoint.removeprefix("http://").split(":")
    collector = yaml.safe_load((COMPOSE / "collector.yaml").read_text())
    assert collector["receivers"]["otlp"]["protocols"]["http"]["endpoint"] == f"0.0.0.0:{port}"
    jaeger = yaml.safe_load((COMPOSE / "jaeger.yaml").read_text())["services"]
    assert {host} == jaeger.keys() <= services().keys()
    assert re.search(r":[0-9.]+$", jaeger[host]["image"])


def test_the_development_file_replaces_a_service_that_there_is() -> None:
    development = yaml.safe_load((COMPOSE / "development.yaml").read_text())["services"]
    assert development.keys() == {"model-server"}
    # Both serve the models that the sidecar waits for.
    served = {each.partition("=")[0] for each in development["model-server"]["command"] if "=" in each}
    configured = re.findall(r'name: "(.+?)" base_path', (COMPOSE / "models" / "models.config").read_text())
    documents = load([COMPOSE / "documents", COMPOSE / "sidecars" / "replica.yaml"])
    (local,) = (each for each in documents.servers if each.metadata.name == "local")
    assert local.spec.health is not None
    assert served == set(configured) == set(local.spec.health.models)


def test_the_documents_in_the_manifest_load(tmp_path: Path) -> None:
    manifests = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "tensorflow-serving.yaml").read_text()))
    (config,) = (each for each in manifests if each["kind"] == "ConfigMap")
    for name, text in config["data"].items():
        (tmp_path / name).write_text(text)
    documents = load([str(tmp_path)])
    (deployment,) = (each for each in manifests if each["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (sidecar,) = pod["initContainers"]
    (model_server,) = pod["containers"]
    (server,) = documents.servers
    (grpc,) = (each.grpc for each in server.spec.endpoints if each.grpc is not None)
    path = grpc.removeprefix("unix:")
    # One user and one folder for both, and no port of gRPC on the address of the pod.
    assert {"--port=0", f"--grpc_socket_path={path}"} == set(model_server["args"])
    assert {"name": "sockets", "emptyDir": {}} in pod["volumes"]
    for container in (sidecar, model_server):
        (folder,) = (each["mountPath"] for each in container["volumeMounts"] if each["name"] == "sockets")
        assert Path(path).parent == Path(folder)
        assert "runAsUser" not in container["securityContext"]
    script = model_server["lifecycle"]["preStop"]["exec"]["command"][-1]
    # The pod outlives the drain, and what comes before it: killed in the middle, it would lose requests.
    before = int(script.split()[1])
    assert before + documents.sidecar.spec.drain_timeout + 10 <= pod["terminationGracePeriodSeconds"]
    assert documents.sidecar.spec.inbound is not None
    assert f"/dev/tcp/127.0.0.1/{documents.sidecar.spec.admin.listen.port}" in script
    # Asked whether it is ready, the sidecar would wait for the model server, which waits for the sidecar to be started.
    assert sidecar["startupProbe"]["httpGet"]["path"] == "/livez"
    assert sidecar["readinessProbe"]["httpGet"]["path"] == "/readyz"
    ports = {port["name"]: port["containerPort"] for port in sidecar["ports"]}
    assert ports == {
        "mesh": documents.sidecar.spec.inbound.listen.port,
        "mesh-admin": documents.sidecar.spec.admin.listen.port,
    }
    (policy,) = (each for each in manifests if each["kind"] == "NetworkPolicy")
    assert [port["port"] for port in policy["spec"]["ingress"][0]["ports"]] == sorted(ports.values())


@pytest.mark.parametrize(
    ("file", "extras"),
    [("requirements.txt", ("control",)), ("requirements-development.txt", ("control", "demo"))],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_the_images_install_what_the_project_asks_for(file: str, extras: tuple[str, ...]) -> None:
    """`make lock` brings them up to date."""
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(each for extra in extras for each in project["optional-dependencies"][extra])]
    locked = dict(re.findall(r"(?m)^([\w.-]+)==(\S+)", (DEPLOY / "image" / file).read_text()))
    for requirement in map(Requirement, wanted):
        assert requirement.name in locked
        assert requirement.specifier.contains(locked[requirement.name])
