"""What is read of a pod, and what cannot be run here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from meshproxy.injection.pod import Part


class Probe(Part, frozen=True):
    """Times are in seconds."""

    exec: Mapping[str, Any] | None = None
    http_get: Mapping[str, Any] | None = None
    tcp_socket: Mapping[str, Any] | None = None
    initial_delay_seconds: float = 0.0
    period_seconds: float = 10.0
    timeout_seconds: float = 1.0
    success_threshold: int = 1
    failure_threshold: int = 3


class Hook(Part, frozen=True):
    exec: Mapping[str, Any] | None = None
    http_get: Mapping[str, Any] | None = None
    sleep: Mapping[str, Any] | None = None


class Lifecycle(Part, frozen=True):
    pre_stop: Hook | None = None
    post_start: Mapping[str, Any] | None = None


class Port(Part, frozen=True):
    container_port: int
    name: str = ""


class Mount(Part, frozen=True):
    name: str
    mount_path: str
    read_only: bool = False
    sub_path: str = ""


class Capabilities(Part, frozen=True):
    drop: tuple[str, ...] = ()


class SecurityContext(Part, frozen=True):
    run_as_user: int | None = None
    run_as_group: int | None = None
    fs_group: int | None = None
    capabilities: Capabilities | None = None


class Env(Part, frozen=True):
    name: str
    value: str = ""
    value_from: Mapping[str, Any] | None = None


class Container(Part, frozen=True):
    name: str
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[Env, ...] = ()
    env_from: tuple[Any, ...] = ()
    ports: tuple[Port, ...] = ()
    restart_policy: str | None = None
    startup_probe: Probe | None = None
    readiness_probe: Probe | None = None
    liveness_probe: Probe | None = None
    lifecycle: Lifecycle = Lifecycle()
    volume_mounts: tuple[Mount, ...] = ()
    security_context: SecurityContext = SecurityContext()

    @property
    def is_sidecar(self) -> bool:
        """It is a native sidecar, if it is one of the init containers."""
        return self.restart_policy == "Always"

    def port(self, which: object) -> int:
        """A port by its number or name. Raises ValueError."""
        if isinstance(which, int):
            return which
        for port in self.ports:
            if port.name == which:
                return port.container_port
        raise ValueError(f"container {self.name} has no port {which}")


class Spec(Part, frozen=True):
    containers: tuple[Container, ...]
    init_containers: tuple[Container, ...] = ()
    restart_policy: str = "Always"
    termination_grace_period_seconds: float = 30.0
    volumes: tuple[Mapping[str, Any], ...] = ()
    security_context: SecurityContext = SecurityContext()
    service_account_name: str = "default"
    host_network: bool = False
    share_process_namespace: bool = False

    @property
    def all_containers(self) -> tuple[Container, ...]:
        """In the order in which they start."""
        return (*self.init_containers, *self.containers)

    def container(self, name: str) -> Container:
        """The one of this name; there is one."""
        return next(each for each in self.all_containers if each.name == name)


def read_spec(content: object) -> Spec:
    """The spec of a pod as the API server has it, with defaults. Raises ValueError."""
    try:
        return msgspec.convert(content, Spec)
    except msgspec.ValidationError as error:
        raise ValueError(f"this is no spec of a pod: {error}") from error


def not_possible(spec: Spec) -> list[str]:
    """What the pod asks for that is not done here: it would run as something else than it says."""
    found = []
    if spec.host_network or spec.share_process_namespace:
        found.append("hostNetwork and shareProcessNamespace")
    for volume in spec.volumes:
        kinds = [kind for kind in volume if kind not in ("name", "configMap", "secret", "projected", "emptyDir")]
        found += [f"a volume of the kind {kind}" for kind in kinds]
    for container in spec.all_containers:
        found += [f"{what} of container {container.name}" for what in _not_possible_in(container)]
    return found


def _not_possible_in(container: Container) -> Iterator[str]:
    if container.env_from or any(set(env.value_from or {}) - {"fieldRef"} for env in container.env):
        yield "envFrom, secretKeyRef and configMapKeyRef"
    if container.lifecycle.post_start is not None:
        yield "postStart"
    for mount in container.volume_mounts:
        if mount.sub_path or mount.mount_path.rstrip("/").count("/") < 2:
            yield f"the mount {mount.mount_path}, with subPath or below the root,"
    for probe in (container.startup_probe, container.readiness_probe, container.liveness_probe):
        if probe is not None and probe.exec is None and probe.http_get is None and probe.tcp_socket is None:
            yield "a probe by gRPC"
