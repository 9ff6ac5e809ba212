"""Sidecars, as the API server of Kubernetes takes them."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from lightkube import ApiError, AsyncClient
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.admissionregistration_v1 import MutatingWebhookConfiguration
from lightkube.resources.core_v1 import Namespace, Pod

from meshproxy.config.values import Address
from meshproxy.control.authority import Authority
from meshproxy.control.cluster import connect
from meshproxy.control.webhook import Injector, Webhook
from meshproxy.control.webhook_bundle import BundleKeeper
from meshproxy.injection.inject import LABEL, Injected, inject
from meshproxy.injection.policies import enforcement_policies, injection_policies
from meshproxy.injection.webhook_configuration import NAME as CONFIGURATION
from meshproxy.injection.webhook_configuration import webhook_configuration, webhook_objects
from tests.control.test_webhook import credentials, sidecars
from tests.e2e.apiserver import Cluster
from tests.e2e.conftest import TestNamespace
from tests.injection.pods import BEFORE_SIDECARS, SETTINGS, apply_patch, injected, pod, pods
from tests.injection.pods import RESTRICTED as RESTRICTED_CONTAINER
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.timeout(600)]

POD_SECURITY = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}


class Server:
    """The API server, as the administrator calls it for objects as JSON, none of which are kept."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._token = json.loads(cluster.kubeconfig.read_text())["users"][0]["user"]["token"]
        self._context = ssl.create_default_context(cafile=str(cluster.ca))

    def create(self, pod: Any) -> Any:
        """The pod as it would be, with its defaults; there are no warnings. Raises Rejected."""
        made, warnings = self.post("api/v1", "pods", pod)
        assert warnings == []
        return made

    def post(self, version: str, plural: str, content: Any) -> tuple[Any, list[str]]:
        """An object as it would be, and the warnings. Raises Rejected with the server's own words."""
        url = f"{self._cluster.url}/{version}/namespaces/{self._namespace}/{plural}?dryRun=All&fieldValidation=Strict"
        headers = {"authorization": f"Bearer {self._token}", "content-type": "application/json"}
        try:
            request = Request(url, json.dumps(content).encode(), headers)
            with urlopen(request, timeout=60, context=self._context) as response:
                return json.load(response), response.headers.get_all("warning") or []
        except HTTPError as error:
            raise Rejected(json.load(error)["message"]) from None


class Rejected(Exception):
    """The API server does not take a pod."""


async def refused(server: Server, pod: Any) -> str:
    """Why the API server does not take a pod."""
    with pytest.raises(Rejected) as caught:
        await asyncio.to_thread(server.create, pod)
    return str(caught.value)


@pytest.fixture
async def restricted(namespace: TestNamespace) -> TestNamespace:
    """A namespace that enforces the level `restricted` of the Pod Security Standards."""
    await namespace.client.patch(Namespace, namespace.name, Namespace(metadata=ObjectMeta(labels=RESTRICTED)))
    await namespace.token("default")  # its service account
    return namespace


async def test_every_pod_with_a_sidecar_is_accepted(restricted: TestNamespace) -> None:
    """Unknown fields are errors: one that is misspelt in a webhook's patch would be dropped without a word."""
    server = Server(restricted.cluster, restricted.name)
    count = 0

    @given(content=pods())
    @settings(max_examples=100, suppress_health_check=list(HealthCheck))
    def each(content: Any) -> None:
        nonlocal count
        for at in (SETTINGS, BEFORE_SIDECARS):
            result = inject(content, restricted.name, at)
            if isinstance(result, Injected):
                server.create(result.pod)
                # What a webhook sees has its defaults already.
                full = server.create(content)
                del full["metadata"]["uid"], full["metadata"]["creationTimestamp"]
                later = inject(full, restricted.name, at)
                assert isinstance(later, Injected)
                server.create(apply_patch(full, later.patch))
                count += 1

    each()
    assert count > 50


NAME = "localhost"
SILENT: dict[str, Any] = {"automountServiceAccountToken": False}
"""Without the volume of the API server's token, whose name is made up for each pod."""


def is_connected(port: int) -> bool:
    """Whether there are connections to a port of 127.0.0.1 that are not closed on both sides (proc(5)). Other addresses
    of loopback may have this port, too."""
    local = f"{int.from_bytes(socket.inet_aton('127.0.0.1'), sys.byteorder):08X}:{port:04X}"
    lines = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()]
    open_states = ("01", "04", "05", "08")  # ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT
    return any(line[1] == local and line[3] in open_states for line in lines)


@pytest.fixture
async def webhook(client: AsyncClient) -> AsyncIterator[tuple[Webhook, Authority]]:
    """The injector, which the API server asks; its `caBundle` is not there yet."""
    authority = Authority.create("m.example", time.time())
    webhook = Webhook(Injector(Address("127.0.0.1", 0), (NAME,), sidecars), lambda outcome: None, lambda name: None)
    webhook.present(credentials(authority, NAME))
    await webhook.start()
    port = int(webhook.address.rpartition(":")[2])
    url = {"url": f"https://{NAME}:{port}/inject"}
    configuration = webhook_configuration(url, "meshproxy")
    await client.create(cast("MutatingWebhookConfiguration", MutatingWebhookConfiguration.from_dict(configuration)))
    yield webhook, authority
    await client.delete(MutatingWebhookConfiguration, CONFIGURATION)
    await webhook.close()
    # The API server keeps its connection; over TLS it is closed once both have said so, or after 30 s (asyncio's
    # ssl_shutdown_timeout).
    await until(lambda: not is_connected(port))


async def enable(namespace: TestNamespace) -> None:
    labels = {LABEL: "enabled", **RESTRICTED}
    await namespace.client.patch(Namespace, namespace.name, Namespace(metadata=ObjectMeta(labels=labels)))
    await namespace.token("default")


async def create(server: Server, content: Any) -> Any:
    return await asyncio.to_thread(server.create, content)


@pytest.fixture
def rights(namespace: TestNamespace) -> Iterator[None]:
    """Those that `meshproxy install` gives to `control` for the configuration of the webhook."""
    objects = [each for each in webhook_objects(namespace.name, "control") if "rbac" in each["apiVersion"]]
    text = yaml.safe_dump_all(objects)
    namespace.cluster.kubectl("apply", "-f", "-", stdin=text)
    yield
    namespace.cluster.kubectl("delete", "-f", "-", stdin=text)


@pytest.mark.usefixtures("rights")
async def test_the_webhook_of_a_labelled_namespace(
    webhook: tuple[Webhook, Authority], namespace: TestNamespace
) -> None:
    served, authority = webhook
    server = Server(namespace.cluster, namespace.name)
    await enable(namespace)
    content = pod(container={"securityContext": RESTRICTED_CONTAINER})
    await until_outcome(server, content, "certificate signed by unknown authority")
    bundles = [authority.bundle_pem]
    control = connect(await namespace.kubeconfig("control"))
    with pytest.raises(ApiError, match="forbidden"):
        await BundleKeeper(control, "another", lambda: b"").look()
    keeper = BundleKeeper(control, CONFIGURATION, lambda: b"".join(bundles))
    await keeper.look()

    await until_injected(server, content)
    made = await create(server, content)
    assert [each["name"] for each in made["spec"]["initContainers"]] == ["meshproxy"]
    assert made["spec"]["terminationGracePeriodSeconds"] == 40
    declined = pod(container={"securityContext": RESTRICTED_CONTAINER})
    declined["metadata"]["labels"] = {LABEL: "disabled"}
    assert "initContainers" not in (await create(server, declined))["spec"]

    wrong = pod(annotations={"config.meshproxy.dev/workers": "none"})
    said = await refused(server, wrong)
    assert "denied the request: the pod web-... cannot have a sidecar: config.meshproxy.dev/workers: expected" in said

    # Another root: first it is trusted beside the old one, then it signs, then the old one goes.
    other = Authority.create("m.example", time.time())
    bundles.append(other.bundle_pem)
    await keeper.look()
    assert (await create(server, content))["spec"]["initContainers"]
    served.present(credentials(other, NAME))
    assert (await create(server, content))["spec"]["initContainers"]
    del bundles[0]
    await keeper.look()
    assert (await create(server, content))["spec"]["initContainers"]
    await control.close()


@pytest.mark.usefixtures("controllers")
async def test_a_pod_asks_for_itself_and_workloads_make_theirs(
    webhook: tuple[Webhook, Authority], namespace: TestNamespace
) -> None:
    await BundleKeeper(namespace.client, CONFIGURATION, lambda: webhook[1].bundle_pem).look()
    await namespace.token("default")
    server = Server(namespace.cluster, namespace.name)
    asking = pod()
    asking["metadata"]["labels"] = {LABEL: "enabled"}
    await until_injected(server, asking)
    assert "initContainers" not in (await create(server, pod()))["spec"]
    await enable(namespace)
    await until_injected(server, pod(container={"securityContext": RESTRICTED_CONTAINER}))
    template = {"metadata": {"labels": {"app": "web"}}, "spec": pod(securityContext=POD_SECURITY)["spec"]}
    template["spec"]["containers"][0]["securityContext"] = RESTRICTED_CONTAINER
    deployment = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": namespace.name},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template},
    }  # fmt: skip
    job = {
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "nightly", "namespace": namespace.name},
        "spec": {"template": {"spec": {**template["spec"], "restartPolicy": "Never"}}},
    }  # fmt: skip
    for each in (deployment, job):
        await asyncio.to_thread(namespace.cluster.kubectl, "apply", "-f", "-", stdin=json.dumps(each))

    async def owners() -> list[str]:
        found = [each async for each in namespace.client.list(Pod, namespace=namespace.name)]
        for each in found:
            assert each.spec is not None
            assert [one.name for one in each.spec.initContainers or ()] == ["meshproxy"]
        return sorted(
            owner.kind for each in found if each.metadata is not None for owner in each.metadata.ownerReferences or ()
        )

    async with asyncio.timeout(60):
        while await owners() != ["Job", "ReplicaSet", "ReplicaSet"]:
            await asyncio.sleep(0.1)


@pytest.fixture
def policies(cluster: Cluster, tmp_path: Path) -> Iterator[None]:
    """What `meshproxy install --injector policy` prints."""
    path = tmp_path / "policies.yaml"
    path.write_text(yaml.safe_dump_all([*injection_policies(SETTINGS), *enforcement_policies("meshproxy")]))
    cluster.kubectl("apply", "-f", str(path))
    yield
    cluster.kubectl("delete", "-f", str(path))


async def outcome(server: Server, content: Any) -> str:
    """What the API server says of a pod: why it refuses it, or the names of its init containers."""
    try:
        made = await create(server, content)
    except Rejected as error:
        return str(error)
    return " ".join(each["name"] for each in made["spec"].get("initContainers", ()))


async def until_outcome(server: Server, content: Any, part: str) -> None:
    """Wait until the API server says this of a pod: policies, webhooks and labels of namespaces count a moment after
    they were written."""

    async def is_said() -> bool:
        return part in await outcome(server, content)

    await until(is_said)


async def until_injected(server: Server, content: Any) -> None:
    """Wait until the API server takes a pod, and it has a sidecar: `until_outcome` would find our name in a refusal."""

    async def is_injected() -> bool:
        return await outcome(server, content) == "meshproxy"

    await until(is_injected)


@pytest.mark.usefixtures("policies")
async def test_the_policy_gives_the_same_sidecar(namespace: TestNamespace) -> None:
    server = Server(namespace.cluster, namespace.name)
    await namespace.client.patch(Namespace, namespace.name, Namespace(metadata=ObjectMeta(labels={LABEL: "enabled"})))
    await namespace.token("default")
    await until_injected(server, pod())
    mounted: dict[str, Any] = {
        "volumes": [{"name": "a", "emptyDir": {}}],
        "initContainers": [{"name": "b", "image": "x"}],
    }
    for content in (
        pod(**SILENT),
        pod(annotations={"a/b": "c~"}, **mounted, **SILENT),
        pod(container={"image": "registry.example.com/app"}, **SILENT),
        pod(terminationGracePeriodSeconds=100, container={"image": "x", "ports": [{"containerPort": 8501}]}, **SILENT),
        pod(container={"lifecycle": {"preStop": {"exec": {"command": ["true"]}}}}, **SILENT),
        pod(hostPID=True, **SILENT),
        pod(container={"image": "x", "command": ["/usr/bin/tensorflow_model_server"]}, **SILENT),
        pod(container={"image": "x", "command": ["true", "tensorflow_model_server"]}, **SILENT),
    ):
        made = await create(server, content)
        wanted = injected(content)
        for found in (made, wanted.pod):
            del found["metadata"]["annotations"]["sidecar.meshproxy.dev/status"]
        assert made["metadata"]["annotations"] == wanted.pod["metadata"]["annotations"]
        direct = await create(server, wanted.pod)  # with the defaults of the API server; the policy leaves it alone
        assert made["spec"] == direct["spec"]
    for left in (pod(hostNetwork=True), pod(nodeSelector={"kubernetes.io/os": "windows"})):
        assert "initContainers" not in (await create(server, left))["spec"]
    configured = pod(annotations={"config.meshproxy.dev/workers": "1"})
    await until_outcome(
        server, configured, "annotations config.meshproxy.dev/* are read by the injector's webhook only"
    )
    assert "a container has a port of the sidecar" in await refused(
        server, pod(container={"ports": [{"containerPort": 18502}]})
    )
    socket = pod(container={"args": ["--grpc_socket_path=/run/a"]})
    assert "needs the injector's webhook" in await refused(server, socket)
    for metadata, said in (
        ({"labels": {LABEL: "false"}}, "expected enabled or disabled"),
        ({"annotations": {LABEL: "disabled"}}, "is a label, not an annotation"),
        ({"labels": {"config.meshproxy.dev/workers": "2"}}, "are annotations, not labels"),
    ):
        wrong = pod()
        wrong["metadata"] |= metadata
        assert said in await refused(server, wrong)
    two = pod()
    two["spec"]["containers"].append({"name": "other", "image": "tensorflow/serving"})
    assert "several containers look like TensorFlow Serving" in await refused(server, two)


@pytest.mark.usefixtures("policies")
async def test_a_namespace_that_takes_no_pods_without_sidecar(namespace: TestNamespace) -> None:
    server = Server(namespace.cluster, namespace.name)
    labels = {"meshproxy.dev/enforce": "true"}
    await namespace.client.patch(Namespace, namespace.name, Namespace(metadata=ObjectMeta(labels=labels)))
    await namespace.token("default")
    await until_outcome(server, pod(), "has meshproxy.dev/enforce=true, and the pod has no sidecar: label")
    assert await create(server, injected(pod()).pod)
    assert await create(server, injected(pod(), BEFORE_SIDECARS).pod)
    asking = pod()
    asking["metadata"]["labels"] = {LABEL: "enabled"}
    await until_injected(server, asking)  # the policy that makes sidecars comes before

    async def warned(template: Any) -> str:
        """What the author of a Deployment with this template is told."""
        deployment = {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template},
        }  # fmt: skip
        return "".join((await asyncio.to_thread(server.post, "apis/apps/v1", "deployments", deployment))[1])

    template: dict[str, Any] = {"metadata": {"labels": {"app": "web"}}, "spec": pod()["spec"]}

    async def is_warned() -> bool:
        return "its pods will be refused" in await warned(template)

    await until(is_warned)  # by a policy of its own, which counts a moment after it was made
    template["metadata"]["labels"][LABEL] = "enabled"
    assert await warned(template) == ""
    template["spec"]["hostNetwork"] = True
    assert "its pods will be refused" in await warned(template)
    del template["spec"]["hostNetwork"], template["metadata"]["labels"][LABEL]
    template["spec"] = injected(pod()).pod["spec"]
    assert await warned(template) == ""


async def test_a_pod_whose_traffic_is_captured(namespace: TestNamespace) -> None:
    """Its init container takes a right that only a namespace without level allows."""
    server = Server(namespace.cluster, namespace.name)
    await namespace.token("default")
    captured = injected(pod(annotations={"config.meshproxy.dev/capture": "enabled"})).pod
    made = await create(server, captured)
    assert [each["name"] for each in made["spec"]["initContainers"]] == ["meshproxy-capture", "meshproxy"]
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    await namespace.client.patch(Namespace, namespace.name, Namespace(metadata=ObjectMeta(labels=labels)))
    await until_outcome(server, captured, 'violates PodSecurity "restricted')
    said = await refused(server, captured)
    assert 'container "meshproxy-capture" must not include "NET_ADMIN"' in said
