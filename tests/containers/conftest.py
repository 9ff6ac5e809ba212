"""The images, built by Podman from the Dockerfile; the base image is Debian's Python, so that no registry is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.containers.docker import COMPOSE, Docker, running_docker

REPOSITORY = Path(__file__).parents[2]
CACHE = REPOSITORY / ".cache" / "containers"
SUITE = "trixie"
BASE = "docker.io/library/python:stand-in"
"""In the place of the image that the Dockerfile pins."""

# runc and these limits also work in a container that lacks CAP_SYS_RESOURCE, where crun and the defaults do not.
SETTINGS = """[containers]
default_ulimits = ["nofile=1024:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
"""

DOCKER = f"""#!/bin/sh
# What the page writes for Docker, said to Podman. A build takes the host's network and its certificates, so that it
# reaches the package indexes.
case $1 in
build) shift; exec podman build --network host ${{SSL_CERT_FILE:+--secret "id=ca,src=$SSL_CERT_FILE"}} \\
    --build-arg BASE={BASE} "$@" ;;
*) exec podman "$@" ;;
esac
"""


@dataclass(frozen=True, slots=True)
class Engine:
    """Podman, and what it needs in the environment. There it is `docker`, too."""

    environment: Mapping[str, str]

    def run(self, *command: str, seconds: float = 600.0, check: bool = True) -> str:
        """What a command writes to its standard output."""
        done = subprocess.run(
            command, cwd=REPOSITORY, env=self.environment, capture_output=True, text=True, timeout=seconds, check=False
        )
        assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def build(self, target: str, tag: str) -> None:
        self.run("docker", "build", "--build-arg", "VERSION=test", "--target", target, "-t", tag, ".")


def unpacked(suite: str, *packages: str, variant: str = "extract", form: str = "directory") -> Path:
    """Packages of Debian, and what they need, unpacked in a folder or as a tar; made once."""
    made = CACHE / f"{suite}-{packages[0]}"
    if not made.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        unfinished = made.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        options = [f"--variant={variant}", f"--format={form}", f"--include={','.join(packages)}"]
        # sid is newer than its mirrors may be.
        options.append('--aptopt=Acquire::Check-Valid-Until "false"')
        subprocess.run(["mmdebstrap", *options, suite, str(unfinished)], check=True, capture_output=True)
        unfinished.rename(made)
    return made


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Podman with both images."""
    folder = tmp_path_factory.mktemp("podman")
    (folder / "containers.conf").write_text(SETTINGS)
    (folder / "docker").write_text(DOCKER)
    (folder / "docker").chmod(0o755)
    engine = Engine(
        {
            **os.environ,
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "PATH": f"{folder}:{os.environ['PATH']}",
        }
    )
    needed = ("python3", "python3-venv", "python-is-python3", "ca-certificates")
    base = unpacked(SUITE, *needed, variant="minbase", form="tar")
    engine.run("podman", "import", str(base), BASE)
    engine.build("sidecar", "meshproxy:test")
    engine.build("development", "meshproxy:development")
    yield engine
    engine.run("podman", "rmi", "--force", "meshproxy:test", "meshproxy:development", check=False)


@pytest.fixture(scope="session")
def docker(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """A Docker daemon with all images that the Compose file names: those that come from a registry are stand-ins."""
    services = yaml.safe_load((REPOSITORY / "deploy" / "docker-compose.yaml").read_text())["services"]
    context = tmp_path_factory.mktemp("stand-ins")
    shutil.copytree(Path(__file__).with_name("stand-ins"), context, dirs_exist_ok=True)
    debian = unpacked("sid", "prometheus", "promtool")
    for program in ("prometheus", "promtool"):
        shutil.copy(debian / "usr" / "bin" / program, context)
    shutil.copy(Path(os.environ["COLLECTOR_BIN"]) / "collector", context)
    images = {"docker.io/library/meshproxy:development"}
    engine.run("podman", "tag", "meshproxy:development", *images)
    for name in ("model-server", "prometheus", "collector"):
        image = f"docker.io/{services[name]['image']}"
        engine.run("podman", "build", "--target", name, "-t", image, str(context))
        images.add(image)
    archive = context / "images.tar"
    engine.run("podman", "save", "--multi-image-archive", "-o", str(archive), *images)
    compose = unpacked(SUITE, "docker-compose") / COMPOSE
    with running_docker(compose) as docker:
        docker.run("docker", "load", "-i", str(archive))
        archive.unlink()
        yield docker
    engine.run("podman", "rmi", "--force", *images, check=False)
