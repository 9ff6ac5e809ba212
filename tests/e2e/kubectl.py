"""kubectl, for commands that a page shows. All but one are kubectl's own.

`kubectl exec` needs the streams of a kubelet, which the stand-in for nodes has not: the same words run the command as
the stand-in runs a probe, in the namespaces and with the environment of the container's first process, whose number is
in the status of the pod (`containerID`).

The real kubectl is the one in E2E_BIN.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from meshproxy.devtools.node.sandbox import as_user, further_process
from meshproxy.devtools.node.spec import read_spec

KUBECTL = str(Path(os.environ["E2E_BIN"]) / "kubectl")


def main(words: list[str]) -> None:
    if "exec" in words:
        execute(words)
    os.execv(KUBECTL, [KUBECTL, *words])


def execute(words: list[str]) -> None:
    at = words.index("--")
    parser = argparse.ArgumentParser(prog="kubectl")
    parser.add_argument("-n", "--namespace", required=True)
    parser.add_argument("verb", choices=["exec"])
    parser.add_argument("target")
    parser.add_argument("-c", "--container")
    options = parser.parse_args(words[:at])
    pod = find_pod(options.namespace, options.target)
    containers = pod["status"]["containerStatuses"] + pod["status"].get("initContainerStatuses", [])
    # The first one by default: those of the pod itself come before native sidecars.
    container = next(each for each in containers if options.container in (None, each["name"]))
    process = int(container["containerID"].removeprefix("process://"))
    spec = read_spec(pod["spec"])
    command = further_process(process, as_user(spec, spec.container(container["name"]), words[at + 1 :]))
    environment = Path(f"/proc/{process}/environ").read_text().rstrip("\0").split("\0")
    os.execvpe(command[0], command, dict(each.split("=", 1) for each in environment))


def find_pod(namespace: str, target: str) -> Any:
    """The pod, or the first one that is ready of a Deployment."""
    kind, _, name = target.rpartition("/")
    if kind in ("deploy", "deployment"):
        deployment = get(namespace, "deployment", name)
        labels = ",".join(f"{key}={value}" for key, value in deployment["spec"]["selector"]["matchLabels"].items())
        pods = get(namespace, "pods", f"--selector={labels}")["items"]
        return next(pod for pod in pods if all(each["ready"] for each in pod["status"]["containerStatuses"]))
    return get(namespace, "pod", name)


def get(namespace: str, *what: str) -> Any:
    command = [KUBECTL, "--namespace", namespace, "get", *what, "--output=json"]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


main(sys.argv[1:])
