"""What `meshproxy install` prints, on a real API server: all of it is taken without a warning, and the control plane
works with the arguments and the rights in it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from lightkube import AsyncClient
from lightkube.core.exceptions import ApiError
from lightkube.resources.admissionregistration_v1 import MutatingWebhookConfiguration
from lightkube.resources.core_v1 import Pod, Secret

from meshproxy.cli.install import command
from meshproxy.control.election import NAME, Resource
from meshproxy.devtools.child import CONTROL
from meshproxy.installation.choices import CertManager, Choices, Injection
from meshproxy.installation.control_plane import arguments
from meshproxy.installation.parts import Part, installation
from meshproxy.installation.rights import SECRET
from tests.e2e.apiserver import Cluster, KubectlError
from tests.e2e.conftest import TestNamespace
from tests.injection.pods import SETTINGS
from tests.processes.waiting import until

pytestmark = [
    pytest.mark.usefixtures("controllers", "installed"),
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_factories=["uvloop"]),
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
    cluster.kubectl("wait", "--for=condition=Established", "crd", "meshconfigs.meshproxy.dev")
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

    await until(are_there, 60)


@contextmanager
def process(folder: Path, kubeconfig: Path) -> Iterator[Path]:
    """A control plane with the arguments of the Deployment, but for addresses and folders; gives its log."""
    folder.mkdir()
    (webhook,) = (each for each in arguments(CHOICES) if each.startswith("--webhook="))
    (web,) = (each for each in arguments(CHOICES) if each.startswith("--web="))
    given = [each for each in arguments(CHOICES)[1:] if each not in (webhook, web)]
    here = ["--folder", str(folder / "state"), "--kubeconfig", str(kubeconfig)]
    ports = ["--listen", "127.0.0.1:0", "--web", "127.0.0.1:0", "--webhook", "127.0.0.1:0"]
    with (folder / "log").open("w") as log:
        running = subprocess.Popen([*CONTROL, *given, *here, *ports], stderr=log, text=True)
    try:
        yield folder / "log"
    finally:
        running.kill()
        running.wait()


async def test_the_control_plane_needs_no_other_right(client: AsyncClient, cluster: Cluster, tmp_path: Path) -> None:
    ours = TestNamespace(NAMESPACE, client, cluster)
    kubeconfig = await ours.kubeconfig(CHOICES.service_account)
    with process(tmp_path / "a", kubeconfig) as first, process(tmp_path / "b", kubeconfig) as second:

        async def is_written() -> bool:
            """One leads, the documents are accepted, and the API server knows whom to trust in the webhook."""
            try:
                secret = await client.get(Secret, SECRET, namespace=NAMESPACE)
                await client.get(Resource, NAME, namespace=NAMESPACE)
            except ApiError:
                return False
            found = await client.get(MutatingWebhookConfiguration, "meshproxy-injector")
            bundles = {webhook.clientConfig.caBundle for webhook in found.webhooks or ()}
            return bundles == {(secret.data or {})["ca.crt"]}

        await until(is_written, 60)

        async def is_accepted() -> bool:
            shown = cluster.kubectl("get", "modelservers,meshconfigs", "-n", NAMESPACE, "-o", "json")
            statuses = [each.get("status", {}).get("conditions", []) for each in json.loads(shown)["items"]]
            return all([each["status"] for each in conditions] == ["True"] for conditions in statuses)

        await until(is_accepted, 60)
        # Applied again it leaves alone what the control plane has written.
        before = await client.get(MutatingWebhookConfiguration, "meshproxy-injector")
        cluster.kubectl(*APPLY, "-f", "-", stdin=printed())
        after = await client.get(MutatingWebhookConfiguration, "meshproxy-injector")
        assert before.webhooks == after.webhooks
        for log in (first, second):
            lines: list[Any] = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
            assert [line for line in lines if line["level"] not in ("INFO", "info")] == []


@pytest.mark.parametrize(
    ("what", "may"),
    [
        (("list", "modelroles.meshproxy.dev", "--namespace=meshproxy"), True),
        (("watch", "meshconfigs.meshproxy.dev", "--namespace=meshproxy"), True),
        (("create", "secrets", "--namespace=meshproxy"), True),
        (("get", "secret/meshproxy-authority", "--namespace=meshproxy"), True),
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
