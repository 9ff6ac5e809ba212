from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from meshproxy.cli.inject import command
from tests.cli.conftest import needed

POD = """\
apiVersion: v1
kind: Pod
metadata: {name: a}   # ours
spec:
  containers:
  - {name: s, image: tensorflow/serving}
"""


def run(bundle: Path, text: str, path: str = "-", *arguments: str) -> Result:
    return CliRunner().invoke(command, [path, *needed(bundle), *arguments], input=text.encode())


def test_a_pod_from_standard_input_and_from_a_file(bundle: Path, tmp_path: Path) -> None:
    result = run(bundle, POD)
    assert result.exit_code == 0
    assert result.stderr == "Pod/a: sidecar added\n"
    assert 'image: "meshproxy:1"' in result.stdout or "image: meshproxy:1" in result.stdout
    assert "# ours" in result.stdout
    (tmp_path / "pod.yaml").write_text(POD)
    assert run(bundle, "", str(tmp_path / "pod.yaml")).stdout == result.stdout
    again = run(bundle, result.stdout)
    assert again.stdout == result.stdout
    assert again.stderr == "Pod/a: left as it is: it has a container meshproxy already\n"


def test_warnings_are_told(bundle: Path) -> None:
    result = run(bundle, POD.replace("spec:", "spec:\n  shareProcessNamespace: true"))
    assert "Pod/a: warning: container s got no preStop hook" in result.stderr


def test_the_namespace_of_objects_that_name_none(bundle: Path) -> None:
    result = run(bundle, POD, "-", "--namespace", "kube-system")
    assert (result.exit_code, result.stdout) == (0, POD)
    assert "pods in the namespace kube-system get none" in result.stderr


def test_nothing_is_printed_if_a_pod_is_refused(bundle: Path) -> None:
    """What is printed may be on its way to kubectl: a part of it would be applied without sidecars."""
    wrong = POD.replace("{name: a}", "{name: b, annotations: {config.meshproxy.dev/workers: none}}")
    result = run(bundle, f"{POD}---\n{wrong}")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "Pod/b: config.meshproxy.dev/workers: expected a whole number" in result.stderr


def test_what_has_no_pods(bundle: Path) -> None:
    result = run(bundle, "a: 1\n")
    assert (result.stdout, result.stderr) == ("a: 1\n", "-: there are no pods in it\n")


def test_what_cannot_be_read(bundle: Path) -> None:
    result = run(bundle, "a: [")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Error: -: while parsing" in result.stderr


@pytest.mark.parametrize("text", ["hello\n", "- a\n", f"{POD}---\nhello\n"])
def test_what_is_no_object(bundle: Path, text: str) -> None:
    """Such as the message of a command before it: kubectl would refuse it later, and say less."""
    result = run(bundle, text)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Error: -: expected objects of Kubernetes" in result.stderr


def test_annotations_are_text(bundle: Path) -> None:
    result = run(bundle, POD.replace("{name: a}", "{name: a, annotations: {config.meshproxy.dev/workers: 4}}"))
    assert (result.exit_code, result.stdout) == (3, "")
    assert 'write numbers, true and false in quotes there, such as "4"' in result.stderr


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--image", "a b"),
        ("--trust-domain", "A B"),
        ("--control-plane", "here"),
        ("--control-plane-id", "me"),
        ("--control-namespace", "A B"),
        ("--server", "A B"),
        ("--namespace", "A B"),
        ("--kubernetes", "new"),
    ],
)
def test_a_wrong_value_names_its_option(bundle: Path, option: str, value: str) -> None:
    result = run(bundle, POD, "-", option, value)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"Error: {option}: expected" in result.stderr


def test_a_wrong_trust_bundle_is_named(bundle: Path) -> None:
    bundle.write_text("nothing")
    assert f"Error: --trust-bundle {bundle}: expected certificates in PEM" in run(bundle, POD).stderr
