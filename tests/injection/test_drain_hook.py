from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

from meshproxy.injection.drain_hook import drain_hook, grace_period

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_it_is_the_one_that_is_written_out_in_the_manifest() -> None:
    manifests = yaml.safe_load_all((DEPLOY / "kubernetes" / "tensorflow-serving.yaml").read_text())
    (deployment,) = (each for each in manifests if each["kind"] == "Deployment")
    (server,) = deployment["spec"]["template"]["spec"]["containers"]
    assert drain_hook(25.0) == server["lifecycle"]["preStop"]


def test_it_waits_as_long_as_the_drain_takes() -> None:
    hook = drain_hook(0.25)
    *bash, script = hook["exec"]["command"]
    assert bash == ["/bin/bash", "-c"]
    assert "while ((SECONDS < 11)) && " in script
    assert grace_period(0.25) == 16
    assert grace_period(25.0) == 40


def test_bash_reads_it() -> None:
    assert subprocess.run(["bash", "-n", "-c", drain_hook(25.0)["exec"]["command"][-1]]).returncode == 0
