"""What `meshproxy install` prints, on a real API server: all of it is taken without a warning, and the control plane
works with the arguments and the rights in it."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from lightkube import AsyncClient
from lightkube.core.exceptions import ApiError
from lightkube.resources.admissionregistration_v1 import MutatingWebhookConfiguration
from lightkube.resources.core_v1 import Pod, Secret

from benchmarks.processes import status_bytes
from meshproxy.cli.install import command
from meshproxy.config import crds, schema
from meshproxy.config.fields import API_VERSION
from meshproxy.config.sidecars import ControlPlane
from meshproxy.config.values import Address
from meshproxy.control.election import NAME, Resource
from meshproxy.devtools.clients import RestClient
from meshproxy.identity.certificates import IdentityFiles, own_identity
from meshproxy.installation.choices import CertManager, Choices, Injection
from meshproxy.installation.control_plane import arguments
from meshproxy.installation.parts import Part, installation
from meshproxy.installation.rights import SECRET
from meshproxy.sidecar.control_channel import ControlChannel
from meshproxy.sidecar.enrollment import Enrollment
from tests.e2e.apiserver import Cluster, KubectlError
from tests.e2e.conftest import TestNamespace
from tests.e2e.planes import Plane, control_plane
from tests.e2e.pods import make_pod, pod_token
from tests.injection.pods import SETTINGS
from tests.processes.waiting import until

pytestmark = [
    pytest.mark.usefixtures("controllers", "installed"),
    pytest.mark.timeout(900),
]

NAMESPACE = "meshproxy"
CHOICES = Choices(image="registry.example.com/meshproxy:0.1.0", trust_domain="prod.example")
OPTIONS = ("--image", CHOICES.image, "--trust-domain", CHOICES.trust_domain)
APPLY = ("apply", "--warnings-as-errors", "--validate=strict")


def printed(*options: str) -> str:
    result = CliRunner().invoke(command, [*OPTIONS, *options])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def installed(cluster: Cluster) -> Iterator[None]:
    """As deploy/README.md says, in a cluster that has nothing of it."""
    cluster.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=printed("--only", "crds"))
    cluster.kubectl(*APPLY, "-f", "-", stdin=printed())
    names = [crds.definition_name(kind) for kind in schema.KINDS]
    cluster.kubectl("wait", "--for=condition=Established", "crd", *names)
    cluster.kubectl(*APPLY, "-f", "-", stdin=printed("--only", "documents"))
    yield
    for part in ("injector", "control-plane"):
        cluster.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=printed("--only", part))


@pytest.mark.parametrize(
    "choices",
    [
        CHOICES,
        Choices(CHOICES.image, CHOICES.trust_domain, cert_manager=CertManager("Issuer", "ca")),
        Choices(CHOICES.image, CHOICES.trust_domain, Injection.POLICY, SETTINGS.trust_bundle),
        Choices(CHOICES.image, CHOICES.trust_domain, Injection.NONE, kubernetes=(1, 28), listen="0.0.0.0"),
    ],
    ids=["webhook", "cert-manager", "policy", "none"],
)
def test_the_api_server_takes_every_field(cluster: Cluster, choices: Choices) -> None:
    """Also a second time, and by server-side apply. The kinds of cert-manager are not here."""
    objects = [each for each in installation(choices, list(Part)) if each["kind"] != "Certificate"]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    said = cluster.kubectl(*APPLY, "--dry-run=server", "-f", "-", stdin=text)
    assert len(said.splitlines()) == len(objects)
    cluster.kubectl(*APPLY, "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-", stdin=text)


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_the_pods_pass_the_restricted_level(client: AsyncClient) -> None:
    """Refused pods would show in the ReplicaSet only."""

    async def names() -> set[str]:
        return {
            str(pod.metadata.name)
            async for pod in client.list(Pod, namespace=NAMESPACE, labels={"app.kubernetes.io/name": NAME})
            if pod.metadata is not None and pod.spec is not None and pod.spec.priority == 1_000_000_000
        }

    async def are_there() -> bool:
        return len(await names()) == 2

    await until(are_there)


def as_installed(folder: Path, kubeconfig: Path) -> AbstractContextManager[Plane]:
    """A control plane with the arguments of the Deployment, but for addresses and folders."""
    addresses = ("--listen=", "--web=", "--webhook=")
    given = [each for each in arguments(CHOICES)[2:] if not each.startswith(addresses)]
    return control_plane(folder, kubeconfig, *given, "--webhook", "127.0.0.1:0")


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_the_control_plane_needs_no_other_right(
    client: AsyncClient, cluster: Cluster, namespace: TestNamespace, tmp_path: Path
) -> None:
    """Every right is used: it makes the Secret and the Lease, writes statuses and the caBundle, reads endpoints of
    Services, and has the token of a pod reviewed."""
    ours = TestNamespace(NAMESPACE, client, cluster)
    kubeconfig = await ours.kubeconfig(CHOICES.service_account)
    with as_installed(tmp_path / "a", kubeconfig) as first, as_installed(tmp_path / "b", kubeconfig) as second:

        async def is_written() -> bool:
            try:
                secret = await client.get(Secret, SECRET, namespace=NAMESPACE)
                await client.get(Resource, NAME, namespace=NAMESPACE)
            except ApiError:
                return False
            found = await client.get(MutatingWebhookConfiguration, "meshproxy-injector")
            bundles = {webhook.clientConfig.caBundle for webhook in found.webhooks or ()}
            return bundles == {(secret.data or {})["ca.crt"]}

        await until(is_written)

        async def is_accepted() -> bool:
            shown = cluster.kubectl("get", "modelservers,meshconfigs", "-n", NAMESPACE, "-o", "json")
            statuses = [each.get("status", {}).get("conditions", []) for each in json.loads(shown)["items"]]
            return all([each["status"] for each in conditions] == ["True"] for conditions in statuses)

        await until(is_accepted)
        service = {"service": {"namespace": NAMESPACE, "name": NAME, "grpc": "control"}}
        server = {"apiVersion": API_VERSION, "kind": "ModelServer", "metadata": {"name": "far"}, "spec": service}
        cluster.kubectl(*APPLY, "--namespace", NAMESPACE, "-f", "-", stdin=json.dumps(server))
        await until(lambda: first.said("listening"))
        (listening,) = first.said("listening")
        async with RestClient(listening["web"], None) as page:

            async def is_known() -> bool:
                return NAME in json.dumps((await page.call("GET", "/endpoints")).body)

            await until(is_known)
        await join(listening["control"], client, namespace, tmp_path)
        # Applied again it leaves alone what the control plane has written.
        before = await client.get(MutatingWebhookConfiguration, "meshproxy-injector")
        cluster.kubectl(*APPLY, "-f", "-", stdin=printed())
        after = await client.get(MutatingWebhookConfiguration, "meshproxy-injector")
        assert before.webhooks == after.webhooks
        said = first.log.read_text() + second.log.read_text()
        assert '"listening"' in said
        assert "orbidden" not in said, said  # the reason phrase of 403, and how the control plane calls it
        resident = [status_bytes(plane.process.pid, "VmRSS") for plane in (first, second)]
        print(*(f"{each / 2**20:.0f} MiB" for each in resident), "in memory")


async def join(control: str, client: AsyncClient, namespace: TestNamespace, folder: Path) -> None:
    """A pod gets its certificate."""
    pod = await make_pod(namespace, "resnet-0")
    (folder / "token").write_text(await pod_token(namespace, pod))
    roots = ((await client.get(Secret, SECRET, namespace=NAMESPACE)).data or {})["ca.crt"]
    (folder / "roots.pem").write_bytes(base64.b64decode(roots))
    host, _, port = control.rpartition(":")
    settings = ControlPlane(
        address=Address(host, int(port)),
        spiffe_id=CHOICES.identity,
        trust_bundle=str(folder / "roots.pem"),
        folder=str(folder / "sidecar"),
        service_account_token=str(folder / "token"),
    )
    channel = ControlChannel(settings)
    try:
        async with asyncio.timeout(60):
            await Enrollment(settings, channel).join()
    finally:
        channel.stop()
    files = IdentityFiles(*(Path(each) for each in msgspec.structs.astuple(settings.files)))
    own = own_identity(files.read(), CHOICES.trust_domain, time.time())
    assert own.workload.spiffe_id == f"spiffe://{CHOICES.trust_domain}/ns/{namespace.name}/sa/resnet"


@pytest.mark.parametrize(
    ("what", "may"),
    [
        (("list", "modelroles.meshproxy.dev", "--namespace=meshproxy"), True),
        (("watch", "meshconfigs.meshproxy.dev", "--namespace=meshproxy"), True),
        (("create", "secrets", "--namespace=meshproxy"), True),
        (("get", "secret/meshproxy-authority", "--namespace=meshproxy"), True),
        (("patch", "secret/meshproxy-authority", "--namespace=meshproxy"), False),
        (("patch", "secret/meshproxy-authority-join-tokens", "--namespace=meshproxy"), True),
        (("get", "secret/another", "--namespace=meshproxy"), False),
        (("list", "secrets", "--namespace=meshproxy"), False),
        (("create", "modelrolebindings.meshproxy.dev", "--namespace=meshproxy"), False),
        (("patch", "modelroles.meshproxy.dev", "--namespace=meshproxy"), False),
        (("patch", "modelroles.meshproxy.dev", "--subresource=status", "--namespace=meshproxy"), True),
        (("update", "lease/meshproxy-control", "--namespace=meshproxy"), True),
        (("update", "lease/another", "--namespace=meshproxy"), False),
        (("list", "modelroles.meshproxy.dev", "--namespace=default"), False),
        (("create", "tokenreviews.authentication.k8s.io"), True),
        (("get", "pods", "--namespace=default"), True),
        (("list", "pods", "--namespace=default"), False),
        (("watch", "endpointslices.discovery.k8s.io", "--namespace=default"), True),
        (("update", "endpointslices.discovery.k8s.io", "--namespace=default"), False),
        (("patch", "mutatingwebhookconfiguration/meshproxy-injector"), True),
        (("patch", "mutatingwebhookconfiguration/another"), False),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else "",
)
def test_it_may_do_no_more(cluster: Cluster, what: tuple[str, ...], may: bool) -> None:
    try:
        said = cluster.kubectl("auth", "can-i", *what, "--as=system:serviceaccount:meshproxy:control")
    except KubectlError:  # its status says no
        said = "no"
    assert said.strip() == ("yes" if may else "no")
