"""`meshproxy edges` before something that answers as a control plane does. A real one: tests/processes."""

from __future__ import annotations

import json

from meshproxy.control_api import ReportedCaller
from tests.cli.conftest import ServePages
from tests.cli.test__mesh import API, FRAUD, page, run
from tests.view.meshes import calls

PLAIN = calls(ReportedCaller(address="10.0.0.7"), security="plaintext", count=3, codes={"403": 3}, denied={"x": 3})


def test_a_table(serve_pages: ServePages) -> None:
    address = serve_pages({"/mesh": page((FRAUD, [calls(API, count=10), calls(API, version="4", count=5), PLAIN]))})
    result = run("edges", "--control", address)
    assert (result.exit_code, result.stderr) == (0, "")
    heading, first, second = result.stdout.splitlines()
    assert heading.split() == ["SRC", "DST", "MODEL", "SECURED", "RPS"]
    assert first.split() == ["shop/api", "serving/fraud", "fraud", "√", "3.0"]
    assert second.split() == ["anonymous", "(10.0.0.7)", "serving/fraud", "fraud", "no:", "plaintext", "0.6"]
    wide = run("edges", "--control", address, "-o", "wide").stdout.splitlines()
    assert wide[1].split()[5:] == ["100%", "5.09ms", "5.33ms", "0", "3,4", "predict"]


def test_json(serve_pages: ServePages) -> None:
    address = serve_pages({"/mesh": page((FRAUD, [PLAIN]))})
    found = json.loads(run("edges", "--control", address, "-o", "json").stdout)
    (edge,) = found["edges"]
    assert found["kind"] == "MeshEdges"
    assert (edge["clientId"], edge["serverId"], edge["secured"]) == ("anonymous (10.0.0.7)", FRAUD, False)
    assert edge["noTlsReason"] == "the connection is not encrypted"
    assert (edge["calls"], edge["denied"], edge["deniedBy"]) == (3, 3, {"x": 3})


def test_names_of_callers_do_not_reach_the_terminal_as_they_are(serve_pages: ServePages) -> None:
    address = serve_pages({"/mesh": page((FRAUD, [calls(ReportedCaller(token="corp:\x1b[2J"))]))})
    assert "\x1b" not in run("edges", "--control", address).stdout


def test_addresses_and_names_are_no_markup(serve_pages: ServePages) -> None:
    called = calls(ReportedCaller(address="[fd00::7]"), model="[/x]", security="plaintext")
    line = run("edges", "--control", serve_pages({"/mesh": page((FRAUD, [called]))})).stdout.splitlines()[1]
    assert line.split()[:4] == ["anonymous", "([fd00::7])", "serving/fraud", "[/x]"]


def test_nothing_was_called(serve_pages: ServePages) -> None:
    result = run("edges", "--control", serve_pages({"/mesh": page()}))
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no calls were reported" in result.stderr
