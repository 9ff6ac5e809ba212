from __future__ import annotations

from typing import Any

from meshproxy.injection.sidecar import AUDIENCE, volumes
from tests.injection.pods import element, injected, pod


def sidecar(**spec: Any) -> Any:
    return element(injected(pod(**spec)).pod, "spec", "initContainers", "meshproxy")


def test_it_meets_the_restricted_level() -> None:
    """Pod Security Standards; the real API server says so in tests/e2e."""
    context = sidecar()["securityContext"]
    assert context["allowPrivilegeEscalation"] is context["privileged"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["runAsNonRoot"] is context["readOnlyRootFilesystem"] is True
    assert context["runAsUser"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}


def test_it_is_started_before_it_is_ready() -> None:
    """/readyz waits for the model server, which waits for the startup probe."""
    assert sidecar()["startupProbe"]["httpGet"]["path"] == "/livez"
    assert sidecar()["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_one_volume_has_all_that_it_reads() -> None:
    configuration, memory = volumes()
    annotations, token = configuration["projected"]["sources"]
    assert [item["path"] for item in annotations["downwardAPI"]["items"]] == ["sidecar.yaml", "authority.pem"]
    assert token["serviceAccountToken"]["audience"] == AUDIENCE == "identity.meshproxy.dev"
    assert token["serviceAccountToken"]["expirationSeconds"] >= 600
    assert memory["emptyDir"]["medium"] == "Memory"
    mounts = {each["name"]: each for each in sidecar()["volumeMounts"]}
    assert set(mounts) == {configuration["name"], memory["name"]}
    assert mounts[configuration["name"]]["readOnly"]
    assert mounts[configuration["name"]]["mountPath"] == sidecar()["args"][2]
