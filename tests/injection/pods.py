"""Pods for tests, one by one and by the thousand. All of them are valid for the API server of Kubernetes."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.injection.inject import Injected, inject
from meshproxy.injection.settings import Settings

SETTINGS = Settings(
    image="registry.example.com/meshproxy:0.1.0",
    trust_bundle=DevelopmentCA.create("prod.example").bundle_pem.decode(),
    control_plane="meshproxy-control.meshproxy.svc:18510",
    control_plane_id="spiffe://prod.example/ns/meshproxy/sa/control",
)
BEFORE_SIDECARS = Settings(
    SETTINGS.image, SETTINGS.trust_bundle, SETTINGS.control_plane, SETTINGS.control_plane_id, kubernetes=(1, 28)
)
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def pod(*, annotations: dict[str, str] | None = None, container: dict[str, Any] | None = None, **spec: Any) -> Any:
    """A pod of TensorFlow Serving.

    Args:
        container: more fields of it.
        spec: more fields of the specification.
    """
    server = {"name": "tensorflow-serving", "image": "tensorflow/serving:2.19.0", **(container or {})}
    metadata: dict[str, Any] = {"generateName": "web-"}
    if annotations is not None:
        metadata["annotations"] = annotations
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [server], **spec}}


def injected(content: Any, settings: Settings = SETTINGS) -> Injected:
    """The pod with its sidecar, which it must get."""
    result = inject(content, "serving", settings)
    assert isinstance(result, Injected), result
    return result


def element(pod: Any, *path: str) -> Any:
    """What is at a path, where elements of lists go by their names."""
    found = pod
    for step in path:
        found = next(each for each in found if each["name"] == step) if isinstance(found, list) else found[step]
    return found


def apply_patch(pod: Any, patch: Any) -> Any:
    """What the API server makes of a JSON patch (RFC 6902), written anew from the specification."""
    whole = {"": copy.deepcopy(pod)}
    for operation in patch:
        steps = [step.replace("~1", "/").replace("~0", "~") for step in operation["path"].split("/")]
        parent: Any = whole
        for step in steps[:-1]:
            parent = parent[int(step)] if isinstance(parent, list) else parent[step]
        last = steps[-1]
        value = copy.deepcopy(operation.get("value"))
        if isinstance(parent, list):
            index = len(parent) if last == "-" else int(last)
            assert 0 <= index <= len(parent)
            if operation["op"] == "add":
                parent.insert(index, value)
            elif operation["op"] == "replace":
                parent[index] = value
            else:
                del parent[index]
        else:
            assert isinstance(parent, dict)
            if operation["op"] != "add":
                assert last in parent
            if operation["op"] == "remove":
                del parent[last]
            else:
                parent[last] = value
    return whole[""]


# By the thousand

_PORTS = st.sampled_from([(8500, "grpc"), (8501, "rest"), (9090, "metrics"), (8080, None), (443, "https")])
_HANDLERS = st.one_of(
    st.builds(
        lambda path, port: {"httpGet": {"path": path, "port": port}},
        st.sampled_from(["/", "/v1/models/fraud", "/readyz"]),
        st.sampled_from([8501, "rest", "mesh", "mesh-admin", 18500, 18502]),
    ),
    st.builds(lambda port: {"tcpSocket": {"port": port}}, st.sampled_from([8500, "mesh", 18500, "grpc"])),
    st.builds(lambda port: {"grpc": {"port": port}}, st.sampled_from([8500, 18500])),
    st.just({"exec": {"command": ["true"]}}),
)
_PROBES = st.builds(lambda handler, period: {**handler, "periodSeconds": period}, _HANDLERS, st.integers(1, 30))
_HOOKS = st.sampled_from(
    [{"preStop": {"exec": {"command": ["sleep", "5"]}}}, {"postStart": {"exec": {"command": ["true"]}}}, {}]
)
_SOCKET = "--grpc_socket_path=/run/serving/grpc.sock"


@st.composite
def _containers(draw: st.DrawFn, name: str, *, is_server: bool) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": name,
        "image": draw(
            st.sampled_from(["tensorflow/serving:2.19.0", "registry.example.com/tf-serving@sha256:" + 64 * "0"])
        )
        if is_server
        else "registry.example.com/tool",
        "securityContext": dict(RESTRICTED),
    }
    if draw(st.booleans()):
        own = _PORTS if is_server else st.just((9091 if name == "tool" else 9092, None))
        ports = draw(st.lists(own, unique=True, max_size=3))
        container["ports"] = [
            {"containerPort": number, **({"name": label} if label is not None else {})} for number, label in ports
        ]
    for field in ("readinessProbe", "livenessProbe", "startupProbe"):
        if draw(st.booleans()):
            container[field] = draw(_PROBES)
    if draw(st.booleans()):
        container["lifecycle"] = draw(_HOOKS)
    if is_server and draw(st.booleans()):
        container["args"] = ["--port=0", _SOCKET]
        container["volumeMounts"] = [{"name": "sockets", "mountPath": "/run/serving"}]
    return container


_CHOICES: st.SearchStrategy[dict[str, str]] = st.fixed_dictionaries(
    {},
    optional={
        "config.meshproxy.dev/drain-timeout": st.sampled_from(["0s", "5s", "1m30s", "250ms"]),
        "config.meshproxy.dev/log-level": st.sampled_from(["debug", "error"]),
        "config.meshproxy.dev/memory-limit": st.sampled_from(["32Mi", "1Gi"]),
        "config.meshproxy.dev/cpu-request": st.sampled_from(["1m", "2", "0.5"]),
        "config.meshproxy.dev/outbound": st.just("enabled"),
        "config.meshproxy.dev/probes": st.sampled_from(["keep", "sidecar"]),
        "config.meshproxy.dev/workers": st.sampled_from(["1", "2"]),
        "config.meshproxy.dev/access-log": st.sampled_from(["off", "stdout"]),
        "config.meshproxy.dev/server": st.just("fraud"),
        "example.com/other": st.text(st.characters(codec="latin-1", categories=("L", "N", "P", "Zs")), max_size=20),
    },
)


@st.composite
def pods(draw: st.DrawFn) -> dict[str, Any]:
    """A pod that gets a sidecar, or is skipped."""
    containers = [draw(_containers("tensorflow-serving", is_server=True))]
    for name in draw(st.lists(st.sampled_from(["tool", "exporter"]), unique=True)):
        containers.insert(draw(st.integers(0, len(containers))), draw(_containers(name, is_server=False)))
    spec: dict[str, Any] = {"containers": containers}
    volumes: list[dict[str, Any]] = [{"name": "sockets", "emptyDir": {}}]
    if draw(st.booleans()) or any("volumeMounts" in each for each in containers):
        spec["volumes"] = volumes
    if draw(st.booleans()):
        init = {"name": "fetch", "image": "registry.example.com/tool", "securityContext": dict(RESTRICTED)}
        spec["initContainers"] = [init]
    if draw(st.booleans()):
        spec["terminationGracePeriodSeconds"] = draw(st.sampled_from([0, 5, 30, 300]))
    spec |= draw(
        st.fixed_dictionaries(
            {},
            optional={
                "restartPolicy": st.sampled_from(["Always", "OnFailure", "Never"]),
                "shareProcessNamespace": st.booleans(),
                "automountServiceAccountToken": st.booleans(),
                "nodeSelector": st.sampled_from([{"kubernetes.io/os": "linux"}, {"kubernetes.io/os": "windows"}]),
            },
        )
    )
    metadata: dict[str, Any] = {"generateName": "web-"}
    if draw(st.booleans()):
        metadata["annotations"] = draw(_CHOICES)
    if draw(st.booleans()):
        metadata["labels"] = {"app": "web", **draw(st.sampled_from([{}, {"meshproxy.dev/inject": "disabled"}]))}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
