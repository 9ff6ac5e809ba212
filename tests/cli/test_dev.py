"""`meshproxy dev up`: a mesh in a terminal, with documents that can be edited."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from click.testing import CliRunner

from meshproxy.cli.dev import command, is_plain, readable
from tests.processes.waiting import look_until


def call(url: str) -> int:
    try:
        with urlopen(Request(url, b'{"instances": [1.0]}'), timeout=10) as response:
            assert json.load(response) == {"predictions": [3.5]}
            return int(response.status)
    except HTTPError as error:
        with error:
            return error.code


def until(lines: Iterator[str], pattern: str) -> re.Match[str]:
    """The first line that matches, of those that are written from now on."""
    for line in lines:
        if match := re.search(pattern, line):
            return match
    raise AssertionError(f"no line with {pattern}")


def test_documents_are_edited_while_it_runs(tmp_path: Path) -> None:
    folder = tmp_path / "mesh"
    arguments = [sys.executable, "-m", "meshproxy.cli.dev", "up", "--folder", str(folder)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            lines = iter(process.stdout)
            policy = Path(until(lines, r"What is permitted is in (\S+):")[1])
            url = until(lines, r"http://\S+:predict")[0]
            assert call(url) == 200
            until(lines, r"replica  .*half_plus_two")  # its access log
            text = policy.read_text()
            policy.write_text(text.replace("models: [half_plus_two]", "models: [another]"))
            until(lines, r"replica  configuration applied")
            # What is applied first may be the file as it was half written.
            look_until(lambda: call(url), lambda status: status == 403, 20)
            policy.write_text("kind: ModelRoll")  # empty for a moment, which is refused as well
            until(lines, r"control  ERROR documents rejected")
            assert call(url) == 403
        finally:
            process.send_signal(signal.SIGTERM)  # as Ctrl-C
            try:
                _, status = process.communicate(timeout=40), process.wait()
            finally:
                process.kill()  # nothing, if it has ended
    assert status == 0
    assert folder.is_dir()


def test_a_process_that_ends_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["up", "--folder", str(tmp_path / "mesh"), "--model", "m=x"])
    assert result.exit_code == 1
    assert "a model server ended with" in result.output


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["up", "--folder", str(tmp_path)])
    assert result.exit_code == 2
    assert "exists already" in result.output


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    path = tmp_path / "none" / "mesh"
    result = CliRunner().invoke(command, ["up", "--folder", str(path)])
    assert result.exit_code == 2
    assert f"Error: --folder {path}: it cannot be made: No such file or directory" in result.output


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("plain words", "plain words"),
        ("[1]", "[1]"),
        ('{"event": "listening", "severity_text": "INFO", "port": 1, "empty": null}', "listening port=1"),
        (
            '{"event": "documents rejected", "severity_text": "ERROR", "problems": ["a"]}',
            'ERROR documents rejected problems=["a"]',
        ),
        ('{"model": "m", "code": 200}', "model=m code=200"),
    ],
)
def test_lines_are_made_readable(line: str, text: str) -> None:
    assert readable(line) == text


@pytest.mark.parametrize(
    ("environ", "plain"),
    [
        ({}, False),
        ({"TERM": "xterm-256color", "NO_COLOR": ""}, False),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, True),
        ({"TERM": "dumb"}, True),
    ],
)
def test_who_wants_no_colours_gets_none(environ: dict[str, str], plain: bool) -> None:
    assert is_plain(environ) == plain
