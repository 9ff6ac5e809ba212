"""`meshproxy import`, as somebody who comes from another mesh meets it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from meshproxy.cli import import_ as module
from meshproxy.cli.main import main
from meshproxy.config.codes import Severity
from meshproxy.config.examine import examine

CANARY, ISTIO = (f"tests/migration/{name}.yaml" for name in ("canary", "istio"))


def run(*arguments: str, text: str = "") -> Result:
    return CliRunner().invoke(main, ["import", *arguments], input=text)


def loads(text: str) -> None:
    assert not [str(each) for each in examine([], text.encode()).problems if each.severity is Severity.ERROR]


def test_flagger() -> None:
    result = run("flagger", CANARY, "--model", "fraud")
    assert result.exit_code == 3  # a gate over plain http
    loads(result.stdout)
    assert "kind: ModelRollout" in result.stdout
    assert f"{CANARY}:26: Canary/podinfo: spec.analysis.webhooks[0].url: is not translated" in result.stderr
    assert result.stderr.splitlines()[-1] == "3 documents, 14 notes, 1 refusal"


def test_istio() -> None:
    result = run("istio", ISTIO)
    assert result.exit_code == 3
    loads(result.stdout)
    assert "name: fraud-callers" not in result.stdout
    assert "it would allow more" in result.stderr
    wider = run("istio", ISTIO, "--accept-wider")
    loads(wider.stdout)
    assert "name: fraud-callers" in wider.stdout
    assert "PeerAuthentication is a kind of Istio; here it is `mtls`" in wider.stderr


def test_what_does_not_load_is_left_out() -> None:
    text = Path(CANARY).read_text().replace("stepWeight: 5", "stepWeight: 500")
    result = run("flagger", "-", text=text)
    loads(result.stdout)
    assert "kind: ModelRollout" not in result.stdout
    assert "left out, as it would not load: ModelRollout/podinfo: spec.analysis.stepWeight" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["flagger", "missing.yaml"], 1, "cannot be read"),
        (["flagger", "-"], 1, "the documents have problems"),
        (["istio", ISTIO, "--issuer", "corp"], 2, "expected NAME=URL"),
        (["flagger", CANARY, "--model", ""], 2, "--model"),
        (["flagger", ISTIO], 3, "0 documents"),
        (["istio", CANARY], 3, "Canary is a kind of Flagger"),
    ],
)
def test_mistakes(arguments: list[str], status: int, message: str) -> None:
    result = run(*arguments, text="a: [")
    assert (result.exit_code, message in result.stderr) == (status, True)


def test_what_is_too_large_is_not_read_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Path(ISTIO).read_text()
    monkeypatch.setattr(module, "FILE_BYTES", len(text.encode()) - 1)
    (tmp_path / "istio.yaml").write_text(text)
    for result in (run("istio", str(tmp_path / "istio.yaml")), run("istio", "-", text=text)):
        assert (result.exit_code, result.stdout) == (1, "")
        assert "is larger than" in result.stderr
