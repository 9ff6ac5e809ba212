from __future__ import annotations

from typing import Any

from meshproxy.injection.settings import SYSTEM_NAMESPACES
from meshproxy.injection.webhook_configuration import NAME, webhook_objects


def objects() -> dict[str, Any]:
    return {each["kind"]: each for each in webhook_objects("mesh", "control")}


def test_the_configuration_fails_closed_and_calls_the_service() -> None:
    found = objects()
    configuration, service = found["MutatingWebhookConfiguration"], found["Service"]
    for webhook in configuration["webhooks"]:
        client = webhook["clientConfig"]
        assert "caBundle" not in client  # applied again, it would replace the one that the control plane keeps
        assert client["service"]["name"] == service["metadata"]["name"]
        assert client["service"]["port"] == service["spec"]["ports"][0]["port"]
        assert (webhook["failurePolicy"], webhook["sideEffects"]) == ("Fail", "None")
        outside = webhook["namespaceSelector"]["matchExpressions"][1]
        assert outside["operator"] == "NotIn"
        assert set(outside["values"]) == {*SYSTEM_NAMESPACES, "mesh"}


def test_no_pod_is_asked_about_twice() -> None:
    """The webhook of pods leaves those out that the one of namespaces has."""
    of_namespace, of_pod = objects()["MutatingWebhookConfiguration"]["webhooks"]
    enabled = {"key": "meshproxy.dev/inject", "values": ["enabled"]}
    assert of_namespace["namespaceSelector"]["matchExpressions"][0] == {**enabled, "operator": "In"}
    assert of_pod["namespaceSelector"]["matchExpressions"][0] == {**enabled, "operator": "NotIn"}


def test_the_control_plane_may_write_this_configuration_and_no_other() -> None:
    found = objects()
    (rule,) = found["ClusterRole"]["rules"]
    assert (rule["resourceNames"], rule["verbs"]) == ([NAME], ["get", "patch"])
    assert found["ClusterRoleBinding"]["roleRef"]["name"] == found["ClusterRole"]["metadata"]["name"]
    (subject,) = found["ClusterRoleBinding"]["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": "control", "namespace": "mesh"}
