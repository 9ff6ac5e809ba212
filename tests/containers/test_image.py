"""The image holds what it needs, and runs under the restrictions that the manifests set."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from meshproxy import __version__
from tests.containers.conftest import Engine
from tests.control.fake_api_server import FakeApiServer
from tests.processes.waiting import until

RESTRICTED = (
    "podman", "run", "--rm", "--network=none", "--read-only", "--cap-drop=all", "--security-opt=no-new-privileges",
)  # fmt: skip
MIB = 1024
"""What `du -sk` counts in."""

# Modules that a sidecar or a control plane imports from their source, since no compiled file lies beside it.
UNCOMPILED = """
import importlib.util, os, sys
import meshproxy.cli.main, meshproxy.control.app, meshproxy.sidecar.app, meshproxy.sidecar.supervisor
print([name for name, module in sorted(sys.modules.items())
       if (getattr(module, "__file__", None) or "").endswith(".py")
       and not os.path.exists(importlib.util.cache_from_source(module.__file__))])
"""
# Modules of ours that cannot be imported, and compiled modules whose source is gone: both lists should be empty. Those
# of others stand in the place of their sources.
BROKEN = """
import importlib, pkgutil, sysconfig
from pathlib import Path
broken = []
for module in pkgutil.walk_packages(importlib.import_module("meshproxy").__path__, "meshproxy."):
    try:
        if not module.name.startswith("meshproxy.devtools.") and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    except ImportError as error:
        broken.append(str(error))
compiled = Path(sysconfig.get_path("purelib")).rglob("__pycache__/*.pyc")
print(broken, [path for path in compiled if not Path(importlib.util.source_from_cache(path)).exists()])
"""
INSTALLED = """
import importlib.metadata, json
print(json.dumps({each.name.lower(): each.version for each in importlib.metadata.distributions()}))
"""


def python(engine: Engine, code: str) -> str:
    return engine.run(*RESTRICTED, "--entrypoint=python", "meshproxy:test", "-c", code).strip()


def test_it_runs_as_nobody_on_a_read_only_root(engine: Engine) -> None:
    assert engine.run(*RESTRICTED, "meshproxy:test", "version").startswith(f"meshproxy {__version__} ")
    status = python(engine, "print(open('/proc/self/status').read())")
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    assert set(fields["Uid"].split()) == {"65532"}
    assert int(fields["CapEff"], 16) == 0
    assert fields["NoNewPrivs"] == "1"


def test_its_labels_say_what_it_is(engine: Engine) -> None:
    (image,) = json.loads(engine.run("podman", "inspect", "meshproxy:test"))
    labels = image["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == "meshproxy"
    assert labels["org.opencontainers.image.version"] == "test"
    assert image["Config"]["User"] == "65532:65532"
    assert image["Config"]["Entrypoint"] == ["meshproxy"]


def test_every_module_is_compiled(engine: Engine) -> None:
    assert python(engine, UNCOMPILED) == "[]"


def test_what_is_left_out_is_not_needed(engine: Engine) -> None:
    assert python(engine, BROKEN) == "[] []"


def test_it_has_no_installer_and_is_small(engine: Engine) -> None:
    assert python(engine, "import importlib.util; print(importlib.util.find_spec('pip'))") == "None"
    size = int(engine.run(*RESTRICTED, "--entrypoint=du", "meshproxy:test", "-sk", "/opt/meshproxy").split()[0])
    print(f"/opt/meshproxy: {size / MIB:.1f} MiB")
    assert size <= 45 * MIB


def test_its_bill_of_materials_lists_what_is_installed(engine: Engine) -> None:
    installed = python(engine, INSTALLED)
    bill = json.loads(python(engine, "print(open('/opt/meshproxy/sbom.cdx.json').read())"))
    listed = {each["name"].lower(): each["version"] for each in bill["components"]}
    # The venv sees nothing of the system's packages.
    assert listed == json.loads(installed)
    assert listed["meshproxy"] == __version__


def test_it_captures_traffic(engine: Engine) -> None:
    """In a network namespace of its own, with the one capability that this takes."""
    allowed = ("--user=0", "--cap-add=NET_ADMIN", "meshproxy:test", "capture", "apply")
    engine.run(*RESTRICTED, *allowed, "--inbound", "8500", "--outbound", "8500")


@pytest.mark.parametrize(
    "command", [["sidecar", "--config", "/etc/meshproxy"], ["control", "run", "--help"]], ids=" ".join
)
def test_both_commands_are_in_one_image(engine: Engine, command: list[str]) -> None:
    wrote = engine.run(*RESTRICTED, "meshproxy:test", *command, check=False)
    assert "Traceback" not in wrote


async def test_the_control_plane_has_its_client_of_kubernetes(engine: Engine, tmp_path: Path) -> None:
    """What the image leaves out of it is not needed: objects are read, a Secret is made, and a Lease is held."""
    server = FakeApiServer()
    await server.start()
    server.write_kubeconfig(tmp_path, "mesh").chmod(0o644)
    tmp_path.chmod(0o755)
    options = [
        "--cluster-documents",
        "--token-review",
        "--kubeconfig=/run/cluster/kubeconfig",
        "--authority-secret=root",
    ]
    options += ["--folder=/tmp/control", "--trust-domain=m.example", "--listen=127.0.0.1:0", "--web=127.0.0.1:0"]
    options += ["--webhook=127.0.0.1:0", "--webhook-configuration=meshproxy-injector", "--sidecar-image=meshproxy"]
    network = ("--network=host", f"--volume={tmp_path}:/run/cluster:ro")
    running = await asyncio.create_subprocess_exec(
        *(each for each in RESTRICTED if not each.startswith("--network")),
        *(*network, "meshproxy:test", "control", "run", *options),
        env=engine.environment,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        kinds = {"secrets", "leases", "modelroles"}
        await until(lambda: kinds <= {part for each in server.requests for part in each.path.split("/")})
        await until(lambda: {"root"} <= {name for _, _, name in server.objects})
    finally:
        running.terminate()
        _, wrote = await running.communicate()
        await server.stop()
    assert running.returncode == 0, wrote.decode()
    assert b"Traceback" not in wrote
