"""`meshproxy proxy-status` before something that answers as a control plane does. A real one: tests/processes."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from meshproxy.cli.main import main
from meshproxy.control.status import DocumentsEntry, SidecarState
from tests.cli.conftest import Serve
from tests.control.statuses import VERSION, ago, entry, status


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["proxy-status", *arguments])


def page(*sidecars: Any, **more: Any) -> Any:
    return json.loads(msgspec.json.encode(status(*sidecars, **more)))


@pytest.mark.parametrize(
    ("found", "exit_status"),
    [
        (page(), 0),
        (page(entry()), 0),
        (page(entry(SidecarState.BEHIND, sent_at=ago(1))), 0),
        (page(entry(), entry(SidecarState.GONE, host="b")), 1),
        (page(entry(SidecarState.GONE), entry(SidecarState.REFUSED, host="b")), 2),
        (page(entry(), documents=DocumentsEntry(version=VERSION, problems=("p",))), 2),
        ({"kind": "Pod"}, 2),
    ],
)
def test_the_exit_status_is_that_of_the_worst(serve: Serve, found: Any, exit_status: int) -> None:
    assert run("--control", serve(found)).exit_code == exit_status


def test_of_two_control_planes_one_is_away(serve: Serve) -> None:
    result = run("--control", serve(page(entry())), "--control", "127.0.0.1:1")
    assert result.exit_code == 2
    assert "models/resnet" in result.stdout
    assert "× control plane 127.0.0.1:1: nothing answers at 127.0.0.1:1: Connection refused\n" in result.stdout


def test_json(serve: Serve) -> None:
    address = serve(page(entry(SidecarState.REFUSED, problems=("bad",)), entry(host="resnet-1")))
    result = run("-o", "json", "--control", address)
    assert result.exit_code == 2
    found = json.loads(result.stdout)
    assert found["kind"] == "ProxyStatus"
    assert found["controlPlanes"] == [
        {
            "address": address,
            "problem": None,
            "software": "0.1.0",
            "documents": {"version": VERSION, "problems": [], "sourceProblem": ""},
            "forgotten": 0,
        }
    ]
    refused, well = found["sidecars"]
    assert (refused["state"], refused["host"], refused["controlPlane"]) == ("refused", "resnet-0", address)
    assert refused["level"] == "error"
    assert refused["troubles"] == [
        {"check": "documents are accepted", "level": "error", "text": "it has refused 01234567: bad"}
    ]
    assert (well["level"], well["troubles"]) == ("well", [])


def test_json_of_nobody() -> None:
    found = json.loads(run("-o", "json", "--control", "127.0.0.1:1").stdout)
    assert found["controlPlanes"][0]["problem"] == "nothing answers at 127.0.0.1:1: Connection refused"
    assert found["sidecars"] == []
