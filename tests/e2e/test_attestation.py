"""A sidecar in a pod gets its certificate from a control plane that asks a real API server."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
from lightkube.resources.core_v1 import Pod

from meshproxy.config.sidecars import ControlPlane
from meshproxy.config.values import Address
from meshproxy.control.app import ControlPlane as ControlProcess
from meshproxy.control.settings import Settings
from meshproxy.identity.certificates import IdentityFiles, own_identity
from meshproxy.sidecar.control_channel import ControlChannel
from meshproxy.sidecar.enrollment import Enrollment
from tests.e2e.conftest import TestNamespace
from tests.e2e.pods import make_pod, pod_token

CONTROL = "spiffe://m.example/ns/meshproxy/sa/control"


async def test_a_pod_joins_and_comes_again_after_its_certificate_expired(
    namespace: TestNamespace, tmp_path: Path
) -> None:
    pod = await make_pod(namespace, "resnet-0")
    free = Address("127.0.0.1", 0)
    process = await ControlProcess.build(
        Settings(
            tmp_path / "control",
            "m.example",
            CONTROL,
            listen=free,
            web=free,
            kubeconfig=namespace.cluster.kubeconfig,
            token_review=True,
        )
    )
    process.listener.listen("127.0.0.1", 0)
    host, _, port = process.listener.address.rpartition(":")
    token = tmp_path / "token"
    settings = ControlPlane(
        address=Address(host, int(port)),
        spiffe_id=CONTROL,
        trust_bundle=str(tmp_path / "control/authority.pem"),
        folder=str(tmp_path / "sidecar"),
        service_account_token=str(token),
    )
    now = time.time
    channel, later = ControlChannel(settings), ControlChannel(settings, lambda: now() + 11.0)
    files = IdentityFiles(*(Path(each) for each in msgspec.structs.astuple(settings.files)))
    try:
        token.write_text(await pod_token(namespace, pod))
        process.service._lifetime = 10.0
        await Enrollment(settings, channel).join()
        first = own_identity(files.read(), "m.example", now())
        assert first.workload.spiffe_id == f"spiffe://m.example/ns/{namespace.name}/sa/resnet"
        # Later, with the token that the kubelet has written since.
        process.service._lifetime = 3_600.0
        token.write_text(await pod_token(namespace, pod))
        await Enrollment(settings, later, clock=lambda: now() + 11.0).join()
        assert own_identity(files.read(), "m.example", now()).serial != first.serial
        # Its token was copied, and it has gone.
        await namespace.client.delete(Pod, "resnet-0", namespace=namespace.name, grace_period=0)
        stolen = msgspec.structs.replace(settings, folder=str(tmp_path / "thief"))
        thief = ControlChannel(stolen)
        assert not await Enrollment(stolen, thief)._attempt()
        thief.stop()
        assert process.metrics.issuances.labels("refused", "token-pod").value == 1
    finally:
        channel.stop()
        later.stop()
        process.listener.stop_accepting()
        await process.server.close()
        await process.listener.close()
        assert process._client is not None
        await process._client.close()
