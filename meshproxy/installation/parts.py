"""The installation in parts, each of which can be printed alone."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

from meshproxy.config import crds, schema
from meshproxy.config.fields import API_VERSION
from meshproxy.injection.policies import enforcement_policies, injection_policies
from meshproxy.injection.webhook_configuration import certified_objects, webhook_objects
from meshproxy.installation.choices import Injection
from meshproxy.installation.control_plane import control_plane

if TYPE_CHECKING:
    from collections.abc import Collection

    from meshproxy.installation.choices import Choices

LABEL = "app.kubernetes.io/part-of"
"""Of every object but the kinds: `meshproxy`."""


class Part(Enum):
    """One part, in the order in which they are applied."""

    CRDS = "crds"
    """The CustomResourceDefinitions."""
    CONTROL_PLANE = "control-plane"
    """The control plane's pods, its namespace and its rights."""
    INJECTOR = "injector"
    """What puts sidecars into pods, and refuses pods without."""
    DOCUMENTS = "documents"
    """The documents to begin with."""


INSTALLATION = (Part.CRDS, Part.CONTROL_PLANE, Part.INJECTOR)
"""What can be applied at once. kubectl looks up the kind of every object before it makes the first one, so it takes
documents only once their kinds are there."""


def installation(choices: Choices, parts: Collection[Part] = INSTALLATION) -> list[dict[str, Any]]:
    """The objects of these parts, in an order in which they can be made."""
    return [each for part in Part if part in parts for each in _objects(part, choices)]


def _objects(part: Part, choices: Choices) -> list[dict[str, Any]]:
    match part:
        case Part.CRDS:
            return [crds.definition(kind) for kind in schema.KINDS]
        case Part.CONTROL_PLANE:
            found = control_plane(choices)
        case Part.INJECTOR:
            found = [*_injector(choices), *enforcement_policies(choices.namespace)]
        case Part.DOCUMENTS:
            found = _documents(choices)
    return [_labelled(each) for each in found]


def _injector(choices: Choices) -> list[dict[str, Any]]:
    match choices.injection:
        case Injection.WEBHOOK if choices.cert_manager is not None:
            return certified_objects(choices.namespace, choices.cert_manager.name, choices.cert_manager.kind)
        case Injection.WEBHOOK:
            return webhook_objects(choices.namespace, choices.service_account)
        case Injection.POLICY:
            return injection_policies(choices.sidecars())
        case Injection.NONE:
            return []


def _documents(choices: Choices) -> list[dict[str, Any]]:
    """A mesh, and the model server in the pod of each injected sidecar."""
    endpoint = {"rest": "127.0.0.1:8501", "grpc": "127.0.0.1:8500"}
    specs = {
        ("MeshConfig", "mesh"): {"trustDomain": choices.trust_domain},
        ("ModelServer", choices.server): {"endpoints": [endpoint], "health": {"check": "model-status"}},
    }
    return [
        {
            "apiVersion": API_VERSION,
            "kind": kind,
            "metadata": {"name": name, "namespace": choices.namespace},
            "spec": spec,
        }
        for (kind, name), spec in specs.items()
    ]


def _labelled(content: dict[str, Any]) -> dict[str, Any]:
    metadata = content["metadata"]
    return {**content, "metadata": {**metadata, "labels": {**metadata.get("labels", {}), LABEL: "meshproxy"}}}
