"""One pod: it gets a sidecar, is left alone for a reason, or is refused in words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshproxy.config import values
from meshproxy.injection import drain_hook
from meshproxy.injection.annotations import PREFIX, Choices, read_choices
from meshproxy.injection.capture_container import CAPTURE, CapturedPorts, capture_container, ports_of
from meshproxy.injection.draft import Draft, Operation
from meshproxy.injection.pod import SIDECAR, Container, Mount, Owner, Pod, read_pod
from meshproxy.injection.probes import ADMIN_NAME, PORT_NAME, WORKER_NAME, rewritten_probes
from meshproxy.injection.record import STATUS, write_record
from meshproxy.injection.settings import ADMIN, INBOUND, OUTBOUND, SYSTEM_NAMESPACES, USER, Settings
from meshproxy.injection.sidecar import (
    CONFIGURATION,
    DOCUMENT,
    IDENTITY,
    TRUST_BUNDLE,
    container,
    document,
    volumes,
    worker_ports,
)

if TYPE_CHECKING:
    from meshproxy.injection.draft import TextOf

LABEL = "meshproxy.dev/inject"
"""Of namespaces and pods: `enabled` or `disabled`."""
MIRROR = "kubernetes.io/config.mirror"
DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
NAMES = 253
GRACE_PERIOD = 30
"""Seconds: the default of Kubernetes."""
BEFORE_KILL = 5
"""Seconds between the end of a drain and the end of the pod."""


@dataclass(frozen=True, slots=True)
class Injected:
    """The pod with its sidecar."""

    pod: Any
    patch: tuple[Operation, ...]
    """What leads there (RFC 6902)."""
    warnings: tuple[str, ...] = ()
    """What the author of the pod should know, each on one line."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """The pod stays as it is."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The pod cannot have the sidecar that it asks for."""

    problems: tuple[str, ...]


class _CannotInject(Exception):
    """The text says why, and what to do."""


def inject(
    content: object,
    namespace: str,
    settings: Settings,
    *,
    owner: Owner | None = None,
    text_of: TextOf | None = None,
    in_place: bool = False,
) -> Injected | Skipped | Refused:
    """Decide about one pod, and change a copy of it. One that has a sidecar is skipped, so twice is the same as once.

    Args:
        content: the pod, as the API server sends it, or the template of one.
        namespace: of the pod.
        owner: the object that makes pods of this template. None: as the pod says.
        text_of: how what is replaced is noted down (`Draft`).
        in_place: `content` may be changed.
    """
    try:
        pod = read_pod(content)
    except ValueError as error:
        return Refused((str(error),))
    if reason := _reason_to_skip(pod, namespace, settings):
        return Skipped(reason)
    choices, problems = read_choices(pod.annotations, settings)
    problems += _misplaced(pod)
    owner = owner or pod.meta.owner
    try:
        plan = _plan(pod, owner.kind, settings, choices)
    except _CannotInject as error:
        problems.append(str(error))
    if problems:
        return Refused(tuple(problems))
    return _carry_out(plan, Draft(content, text_of, in_place=in_place), settings, choices, pod.name or owner.name)


def _misplaced(pod: Pod) -> list[str]:
    """What was meant for us, but is not read: whoever wrote it would take it for what holds."""
    labels = pod.meta.labels or {}
    problems = [f"{key} is an annotation, not a label" for key in labels if key.startswith(PREFIX)]
    if labels.get(LABEL, "enabled") != "enabled":
        problems.append(f"label {LABEL}: expected enabled or disabled, got {values.shown(labels[LABEL])}")
    if LABEL in pod.annotations:
        problems.append(f"{LABEL} is a label, not an annotation")
    return problems


def _reason_to_skip(pod: Pod, namespace: str, settings: Settings) -> str:
    """Why a pod gets no sidecar; empty if it gets one."""
    if namespace in SYSTEM_NAMESPACES or namespace == settings.namespace:
        return f"pods in the namespace {namespace} get none"
    if (pod.meta.labels or {}).get(LABEL) == "disabled":
        return f"it has the label {LABEL}=disabled"
    if MIRROR in pod.annotations:
        return "it is a mirror of a static pod, which only the kubelet can change"
    if pod.spec.host_network:
        return "it has hostNetwork: its ports are those of the node"
    if pod.spec.is_windows:
        return "its operating system is Windows"
    for name in (SIDECAR, CAPTURE):
        if any(each.name == name for each in pod.all_containers):
            return f"it has a container {name} already"
    return ""


@dataclass(frozen=True, slots=True)
class _Plan:
    pod: Pod
    outbound: bool
    model_server: Container | None
    """None: it has none, and the sidecar no inbound port."""
    has_hook: bool
    drain: float
    user: int
    socket: Mount | None
    captured: CapturedPorts | None
    warnings: tuple[str, ...]


def _plan(pod: Pod, owner: str, settings: Settings, choices: Choices) -> _Plan:
    """What to do. Raises _CannotInject."""
    _check_conflicts(pod, worker_ports(choices))
    if not settings.is_native and (owner == "Job" or pod.spec.restart_policy in ("Never", "OnFailure")):
        raise _CannotInject(
            "the sidecar would keep a pod that is to end running: that takes Kubernetes 1.29; label the pod "
            f"{LABEL}=disabled to run it without one"
        )
    server = _model_server(pod, choices) if choices.is_inbound is not False else None
    outbound = choices.is_outbound if choices.is_outbound is not None else server is None
    if server is None and not outbound:
        raise _CannotInject(
            f"no container looks like TensorFlow Serving, and {PREFIX}outbound is disabled: the sidecar would do "
            f"nothing; name the container in {PREFIX}container"
        )
    warnings: list[str] = []
    has_hook = server is not None and _takes_hook(pod, server, choices, warnings)
    drain = choices.drain_timeout
    if not has_hook and not choices.has_drain_timeout:
        drain = min(drain, max(0.0, _grace_period(pod) - BEFORE_KILL))
    user, socket = _socket(pod, server)
    captured = _captured(pod, server, user, choices, outbound=outbound) if choices.is_captured else None
    return _Plan(pod, outbound, server, has_hook, drain, user, socket, captured, tuple(warnings))


def _check_conflicts(pod: Pod, workers: range) -> None:
    names = [each.name for each in pod.all_containers]
    if not pod.spec.containers or "" in names or len(set(names)) < len(names):
        raise _CannotInject("it has no containers, or some without a name of their own")
    for each in pod.all_containers:
        for port in each.ports or ():
            if (
                port.container_port in (INBOUND, OUTBOUND, ADMIN, *workers)
                or port.name in (PORT_NAME, ADMIN_NAME)
                or (port.name or "").startswith(WORKER_NAME)
            ):
                own = f"{INBOUND} ({PORT_NAME}), {OUTBOUND} and {ADMIN} ({ADMIN_NAME})"
                more = f", and {workers[0]} to {workers[-1]} ({WORKER_NAME}...)" if workers else ""
                raise _CannotInject(
                    f"container {each.name} has the port {port.name or port.container_port}, which is the sidecar's: "
                    f"the sidecar has {own}{more}"
                )
    for volume in pod.spec.volumes or ():
        if volume.name in (CONFIGURATION, IDENTITY):
            raise _CannotInject(f"the volume {volume.name} has the name of one of the sidecar's: give it another name")


def _model_server(pod: Pod, choices: Choices) -> Container | None:
    """The container of the model server; None if the pod has none."""
    names = [each.name for each in pod.spec.containers]
    if choices.container is not None:
        if choices.container not in names:
            raise _CannotInject(f"{PREFIX}container: the pod has no container {choices.container}")
        return pod.spec.containers[names.index(choices.container)]
    found = [each for each in pod.spec.containers if each.is_model_server]
    if len(found) > 1:
        raise _CannotInject(
            f"the containers {', '.join(each.name for each in found)} all look like TensorFlow Serving: name one in "
            f"{PREFIX}container"
        )
    if not found and choices.is_inbound:
        if len(names) == 1:
            return pod.spec.containers[0]
        raise _CannotInject(f"no container looks like TensorFlow Serving: name it in {PREFIX}container")
    return found[0] if found else None


def _takes_hook(pod: Pod, server: Container, choices: Choices, warnings: list[str]) -> bool:
    """The model server gets the hook that lets the sidecar drain and then ends it."""
    has_own = server.lifecycle is not None and server.lifecycle.pre_stop is not None
    if choices.has_drain_hook is False:
        return False
    if has_own:
        if choices.has_drain_hook:
            raise _CannotInject(f"{PREFIX}drain-hook: container {server.name} has a preStop of its own")
        return False
    if shared := pod.spec.shared_processes:  # the hook ends the children of the first process, here another one's
        if choices.has_drain_hook:
            raise _CannotInject(f"{PREFIX}drain-hook: with {shared} it cannot find the model server")
        warnings.append(
            f"container {server.name} got no preStop hook because of {shared}: requests in flight may be lost when the "
            "pod ends"
        )
        return False
    return True


def _socket(pod: Pod, server: Container | None) -> tuple[int, Mount | None]:
    """The user to run as, and the volume of the model server's socket, if it has one. Its mode is 0755, so only the
    model server's own user can connect."""
    path = server.flag("grpc_socket_path") if server is not None else None
    if server is None or not path:
        return USER, None
    mounts = [each for each in server.volume_mounts or () if path.startswith(each.mount_path.rstrip("/") + "/")]
    if not mounts:
        raise _CannotInject(
            f"container {server.name} has --grpc_socket_path={path}, which is in none of its volumes: mount an "
            "emptyDir there, which the sidecar shares"
        )
    contexts = (server.security_context, pod.spec.security_context)
    user = next((each.run_as_user for each in contexts if each is not None and each.run_as_user is not None), None)
    if not user:
        raise _CannotInject(
            f"container {server.name} has --grpc_socket_path, and only its own user can connect there: set its "
            "securityContext.runAsUser to a user other than root"
        )
    mount = max(mounts, key=lambda each: len(each.mount_path))
    if mount.sub_path_expr:
        raise _CannotInject(
            f"container {server.name} has --grpc_socket_path={path} in a volume with subPathExpr, which the sidecar "
            "cannot work out: use subPath, or an emptyDir of its own"
        )
    return user, mount


def _captured(pod: Pod, server: Container | None, user: int, choices: Choices, *, outbound: bool) -> CapturedPorts:
    try:
        ports = CapturedPorts(
            ports_of(server) if server is not None else (), choices.outbound_ports if outbound else ()
        )
    except ValueError as error:
        raise _CannotInject(f"{PREFIX}capture: {error}") from error
    if not ports.inbound and not ports.outbound:
        raise _CannotInject(f"{PREFIX}capture: the model server has no port, and {PREFIX}outbound is disabled")
    if ports.outbound:
        contexts = (pod.spec.security_context, *(each.security_context for each in pod.all_containers))
        if any(each is not None and each.run_as_user == user for each in contexts):
            raise _CannotInject(
                f"{PREFIX}capture: connections of the sidecar are told by its user, {user}, which another container "
                "has, too: set another runAsUser there"
            )
    return ports


def _grace_period(pod: Pod) -> int:
    seconds = pod.spec.termination_grace_period_seconds
    return GRACE_PERIOD if seconds is None else seconds


def _carry_out(plan: _Plan, draft: Draft, settings: Settings, choices: Choices, name: str) -> Injected:
    server, warnings = plan.model_server, list(plan.warnings)
    if server is not None:
        at = ("spec", "containers", server.name)
        # The kubelet's probes are captured as well, and it has no certificate.
        to_sidecar = choices.probes_sidecar or plan.captured is not None
        for field, probe in rewritten_probes(server, to_sidecar=to_sidecar).items():
            draft.put((*at, field), probe)
            if field == "livenessProbe":
                warnings.append(
                    f"the livenessProbe of container {server.name} asks the sidecar: it no longer finds hangs"
                )
        if plan.has_hook:
            draft.put((*at, "lifecycle", "preStop"), drain_hook.drain_hook(plan.drain))
            needed = drain_hook.grace_period(plan.drain)
            if _grace_period(plan.pod) < needed:
                draft.put(("spec", "terminationGracePeriodSeconds"), needed)
    for volume in reversed(volumes()):
        draft.insert(("spec", "volumes"), volume)
    made = container(
        choices,
        native=settings.is_native,
        inbound=server is not None,
        user=plan.user,
        socket=plan.socket,
        resources=not plan.pod.spec.resources,
    )
    own = document(_name(name), settings, choices, plan.drain, inbound=server is not None, outbound=plan.outbound)
    draft.put(("metadata", "annotations", DOCUMENT), own)
    if settings.is_native:
        draft.insert(("spec", "initContainers"), made)
    else:
        if DEFAULT_CONTAINER not in plan.pod.annotations:  # kubectl would take the first one
            draft.put(("metadata", "annotations", DEFAULT_CONTAINER), plan.pod.spec.containers[0].name)
        draft.insert(("spec", "containers"), made)
    if plan.captured is not None:
        first = capture_container(choices, plan.captured, plan.user, resources=not plan.pod.spec.resources)
        draft.insert(("spec", "initContainers"), first)
    draft.put(("metadata", "annotations", TRUST_BUNDLE), settings.trust_bundle)
    draft.put(("metadata", "annotations", STATUS), write_record(draft.undo))
    return Injected(draft.pod, tuple(draft.patch), tuple(warnings))


def _name(text: str) -> str:
    """A name for the sidecar's document."""
    return re.sub(r"[^a-z0-9.-]", "-", text.lower())[:NAMES].strip("-.") or "pod"
