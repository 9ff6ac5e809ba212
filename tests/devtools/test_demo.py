from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meshproxy.devtools import demo, messages
from meshproxy.devtools.clients import Answer
from meshproxy.devtools.demo_mesh import demo_mesh

PERMITTED = demo.ROWS[0]
DENIED = next(row for row in demo.ROWS if row.rule == "batch-stays-stable")
NOT_CONNECTED = demo.ROWS[-1]


def answer(status: str, refusal: str | None = None) -> Answer:
    return Answer(status, refusal, "text", 0.001)


@pytest.mark.parametrize(
    ("row", "given", "log", "problem"),
    [
        (PERMITTED, answer("200"), {"policy": "finance-team"}, ""),
        (PERMITTED, answer("503"), {"policy": "finance-team"}, "status 503 ('text'), expected 200"),
        (PERMITTED, answer("200", "internal"), {"policy": "finance-team"}, "refusal internal, expected none"),
        (PERMITTED, answer("200"), {"policy": "other"}, "decided by other, expected finance-team"),
        (PERMITTED, answer("200"), {}, "no line in the access log after 5 s"),
        (DENIED, answer("403", "permission-denied"), {"policy": "batch-stays-stable"}, ""),
        (DENIED, answer("403"), {"policy": "batch-stays-stable"}, "refusal None, expected permission-denied"),
        (DENIED, answer("403", "bad-request"), {}, "refusal bad-request, expected permission-denied"),
        (NOT_CONNECTED, answer("ServerDisconnectedError"), {}, ""),
        (NOT_CONNECTED, answer("401"), {}, "it was answered 401, but the handshake should have failed"),
    ],
)
def test_what_is_not_as_expected_is_told(row: demo.Row, given: Answer, log: dict[str, Any], problem: str) -> None:
    assert demo.problem_of(row, given, log) == problem


def test_results_say_whose_answer_it_was() -> None:
    result = demo.Result(PERMITTED, answer("404"), {"policy": "finance-team"}, None, "")
    assert (result.verdict, result.status, result.rule) == ("allowed", "404 (the server's)", "finance-team")
    result = demo.Result(DENIED, answer("403", "permission-denied"), {"policy": "b"}, None, "")
    assert (result.verdict, result.status, result.rule) == ("refused", "403", "b")
    result = demo.Result(NOT_CONNECTED, answer("ClientOSError"), {}, None, "")
    assert (result.verdict, result.status, result.rule) == ("no handshake", "closed", "mTLS")


def test_the_message_that_changes_its_mind_ends_with_the_secret_model() -> None:
    row = next(row for row in demo.ROWS if row.what == "the same, 16 MiB between")
    assert isinstance(row.call, demo.Grpc)
    request = messages.PredictRequest.FromString(row.call.message)
    assert request.model_spec.name == demo.SECRET_MODEL
    assert row.call.message.startswith(b"\x0a\x15\x0a\x0dhalf_plus_two")
    assert len(request.inputs["x"].tensor_content) == 16 << 20


def test_the_excerpt_leaves_out_what_does_not_apply() -> None:
    assert demo.log_excerpt({"path": "/a", "jwt_sub": None, "response_code": 200}) == (
        '{"path": "/a", "response_code": 200}'
    )


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_every_call_comes_out_as_it_must(tmp_path: Path) -> None:
    """The whole demo, measuring little."""
    async with demo_mesh(tmp_path, demo.MODELS, demo.CLIENTS) as mesh:
        results = [result async for result in demo.run(mesh, rounds=1)]
        assert [result.problem for result in results] == [""] * len(demo.ROWS)
        assert [result.row for result in results if result.added is not None] == [
            row for row in demo.ROWS if row.is_permitted
        ]
        heard = await demo.requested_models(mesh.rest)
        assert set(heard) == {"half_plus_two", "finance-prod"}
        lines = await demo.metric_lines(mesh)
        assert any('policy="batch-stays-stable"' in line and line.endswith(" 1") for line in lines)

        # What goes wrong is noticed.
        wrong = replace(DENIED, statuses=("200",), refusals=())
        (result,) = [result async for result in demo.run(mesh, (wrong,), rounds=1)]
        assert "status 403" in result.problem
