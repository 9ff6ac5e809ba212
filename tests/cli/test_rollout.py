"""`meshproxy rollout` before something that answers as a control plane does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from meshproxy.cli.main import FOUND, main
from meshproxy.control.rollouts import Shown
from meshproxy.control.web_port import COMMAND_HEADER
from meshproxy.rollout.steps import Phase, RolloutStatus
from tests.cli.conftest import listening

Control = Callable[..., str]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["rollout", *arguments])


def shown(name: str = "half", phase: Phase = Phase.PROGRESSING, **more: Any) -> Shown:
    status = RolloutStatus("r1", 1, phase, 10.0, **more)
    return Shown(name, "half", "version 1", "version 2", (10, 50), 60.0, "sequential", False, 2, status)


@pytest.fixture
def control() -> Iterator[Control]:
    """Answers GET /rollouts with these, and every order."""

    def start(found: list[Shown], code: int = 200, text: str = "done") -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(200, msgspec.json.encode(found))

            def do_POST(self) -> None:
                orders.append((self.path, self.headers.get(COMMAND_HEADER)))
                self.reply(code, text.encode())

            def reply(self, code: int, body: bytes) -> None:
                self.send_response(code)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        return listen(Handler)

    orders.clear()
    with listening() as listen:
        yield start


orders: list[tuple[str, str | None]] = []


@pytest.mark.parametrize(
    ("found", "exit_status"),
    [
        ([], 0),
        ([shown()], 0),
        ([shown(phase=Phase.PROMOTED)], 0),
        ([shown(), shown("other", Phase.ROLLED_BACK)], FOUND),
        ([shown(stalled=True)], FOUND),
    ],
)
def test_the_exit_status(control: Control, found: list[Shown], exit_status: int) -> None:
    assert run("status", "--control", control(found)).exit_code == exit_status


def test_one_that_is_not_there(control: Control) -> None:
    result = run("status", "other", "--control", control([shown()]))
    assert (result.exit_code, result.stderr) == (1, "no rollout other; there are: half\n")


def test_no_control_plane() -> None:
    result = run("status", "--control", "127.0.0.1:1")
    assert result.exit_code == 1
    assert "nothing answers at 127.0.0.1:1: Connection refused; name its web port (--control), or" in result.stderr
    assert "with --login its port of commands, 18513" in result.stderr


def test_json(control: Control) -> None:
    page = json.loads(run("status", "-o", "json", "--control", control([shown()])).stdout)
    assert page["kind"] == "Rollouts"
    assert page["rollouts"][0]["status"]["phase"] == "progressing"


def test_watching_ends_when_all_are_over(control: Control) -> None:
    result = run("status", "--watch", "--control", control([shown(phase=Phase.PROMOTED)]))
    assert result.exit_code == 0
    assert "promoted" in result.stdout


@pytest.mark.parametrize("word", ["pause", "resume", "promote", "abort", "retry"])
def test_orders(control: Control, word: str) -> None:
    result = run(word, "half", "--control", control([]))
    assert (result.exit_code, result.stdout) == (0, "done\n")
    assert orders == [(f"/rollouts/half/{word}", "1")]


def test_the_next_control_plane_may_lead(control: Control) -> None:
    first, second = control([], 409, "this control plane does not lead"), control([])
    assert run("abort", "half", "--control", first, "--control", second).exit_code == 0
    refused = run("abort", "half", "--control", first)
    assert (refused.exit_code, refused.stderr) == (1, f"{first}: this control plane does not lead\n")


def test_what_a_stranger_says_does_not_move_the_cursor(control: Control) -> None:
    assert "\x1b" not in run("abort", "half", "--control", control([], 409, "\x1b[2J")).stderr


def test_the_negative_result_is_that_of_all_commands() -> None:
    help_text = CliRunner().invoke(main, ["rollout", "status", "--help"]).stdout
    assert f"{FOUND} if one was rolled back or is stalled" in " ".join(help_text.split())
