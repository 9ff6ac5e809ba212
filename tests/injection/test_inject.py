from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.config.load import load_own
from meshproxy.config.schema import Sidecar
from meshproxy.injection.inject import LABEL, MIRROR, Injected, Refused, Skipped, inject
from meshproxy.injection.sidecar import DOCUMENT, TRUST_BUNDLE
from tests.injection.pods import BEFORE_SIDECARS, SETTINGS, apply_patch, element, injected, pod, pods
from tests.thorough import tries

CONFIG = "config.meshproxy.dev/"


def refused(content: Any, *, at: Any = SETTINGS) -> str:
    result = inject(content, "serving", at)
    assert isinstance(result, Refused), result
    return "; ".join(result.problems)


def own_document(content: Any, folder: Path) -> Sidecar:
    """The document of an injected pod's sidecar, as the sidecar reads it."""
    path = folder / "sidecar.yaml"
    path.write_text(content["metadata"]["annotations"][DOCUMENT])
    document = load_own([str(path)])
    assert isinstance(document, Sidecar)
    return document


def test_a_native_sidecar_comes_first_and_everything_else_stays() -> None:
    before = pod(initContainers=[{"name": "fetch"}], volumes=[{"name": "models"}])
    after = injected(before).pod
    assert [each["name"] for each in after["spec"]["initContainers"]] == ["meshproxy", "fetch"]
    assert after["spec"]["initContainers"][0]["restartPolicy"] == "Always"
    assert after["spec"]["volumes"][-1] == {"name": "models"}
    assert before == pod(initContainers=[{"name": "fetch"}], volumes=[{"name": "models"}])


@pytest.mark.parametrize(
    "absent", [{}, {"initContainers": None, "volumes": None}, {"initContainers": [], "volumes": []}]
)
def test_lists_that_are_absent_or_empty_are_added_whole(absent: dict[str, Any]) -> None:
    """An `add` to a list that is not there fails in the API server, as an error that failurePolicy does not soften."""
    patch = injected(pod(**absent)).patch
    added = {operation["path"] for operation in patch if isinstance(operation["value"], list)}
    assert added == {"/spec/initContainers", "/spec/volumes"}
    present = injected(pod(initContainers=[{"name": "a"}], volumes=[{"name": "b"}])).patch
    assert {"/spec/initContainers/0", "/spec/volumes/0"} <= {operation["path"] for operation in present}


def test_the_own_document_is_one_that_the_sidecar_takes(tmp_path: Path) -> None:
    document = own_document(injected(pod()).pod, tmp_path)
    assert document.metadata.name == "web"
    assert document.spec.inbound is not None
    assert (document.spec.inbound.listen.port, document.spec.inbound.server) == (18500, "local")
    assert document.spec.outbound is None
    assert document.spec.admin.listen.port == 18502
    control = document.spec.control_plane
    assert control is not None
    assert (str(control.address), control.documents) == (SETTINGS.control_plane, True)
    assert injected(pod()).pod["metadata"]["annotations"][TRUST_BUNDLE] == SETTINGS.trust_bundle


def test_choices_reach_the_sidecar(tmp_path: Path) -> None:
    chosen = {
        "access-log": "off", "drain-timeout": "1m30s", "image": "registry.example.com/next:2", "log-level": "debug",
        "memory-limit": "1Gi", "memory-request": "256Mi", "cpu-request": "2", "cpu-limit": "2", "outbound": "enabled",
        "server": "fraud", "workers": "2",
    }  # fmt: skip
    after = injected(pod(annotations={f"{CONFIG}{name}": text for name, text in chosen.items()})).pod
    document = own_document(after, tmp_path)
    assert document.spec.inbound is not None
    assert document.spec.inbound.server == "fraud"
    assert document.spec.outbound is not None
    assert (document.spec.access_log, document.spec.drain_timeout, document.spec.workers) == ("off", 90.0, 2)
    sidecar = element(after, "spec", "initContainers", "meshproxy")
    assert sidecar["image"] == "registry.example.com/next:2"
    assert sidecar["args"][-2:] == ["--log-level", "debug"]
    amounts = {"cpu": "2", "memory": "256Mi"}
    assert sidecar["resources"] == {"requests": amounts, "limits": {**amounts, "memory": "1Gi"}}


@pytest.mark.parametrize("workers", [1, 2, 7, 8, 64])
def test_scrapers_find_every_worker_by_the_name_of_its_port(workers: int, tmp_path: Path) -> None:
    after = injected(pod(annotations={f"{CONFIG}workers": str(workers)})).pod
    ports = element(after, "spec", "initContainers", "meshproxy")["ports"]
    found = {each["name"]: each["containerPort"] for each in ports if each["name"].startswith("mesh-worker-")}
    admins = own_document(after, tmp_path).spec.worker_ports  # which must not be the control plane's
    assert found == {f"mesh-worker-{number}": port for number, port in enumerate(admins)}
    assert len(found) == (workers if workers > 1 else 0)
    assert all(len(name) <= 15 for name in found)  # of a port in Kubernetes


def test_a_container_must_not_have_the_port_of_a_worker() -> None:
    several = {f"{CONFIG}workers": "2"}
    port = {"containerPort": 18504}
    said = refused(pod(annotations=several, container={"ports": [port]}))
    assert "which is the sidecar's" in said
    assert "18503 to 18504 (mesh-worker-...)" in said
    assert injected(pod(container={"ports": [port]})).pod
    assert "mesh-worker-0" in refused(pod(container={"ports": [{"name": "mesh-worker-0", "containerPort": 1}]}))


def test_all_wrong_choices_are_named_at_once() -> None:
    wrong = {"workers": "0", "memory-limit": "lots", "drain-timeuot": "5s"}
    said = refused(pod(annotations={f"{CONFIG}{name}": text for name, text in wrong.items()}))
    assert f"{CONFIG}workers: expected a whole number from 1 to 64" in said
    assert f"{CONFIG}memory-limit: expected an amount" in said
    assert f'{CONFIG}drain-timeuot: no such setting (did you mean "drain-timeout"?)' in said


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pod(hostNetwork=True), "hostNetwork"),
        (pod(annotations={MIRROR: "hash"}), "mirror"),
        (pod(os={"name": "windows"}), "Windows"),
        (pod(nodeSelector={"kubernetes.io/os": "windows"}), "Windows"),
        (pod(initContainers=[{"name": "meshproxy", "restartPolicy": "Always"}]), "already"),
        ({**pod(), "metadata": {"labels": {LABEL: "disabled"}}}, "disabled"),
    ],
)
def test_what_is_left_alone(content: Any, reason: str) -> None:
    result = inject(content, "serving", SETTINGS)
    assert isinstance(result, Skipped)
    assert reason in result.reason


@pytest.mark.parametrize("namespace", ["kube-system", "kube-node-lease", "kube-public", "meshproxy"])
def test_namespaces_that_get_none(namespace: str) -> None:
    """A control plane whose own pods wait for it would never start."""
    assert isinstance(inject(pod(), namespace, SETTINGS), Skipped)


def test_which_container_is_the_model_server() -> None:
    tool = {"name": "tool", "image": "registry.example.com/tool"}
    other = {"name": "other", "image": "tensorflow/serving"}
    two = pod()
    two["spec"]["containers"] += [tool, other]
    assert "tensorflow-serving, other all look like TensorFlow Serving" in refused(two)
    two["metadata"]["annotations"] = {f"{CONFIG}container": "other"}
    assert "preStop" in element(injected(two).pod, "spec", "containers", "other", "lifecycle")
    two["metadata"]["annotations"] = {f"{CONFIG}container": "othr"}
    assert "no container othr" in refused(two)


def test_an_application_gets_a_sidecar_to_call_with(tmp_path: Path) -> None:
    content = pod(container={"name": "app", "image": "registry.example.com/app"})
    after = injected(content).pod
    document = own_document(after, tmp_path)
    assert document.spec.inbound is None
    assert document.spec.outbound is not None
    assert [port["name"] for port in element(after, "spec", "initContainers", "meshproxy", "ports")] == ["mesh-admin"]
    assert "lifecycle" not in element(after, "spec", "containers", "app")
    assert "terminationGracePeriodSeconds" not in after["spec"]
    content["metadata"]["annotations"] = {f"{CONFIG}inbound": "enabled"}
    assert own_document(injected(content).pod, tmp_path).spec.inbound is not None
    content["metadata"]["annotations"] = {f"{CONFIG}outbound": "disabled"}
    assert "would do nothing" in refused(content)
    content["spec"]["containers"].append({"name": "b"})
    content["metadata"]["annotations"] = {f"{CONFIG}inbound": "enabled"}
    assert f"name it in {CONFIG}container" in refused(content)
    content["metadata"]["annotations"] = {f"{CONFIG}inbound": "disabled", f"{CONFIG}outbound": "disabled"}
    assert "both disabled" in refused(content)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"labels": {"meshproxy.dev/inject": "false"}}, 'expected enabled or disabled, got "false"'),
        ({"labels": {"meshproxy.dev/inject": ""}}, 'expected enabled or disabled, got ""'),
        ({"annotations": {"meshproxy.dev/inject": "disabled"}}, "meshproxy.dev/inject is a label, not an annotation"),
        ({"labels": {f"{CONFIG}workers": "2"}}, f"{CONFIG}workers is an annotation, not a label"),
    ],
)
def test_what_is_written_in_the_wrong_place_or_word(metadata: dict[str, Any], said: str) -> None:
    """It would be taken for what holds: the pod would have a sidecar where it says that it wants none."""
    content = pod()
    content["metadata"] |= metadata
    assert said in refused(content)


def test_the_drain_ends_before_the_pod(tmp_path: Path) -> None:
    """The grace period covers the hook; without a hook, the drain is as long as the grace period allows."""
    assert injected(pod()).pod["spec"]["terminationGracePeriodSeconds"] == 40
    assert injected(pod(terminationGracePeriodSeconds=60)).pod["spec"]["terminationGracePeriodSeconds"] == 60
    long = pod(annotations={f"{CONFIG}drain-timeout": "5m"}, terminationGracePeriodSeconds=60)
    assert injected(long).pod["spec"]["terminationGracePeriodSeconds"] == 315
    short = pod(container={"image": "app"}, terminationGracePeriodSeconds=10)
    assert own_document(injected(short).pod, tmp_path).spec.drain_timeout == 5.0


def test_who_gets_a_hook() -> None:
    own = {"lifecycle": {"preStop": {"exec": {"command": ["true"]}}}}
    assert (
        element(injected(pod(container=own)).pod, "spec", "containers", "tensorflow-serving")["lifecycle"]
        == own["lifecycle"]
    )
    annotation = {f"{CONFIG}drain-hook": "enabled"}
    assert "a preStop of its own" in refused(pod(container=own, annotations=annotation))
    without = injected(pod(annotations={f"{CONFIG}drain-hook": "disabled"})).pod
    assert "lifecycle" not in without["spec"]["containers"][0]
    started = {"lifecycle": {"postStart": {"exec": {"command": ["true"]}}}}
    assert set(injected(pod(container=started)).pod["spec"]["containers"][0]["lifecycle"]) == {"postStart", "preStop"}


@pytest.mark.parametrize("shared", ["hostPID", "shareProcessNamespace"])
def test_a_hook_would_end_processes_that_are_not_the_model_servers(shared: str) -> None:
    """With hostPID those would be the node's: the first process is its init."""
    spec: dict[str, Any] = {shared: True}
    result = injected(pod(**spec))
    assert "lifecycle" not in result.pod["spec"]["containers"][0]
    assert f"no preStop hook because of {shared}" in result.warnings[0]
    assert shared in refused(pod(annotations={f"{CONFIG}drain-hook": "enabled"}, **spec))


def test_a_socket_is_shared_with_its_user() -> None:
    server = {
        "args": ["--port=0", "--grpc_socket_path=/run/serving/grpc.sock"],
        "volumeMounts": [{"name": "run", "mountPath": "/run"}, {"name": "sockets", "mountPath": "/run/serving/"}],
    }
    after = injected(pod(container=server, securityContext={"runAsUser": 1000})).pod
    sidecar = element(after, "spec", "initContainers", "meshproxy")
    assert sidecar["volumeMounts"][-1] == {"name": "sockets", "mountPath": "/run/serving/", "readOnly": True}
    assert sidecar["securityContext"]["runAsUser"] == 1000
    own = {**server, "securityContext": {"runAsUser": 7}}
    after = injected(pod(container=own, securityContext={"runAsUser": 1000})).pod
    assert element(after, "spec", "initContainers", "meshproxy", "securityContext")["runAsUser"] == 7
    part = {**server, "volumeMounts": [{"name": "run", "mountPath": "/run/serving", "subPath": "sockets"}]}
    after = injected(pod(container=part, securityContext={"runAsUser": 1000})).pod
    assert element(after, "spec", "initContainers", "meshproxy")["volumeMounts"][-1]["subPath"] == "sockets"
    part["volumeMounts"] = [{"name": "run", "mountPath": "/run/serving", "subPathExpr": "$(POD)"}]
    assert "subPathExpr" in refused(pod(container=part, securityContext={"runAsUser": 1000}))
    assert "runAsUser to a user other than root" in refused(pod(container=server))
    assert "runAsUser" in refused(pod(container=server, securityContext={"runAsUser": 0}))
    assert "in none of its volumes" in refused(pod(container={"args": server["args"]}))


@pytest.mark.parametrize(
    "port", [{"containerPort": 18500}, {"containerPort": 18502}, {"containerPort": 1, "name": "mesh"}]
)
def test_ports_that_are_the_sidecars(port: dict[str, Any]) -> None:
    assert "which is the sidecar's" in refused(pod(container={"ports": [port]}))


def test_names_that_are_the_sidecars() -> None:
    assert "the volume meshproxy" in refused(pod(volumes=[{"name": "meshproxy"}]))
    assert "without a name" in refused(pod(container={"name": ""}))
    assert "no containers" in refused({"spec": {"containers": []}})


def test_before_native_sidecars() -> None:
    after = injected(pod(), BEFORE_SIDECARS).pod
    assert [each["name"] for each in after["spec"]["containers"]] == ["meshproxy", "tensorflow-serving"]
    assert "initContainers" not in after["spec"]
    assert "restartPolicy" not in after["spec"]["containers"][0]
    default = "kubectl.kubernetes.io/default-container"
    assert after["metadata"]["annotations"][default] == "tensorflow-serving"
    chosen = injected(pod(annotations={default: "other"}), BEFORE_SIDECARS).pod
    assert chosen["metadata"]["annotations"][default] == "other"


@pytest.mark.parametrize("ends", [{"restartPolicy": "Never"}, {"restartPolicy": "OnFailure"}])
def test_a_pod_that_is_to_end_needs_a_native_sidecar(ends: dict[str, Any]) -> None:
    """As an ordinary container the sidecar would keep it running for ever."""
    assert injected(pod(**ends)).patch
    assert "that takes Kubernetes 1.29" in refused(pod(**ends), at=BEFORE_SIDECARS)
    of_a_job = pod()
    of_a_job["metadata"]["ownerReferences"] = [{"kind": "Job", "name": "nightly"}]
    assert "that takes Kubernetes 1.29" in refused(of_a_job, at=BEFORE_SIDECARS)


def test_resources_of_the_whole_pod_are_enough() -> None:
    assert "resources" not in element(
        injected(pod(resources={"limits": {"memory": "1Gi"}})).pod, "spec", "initContainers", "meshproxy"
    )


def test_a_name_for_the_document() -> None:
    content = pod()
    content["metadata"] = {"name": "A_b." + "x" * 300}
    assert 'metadata: {name: "a-b.xxx' in injected(content).pod["metadata"]["annotations"][DOCUMENT]
    assert 'metadata: {name: "pod"}' in injected({"spec": pod()["spec"]}).pod["metadata"]["annotations"][DOCUMENT]
    probed = pod(container={"readinessProbe": {"httpGet": {"path": "/", "port": "mesh"}}})
    assert 'metadata: {name: "web"}' in injected(probed).pod["metadata"]["annotations"][DOCUMENT]


@given(content=pods(), native=st.booleans())
@settings(max_examples=tries(60))
def test_twice_is_once_and_the_patch_leads_there(content: Any, native: bool) -> None:
    before = copy.deepcopy(content)
    at = SETTINGS if native else BEFORE_SIDECARS
    result = inject(content, "serving", at)
    assert content == before
    if not isinstance(result, Injected):
        assert isinstance(result, Skipped) or not native
        return
    assert apply_patch(content, result.patch) == result.pod
    assert isinstance(inject(result.pod, "serving", at), Skipped)
    assert all("\n" not in warning and len(warning) <= 256 for warning in result.warnings)


@given(
    content=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["metadata", "spec", "containers", "name", "annotations", "ports"]), inner
            )
        ),
        max_leaves=8,
    )
)
@settings(max_examples=tries(100))
def test_what_is_no_pod_is_refused_in_words(content: Any) -> None:
    result = inject(content, "serving", SETTINGS)
    assert isinstance(result, Refused | Injected | Skipped)
