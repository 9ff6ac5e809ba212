from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from meshproxy.cli.audit import command
from tests.audit.trails import KEY, trail


def run(*arguments: str | Path, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(command, [*map(str, arguments)], input=stdin)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A trail in two files, and the public key beside it."""
    lines = trail(40)
    (tmp_path / "audit.jsonl.000000000020").write_bytes(b"".join(lines[:20]))
    (tmp_path / "audit.jsonl").write_bytes(b"".join(lines[20:]))
    public = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pub").write_bytes(public)
    return tmp_path / "audit.jsonl"


def test_verify(written: Path) -> None:
    result = run("verify", written, "--public-key", written.with_name("key.pub"), "--whole")
    assert result.exit_code == 0, result.output
    *notes, last = result.output.splitlines()
    assert last == "OK: 42 lines are as they were written"
    assert [note.partition(": ")[2] for note in notes] == ["2 signatures by the key 56475aa75463474c"]


def test_verify_says_which_line(written: Path) -> None:
    written.write_bytes(written.read_bytes().replace(b'"alice"', b'"mallo"', 1))
    result = run("verify", written)
    assert result.exit_code == 3
    assert f"{written}:1: changed: the line after it holds another hash\n" in result.output
    assert result.output.endswith("TAMPERED WITH: 42 lines\n")
    answer = json.loads(run("verify", written, "-o", "json").output)
    assert (answer["ok"], answer["whole"], answer["problems"][0]["line"]) == (False, False, 1)
    assert answer["problems"][0]["what"] == "changed"


def test_verify_shows_the_first_problems(written: Path) -> None:
    written.write_bytes(written.read_bytes().replace(b'"alice"', b'"mallo"'))
    result = run("verify", written)
    assert result.output.count(": changed:") == 20
    assert "... and 1 more\n" in result.output


def test_verify_without_the_end(written: Path) -> None:
    written.write_bytes(b"".join(written.read_bytes().splitlines(keepends=True)[:-1])[:-30])
    result = run("verify", written)
    assert result.exit_code == 0
    assert "has no end: its writer goes on, was killed, or the end was cut off" in result.output
    assert "its last 39 lines are covered by no signature yet" in result.output
    assert f"{written}:21 is the beginning of a line" in result.output
    result = run("verify", written, "--whole")
    assert result.exit_code == 3
    assert result.output.endswith("NOT WHOLE: 40 lines are as they were written, but not all of them are here\n")


def test_verify_remembers(written: Path, tmp_path: Path) -> None:
    remembered = tmp_path / "remembered.json"
    assert run("verify", written, "--remember", remembered).exit_code == 0
    assert run("verify", written, "--remember", remembered).exit_code == 0
    content = remembered.read_bytes()
    written.write_bytes(b"".join(written.read_bytes().splitlines(keepends=True)[:-3]))
    result = run("verify", written, "--remember", remembered)
    assert result.exit_code == 3
    assert "had 42 lines when it was verified before: its end is missing" in result.output
    assert remembered.read_bytes() == content
    remembered.write_bytes(b"text")
    assert "is not what --remember has written" in run("verify", written, "--remember", remembered).output


def test_verify_other_inputs(written: Path, tmp_path: Path) -> None:
    content = b"".join(trail(40))
    assert run("verify", "-", stdin=content).exit_code == 0
    (tmp_path / "trail.gz").write_bytes(gzip.compress(content))
    assert run("verify", tmp_path / "trail.gz").exit_code == 0
    assert "cannot read" in run("verify", tmp_path / "nothing").output
    (tmp_path / "other").write_bytes(b"")
    assert run("verify", tmp_path / "other").output == "NOT VERIFIED: there is no line of a trail\n"
    result = run("verify", written, "--public-key", written)
    assert result.exit_code == 2
    assert "is not a public key (PEM)" in result.output


def test_a_key_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    result = run("key", path)
    assert result.exit_code == 0, result.output
    assert path.stat().st_mode & 0o777 == 0o600
    assert "PUBLIC KEY" in (tmp_path / "key.pem.pub").read_text()
    assert "exists: lines that it has signed" in run("key", path).output
    assert "cannot write" in run("key", tmp_path / "nowhere" / "key.pem").output
