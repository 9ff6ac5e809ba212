"""Who hears how a call ended: load, record, the breaker of the endpoint, the breaker of the model."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.config.servers import BreakerSettings
from meshproxy.routing.failure import Failure
from meshproxy.upstream.breaker import State
from meshproxy.upstream.endpoint import MODEL_BREAKERS, Endpoint
from meshproxy.upstream.health import CheckSettings, Health
from meshproxy.upstream.peak_ewma import FIRST_SHARE

ONCE = BreakerSettings(consecutive_failures=1, open_for=1.0, failing_for=0.0)
TWICE = BreakerSettings(consecutive_failures=2, open_for=1.0, failing_for=0.0)
OF_ENDPOINT = (Failure.CONNECT, Failure.RESET, Failure.TIMEOUT)
OF_MODEL = (Failure.UNAVAILABLE, Failure.GATEWAY, Failure.ERROR)
OF_NOBODY = (Failure.REFUSED, Failure.GOAWAY, Failure.OVERLOADED, Failure.STATUS)


class Pool:
    def __init__(self, address: str) -> None:
        self.address = address
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


class Changes:
    def __init__(self) -> None:
        self.all: list[tuple[str, str, State, State]] = []

    def __call__(self, model: str, endpoint: str, old: State, new: State) -> None:
        self.all.append((model, endpoint, old, new))


def make(settings: BreakerSettings | None = ONCE, changes: Changes | None = None) -> Endpoint:
    rest: Any = Pool("a:1")
    grpc: Any = Pool("a:2")
    return Endpoint("rest=a:1,grpc=a:2", "zone-1", rest, grpc, settings, lambda: 0.5, changes or Changes())


def fail(endpoint: Endpoint, failure: Failure, model: str = "m", now: float = 100.0) -> None:
    endpoint.failed(model, failure, now, endpoint.begin(model, now))


def succeed(endpoint: Endpoint, model: str = "m", now: float = 100.0) -> None:
    endpoint.succeeded(model, 0.1, now, endpoint.begin(model, now))


class TestBlame:
    @pytest.mark.parametrize("failure", OF_ENDPOINT)
    def test_of_the_endpoint_is_what_keeps_every_model_away(self, failure: Failure) -> None:
        endpoint = make()
        fail(endpoint, failure)
        assert not endpoint.allows("m", 100.0)
        assert not endpoint.allows("other", 100.0)
        assert endpoint.states() == [("", State.OPEN)]
        assert (endpoint.record.calls, endpoint.record.failures) == (1, 1)

    @pytest.mark.parametrize("failure", OF_MODEL)
    def test_of_the_model_is_what_keeps_this_model_away(self, failure: Failure) -> None:
        endpoint = make()
        fail(endpoint, failure)
        assert not endpoint.allows("m", 100.0)
        assert endpoint.allows("other", 100.0)
        assert endpoint.states() == [("", State.CLOSED), ("m", State.OPEN)]
        assert (endpoint.record.calls, endpoint.record.failures) == (1, 1)

    @pytest.mark.parametrize("failure", OF_NOBODY)
    def test_of_nobody_is_what_has_too_much_to_do_or_goes_away(self, failure: Failure) -> None:
        endpoint = make()
        fail(endpoint, failure)
        assert endpoint.allows("m", 100.0)
        assert (endpoint.record.calls, endpoint.record.failures) == (0, 0)
        assert endpoint.load.score(100.0) > 0  # but others get the calls

    def test_a_call_about_no_model_blames_none(self) -> None:
        """Its breaker would be named like the endpoint's own."""
        endpoint = make()
        fail(endpoint, Failure.ERROR, model="")
        assert endpoint.states() == [("", State.CLOSED)]
        assert endpoint.allows("", 100.0)

    def test_an_answer_is_a_sign_of_life(self) -> None:
        endpoint = make(TWICE)
        fail(endpoint, Failure.CONNECT)
        fail(endpoint, Failure.UNAVAILABLE)
        fail(endpoint, Failure.CONNECT)
        assert endpoint.states()[0] == ("", State.CLOSED)

    def test_successes_count_for_both(self) -> None:
        endpoint = make(TWICE)
        for failure in (Failure.CONNECT, Failure.ERROR):
            fail(endpoint, failure)
            succeed(endpoint)
            fail(endpoint, failure)
        assert endpoint.allows("m", 100.0)
        assert (endpoint.record.calls, endpoint.record.failures) == (6, 4)

    def test_whoever_watches_is_told_which(self) -> None:
        changes = Changes()
        endpoint = make(changes=changes)
        fail(endpoint, Failure.CONNECT)
        fail(endpoint, Failure.ERROR, now=101.0)
        assert changes.all == [
            ("", "a:1,a:2", State.CLOSED, State.OPEN),
            ("", "a:1,a:2", State.OPEN, State.HALF_OPEN),
            ("", "a:1,a:2", State.HALF_OPEN, State.CLOSED),
            ("m", "a:1,a:2", State.CLOSED, State.OPEN),
        ]

    def test_without_breakers_nobody_is_kept_away(self) -> None:
        endpoint = make(None)
        for failure in Failure:
            fail(endpoint, failure)
        succeed(endpoint)
        endpoint.cancelled("m", 100.0, endpoint.begin("m", 100.0))
        assert endpoint.allows("m", 100.0)
        assert endpoint.is_clean("m")
        assert endpoint.states() == []
        assert endpoint.load.in_flight == 0


class TestProbe:
    def test_one_goes_when_it_is_time(self) -> None:
        endpoint = make()
        fail(endpoint, Failure.CONNECT)
        assert not endpoint.allows("m", 100.9)
        assert endpoint.allows("m", 101.0)
        token = endpoint.begin("m", 101.0)
        assert not endpoint.allows("m", 101.0)
        endpoint.succeeded("m", 0.1, 101.1, token)
        assert endpoint.allows("m", 101.1)

    @pytest.mark.parametrize("failure", [Failure.CONNECT, Failure.ERROR])
    def test_one_that_is_given_up_makes_room_for_another(self, failure: Failure) -> None:
        endpoint = make()
        fail(endpoint, failure)
        endpoint.cancelled("m", 101.0, endpoint.begin("m", 101.0))
        assert endpoint.allows("m", 101.0)

    @pytest.mark.parametrize("failure", [*OF_ENDPOINT, *OF_NOBODY])
    def test_one_of_a_model_that_says_nothing_of_it_makes_room(self, failure: Failure) -> None:
        endpoint = make(TWICE)
        fail(endpoint, Failure.ERROR)
        fail(endpoint, Failure.ERROR)
        fail(endpoint, failure, now=101.0)
        assert endpoint.states()[1] == ("m", State.OPEN)
        assert endpoint.allows("m", 101.0)

    def test_what_is_called_beside_one_changes_nothing(self) -> None:
        """A last resort may go where a probe is under way."""
        endpoint = make()
        fail(endpoint, Failure.CONNECT)
        fail(endpoint, Failure.ERROR)  # before it is time
        assert [state for _, state in endpoint.states()] == [State.OPEN, State.OPEN]
        probe, beside = endpoint.begin("m", 101.0), endpoint.begin("m", 101.0)
        endpoint.failed("m", Failure.ERROR, 101.1, beside)
        endpoint.cancelled("m", 101.1, endpoint.begin("m", 101.1))
        assert endpoint.states() == [("", State.HALF_OPEN), ("m", State.HALF_OPEN)]
        endpoint.succeeded("m", 0.1, 101.2, probe)
        assert endpoint.states() == [("", State.CLOSED), ("m", State.CLOSED)]

    @pytest.mark.parametrize("failure", [Failure.TIMEOUT, Failure.ERROR])
    def test_calls_that_began_before_it_opened_do_not_open_it_again(self, failure: Failure) -> None:
        """A hundred calls that time out long after the probe has brought the endpoint back."""
        endpoint = make()
        late = [endpoint.begin("m", 99.0) for _ in range(100)]
        fail(endpoint, failure)
        succeed(endpoint, now=101.0)
        for token in late[:50]:
            endpoint.failed("m", failure, 102.0, token)
        assert endpoint.allows("m", 102.0)
        assert set(dict(endpoint.states()).values()) == {State.CLOSED}
        assert endpoint.load.in_flight == 50
        fail(endpoint, failure, now=102.0)
        for token in late[50:]:
            endpoint.succeeded("m", 3.0, 103.5, token)  # nor close it
        assert State.OPEN in dict(endpoint.states()).values()

    def test_one_may_be_hastened(self) -> None:
        endpoint = make()
        fail(endpoint, Failure.CONNECT)
        assert endpoint.retry_at("m") == 101.0
        assert endpoint.probe_now("m", 100.1)
        token = endpoint.begin("m", 100.1)
        assert not endpoint.probe_now("m", 100.1)
        endpoint.failed("m", Failure.CONNECT, 100.2, token)
        assert endpoint.retry_at("m") == pytest.approx(102.2)


class TestCalm:
    @pytest.mark.parametrize("failure", [Failure.CONNECT, Failure.ERROR])
    def test_is_where_no_breaker_doubts(self, failure: Failure) -> None:
        endpoint = make()
        assert endpoint.is_clean("m")
        fail(endpoint, failure)
        assert endpoint.allows("m", 101.0)
        assert not endpoint.is_clean("m")

    def test_and_no_check(self) -> None:
        endpoint = make()
        endpoint.health = Health(CheckSettings(("m",)), begins_unhealthy=True)
        assert not endpoint.is_clean("m")
        assert not endpoint.allows("m", 100.0)


class TestModels:
    def test_names_are_callers_to_choose_and_so_bounded(self) -> None:
        endpoint = make(BreakerSettings(consecutive_failures=2))
        for number in range(MODEL_BREAKERS + 5):
            fail(endpoint, Failure.ERROR, model=f"m{number}")
        assert len(endpoint.states()) <= MODEL_BREAKERS + 1

    def test_what_is_open_goes_last(self) -> None:
        endpoint = make()
        fail(endpoint, Failure.ERROR, model="broken")
        for number in range(MODEL_BREAKERS - 1):
            fail(endpoint, Failure.ERROR, model=f"m{number}")
        assert not endpoint.allows("broken", 100.0)
        fail(endpoint, Failure.ERROR, model="one more")
        assert endpoint.allows("broken", 100.0)  # the oldest, as all are open
        assert not endpoint.allows("m1", 100.0)


class TestWarmingUp:
    def test_it_begins_with_the_first_answer(self) -> None:
        endpoint = make()
        endpoint.load.warm_up(float("inf"), 10.0)
        endpoint.slow_start = 10.0
        assert endpoint.load.share(500.0) == FIRST_SHARE
        succeed(endpoint, now=500.0)
        succeed(endpoint, now=505.0)
        assert endpoint.load.share(505.0) == pytest.approx(0.55)
        assert endpoint.load.share(510.0) == 1.0

    def test_unless_a_check_has_said_earlier_that_it_is_there(self) -> None:
        endpoint = make()
        endpoint.slow_start = 10.0
        endpoint.load.warm_up(100.0, 10.0)
        succeed(endpoint, now=105.0)
        assert endpoint.load.share(110.0) == 1.0


def test_closing_closes_both_pools() -> None:
    endpoint = make()
    endpoint.close()
    assert endpoint.rest is not None
    assert endpoint.grpc is not None
    assert endpoint.rest.is_closed
    assert endpoint.grpc.is_closed


@given(
    st.lists(
        st.tuples(st.sampled_from("abcde"), st.sampled_from(["m", "n", ""]), st.floats(0, 3)), min_size=1, max_size=60
    )
)
def test_whatever_happens_every_probe_comes_back(steps: list[tuple[str, str, float]]) -> None:
    """When all calls have ended, no breaker waits for one."""
    endpoint, now = make(TWICE), 100.0
    under_way: list[tuple[str, int]] = []
    for what, model, seconds in steps:
        now += seconds
        if what in "ab":
            if endpoint.allows(model, now) or endpoint.probe_now(model, now):
                under_way.append((model, endpoint.begin(model, now)))
        elif under_way:
            begun, token = under_way.pop()
            if what == "c":
                endpoint.succeeded(begun, 0.1, now, token)
            elif what == "d":
                endpoint.failed(begun, list(Failure)[int(now * 7) % len(Failure)], now, token)
            else:
                endpoint.cancelled(begun, now, token)
    for begun, token in under_way:
        endpoint.cancelled(begun, now, token)
    assert endpoint.load.in_flight == 0
    assert all(state is not State.HALF_OPEN for _, state in endpoint.states())
    assert all(endpoint.allows(model, now + 1_000) for model in ("m", "n", ""))


def test_it_is_called_by_its_addresses() -> None:
    pools: list[Any] = [Pool("a:1"), Pool("a:2")]
    assert make().name == "a:1,a:2"
    for rest, grpc in ((pools[0], None), (None, pools[0]), (pools[0], pools[0])):
        assert Endpoint("key", "", rest, grpc, None, lambda: 0.5, Changes()).name == "a:1"
