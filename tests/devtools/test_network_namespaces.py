"""The namespaces themselves need root: tests/drills/test_partition.py, tests/e2e/test_node.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshproxy.devtools import network_namespaces
from meshproxy.devtools.network_namespaces import enter, run


def test_a_command_must_end_well() -> None:
    assert run("cat", text="read") == "read"
    with pytest.raises(OSError, match=r"^sh -c echo why >&2; exit 1: why$"):
        run("sh", "-c", "echo why >&2; exit 1")


def test_what_is_no_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_namespaces, "path_of", tmp_path.joinpath)
    with pytest.raises(FileNotFoundError):
        enter("nothing")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="setns: Invalid argument"):
        enter("file")
