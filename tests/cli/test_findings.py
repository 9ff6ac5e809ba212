"""`meshproxy findings` before something that answers as control planes do."""

from __future__ import annotations

import json

import msgspec

from meshproxy.view.findings import ChangedModel, Findings, OpenCaller, UnusedBinding
from tests.cli.conftest import ServePages
from tests.cli.test__mesh import run
from tests.control.statuses import entry, status

NOTHING = Findings(seconds=3_600.0, is_complete=True, unused_models=[], unused_bindings=[], open_callers=[])
SOME = Findings(
    seconds=3_600.0,
    is_complete=True,
    unused_models=["idle", "old"],
    unused_bindings=[UnusedBinding(binding="others", role="all", models=["x-*"])],
    open_callers=[OpenCaller(caller="anonymous (10.0.0.7)", security="plaintext", models=["fraud"], calls=3)],
)


def pages(found: Findings) -> dict[str, bytes]:
    return {
        "/findings": msgspec.json.encode(found),
        "/status": msgspec.json.encode(status(entry())),
        "/readyz": b"ok\n",
    }


def test_what_was_found(serve_pages: ServePages) -> None:
    result = run("findings", "--control", serve_pages(pages(SOME)))
    assert result.exit_code == 3
    assert result.stdout.splitlines()[:6] == [
        "models that nobody calls: 2",
        "  idle",
        "  old",
        "",
        "permissions that nobody uses: 1",
        "  others (role all: x-*)",
    ]
    assert "  anonymous (10.0.0.7), plaintext, 3 calls of fraud" in result.stdout
    assert result.stdout.endswith("in the last 1h\n")


def test_unused_is_what_all_control_planes_say(serve_pages: ServePages) -> None:
    other = msgspec.structs.replace(NOTHING, unused_models=["old"], is_complete=False)
    result = run("findings", "-o", "json", *(f"--control={serve_pages(pages(each))}" for each in (SOME, other)))
    found = json.loads(result.stdout)
    assert (found["unusedModels"], found["unusedBindings"], len(found["openCallers"])) == (["old"], [], 1)
    assert (found["isComplete"], found["certificates"], found["kind"]) == (False, [], "MeshFindings")


def test_models_that_have_changed_are_those_of_all_control_planes(serve_pages: ServePages) -> None:
    """Each watches the sidecars that are connected to it."""
    change = ChangedModel(
        model="fraud", version="3", direction="inbound", signal="errors", since="2026-01-02T12:00:00Z", words="it fails"
    )
    one = msgspec.structs.replace(NOTHING, changed_models=(change,))
    other = msgspec.structs.replace(one, changed_models=(msgspec.structs.replace(change, version="4"), change))
    result = run("findings", *(f"--control={serve_pages(pages(each))}" for each in (one, other)))
    assert result.exit_code == 3
    assert "models that have changed: 2\n  fraud, it fails (since 2026-01-02T12:00:00Z)\n" in result.stdout


def test_nothing_was_found(serve_pages: ServePages) -> None:
    result = run("findings", "--control", serve_pages(pages(NOTHING)))
    assert result.exit_code == 0
    assert "models that nobody calls: none" in result.stdout


def test_nobody_answers() -> None:
    assert run("findings", "--control", "127.0.0.1:1").exit_code == 1
