from __future__ import annotations

from typing import Any

import pytest

from meshproxy.devtools.node.lifecycle import Pod, Run, State, begin
from meshproxy.devtools.node.probing import Kind, Probing
from meshproxy.devtools.node.spec import Container, Spec
from meshproxy.devtools.node.status import pod_status, timestamp

SPEC = Spec((Container("a", image="i:1"),), (Container("first"), Container("sidecar", restart_policy="Always")))
RUNNING = State(run=Run.RUNNING, began=10.0, starts=1)
DONE = State(run=Run.ENDED, began=10.0, ended=20.0, starts=1, code=0)


def shown(states: dict[str, State], spec: Spec = SPEC, deadline: float | None = None, before: Any = ()) -> Any:
    pod = Pod({**begin(spec).containers, **states}, deadline)
    return pod_status(spec, pod, "10.78.1.1", "10.78.0.1", {"a": 17}, before, 30.0)


def conditions(status: Any) -> dict[str, str]:
    return {each["type"]: each["status"] for each in status["conditions"]}


def test_a_pod_that_has_not_begun() -> None:
    status = shown({})
    assert (status["phase"], status["podIP"], status["podIPs"]) == ("Pending", "10.78.1.1", [{"ip": "10.78.1.1"}])
    assert conditions(status) == {
        "PodScheduled": "True", "Initialized": "False", "ContainersReady": "False", "Ready": "False",
    }  # fmt: skip
    assert status["containerStatuses"][0]["state"] == {"waiting": {"reason": "PodInitializing"}}


def test_a_pod_that_serves() -> None:
    status = shown({"first": DONE, "sidecar": RUNNING, "a": RUNNING})
    assert status["phase"] == "Running"
    assert set(conditions(status).values()) == {"True"}
    assert [each["ready"] for each in status["initContainerStatuses"]] == [True, True]
    assert status["containerStatuses"] == [
        {
            "name": "a", "image": "i:1", "imageID": "", "containerID": "process://17", "ready": True, "started": True,
            "restartCount": 0,
            "state": {"running": {"startedAt": "1970-01-01T00:00:10Z"}},
        }
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["sidecar", "a"])
def test_a_sidecar_counts_like_a_container(name: str) -> None:
    unready = State(run=Run.RUNNING, starts=1, probes={Kind.READINESS: Probing(0.0, is_passed=False)})
    status = shown({"first": DONE, "sidecar": RUNNING, "a": RUNNING, name: unready})
    assert (conditions(status)["Initialized"], conditions(status)["Ready"]) == ("True", "False")


@pytest.mark.parametrize(("code", "phase"), [(0, "Succeeded"), (1, "Failed")])
def test_a_pod_that_has_ended(code: int, phase: str) -> None:
    spec = Spec((Container("a"),), restart_policy="Never")
    ended = State(run=Run.ENDED, began=10.0, ended=20.0, starts=2, code=code)
    status = shown({"a": ended}, spec)
    assert status["phase"] == phase
    (container,) = status["containerStatuses"]
    assert (container["restartCount"], container["ready"]) == (1, code == 0)
    assert container["state"]["terminated"] == {
        "exitCode": code, "reason": "Completed" if code == 0 else "Error",
        "startedAt": timestamp(10.0), "finishedAt": timestamp(20.0),
    }  # fmt: skip
    assert shown({"a": ended}, Spec((Container("a"),)), deadline=40.0)["phase"] == phase
    assert shown({"a": ended}, Spec((Container("a"),)))["phase"] == "Running"


def test_what_has_not_changed_keeps_its_time() -> None:
    before = [
        {"type": "Initialized", "status": "False", "lastTransitionTime": timestamp(1.0)},
        {"type": "Ready", "status": "True", "lastTransitionTime": timestamp(1.0)},
    ]
    times = {each["type"]: each["lastTransitionTime"] for each in shown({}, before=before)["conditions"]}
    assert (times["Initialized"], times["Ready"]) == (timestamp(1.0), timestamp(30.0))
