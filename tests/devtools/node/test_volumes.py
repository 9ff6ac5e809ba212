from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meshproxy.devtools.node.volumes import Needed, contents, files, needed_for, write

POD = {"metadata": {"name": "web", "annotations": {"document": "kind: Sidecar"}}}
PROJECTED = {
    "name": "meshproxy",
    "projected": {
        "sources": [
            {
                "downwardAPI": {
                    "items": [{"path": "sidecar.yaml", "fieldRef": {"fieldPath": "metadata.annotations['document']"}}]
                }
            },
            {"serviceAccountToken": {"audience": "mesh", "expirationSeconds": 600, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "pki/ca.crt"}]}},
        ]
    },
}
TOKEN, AUTHORITY = Needed("token", "mesh", 600), Needed("configMap", "kube-root-ca.crt")


def test_a_projected_volume() -> None:
    assert needed_for(PROJECTED) == {TOKEN, AUTHORITY}
    made = files(PROJECTED, POD, {TOKEN: {"token": b"t"}, AUTHORITY: {"ca.crt": b"c", "more": b"m"}})
    assert made == {"sidecar.yaml": b"kind: Sidecar", "token": b"t", "pki/ca.crt": b"c"}


@pytest.mark.parametrize(
    ("volume", "needed"),
    [
        ({"name": "v", "configMap": {"name": "c"}}, Needed("configMap", "c")),
        ({"name": "v", "secret": {"secretName": "s"}}, Needed("secret", "s")),
        ({"name": "v", "projected": {"sources": [{"secret": {"name": "s"}}]}}, Needed("secret", "s")),
    ],
)
def test_all_keys_where_none_is_named(volume: Any, needed: Needed) -> None:
    assert needed_for(volume) == {needed}
    assert files(volume, POD, {needed: {"a": b"1", "b": b"2"}}) == {"a": b"1", "b": b"2"}


def test_a_key_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"the configMap kube-root-ca\.crt has no ca\.crt"):
        files(PROJECTED, POD, {TOKEN: {"token": b"t"}, AUTHORITY: {}})


def test_contents() -> None:
    assert contents({"kind": "Secret", "data": {"a": "MQ=="}}) == {"a": b"1"}
    assert contents({"kind": "ConfigMap", "data": {"a": "1"}, "binaryData": {"b": "Mg=="}}) == {"a": b"1", "b": b"2"}
    assert contents({"kind": "Secret"}) == {}


def shown(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.relative_to(folder).parts[0].startswith("..")
    }


def test_files_are_replaced_at_once(tmp_path: Path) -> None:
    assert write(tmp_path, {"a": b"1", "b": b"2"})
    assert shown(tmp_path) == {"a": b"1", "b": b"2"}
    before = (tmp_path / "..data").resolve()
    assert not write(tmp_path, {"a": b"1", "b": b"2"})
    assert (tmp_path / "..data").resolve() == before
    assert write(tmp_path, {"a": b"3", "c": b"4"})
    assert shown(tmp_path) == {"a": b"3", "c": b"4"}
    assert not before.exists()
    assert (tmp_path / "a").readlink() == Path("..data/a")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_a_folder_in_a_volume(tmp_path: Path) -> None:
    write(tmp_path, {"pki/ca.crt": b"c"})
    assert (tmp_path / "pki" / "ca.crt").read_bytes() == b"c"
