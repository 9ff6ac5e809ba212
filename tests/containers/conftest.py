"""The images, built by Podman from the Dockerfile; the base image is Debian's Python, so that no registry is needed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
CACHE = REPOSITORY / ".cache" / "containers"
BASE_PACKAGES = "python3,python3-venv,python-is-python3,ca-certificates"
BASE_SUITE = "trixie"

# runc and these limits also work in a container that lacks CAP_SYS_RESOURCE, where crun and the defaults do not.
SETTINGS = """[containers]
default_ulimits = ["nofile=1024:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
"""

SHIM = """#!/bin/sh
# What the page writes for Docker, said to Podman: `docker compose -f FILE ...`.
[ "$1 $2" = "compose -f" ] || { echo "not understood: docker $*" >&2; exit 64; }
file=$3 command=$4
shift 4
case $command in
up)  # The images are there already. It knows no --wait: the health check that the file names is asked instead.
    timeout 60 "$PODMAN_COMPOSE" -f "$file" up --detach >&2 || exit
    for attempt in $(seq 60); do
        podman healthcheck run meshproxy_sidecar_1 >&2 && exit
        sleep 0.5
    done
    podman logs meshproxy_sidecar_1 >&2
    exit 1 ;;
down) exec "$PODMAN_COMPOSE" -f "$file" down "$@" ;;
cp) exec podman cp "meshproxy_${1%%:*}_1:${1#*:}" "$2" ;;
exec) service=$1; shift; exec podman exec "meshproxy_${service}_1" "$@" ;;
*) echo "not understood: docker compose $command" >&2; exit 64 ;;
esac
"""


@dataclass(frozen=True, slots=True)
class Engine:
    """Podman, and what it needs in the environment."""

    environment: Mapping[str, str]

    def run(self, *command: str, seconds: float = 600.0, check: bool = True) -> str:
        """What a command writes to its standard output."""
        done = subprocess.run(
            command, cwd=REPOSITORY, env=self.environment, capture_output=True, text=True, timeout=seconds, check=False
        )
        assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def build(self, target: str, tag: str) -> None:
        certificates = os.environ.get("SSL_CERT_FILE")
        secret = ["--secret", f"id=ca,src={certificates}"] if certificates else []
        arguments = ["--build-arg", "BASE=localhost/meshproxy-base", "--build-arg", "VERSION=test"]
        # The host's network: a build needs package indexes, and no network of its own.
        self.run("podman", "build", "--network", "host", *secret, *arguments, "--target", target, "-t", tag, ".")


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Podman with both images."""
    folder = tmp_path_factory.mktemp("podman")
    (folder / "containers.conf").write_text(SETTINGS)
    (folder / "docker").write_text(SHIM)
    (folder / "docker").chmod(0o755)
    engine = Engine(
        {
            **os.environ,
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "PODMAN_COMPOSE": str(REPOSITORY / ".venv" / "bin" / "podman-compose"),
            "PATH": f"{folder}:{os.environ['PATH']}",
        }
    )
    base = CACHE / f"{BASE_SUITE}.tar"
    if not base.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        unfinished = base.with_suffix(".unfinished")
        engine.run(
            "mmdebstrap",
            "--variant=minbase",
            "--format=tar",
            f"--include={BASE_PACKAGES}",
            BASE_SUITE,
            str(unfinished),
        )
        unfinished.rename(base)
    engine.run("podman", "import", str(base), "localhost/meshproxy-base")
    engine.build("sidecar", "meshproxy:test")
    engine.build("development", "meshproxy:development")
    yield engine
    engine.run("podman", "rmi", "--force", "meshproxy:test", "meshproxy:development", check=False)
