"""`meshproxy check` before something that answers as a control plane does. The findings: tests/control."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from meshproxy import __version__
from meshproxy.cli.main import main
from meshproxy.control.status import DocumentsEntry, SidecarState
from tests.cli.conftest import Serve
from tests.control.statuses import VERSION, entry, status


def page(*sidecars: Any, **more: Any) -> Any:
    found = status(*sidecars, software=__version__, **more)
    return json.loads(msgspec.json.encode(found))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["check", *arguments])


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clocks agree."""
    monkeypatch.setattr("time.time", lambda: datetime(2026, 1, 2, 12, tzinfo=UTC).timestamp())


def test_all_is_well(serve: Serve) -> None:
    result = run("--control", serve(page(entry(software=__version__))))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("control plane\n-------------\n√ the control plane answers\n√ it is ready\n")
    assert "\n\nidentities\n----------\n√ the authority is valid" in result.stdout
    assert result.stdout.endswith("\nresult: √  0 errors, 0 warnings, 19 well\n")
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_warnings(serve: Serve) -> None:
    result = run("--control", serve(page(entry(SidecarState.GONE, software=__version__))))
    assert result.exit_code == 1
    assert (
        "‼ sidecars stay connected\n    1 of 1 sidecars: models/resnet (resnet, resnet-0): it was lost 1m 40s ago\n"
        in (result.stdout)
    )
    assert "\n    next: look at them: meshproxy proxy-status" in result.stdout
    assert result.stdout.endswith("\nresult: ‼  0 errors, 1 warning, 18 well\n")


def test_errors(serve: Serve) -> None:
    documents = DocumentsEntry(version=VERSION, problems=("mesh.yaml:3: no such kind",))
    result = run("--control", serve(page(documents=documents)))
    assert result.exit_code == 2
    assert "× the documents have no problems\n    mesh.yaml:3: no such kind\n    next: mend them" in result.stdout
    assert "result: ×  1 error, 0 warnings" in result.stdout


def test_nobody_answers() -> None:
    result = run("--control", "127.0.0.1:1")
    assert result.exit_code == 2
    assert "× the control plane answers\n    nothing answers at 127.0.0.1:1: Connection refused\n" in result.stdout


def test_json(serve: Serve) -> None:
    result = run("-o", "json", "--control", serve(page(entry(SidecarState.REFUSED, software=__version__))))
    assert result.exit_code == 2
    found = json.loads(result.stdout)
    assert (found["kind"], found["result"]) == ("MeshCheck", "error")
    (bad,) = (each for each in found["checks"] if each["level"] != "well")
    assert (bad["section"], bad["check"], bad["level"]) == ("documents", "documents are accepted", "error")
    assert bad["problem"].endswith("it does not say why")


def test_an_address_that_is_none() -> None:
    result = run("--control", "control.example:18512")
    assert result.exit_code == 2
    assert "answers on loopback only" in result.stderr


def test_what_sidecars_say_of_themselves_does_not_move_the_cursor(serve: Serve) -> None:
    refused = entry(SidecarState.REFUSED, software=__version__, host="\x1b[2J", problems=("\x1bc",))
    text = run("--control", serve(page(refused))).stdout
    assert "models/resnet (resnet, \\x1b[2J): it has refused 01234567: \\x1bc\n" in text
    assert "\x1b" not in text
