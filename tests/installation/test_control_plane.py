from __future__ import annotations

from typing import Any

import pytest

from meshproxy.cli.control import run
from meshproxy.installation.choices import CertManager, Choices, Injection
from meshproxy.installation.control_plane import LEAVE_SECONDS, arguments, control_plane
from tests.installation.test_choices import choices

CERTIFIED = choices(cert_manager=CertManager("Issuer", "ca"))


def objects(made: Choices) -> dict[str, Any]:
    return {each["kind"]: each for each in control_plane(made)}


def pod(made: Choices) -> Any:
    return objects(made)["Deployment"]["spec"]["template"]["spec"]


@pytest.mark.parametrize(
    "made",
    [choices(), CERTIFIED, choices(injection=Injection.NONE), choices(namespace="mesh", listen="0.0.0.0")],
    ids=["webhook", "cert-manager", "none", "elsewhere"],
)
def test_the_command_takes_its_arguments(made: Choices) -> None:
    """And every folder in them is a volume: nothing else can be written or read."""
    command, sub_command, *options = arguments(made)
    assert (command, sub_command) == ("control", "run")
    parsed = run.make_context("run", list(options)).params
    assert parsed["trust_domain"] == made.trust_domain
    assert parsed["namespace"] == made.namespace
    assert parsed["cluster_documents"] is parsed["token_review"] is True
    mounted = {each["mountPath"] for each in pod(made)["containers"][0]["volumeMounts"]}
    assert str(parsed["folder"]) in mounted
    volumes = {each["name"] for each in pod(made)["volumes"]}
    assert {each["name"] for each in pod(made)["containers"][0]["volumeMounts"]} == volumes


def test_the_login_file_is_in_a_secret_of_the_operators() -> None:
    made = choices(login_secret="page-login")
    assert "--login=/etc/meshproxy/login/login.yaml" in arguments(made)
    assert not [each for each in arguments(made) if each.startswith("--commands")], "on loopback, where kubectl leads"
    (volume,) = (each for each in pod(made)["volumes"] if each["name"] == "login")
    assert volume["secret"] == {"secretName": "page-login", "defaultMode": 0o440}
    (mount,) = (each for each in pod(made)["containers"][0]["volumeMounts"] if each["name"] == "login")
    assert (mount["mountPath"], mount["readOnly"]) == ("/etc/meshproxy/login", True)
    assert not [each for each in arguments(choices()) if "login" in each]


def test_the_memory_limit_is_the_operators() -> None:
    (container,) = pod(choices(memory_limit="1Gi"))["containers"]
    assert container["resources"]["limits"] == {"memory": "1Gi"}


def test_the_webhook_serves_where_the_api_server_calls() -> None:
    with_webhook = choices(namespace="mesh")
    assert "--webhook-name=meshproxy-injector.mesh.svc" in arguments(with_webhook)
    assert "--webhook-configuration=meshproxy-injector" in arguments(with_webhook)
    certified = arguments(CERTIFIED)
    assert "--webhook-key=/etc/meshproxy/webhook/tls.key" in certified
    assert not [each for each in certified if each.startswith("--webhook-configuration")]
    assert not [each for each in arguments(choices(injection=Injection.NONE)) if "webhook" in each or "sidecar" in each]


@pytest.mark.parametrize("made", [choices(), choices(injection=Injection.NONE)], ids=["webhook", "none"])
def test_what_listens_is_what_may_be_called(made: Choices) -> None:
    found = objects(made)
    (container,) = pod(made)["containers"]
    declared = {port["containerPort"] for port in container["ports"]}
    policy = found["NetworkPolicy"]["spec"]
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == declared
    assert (18511 in declared) is (made.injection is Injection.WEBHOOK)
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        policy["podSelector"]["matchLabels"],
        found["Service"]["spec"]["selector"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        found["Deployment"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector == labels


def test_one_of_several_may_go() -> None:
    found = objects(choices())
    spec = found["Deployment"]["spec"]
    assert spec["replicas"] > found["PodDisruptionBudget"]["spec"]["minAvailable"] >= 1
    assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] > 2 * LEAVE_SECONDS
    assert spec["template"]["spec"]["priorityClassName"] == found["PriorityClass"]["metadata"]["name"]
