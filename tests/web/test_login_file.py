"""The file that says who may log in."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.config import unreadable
from meshproxy.web.login_file import LoginFileError, is_safe_url, read_login_file
from meshproxy.web.permissions import Permission
from tests.thorough import tries

GOOD = {
    "address": "https://mesh.example/",
    "issuer": "https://login.example/realms/corp",
    "clientId": "meshproxy",
    "scopes": ["groups"],
    "roles": [{"name": "viewer", "sees": ["graph"], "claims": {"groups": "ml"}}],
}


def write(folder: Path, **changes: object) -> Path:
    path = folder / "login.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in {**GOOD, **changes}.items() if value is not None}))
    return path


def test_a_good_one(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    found = read_login_file(write(tmp_path, clientSecretFile=str(tmp_path / "secret"), algorithms=["ES256", "Ed25519"]))
    assert (found.address, found.is_secure, found.scopes) == ("https://mesh.example", True, ("openid", "groups"))
    assert (found.client_secret, found.algorithms) == ("s3cret", {"ES256", "EdDSA"})
    [role] = found.roles
    assert (role.name, role.sees, dict(role.claims)) == ("viewer", {Permission.GRAPH}, {"groups": "ml"})
    assert "s3cret" not in repr(found)
    local = read_login_file(write(tmp_path, address="http://localhost:18512"))
    assert not local.is_secure


def test_a_secret_that_its_mount_does_not_follow_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (secret := tmp_path / "secret").write_text("first")
    found = read_login_file(write(tmp_path, clientSecretFile=str(secret)))
    monkeypatch.setattr(unreadable, "not_followed", lambda path: "replaced outside")
    assert found.current_secret() == "first"
    assert [record.message for record in caplog.records] == [f"{secret} was replaced outside"]


def test_a_secret_that_is_rotated(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("first")
    found = read_login_file(write(tmp_path, clientSecretFile=str(secret)))
    secret.write_text("second\n")
    assert found.current_secret() == "second"
    secret.write_text("")
    assert found.current_secret() == "first"
    secret.unlink()
    assert found.current_secret() == "first"
    assert read_login_file(write(tmp_path)).current_secret() == ""


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"address": "http://mesh.example"}, "http: on this host only"),
        ({"address": "https://mesh.example/page"}, "root of its host"),
        ({"issuer": "ftp://login.example"}, "is no URL"),
        ({"issuer": "https://user@login.example"}, "is no URL"),
        ({"issuer": "https://login.example?x=1"}, "is no URL"),
        ({"issuer": "https://[login"}, "is no URL"),
        ({"issuer": None}, "missing required field `issuer`"),
        ({"roles": []}, "length >= 1"),
        ({"roles": [{"name": "all", "sees": ["graph"], "claims": {}}]}, "length >= 1"),
        ({"roles": [{"name": "all", "sees": ["everything"], "claims": {"a": "b"}}]}, "Invalid enum value"),
        ({"algorithms": ["none"]}, "is none of"),
        ({"algorithms": ["HS256"]}, "is none of"),
        ({"scopes": ["a b"]}, "one word"),
        ({"clientSecret": "in the file"}, "unknown field"),
        ({"clientSecretFile": "/nowhere"}, "cannot be read"),
        ({"clientSecretFile": "/dev/null"}, "does not hold one line"),
    ],
)
def test_others_are_refused(tmp_path: Path, changes: dict[str, object], why: str) -> None:
    with pytest.raises(LoginFileError, match=why):
        read_login_file(write(tmp_path, **changes))


def test_what_is_no_file_of_this_kind(tmp_path: Path) -> None:
    with pytest.raises(LoginFileError, match="cannot be read"):
        read_login_file(tmp_path)
    for content in ("[", "- 1", "x" * 300_000):
        (tmp_path / "login.yaml").write_text(content)
        with pytest.raises(LoginFileError):
            read_login_file(tmp_path / "login.yaml")


@settings(max_examples=tries(50), deadline=None)
@given(st.sampled_from(["", "https://", "http://"]), st.text("abc.[]@:#/ 09\n\x00\xe9", max_size=20))
def test_no_text_is_too_odd_for_a_url(scheme: str, text: str) -> None:
    assert is_safe_url(scheme + text) in (True, False)
    assert not is_safe_url("javascript:" + text)
