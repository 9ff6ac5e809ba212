"""Asking control planes. A real one: tests/processes."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from meshproxy.cli import _control_planes
from tests.cli.conftest import Serve
from tests.control.statuses import entry, status


def page(**more: Any) -> Any:
    return json.loads(msgspec.json.encode(status(entry(), **more)))


def test_each_is_asked_once(serve: Serve) -> None:
    one, other = serve(page()), serve(page(software="0.2.0"))
    answers = _control_planes.ask([one, other, one], 5.0)
    assert [each.address for each in answers] == [one, other]
    assert answers[0].status == status(entry())
    assert answers[1].status is not None
    assert answers[1].status.software == "0.2.0"
    assert all(each.unready == each.problem == "" for each in answers)


def test_one_that_is_not_ready(serve: Serve) -> None:
    (answer,) = _control_planes.ask([serve(page(), ready=503)], 5.0)
    assert answer.status is not None
    assert answer.unready.startswith("/readyz answers 503: {")


@pytest.mark.parametrize(
    ("content", "code", "problem"),
    [
        ("forbidden:\nuse localhost", 403, "it answers with status 403: forbidden: use localhost"),
        ("<html>", 200, "is not the web port of a control plane: JSON is malformed"),
        ({"kind": "SidecarStatus"}, 200, "is not the web port of a control plane: Object missing required field"),
    ],
)
def test_somebody_else_is_there(serve: Serve, content: Any, code: int, problem: str) -> None:
    (answer,) = _control_planes.ask([serve(content, code)], 5.0)
    assert answer.status is None
    assert problem in answer.problem


def test_nobody_is_there() -> None:
    (answer,) = _control_planes.ask(["127.0.0.1:1"], 5.0)
    assert (answer.status, answer.problem) == (None, "nothing answers at 127.0.0.1:1: Connection refused")
