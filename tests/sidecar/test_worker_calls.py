"""What workers tell each other of their calls."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.sidecar import worker_calls
from meshproxy.sidecar.http_get import FetchError
from meshproxy.sidecar.server_page import NoPage
from meshproxy.sidecar.worker_calls import ANSWER_BYTES, Told, WorkerCalls, tell
from meshproxy.telemetry.hop_lag import MOST_MODELS, MOST_NAME, CallTimes
from tests.telemetry.conftest import make_exchange as make_exchange

if TYPE_CHECKING:
    from tests.telemetry.conftest import MakeExchange


@pytest.fixture
def calls(make_exchange: MakeExchange) -> CallTimes:
    made = CallTimes("local")
    for _ in range(2):
        made.observe(make_exchange(server="local", model="m"))
    return made


def answering(monkeypatch: pytest.MonkeyPatch, answers: dict[str, bytes | Exception]) -> None:
    async def fetch(url: Any, max_bytes: int, access: Any) -> bytes:
        assert (url.target, max_bytes) == ("/calls", ANSWER_BYTES)
        answer = answers[url.address]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(worker_calls, "fetch", fetch)


async def test_the_sum_is_of_all(calls: CallTimes, monkeypatch: pytest.MonkeyPatch) -> None:
    others = {
        "127.0.0.1:1": msgspec.json.encode(tell(calls, "a")),
        "127.0.0.1:2": msgspec.json.encode(Told("b", {"other": (1, 0.5, 0.25, 0.0, 1.0)})),
    }
    answering(monkeypatch, {**others})
    since, total = await WorkerCalls(calls, list(others)).read()
    assert since == ("a", "b")
    assert {name: each.calls for name, each in total.items()} == {"m": 4, "other": 1}
    assert total["m"].upstream == pytest.approx(2 * calls.read()["m"].upstream)
    assert (total["other"].upstream, total["other"].proxy, total["other"].whole) == (0.5, 0.25, 1.0)
    assert calls.read()["m"].calls == 2


@pytest.mark.parametrize("answer", [FetchError("no"), b"", b"{}", b'{"since": "a", "models": {"m": [1]}}'])
async def test_a_worker_that_does_not_tell(
    calls: CallTimes, monkeypatch: pytest.MonkeyPatch, answer: bytes | Exception
) -> None:
    answering(monkeypatch, {"127.0.0.1:1": answer})
    with pytest.raises(NoPage, match="does not tell its calls") as caught:
        await WorkerCalls(calls, ["127.0.0.1:1"]).read()
    assert caught.value.result == "failed"


@given(st.text(min_size=MOST_NAME, max_size=MOST_NAME), st.floats(0, allow_infinity=False))
def test_what_is_told_fits_into_an_answer(name: str, number: float) -> None:
    """As the admin port writes it."""
    one = json.dumps({"since": "1:2", "models": {name: (2**62, *(number,) * 4)}}, indent=2)
    assert len(one) * MOST_MODELS <= ANSWER_BYTES
