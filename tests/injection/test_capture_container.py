from __future__ import annotations

import copy
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.cli.capture import command
from meshproxy.injection.capture import Capture, rules
from meshproxy.injection.inject import Injected, Refused, Skipped, inject
from meshproxy.injection.sidecar import DOCUMENT
from meshproxy.injection.uninject import uninject
from tests.injection.pods import BEFORE_SIDECARS, SETTINGS, apply_patch, element, injected, pod, pods
from tests.thorough import tries

CONFIG = "config.meshproxy.dev/"
ENABLED = {f"{CONFIG}capture": "enabled"}


def container(**fields: Any) -> Any:
    """The init container that captures, of a pod that gets one."""
    fields["annotations"] = {**ENABLED, **fields.get("annotations", {})}
    return element(injected(pod(**fields)).pod, "spec", "initContainers", "meshproxy-capture")


def refused(**fields: Any) -> str:
    fields["annotations"] = {**ENABLED, **fields.get("annotations", {})}
    result = inject(pod(**fields), "serving", SETTINGS)
    assert isinstance(result, Refused), result
    return "; ".join(result.problems)


def test_it_comes_first_with_the_one_right_that_it_takes() -> None:
    after = injected(pod(annotations=ENABLED, initContainers=[{"name": "fetch"}])).pod
    names = [each["name"] for each in after["spec"]["initContainers"]]
    assert names == ["meshproxy-capture", "meshproxy", "fetch"]
    made = container()
    assert "restartPolicy" not in made
    assert made["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN"]}
    assert "meshproxy-capture" not in str(injected(pod(annotations={})).pod)


def test_its_arguments_are_those_of_the_command() -> None:
    _, *options = container(annotations={f"{CONFIG}outbound": "enabled", f"{CONFIG}outbound-ports": "443"})["args"]
    assert options[0] == "apply"
    printed = CliRunner().invoke(command, ["rules", *options[1:]])
    assert printed.output == rules(Capture(inbound=(8500, 8501), outbound=(443,)))


@pytest.mark.parametrize(
    ("args", "ports"),
    [
        ([], "8500,8501"),
        (["--port=9000", "--rest_api_port=0"], "9000"),
        (["--rest_api_port=9001"], "8500,9001"),
    ],
    ids=str,
)
def test_the_ports_of_the_model_server(args: list[str], ports: str) -> None:
    assert container(container={"args": args})["args"] == ["capture", "apply", "--user=65532", f"--inbound={ports}"]


def test_the_sidecar_looks_where_connections_were_meant_to_go() -> None:
    after = injected(pod(annotations={**ENABLED, f"{CONFIG}outbound": "enabled"})).pod
    assert 'outbound: {listen: "127.0.0.1:18501", transparent: true}' in after["metadata"]["annotations"][DOCUMENT]


def test_probes_go_to_the_sidecar() -> None:
    probe = {"httpGet": {"path": "/v1/models/fraud", "port": 8501}, "periodSeconds": 7}
    server = injected(pod(annotations=ENABLED, container={"readinessProbe": probe})).pod["spec"]["containers"][0]
    assert server["readinessProbe"] == {"httpGet": {"path": "/readyz", "port": 18502}, "periodSeconds": 7}


def test_what_cannot_be_captured() -> None:
    assert "--port=grpc, which is not a port" in refused(container={"args": ["--port=grpc"]})
    assert "the model server has no port" in refused(container={"args": ["--port=0", "--rest_api_port=0"]})
    outbound = {f"{CONFIG}outbound": "enabled"}
    assert "its user, 65532" in refused(annotations=outbound, securityContext={"runAsUser": 65532})
    assert "which is not a port" in refused(container={"args": ["--port=0000999999"]})
    for ports in ("8500,x", "8500,", "0", "65536", "00001999999"):
        assert "expected ports" in refused(annotations={**outbound, f"{CONFIG}outbound-ports": ports})
    assert "nothing is captured" in refused(
        annotations={f"{CONFIG}capture": "disabled", f"{CONFIG}outbound-ports": "8500"}
    )


def test_who_captures_already_is_left_alone() -> None:
    taken = pod(annotations=ENABLED, initContainers=[{"name": "meshproxy-capture"}])
    assert isinstance(inject(taken, "serving", SETTINGS), Skipped)


@given(pods(), st.booleans())
@settings(max_examples=tries(60))
def test_twice_is_once_and_it_can_be_taken_back(content: Any, native: bool) -> None:
    content = copy.deepcopy(content)
    content["metadata"].setdefault("annotations", {}).update(ENABLED)
    at = SETTINGS if native else BEFORE_SIDECARS
    result = inject(content, "serving", at)
    if not isinstance(result, Injected):
        return
    assert apply_patch(content, result.patch) == result.pod
    assert isinstance(inject(result.pod, "serving", at), Skipped)
    taken_back = uninject(result.pod)
    assert taken_back is not None
    assert taken_back.pod == content
