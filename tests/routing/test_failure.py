"""How tries end, and who is to blame."""

from __future__ import annotations

import pytest

from meshproxy.refusal import GrpcStatus
from meshproxy.routing.failure import Failure, of_grpc, of_http


def test_every_failure_is_blamed_on_one_side_at_most() -> None:
    said = {failure: (failure.is_unsent, failure.is_of_endpoint, failure.is_of_model) for failure in Failure}
    assert said == {
        Failure.CONNECT: (True, True, False),
        Failure.REFUSED: (True, False, False),
        Failure.GOAWAY: (True, False, False),
        Failure.RESET: (False, True, False),
        Failure.TIMEOUT: (False, True, False),
        Failure.UNAVAILABLE: (False, False, True),
        Failure.GATEWAY: (False, False, True),
        Failure.ERROR: (False, False, True),
        Failure.OVERLOADED: (False, False, False),
        Failure.STATUS: (False, False, False),
    }


def test_what_grpc_statuses_stand_for() -> None:
    found = {status: of_grpc(status) for status in GrpcStatus if of_grpc(status) is not None}
    assert found == {
        GrpcStatus.UNKNOWN: Failure.ERROR,
        GrpcStatus.INTERNAL: Failure.ERROR,
        GrpcStatus.DATA_LOSS: Failure.ERROR,
        GrpcStatus.UNAVAILABLE: Failure.UNAVAILABLE,
        GrpcStatus.RESOURCE_EXHAUSTED: Failure.OVERLOADED,
    }
    assert of_grpc(99) is None
    assert of_grpc(None) is Failure.ERROR


@pytest.mark.parametrize("status", range(200, 600))
def test_what_http_statuses_stand_for(status: int) -> None:
    expected = {500: Failure.ERROR, 429: Failure.OVERLOADED} | dict.fromkeys((502, 503, 504), Failure.GATEWAY)
    assert of_http(status) is expected.get(status)


def test_failures_are_found_in_sets() -> None:
    assert {Failure(failure.value) for failure in Failure} == set(Failure)
    assert len(set(Failure)) == 10
