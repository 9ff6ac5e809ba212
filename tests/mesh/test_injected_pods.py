"""What the injector writes into pods, run as a kubelet would: from annotations and a token to answered calls."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from meshproxy.control.service_accounts import PodIdentity
from meshproxy.devtools.child import CONTROL, free_port
from meshproxy.devtools.local_mesh import (
    CLIENT,
    SERVER,
    TRUST_DOMAIN,
    LocalMesh,
    LocalSidecar,
    local_mesh,
    permissive_documents,
)
from meshproxy.devtools.local_mesh import document as local_document
from meshproxy.injection.settings import Settings
from tests.control.pod_tokens import ISSUER, PodTokens
from tests.injection.pods import element, injected, pod
from tests.processes.calls import PATH

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]


class Node:
    """Runs the sidecars of pods as processes: projects their volumes into folders, and gives each ports of its own."""

    def __init__(self, local: LocalMesh, tokens: PodTokens, settings: Settings) -> None:
        self.local = local
        self.tokens = tokens
        self.settings = settings

    async def run(self, name: str, content: Any, account: tuple[str, str], port: int = 0) -> LocalSidecar:
        """The sidecar of a pod.

        Args:
            port: for calls to it.
        """
        made = injected(content, self.settings).pod
        container = element(made, "spec", "initContainers", "meshproxy")
        folders = {}
        for mount in container["volumeMounts"]:
            folder = folders[mount["mountPath"]] = self.local.directory / name / mount["name"]
            folder.mkdir(parents=True)
            sources = element(made, "spec", "volumes", mount["name"]).get("projected", {}).get("sources", ())
            for source in sources:
                for item in source.get("downwardAPI", {}).get("items", ()):
                    annotation = item["fieldRef"]["fieldPath"].removeprefix("metadata.annotations['").removesuffix("']")
                    (folder / item["path"]).write_text(made["metadata"]["annotations"][annotation])
                if token := source.get("serviceAccountToken"):
                    identity = PodIdentity(*account, f"{name}-0", f"4c8a7d0e-0000-4000-8000-{len(name):012}")
                    text = self.tokens.token(identity, aud=[token["audience"]])
                    (folder / token["path"]).write_text(text)
        command, option, configuration, *_ = container["args"]
        assert (command, option) == ("sidecar", "--config")
        written = folders[configuration] / "sidecar.yaml"
        text = written.read_text()
        for path, folder in folders.items():
            text = text.replace(path, str(folder))
        for number, own in ((18500, port), (18501, 0), (18502, 0)):
            text = text.replace(f":{number}", f":{own}")
        written.write_text(text)
        return await self.local.sidecar(f"the sidecar of {name}", folders[configuration])


async def test_an_application_calls_a_model_server(tmp_path: Path) -> None:
    """Both pods get their identities by the tokens of their service accounts, and documents from the control plane."""
    async with local_mesh(tmp_path / "mesh") as local:
        port = free_port()
        model_server = await local.model_server()
        endpoint = {name: str(model_server.listening[name]) for name in ("rest", "grpc")}
        workload = {"namespace": SERVER[0], "serviceAccount": SERVER[1]}
        remote = {"endpoints": [{"sidecar": f"127.0.0.1:{port}"}], "workload": workload}
        documents = [
            local_document("MeshConfig", {"trustDomain": TRUST_DOMAIN}),
            local_document("ModelServer", {"endpoints": [endpoint]}, "local"),
            local_document("ModelServer", remote, "models"),
            *permissive_documents(),
        ]
        (local.directory / "documents.yaml").write_text(yaml.safe_dump_all(documents))
        tokens = PodTokens()
        (local.directory / "keys.json").write_text(json.dumps(tokens.issuer.jwks()))
        control = await local.start(
            "the control plane", *CONTROL, "run", "--folder", "control", "--trust-domain", TRUST_DOMAIN,
            "--listen", "127.0.0.1:0", "--web", "127.0.0.1:0", "--documents", "documents.yaml",
            "--service-account-keys", "keys.json", "--service-account-issuer", ISSUER,
        )  # fmt: skip
        settings = Settings(
            image="meshproxy",
            trust_bundle=(local.directory / "control" / "authority.pem").read_text(),
            control_plane=str(control.listening["control"]),
            control_plane_id=f"spiffe://{TRUST_DOMAIN}/ns/meshproxy/sa/control",
        )
        node = Node(local, tokens, settings)
        replica = await node.run("replica", pod(), SERVER, port)
        application = await node.run("application", pod(container={"image": "application"}), CLIENT)
        async with (
            aiohttp.ClientSession(f"http://{application.outbound}") as session,
            session.post(PATH, json={"instances": [2.0]}, headers={"x-model-server": "models"}) as answer,
        ):
            assert (answer.status, await answer.json()) == (200, {"predictions": [4.0]})
        mtls = 'meshproxy_connections_total{direction="inbound",security="mtls"}'
        assert (await replica.metrics())[mtls] == 1

        # The hook of the model server, which ends the sidecar over IPv4 although it listens on IPv6.
        server = element(injected(pod(), settings).pod, "spec", "containers", "tensorflow-serving")
        *bash, script = server["lifecycle"]["preStop"]["exec"]["command"]
        script = script.replace("sleep 5\n", "").replace("18502", replica.admin.rpartition(":")[2])
        script = script[: script.index("[[ -z $(</proc/1/")] + "exit 7"
        hook = await asyncio.create_subprocess_exec(*bash, script)
        assert await hook.wait() == 7
        assert await replica.child.wait() == 0
