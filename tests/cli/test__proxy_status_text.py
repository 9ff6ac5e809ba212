"""The text of `meshproxy proxy-status`."""

from __future__ import annotations

import pytest

from meshproxy.cli._proxy_status_text import show
from meshproxy.control.check import Answer
from meshproxy.control.fleet import members
from meshproxy.control.status import DocumentsEntry, SidecarState
from tests.control.statuses import VERSION, ago, answer, entry, status


def text(capsys: pytest.CaptureFixture[str], *answers: Answer) -> list[str]:
    show(answers, members({each.address: each.status for each in answers if each.status is not None}))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 120
    return lines


def test_a_table_with_problems_first(capsys: pytest.CaptureFixture[str]) -> None:
    found = status(
        entry(),
        entry(SidecarState.REFUSED, host="resnet-1", problems=("no server s",)),
        entry(SidecarState.GONE, host="resnet-2", since=ago(7_500), certificate_expires=ago(5), version=""),
    )
    assert text(capsys, answer(found)) == [
        "control plane 127.0.0.1:18512: meshproxy 0.1.0, up 2h, documents 01234567; 1 in-sync, 1 refused, 1 gone",
        "",
        "SIDECAR  IDENTITY       STATE    FOR     DOCUMENTS  CERTIFICATE  SOFTWARE  PEER",
        "resnet   models/resnet  REFUSED  1m 40s  older      23h          0.1.0     resnet-1 10.0.0.1:4711",
        "resnet   models/resnet  GONE     2h 5m   none       EXPIRED      0.1.0     resnet-2 10.0.0.1:4711",
        "resnet   models/resnet  in-sync  1m 40s  01234567   23h          0.1.0     resnet-0 10.0.0.1:4711",
        "",
        "× models/resnet (resnet, resnet-1): it has refused 01234567: no server s",
        "‼ models/resnet (resnet, resnet-2): it was lost 2h 5m ago",
        "× models/resnet (resnet, resnet-2): its certificate expired 5s ago",
        "",
        "A sidecar that is gone may be connected to another control plane: name each one (--control).",
    ]


def test_two_control_planes(capsys: pytest.CaptureFixture[str]) -> None:
    lines = text(capsys, answer(status(entry(SidecarState.GONE))), answer(status(entry()), "127.0.0.1:2"))
    assert lines[0].endswith("; 1 gone")
    assert lines[1].endswith("; 1 in-sync")
    assert lines[3].endswith("CONTROL")
    assert lines[4:] == [
        "resnet   models/resnet  in-sync  1m 40s  01234567   23h          0.1.0     resnet-0 10.0.0.1:4711  127.0.0.1:2"
    ]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (answer(problem="refused"), "× control plane 127.0.0.1:18512: refused"),
        (answer(status()), ", documents 01234567; no sidecars"),
        (answer(status(forgotten=3)), "; no sidecars, and 3 gone that are not listed"),
        (
            answer(status(documents=None)),
            ", gives no documents and knows no sidecars (--documents)",
        ),
        (
            answer(status(documents=DocumentsEntry(version=VERSION, problems=("p", "q")))),
            "× its documents have problems and are not given: p",
        ),
    ],
)
def test_control_planes(capsys: pytest.CaptureFixture[str], given: Answer, line: str) -> None:
    assert text(capsys, given)[-1].endswith(line)


def test_what_sidecars_say_of_themselves_is_shown_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    found = status(entry(SidecarState.REFUSED, sidecar="[/a]", host="\x1b[2J", peer="[fd00::7]:1", problems=("\x1bc",)))
    table, problem = (line for line in text(capsys, answer(found)) if "[/a]" in line)
    assert table.startswith("[/a]  ")
    assert table.endswith("  \\x1b[2J [fd00::7]:1")
    assert problem == "× models/resnet ([/a], \\x1b[2J): it has refused 01234567: \\x1bc"
