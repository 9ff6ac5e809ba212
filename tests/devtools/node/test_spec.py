from __future__ import annotations

from typing import Any

import pytest

from meshproxy.devtools.node.spec import not_possible, read_spec
from meshproxy.injection.inject import Injected, inject
from tests.injection.pods import SETTINGS, pod


def spec(**container: Any) -> Any:
    return {"containers": [{"name": "a", **container}]}


def test_what_the_api_server_leaves_out_is_its_default() -> None:
    read = read_spec(spec())
    assert (read.restart_policy, read.termination_grace_period_seconds) == ("Always", 30)
    assert read.all_containers[0].lifecycle.pre_stop is None


def test_an_injected_pod_can_be_run() -> None:
    result = inject(pod(), "serving", SETTINGS)
    assert isinstance(result, Injected)
    read = read_spec(result.pod["spec"])
    assert not_possible(read) == []
    assert [each.is_sidecar for each in read.all_containers] == [True, False]


def test_a_port_by_its_number_or_name() -> None:
    (container,) = read_spec(spec(ports=[{"name": "mesh", "containerPort": 18500}])).containers
    assert (container.port(80), container.port("mesh")) == (80, 18500)
    with pytest.raises(ValueError, match="container a has no port other"):
        container.port("other")


def test_what_is_no_spec() -> None:
    with pytest.raises(ValueError, match="this is no spec of a pod"):
        read_spec({"containers": "none"})


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({**spec(), "hostNetwork": True}, "hostNetwork and shareProcessNamespace"),
        ({**spec(), "volumes": [{"name": "m", "hostPath": {}}]}, "a volume of the kind hostPath"),
        (spec(envFrom=[{}]), "envFrom, secretKeyRef and configMapKeyRef of container a"),
        (spec(env=[{"name": "A", "valueFrom": {"secretKeyRef": {}}}]), "envFrom, secretKeyRef and"),
        (spec(lifecycle={"postStart": {}}), "postStart of container a"),
        (
            spec(volumeMounts=[{"name": "m", "mountPath": "/models"}]),
            "the mount /models, with subPath or below the root",
        ),
        (spec(volumeMounts=[{"name": "m", "mountPath": "/a/b", "subPath": "c"}]), "the mount /a/b"),
        (spec(livenessProbe={"grpc": {"port": 1}}), "a probe by gRPC of container a"),
    ],
)
def test_what_is_not_done_here_is_said(content: Any, expected: str) -> None:
    (problem,) = not_possible(read_spec(content))
    assert expected in problem
