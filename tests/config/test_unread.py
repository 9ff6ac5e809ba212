"""Documents in files whose names no sidecar reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshproxy.config.examine import examine
from meshproxy.config.unread import warn_of_unread, why_unread
from tests.config.conftest import codes, document, said

ROLE = document("ModelRole", "r", "{rules: [{models: [m], verbs: [predict]}]}")


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("deny", "deny.yaml"),
        ("deny.txt", "deny.txt.yaml"),
        ("deny.yamlx", "deny.yamlx.yaml"),
        (".deny.yaml", "deny.yaml"),
        (".deny", "deny.yaml"),
    ],
)
@pytest.mark.parametrize("text", [ROLE, f"# why\n---\n{ROLE}", '{"apiVersion": "meshproxy.dev/v1alpha1"}'])
def test_a_name_that_is_not_read(name: str, better: str, text: str) -> None:
    assert str(why_unread(name, text)).endswith(f': call it "{better}"')


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("deny.YML", ROLE),
        ("deny.yaml.disabled", ROLE),
        ("deny.yaml~", ROLE),
        ("README.md", f"So:\n```yaml\n{ROLE}```\n"),
        ("run.sh", "kubectl annotate pod a meshproxy.dev/inject=enabled"),
        ("crd", "apiVersion: apiextensions.k8s.io/v1\nmetadata: {name: modelroles.meshproxy.dev}\n"),
    ],
)
def test_what_nobody_expects_to_be_read(name: str, text: str) -> None:
    assert why_unread(name, text) is None


def test_a_file_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "roles.yaml").write_text(ROLE)
    (tmp_path / "other").mkdir()
    (tmp_path / "gone").symlink_to("nowhere")
    assert codes(examine([str(tmp_path)])) == []
    (tmp_path / "deny").write_text(ROLE)
    (problem,) = (each for each in examine([str(tmp_path)]).problems if each.code == "MP0609")
    assert problem.file == str(tmp_path / "deny")


def test_a_link_that_cannot_be_followed_hides_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "deny").write_text(ROLE)
    (tmp_path / "loop").symlink_to("loop")
    (found,) = warn_of_unread([str(tmp_path)])
    assert found.file == str(tmp_path / "deny")


@pytest.mark.parametrize("key", ["roles", ".roles.yaml"])
def test_a_key_of_a_config_map(key: str) -> None:
    lines = "".join(f"    {line}\n" for line in ROLE.splitlines())
    text = f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\ndata:\n  a.yaml: |\n{lines}  {key}: |\n{lines}"
    found = examine([], text.encode())
    assert found.names["ModelRole"] == ("r",)  # not twice
    (line,) = said(found, "MP0609")
    assert line.startswith(f"10: ConfigMap/c: data.{key}: is not read")
    assert said(found, "MP0703") == []


def test_the_keys_of_a_config_map_may_have_any_order() -> None:
    lines = "".join(f"    {line}\n" for line in ROLE.splitlines())
    keys = (f"  roles: |\n{lines}", "  values.yaml: |\n    replicas: 2\n")
    head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata:\n"
    there, back = (codes(examine([], (head + "".join(each)).encode())) for each in (keys, keys[::-1]))
    assert there == back
    assert "UNREAD_NAME" in there
