from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from meshproxy.cli.uninject import command
from meshproxy.injection.manifests import inject_text
from tests.injection.pods import SETTINGS

POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}   # ours\nspec:\n  containers: [{name: s, image: app}]\n"


def test_a_file_as_it_was_before(tmp_path: Path) -> None:
    text, _ = inject_text(POD, "serving", SETTINGS)
    (tmp_path / "pod.yaml").write_text(text)
    result = CliRunner().invoke(command, [str(tmp_path / "pod.yaml")])
    assert (result.exit_code, result.stdout, result.stderr) == (0, POD, "Pod/a: sidecar removed\n")


def test_what_has_none() -> None:
    result = CliRunner().invoke(command, ["-"], input=POD)
    assert (result.exit_code, result.stdout) == (0, POD)
    assert result.stderr == "-: no pod in it has a sidecar of ours\n"


def test_what_cannot_be_read() -> None:
    result = CliRunner().invoke(command, ["-"], input="a: [")
    assert (result.exit_code, result.stdout) == (1, "")
