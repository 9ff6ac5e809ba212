"""What is looked at of a pod. Everything else passes unread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

SIDECAR = "meshproxy"
"""The name of the container."""
MODEL_SERVER_PORTS = frozenset({8500, 8501})
"""TensorFlow Serving's gRPC and REST."""
_SERVING = "serving"
_PROGRAM = "tensorflow_model_server"


class Part(msgspec.Struct, frozen=True, rename="camel"):
    """A part of a pod. Fields that are not named are ignored, and null is the same as nothing."""


class Port(Part, frozen=True):
    container_port: int = 0
    name: str | None = None


class Mount(Part, frozen=True):
    name: str = ""
    mount_path: str = ""
    sub_path: str | None = None
    sub_path_expr: str | None = None


class SecurityContext(Part, frozen=True):
    run_as_user: int | None = None


class Lifecycle(Part, frozen=True):
    pre_stop: Mapping[str, Any] | None = None


class Container(Part, frozen=True):
    name: str = ""
    image: str | None = None
    args: list[str] | None = None
    command: list[str] | None = None
    lifecycle: Lifecycle | None = None
    ports: list[Port] | None = None
    volume_mounts: list[Mount] | None = None
    security_context: SecurityContext | None = None
    readiness_probe: Mapping[str, Any] | None = None
    liveness_probe: Mapping[str, Any] | None = None
    startup_probe: Mapping[str, Any] | None = None

    @property
    def is_model_server(self) -> bool:
        """It looks like TensorFlow Serving: by its image, its program or its ports."""
        repository = (self.image or "").partition("@")[0].rpartition("/")
        name = repository[2].partition(":")[0]
        is_image = name.startswith(("tensorflow-serving", "tf-serving")) or (
            name == _SERVING and repository[0].rpartition("/")[2] == "tensorflow"
        )
        runs = any(word.rpartition("/")[2] == _PROGRAM for word in (self.command or [])[:1])
        return is_image or runs or any(port.container_port in MODEL_SERVER_PORTS for port in self.ports or ())

    def flag(self, name: str) -> str | None:
        """The last value of `--name=VALUE` among its arguments."""
        prefix = f"--{name}="
        words = [*(self.command or ()), *(self.args or ())]
        return next((word.removeprefix(prefix) for word in reversed(words) if word.startswith(prefix)), None)


class Os(Part, frozen=True):
    name: str = ""


class Volume(Part, frozen=True):
    name: str = ""


class Spec(Part, frozen=True):
    containers: list[Container]
    init_containers: list[Container] | None = None
    volumes: list[Volume] | None = None
    host_network: bool | None = None
    restart_policy: str | None = None
    share_process_namespace: bool | None = None
    host_pid: bool | None = msgspec.field(default=None, name="hostPID")
    termination_grace_period_seconds: int | None = None
    security_context: SecurityContext | None = None
    node_selector: Mapping[str, str] | None = None
    os: Os | None = None
    resources: Mapping[str, Any] | None = None

    @property
    def shared_processes(self) -> str:
        """The field by which its containers see processes that are not theirs; empty without one."""
        if self.host_pid:
            return "hostPID"
        return "shareProcessNamespace" if self.share_process_namespace else ""

    @property
    def is_windows(self) -> bool:
        return (self.os is not None and self.os.name == "windows") or (self.node_selector or {}).get(
            "kubernetes.io/os"
        ) == "windows"


class Owner(Part, frozen=True):
    kind: str = ""
    name: str = ""


class Metadata(Part, frozen=True):
    name: str | None = None
    generate_name: str | None = None
    labels: Mapping[str, str] | None = None
    annotations: Mapping[str, str] | None = None
    owner_references: list[Owner] | None = None

    @property
    def owner(self) -> Owner:
        """What has made the pod; nameless if nothing has."""
        return next(iter(self.owner_references or ()), Owner())


class Pod(Part, frozen=True):
    """A pod, or the template of one."""

    spec: Spec
    metadata: Metadata | None = None

    @property
    def meta(self) -> Metadata:
        return self.metadata or Metadata()

    @property
    def annotations(self) -> Mapping[str, str]:
        return self.meta.annotations or {}

    @property
    def name(self) -> str:
        """Its name, or what its name will begin with; it has no other when it is admitted. Empty: neither."""
        return self.meta.name or (self.meta.generate_name or "").rstrip("-.")

    @property
    def all_containers(self) -> list[Container]:
        return [*(self.spec.init_containers or ()), *self.spec.containers]


def read_pod(content: object) -> Pod:
    """Read a pod as JSON or YAML has it.

    Raises:
        ValueError: it is none.
    """
    try:
        return msgspec.convert(content, Pod)
    except msgspec.ValidationError as error:
        is_number = str(error).endswith(("at `$.metadata.annotations[...]`", "at `$.metadata.labels[...]`"))
        hint = '; write numbers, true and false in quotes there, such as "4"' if is_number else ""
        raise ValueError(f"this is no pod: {error}{hint}") from error
