"""A cluster without nodes: etcd, the API server and the controllers of Kubernetes.

There is no scheduler and no kubelet, so pods stay pending, unless `meshproxy.devtools.node` stands in for them.
"""

from __future__ import annotations

import json
import os
import secrets
import ssl
import subprocess
import time
from ipaddress import IPv4Network, ip_address
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.devtools.child import free_port
from meshproxy.devtools.node.network import SERVICES

HOST = "127.0.0.1"
OWN_SERVICE = IPv4Network(SERVICES)[1]
"""The first of their addresses is the API server's own."""
CONTROLLER_MANAGER = "kube-controller-manager"
CONTROLLERS = (
    "serviceaccount-controller", "serviceaccount-token-controller", "namespace-controller",
    "garbage-collector-controller", "deployment-controller", "replicaset-controller", "endpointslice-controller",
    "root-ca-certificate-publisher-controller", "job-controller", "disruption-controller",
)  # fmt: skip

ENVIRONMENT = os.environ | {"GOGC": "400"}
"""Of all processes: memory is there, and collecting garbage is a fifth of the processor time of an API server that is
started anew."""


class KubectlError(Exception):
    """kubectl has failed. The text is what it says."""


class Cluster:
    """One cluster in a folder, with its processes.

    Args:
        host: the address of the API server. On loopback it has no Service that pods could use.

    Attributes:
        url: of the API server.
        ca: the file with its authority.
        kubeconfig: the administrator's.
    """

    def __init__(self, folder: Path, binaries: Path, host: str = HOST) -> None:
        self.folder = folder
        self._host = host
        self._binaries = binaries
        self._etcd_ports = [free_port(), free_port()]
        self._port = free_port()
        self.url = f"https://{host}:{self._port}"
        self.ca = folder / "ca.pem"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._token = secrets.token_hex()
        self._make_certificates()
        self.kubeconfig = self.write_kubeconfig("admin", self._token)

    def start(self) -> None:
        """Start etcd and the API server, and wait until they are ready."""
        self.start_etcd()
        self.start_apiserver()

    def start_controllers(self) -> None:
        """Start what makes pods of Deployments, EndpointSlices of Services, and so on, unless it runs."""
        if CONTROLLER_MANAGER in self._processes:
            return
        self._run(
            CONTROLLER_MANAGER,
            f"--kubeconfig={self.kubeconfig}",
            f"--bind-address={HOST}",
            f"--secure-port={free_port()}",
            "--leader-elect=false",
            "--service-account-private-key-file=sa.key",
            "--root-ca-file=ca.pem",
            f"--controllers={','.join(CONTROLLERS)}",
        )

    def start_etcd(self) -> None:
        client, peer = (f"http://{HOST}:{port}" for port in self._etcd_ports)
        self._run(
            "etcd",
            "--data-dir=etcd-data",
            "--unsafe-no-fsync",
            "--log-level=warn",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        )
        self._wait("etcd", f"{client}/health")

    def start_apiserver(self) -> None:
        """Start the API server, and wait until it is ready.

        Controllers that were there before are ended. In a cluster they end by themselves, as they lose their lease;
        here they would look for it again only 30 to 60 s after it is back.
        """
        if CONTROLLER_MANAGER in self._processes:
            self.stop(CONTROLLER_MANAGER)
        self._run(
            "kube-apiserver",
            f"--etcd-servers=http://{HOST}:{self._etcd_ports[0]}",
            f"--bind-address={self._host}",
            f"--secure-port={self._port}",
            *(["--endpoint-reconciler-type=none"] if self._host == HOST else []),  # loopback is not advertised
            "--tls-cert-file=server.pem",
            "--tls-private-key-file=server-key.pem",
            "--token-auth-file=tokens.csv",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged=true",
            f"--service-cluster-ip-range={SERVICES}",
            f"--service-account-issuer={self.url}",
            "--service-account-key-file=sa.pub",
            "--service-account-signing-key-file=sa.key",
        )
        self._wait("kube-apiserver", f"{self.url}/readyz")

    def stop(self, *names: str) -> None:
        """Kill processes, and wait for their end; all if none is named."""
        for name in names or tuple(reversed(self._processes)):
            process = self._processes.pop(name)
            process.kill()
            process.wait()

    def compact(self) -> None:
        """Let etcd forget what it has been asked to write before."""
        etcd = f"http://{HOST}:{self._etcd_ports[0]}/v3/kv"
        revision = _post(f"{etcd}/range", {"key": "AA=="})["header"]["revision"]
        _post(f"{etcd}/compaction", {"revision": revision, "physical": True})

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """The output of kubectl, as the administrator. Raises KubectlError."""
        command = [str(self._binaries / "kubectl"), f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(command, input=stdin, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise KubectlError(done.stderr)
        return done.stdout

    def write_kubeconfig(self, name: str, token: str, namespace: str = "default") -> Path:
        """A file with which whoever has this token calls the API server."""
        path = self.folder / f"{name}.kubeconfig"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "e2e",
            "clusters": [{"name": "e2e", "cluster": {"server": self.url, "certificate-authority": str(self.ca)}}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": name, "namespace": namespace}}],
        }
        path.write_text(json.dumps(content))
        return path

    def _run(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [self._binaries / name, *arguments], cwd=self.folder, env=ENVIRONMENT, stdout=log, stderr=log
            )

    def _wait(self, name: str, url: str, seconds: float = 120.0) -> None:
        context = ssl.create_default_context(cafile=str(self.ca))
        deadline = time.monotonic() + seconds
        while True:
            try:
                with urlopen(url, timeout=5.0, context=context):
                    return
            except OSError as error:
                process = self._processes[name]
                if process.poll() is not None or time.monotonic() > deadline:
                    log = (self.folder / f"{name}.log").read_text()[-3_000:]
                    raise RuntimeError(f"{name} is not ready: {error}\n{log}") from error
            time.sleep(0.1)

    def _make_certificates(self) -> None:
        authority = DevelopmentCA.create("e2e.example")
        self.ca.write_bytes(authority.bundle_pem)
        names = x509.SubjectAlternativeName([x509.IPAddress(each) for each in (ip_address(self._host), OWN_SERVICE)])
        authority.issue(extensions=[(names, False)]).write(self.folder, "server")
        (self.folder / "tokens.csv").write_text(f"{self._token},admin,admin,system:masters\n")
        tokens = rsa.generate_private_key(65_537, 2_048)
        encoding = serialization.Encoding.PEM
        private = tokens.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (self.folder / "sa.key").write_bytes(private)
        public = tokens.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
        (self.folder / "sa.pub").write_bytes(public)


def _post(url: str, body: dict[str, object]) -> Any:
    with urlopen(url, data=json.dumps(body).encode(), timeout=10.0) as answer:
        return json.load(answer)
