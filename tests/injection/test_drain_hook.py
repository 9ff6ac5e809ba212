from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
import yaml

from meshproxy.injection.drain_hook import drain_hook, grace_period
from meshproxy.injection.settings import ADMIN

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


@pytest.mark.parametrize("count", [0, 2])
def test_it_ends_the_children_of_the_first_process(count: int, tmp_path: Path) -> None:
    """None is no failure, of which the kubelet would tell: the model server is the first process itself."""
    children = [subprocess.Popen(["sleep", "60"]) for _ in range(count)]
    try:
        (tmp_path / "children").write_text("".join(f"{each.pid} " for each in children))
        script = drain_hook(25.0)["exec"]["command"][-1].replace("/proc/1/task/1", str(tmp_path))
        script = script.replace(str(ADMIN), "1").replace("sleep 5\n", "")
        result = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
        assert result.returncode == 0
        assert "usage" not in result.stderr
        assert [each.wait(10) for each in children] == [-signal.SIGTERM] * count
    finally:
        for each in children:
            each.kill()
            each.wait()
