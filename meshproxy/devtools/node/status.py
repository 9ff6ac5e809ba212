"""One pod: what is reported of it to the API server."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from meshproxy.devtools.node.lifecycle import Run, State, is_finished, is_initialized

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meshproxy.devtools.node.lifecycle import Pod
    from meshproxy.devtools.node.spec import Container, Spec


def pod_status(
    spec: Spec,
    pod: Pod,
    address: str,
    host: str,
    processes: Mapping[str, int],
    conditions: Sequence[Mapping[str, Any]],
    now: float,
) -> dict[str, Any]:
    """The `status`.

    Args:
        address: of the pod.
        host: the address of the node.
        processes: the first process of each container that has one, as this machine counts.
        conditions: those reported before; what has not changed keeps its time.
        now: seconds since the epoch, as are all times of the pod.
    """
    are_ready = all(
        pod.containers[container.name].is_ready
        for container in spec.all_containers
        if container.is_sidecar or container not in spec.init_containers
    )

    def shown(containers: Sequence[Container]) -> list[dict[str, Any]]:
        return [_container(each, pod.containers[each.name], processes.get(each.name)) for each in containers]

    facts = {
        "PodScheduled": True,
        "Initialized": is_initialized(spec, pod),
        "ContainersReady": are_ready,
        "Ready": are_ready,
    }
    return {
        "phase": _phase(spec, pod),
        "hostIP": host,
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [_condition(kind, conditions, is_so=is_so, now=now) for kind, is_so in facts.items()],
        "initContainerStatuses": shown(spec.init_containers),
        "containerStatuses": shown(spec.containers),
    }


def _phase(spec: Spec, pod: Pod) -> str:
    states = [pod.containers[container.name] for container in spec.containers]
    runs = any(state.run is Run.RUNNING for state in pod.containers.values())
    if not runs and (is_finished(spec, pod) or pod.deadline is not None):
        return "Succeeded" if all(state.code == 0 for state in states) else "Failed"
    return "Running" if any(state.starts for state in states) else "Pending"


def _condition(kind: str, before: Sequence[Mapping[str, Any]], *, is_so: bool, now: float) -> dict[str, Any]:
    for known in before:
        if known["type"] == kind and known["status"] == str(is_so):
            return dict(known)
    return {"type": kind, "status": str(is_so), "lastTransitionTime": timestamp(now)}


def _container(container: Container, state: State, process: int | None) -> dict[str, Any]:
    ended = {"exitCode": state.code, "finishedAt": timestamp(state.ended), "startedAt": timestamp(state.began)}
    if state.run is Run.RUNNING:
        shown: dict[str, Any] = {"running": {"startedAt": timestamp(state.began)}}
    elif state.run is Run.ENDED:
        shown = {"terminated": {**ended, "reason": "Completed" if state.code == 0 else "Error"}}
    else:
        shown = {"waiting": {"reason": "PodInitializing"}}
    is_through = state.run is Run.ENDED and state.code == 0 and not container.is_sidecar
    return {
        "name": container.name,
        "image": container.image,
        "imageID": "",
        **({"containerID": f"process://{process}"} if process is not None else {}),
        "ready": state.is_ready or is_through,
        "started": state.is_started,
        "restartCount": max(0, state.starts - 1),
        "state": shown,
    }


def timestamp(seconds: float) -> str:
    """As the API server writes times; it takes whole seconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
