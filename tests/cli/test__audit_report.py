from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from meshproxy.cli.audit import command
from tests.audit.trails import trail

ACCESS = Path(__file__).parents[2] / "deploy" / "examples" / "access.yaml"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, ["report", *map(str, arguments)])


def test_a_review(tmp_path: Path) -> None:
    path, out = tmp_path / "audit.jsonl", tmp_path / "review.html"
    path.write_bytes(b"".join(trail(14)))
    result = run(path, "--period", "2023-11", "--config", ACCESS, "--out", out)
    assert (result.exit_code, result.output) == (0, f"{out}: 16 lines. The trail is as it was written.\n")
    assert "model-3" in out.read_text()
    assert run(path, "--period", "2022", "--out", out).output.startswith(f"{out}: 0 lines.")
    path.write_bytes(path.read_bytes().replace(b"alice", b"mallo", 1))
    assert run(path, "--out", out).exit_code == 3
    assert "NOT AS IT WAS WRITTEN" in out.read_text()
    assert "expected a period" in run(path, "--period", "soon", "--out", out).output
    assert "cannot write" in run(path, "--out", tmp_path / "nowhere" / "x.html").output
