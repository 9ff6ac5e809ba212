"""A Docker daemon in a network namespace of its own, for as long as a test runs; nothing outside of both is changed.

Ports that containers publish are those of the namespace, so commands run in there, too. It has no way out of it: images
are loaded.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 180.0
COMPOSE = "usr/libexec/docker/cli-plugins/docker-compose"
"""Where Debian's package has it."""


@dataclass(frozen=True, slots=True)
class Docker:
    """The running daemon: its network namespace, and what its client needs in the environment."""

    namespace: str
    environment: Mapping[str, str]

    @property
    def enter(self) -> list[str]:
        """Runs a command in the namespace. Not `ip netns exec`, which hides the cgroups."""
        return ["nsenter", f"--net=/run/netns/{self.namespace}"]

    def run(self, *command: str, folder: Path | None = None, seconds: float = 300.0) -> str:
        """What a command writes to its standard output, in the namespace of the daemon. It must end well."""
        done = subprocess.run(
            [*self.enter, *command],
            cwd=folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout


@contextmanager
def running_docker(compose: Path) -> Iterator[Docker]:
    """Starts the daemon.

    Args:
        compose: the plugin `docker compose`, for clients that have none.
    """
    folder = Path(tempfile.mkdtemp(prefix="meshproxy-docker-"))  # short: the path of a socket has 107 bytes
    plugins = folder / "client" / "cli-plugins"
    plugins.mkdir(parents=True)
    (plugins / "docker-compose").symlink_to(compose)
    environment = {"DOCKER_HOST": f"unix://{folder}/socket", "DOCKER_CONFIG": str(folder / "client")}
    docker = Docker(folder.name, os.environ | environment)
    subprocess.run(["ip", "netns", "add", docker.namespace], check=True)
    try:
        subprocess.run(["ip", "-n", docker.namespace, "link", "set", "lo", "up"], check=True)
        options = {"data-root": "data", "exec-root": "exec", "pidfile": "pid"}
        command = ["dockerd", f"--host={environment['DOCKER_HOST']}"]
        command += [f"--{option}={folder / name}" for option, name in options.items()]
        with (folder / "log").open("wb") as log:
            daemon = subprocess.Popen([*docker.enter, *command], stdout=log, stderr=log)
        try:
            _wait(docker, daemon, folder / "log")
            yield docker
        finally:
            daemon.terminate()
            daemon.wait(60)
    finally:
        subprocess.run(["ip", "netns", "delete", docker.namespace], check=True)
        shutil.rmtree(folder)


def _wait(docker: Docker, daemon: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while subprocess.run(["docker", "info"], env=docker.environment, capture_output=True, check=False).returncode:
        assert daemon.poll() is None, log.read_text()[-4000:]
        assert time.monotonic() < deadline, log.read_text()[-4000:]
        time.sleep(0.1)
