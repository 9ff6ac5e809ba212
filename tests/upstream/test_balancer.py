"""Balancers: who may be picked, how even and how stable that is, and what becomes of calls in a simulated cluster."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.upstream.balancer import Balancer, LeastRequest, RingHash, RoundRobin, preferred
from meshproxy.upstream.peak_ewma import PeakEwma

SEED = 20_240_229
# Who of three members the keys 0 to 9 belong to.
OWNERS = "1132132221"


@dataclass(eq=False)
class Replica:
    """A member."""

    key: str
    locality: str = ""
    load: PeakEwma = field(default_factory=PeakEwma)


Make = Callable[[Callable[[int], int]], Balancer[Replica]]
POLICIES: list[Make] = [LeastRequest, RoundRobin, RingHash]
policies = pytest.mark.parametrize("make", POLICIES)


def replicas(count: int) -> list[Replica]:
    return [Replica(f"10.0.0.{number}:8500") for number in range(1, count + 1)]


def balanced(make: Make, members: Sequence[Replica], seed: int = SEED) -> Balancer[Replica]:
    balancer = make(Random(seed).randrange)
    balancer.update(members)
    return balancer


def everybody(member: Replica) -> bool:
    return True


def ring(members: Sequence[Replica]) -> Callable[[int], str]:
    """Who a key belongs to."""
    balancer = balanced(RingHash, members)

    def owner(key: int) -> str:
        picked = balancer.pick(0.0, key, everybody)
        assert picked is not None
        return picked.key

    return owner


# Who may be picked


@st.composite
def clusters(draw: st.DrawFn) -> list[Replica]:
    """Endpoints in any state: unknown, busy, slow, failing, warming up."""
    members = replicas(draw(st.integers(0, 12)))
    for member in members:
        load = member.load
        for ending in draw(st.lists(st.sampled_from(["finish", "fail", "go on"]), max_size=3)):
            load.start()
            if ending == "finish":
                load.finish(draw(st.sampled_from([0.0, 0.01, 30.0])), 1.0)
            elif ending == "fail":
                load.failed(1.0)
        if draw(st.booleans()):
            load.warm_up(draw(st.sampled_from([0.0, 1.0, 50.0])), 10.0)
    return members


@policies
@given(
    members=clusters(),
    denied=st.sets(st.integers(0, 11)),
    keys=st.lists(st.none() | st.integers(-(2**70), 2**70), min_size=1, max_size=5),
    seed=st.integers(0, 2**32),
)
def test_somebody_allowed_is_picked_if_there_is_any(
    make: Make, members: list[Replica], denied: set[int], keys: list[int | None], seed: int
) -> None:
    allowed = [member for number, member in enumerate(members) if number not in denied]
    balancer = balanced(make, members, seed)
    for key in keys:
        picked = balancer.pick(2.0, key, lambda member: member in allowed)
        assert picked in allowed if allowed else picked is None


@policies
def test_everybody_is_asked_before_it_says_that_there_is_nobody(make: Make) -> None:
    members = replicas(30)
    balancer = balanced(make, members)
    for key in (None, 7):
        asked: set[str] = set()

        def refuse(member: Replica, asked: set[str] = asked) -> bool:
            asked.add(member.key)
            return False

        assert balancer.pick(0.0, key, refuse) is None
        assert asked == {member.key for member in members}


@policies
def test_nobody_is_there_before_the_first_update_and_after_the_last_has_left(make: Make) -> None:
    balancer = make(Random(SEED).randrange)
    assert balancer.pick(0.0, None, everybody) is None
    assert balancer.pick(0.0, 1, everybody) is None
    balancer.update(replicas(3))
    assert balancer.pick(0.0, 1, everybody) is not None
    balancer.update([])
    assert balancer.pick(0.0, None, everybody) is None
    assert balancer.pick(0.0, 1, everybody) is None


@policies
def test_the_list_that_was_handed_in_may_change_afterwards(make: Make) -> None:
    members = replicas(3)
    balancer = balanced(make, members)
    kept = list(members)
    members.clear()
    assert balancer.pick(0.0, 5, everybody) in kept


@policies
def test_objects_may_be_new_where_the_addresses_are_the_same(make: Make) -> None:
    balancer = balanced(make, replicas(3))
    fresh = replicas(3)
    balancer.update(fresh)
    assert balancer.pick(0.0, 5, everybody) in fresh


# Least request


@given(st.integers(2, 20), st.integers(0, 2**32))
def test_of_the_two_drawn_the_better_one_is_picked(count: int, seed: int) -> None:
    members = replicas(count)
    for busy, member in enumerate(members):
        for _ in range(busy):
            member.load.start()
    numbers: list[int] = []

    def choose(below: int) -> int:
        numbers.append(Random(seed).randrange(below))
        return numbers[-1]

    balancer = LeastRequest[Replica](choose)
    balancer.update(members)
    picked = balancer.pick(0.0, None, everybody)
    assert len(numbers) == 1
    first, second = divmod(numbers[0], count - 1)
    assert picked is members[min(first, second if second < first else second + 1)]


@pytest.mark.parametrize("count", [2, 3, 10])
def test_every_ordered_pair_is_one_number(count: int) -> None:
    members = replicas(count)
    drawn: Counter[str] = Counter()
    numbers = iter(range(count * (count - 1)))
    balancer = LeastRequest[Replica](lambda below: next(numbers))
    balancer.update(members)
    for _ in range(count * (count - 1)):
        picked = balancer.pick(0.0, None, everybody)
        assert picked is not None
        drawn[picked.key] += 1
    # All scores are equal, so the first of each pair was picked: each member is the first of as many pairs.
    assert drawn == {member.key: count - 1 for member in members}


def test_calls_are_even_among_equals_and_stay_so_where_one_is_not_allowed() -> None:
    members = replicas(4)
    balancer = balanced(LeastRequest, members)
    picked = Counter(balancer.pick(0.0, None, lambda member: member is not members[0]) for _ in range(9_000))
    assert set(picked) == set(members[1:])
    assert all(abs(count - 3_000) < 200 for count in picked.values())


def test_a_slow_one_is_no_better_off_beside_one_that_is_not_allowed() -> None:
    """The one that is left of a pair must not be taken for want of a comparison."""
    members = replicas(3)
    for member, seconds in zip(members, (0.01, 0.01, 1.0), strict=True):
        member.load.start()
        member.load.finish(seconds, 0.0)
    balancer = balanced(LeastRequest, members)
    picked = Counter(balancer.pick(0.0, None, lambda member: member is not members[0]) for _ in range(100))
    assert picked == {members[1]: 100}


# What is given back


@policies
def test_who_is_given_back_is_picked_again_and_shares_stay_even(make: Make) -> None:
    """A lane gives back those that it cannot use: they must not lose calls by it to those that it can."""
    members = replicas(3)
    balancer = balanced(make, members)
    picked: Counter[Replica | None] = Counter()
    for _ in range(3_000):
        chosen = balancer.pick(0.0, None, everybody)
        if chosen is members[0]:
            balancer.give_back(chosen)
            assert balancer.pick(0.0, None, everybody) is chosen
        picked[chosen] += 1
    assert all(abs(picked[member] - 1_000) < 150 for member in members)


@policies
def test_who_is_given_back_and_then_not_allowed_or_gone_is_not_picked(make: Make) -> None:
    members = replicas(3)
    balancer = balanced(make, members)
    first = balancer.pick(0.0, None, everybody)
    assert first is not None
    balancer.give_back(first)
    assert balancer.pick(0.0, None, lambda member: member is not first) is not first
    balancer.give_back(first)
    balancer.update([member for member in members if member is not first])
    assert all(balancer.pick(0.0, None, everybody) is not first for _ in range(9))
    balancer.give_back(first)
    assert all(balancer.pick(0.0, None, everybody) is not first for _ in range(9))


# Round robin


@given(st.integers(1, 12), st.sets(st.integers(0, 11)), st.integers(0, 40), st.integers(0, 2**32))
def test_turns_are_equal_whoever_is_not_allowed(count: int, denied: set[int], before: int, seed: int) -> None:
    members = replicas(count)
    allowed = [member for number, member in enumerate(members) if number not in denied]
    balancer = balanced(RoundRobin, members, seed)
    for _ in range(before):
        balancer.pick(0.0, None, everybody)
    if allowed:
        picked = Counter(balancer.pick(0.0, None, lambda member: member in allowed) for _ in range(5 * len(allowed)))
        assert picked == dict.fromkeys(allowed, 5)


def test_the_round_goes_on_over_an_update() -> None:
    members = replicas(3)
    balancer = balanced(RoundRobin, members)
    picked: Counter[Replica | None] = Counter()
    for _ in range(9):
        picked[balancer.pick(0.0, None, everybody)] += 1
        balancer.update(members)
    assert picked == dict.fromkeys(members, 3)
    balancer.pick(0.0, None, everybody)
    balancer.update(members[:1])
    assert balancer.pick(0.0, None, everybody) is members[0]


def test_sidecars_do_not_begin_with_the_same_endpoint() -> None:
    members = replicas(4)
    first = {balanced(RoundRobin, members, seed).pick(0.0, None, everybody) for seed in range(100)}
    assert first == set(members)


def test_all_who_warm_up_take_turns_like_any_others() -> None:
    members = replicas(3)
    for member in members:
        member.load.warm_up(0.0, 1e9)
    balancer = RoundRobin[Replica](lambda below: below - 1)  # chance would have none of them take part
    balancer.update(members)
    picked = [balancer.pick(1.0, None, everybody) for _ in range(6)]
    assert picked == [members[2], members[0], members[1]] * 2


# Ring hash

keys = st.lists(st.integers(0, 2**64 - 1), min_size=50, max_size=200)


@given(st.integers(2, 20), st.data(), keys)
def test_who_leaves_moves_no_keys_but_its_own(count: int, data: st.DataObject, some: list[int]) -> None:
    members = replicas(count)
    gone = data.draw(st.sampled_from(members))
    before, after = ring(members), ring([member for member in members if member is not gone])
    for key in some:
        assert before(key) == after(key) if before(key) != gone.key else after(key) != gone.key


@given(st.integers(1, 20), keys)
def test_who_comes_takes_keys_and_nobody_else_does(count: int, some: list[int]) -> None:
    *members, new = replicas(count + 1)
    before, after = ring(members), ring([new, *members])
    assert all(after(key) in (before(key), new.key) for key in some)


@pytest.mark.parametrize("count", [2, 3, 10, 50])
def test_who_comes_takes_about_its_part(count: int) -> None:
    *members, new = replicas(count)
    before, after = ring(members), ring([*members, new])
    moved = sum(before(key) != after(key) for key in range(20_000))
    assert 0.7 < moved / 20_000 * count < 1.3


@pytest.mark.parametrize("step", [1, 1 << 20, 1 << 44, 0x0101_0101_0101])
def test_keys_are_spread_however_they_look(step: int) -> None:
    owner = ring(replicas(5))
    owned = Counter(owner(number * step) for number in range(10_000))
    assert all(1_400 < count < 2_600 for count in owned.values())


@given(st.integers(1, 12), st.sets(st.integers(0, 11)), st.integers(0, 2**64 - 1))
def test_who_is_not_allowed_hands_keys_on_as_if_it_had_left(count: int, denied: set[int], key: int) -> None:
    members = replicas(count)
    allowed = [member for number, member in enumerate(members) if number not in denied]
    picked = balanced(RingHash, members).pick(0.0, key, lambda member: member in allowed)
    assert (picked.key == ring(allowed)(key)) if picked is not None else not allowed


def test_the_ring_is_the_same_in_every_process_release_and_order() -> None:
    members = replicas(3)
    expected = [members[int(digit) - 1].key for digit in OWNERS]
    assert [ring(members)(key) for key in range(10)] == expected
    assert [ring(members[::-1])(key) for key in range(10)] == expected


def test_one_in_the_place_of_another_is_another_ring() -> None:
    balancer = balanced(RingHash, replicas(3))
    members = [*replicas(2), Replica("10.0.1.3:8500")]
    balancer.update(members)
    picked = [balancer.pick(0.0, key, everybody) for key in range(100)]
    assert [member.key for member in picked if member is not None] == list(map(ring(members), range(100)))


def test_a_busy_or_slow_member_keeps_its_keys() -> None:
    members = replicas(3)
    before = [ring(members)(key) for key in range(100)]
    for _ in range(50):
        members[0].load.start()
    members[0].load.finish(30.0, 0.0)
    assert [ring(members)(key) for key in range(100)] == before


def test_without_a_key_the_less_busy_is_picked() -> None:
    members = replicas(2)
    members[0].load.start()
    balancer = balanced(RingHash, members)
    assert {balancer.pick(0.0, None, everybody) for _ in range(50)} == {members[1]}


def test_while_it_warms_up_a_key_moves_to_a_member_once() -> None:
    members = replicas(4)
    without, after = ring(replicas(3)), ring(replicas(4))
    members[3].load.warm_up(0.0, 10.0)
    balancer = balanced(RingHash, members)
    owned = []
    for now in range(10):
        owners = {key: balancer.pick(float(now), key, everybody) for key in range(2_000)}
        assert all(owner.key in (without(key), after(key)) for key, owner in owners.items() if owner is not None)
        owned.append({key for key, owner in owners.items() if owner is members[3]})
    assert all(earlier < later for earlier, later in pairwise(owned))


# Warm-up


@pytest.mark.parametrize("count", [2, 3, 10])
@policies
def test_an_endpoint_that_warms_up_gets_its_share_of_few_calls(make: Make, count: int) -> None:
    """One call after the other: nothing but chance keeps calls from it."""
    members = replicas(count)
    balancer = balanced(make, members)
    calls = 3_000 * count
    for now in (0.0, 25.0, 50.0, 75.0, 100.0):
        for member in members:
            member.load = PeakEwma()
            member.load.start()
            member.load.finish(0.01, now)
        members[0].load.warm_up(0.0, 100.0)
        share = members[0].load.share(now)
        picked = Counter(balancer.pick(now, None, everybody) for key in range(calls))
        # Of the 3,000 calls that are its part once it is warm; round robin counts by the turns of the others.
        part = share * calls / (count - 1 + share) if make is RoundRobin else share * 3_000
        assert picked[members[0]] == pytest.approx(part, rel=0.1, abs=60)


def test_each_of_several_that_warm_up_gets_its_own_share() -> None:
    """Three at a tenth beside one that is warm: each takes part in a tenth of the calls, which it shares with the warm
    one, and now and then with one of the two others (0.1 * (0.81 / 2 + 0.18 / 3 + 0.01 / 4) = 0.04675)."""
    members = replicas(4)
    for member in members[:3]:
        member.load.warm_up(0.0, 1e9)
    balancer = balanced(LeastRequest, members)
    picked = Counter(balancer.pick(0.0, None, everybody) for _ in range(20_000))
    assert all(picked[member] == pytest.approx(935, abs=120) for member in members[:3])


@pytest.mark.parametrize("now", [0.0, 50.0, 100.0])
def test_a_key_goes_by_the_share_too(now: float) -> None:
    members = replicas(4)
    owner = ring(members)
    own = [key for key in range(8_000) if owner(key) == members[0].key]
    members[0].load.warm_up(0.0, 100.0)
    share = members[0].load.share(now)
    balancer = balanced(RingHash, members)
    kept = sum(balancer.pick(now, key, everybody) is members[0] for key in own)
    assert kept == pytest.approx(share * len(own), rel=0.15)


def test_an_endpoint_that_warms_up_gets_its_share_of_many_calls() -> None:
    """A hundred calls under way on each of the others: calls that take equally long are as many as its share says."""
    members = replicas(3)
    balancer = balanced(LeastRequest, members)
    for member in members:
        member.load.start()
        member.load.finish(0.01, 50.0)
    members[0].load.warm_up(0.0, 100.0)
    for _ in range(255):
        picked = balancer.pick(50.0, None, everybody)
        assert picked is not None
        picked.load.start()
    assert members[0].load.share(50.0) == pytest.approx(0.55)
    assert members[0].load.in_flight == pytest.approx(55, abs=5)


@policies
def test_two_that_warm_up_are_all_there_is(make: Make) -> None:
    members = replicas(2)
    for member in members:
        member.load.warm_up(0.0, 1e9)
    balancer = balanced(make, members)
    picked = Counter(balancer.pick(1.0, None, everybody) for _ in range(2_000))
    assert all(abs(count - 1_000) < 100 for count in picked.values())


# Locality


@pytest.mark.parametrize(
    ("localities", "usable", "expected"),
    [
        pytest.param("aab", "111", "aa", id="ours"),
        pytest.param("bbc", "111", "bbc", id="none of ours"),
        pytest.param("aaaaaaaaaab", "11111110001", "aaaaaaaaaa", id="exactly 70 % of ours are usable"),
        pytest.param("aaaaaaaaaab", "11111100001", "aaaaaaaaaab", id="fewer are usable"),
        pytest.param("aab", "110", "aa", id="whether others are usable does not matter"),
        pytest.param("aab", "000", "aab", id="nobody is usable"),
        pytest.param("", "", "", id="nobody is there"),
    ],
)
def test_members_of_our_own_locality_come_first(localities: str, usable: str, expected: str) -> None:
    members = [Replica(f"{number}", locality) for number, locality in enumerate(localities)]
    can = {member.key for member, flag in zip(members, usable, strict=True) if flag == "1"}
    nearest = preferred(members, "a", lambda member: member.key in can)
    assert "".join(member.locality for member in nearest) == expected


def test_without_a_locality_of_our_own_nobody_is_nearer() -> None:
    members = [Replica("1", ""), Replica("2", "a")]
    assert list(preferred(members, "", everybody)) == members


# A cluster, simulated


@dataclass(eq=False)
class Server:
    """A model server: so many calls at a time, each as long as any other; the rest wait."""

    replica: Replica
    service: float
    slots: int = 4
    is_failing: bool = False
    running: int = 0
    waiting: deque[float] = field(default_factory=deque)


def simulate(make: Make, servers: list[Server], rate: int, seconds: int) -> tuple[Counter[str], list[float]]:
    """Calls at even distances for a while.

    Returns: calls by server, and latencies of the calls that ended well, in order.
    """
    balancer = balanced(make, [server.replica for server in servers])
    server_of = {server.replica.key: server for server in servers}
    calls: Counter[str] = Counter()
    latencies: list[float] = []
    events: list[tuple[float, int, str, float]] = [(number / rate, number, "", 0.0) for number in range(rate * seconds)]
    serial = len(events)
    while events:
        now, _, key, arrived = heapq.heappop(events)
        if not key:
            picked = balancer.pick(now, None, everybody)
            assert picked is not None
            picked.load.start()
            calls[picked.key] += 1
            server = server_of[picked.key]
            server.waiting.append(now)
        else:
            server = server_of[key]
            server.running -= 1
            if server.is_failing:
                server.replica.load.failed(now)
            else:
                server.replica.load.finish(now - arrived, now)
                latencies.append(now - arrived)
        while server.waiting and server.running < server.slots:
            server.running += 1
            serial += 1
            heapq.heappush(events, (now + server.service, serial, server.replica.key, server.waiting.popleft()))
    assert sum(server.replica.load.in_flight for server in servers) == 0
    return calls, sorted(latencies)


def p99(latencies: list[float]) -> float:
    return latencies[len(latencies) * 99 // 100]


@pytest.mark.parametrize("rate", [20, 200, 500])
def test_a_slow_replica_is_left_aside_and_p99_stays_that_of_the_others(rate: int) -> None:
    """10 ms and 100 ms; at 500 calls a second the two quick ones are busy to five eighths."""

    def cluster() -> list[Server]:
        return [Server(replica, service) for replica, service in zip(replicas(3), (0.01, 0.01, 0.1), strict=True)]

    calls, latencies = simulate(LeastRequest, cluster(), rate, 60)
    quick, other, slow = (calls[replica.key] for replica in replicas(3))
    assert slow < 0.01 * rate * 60
    assert quick == pytest.approx(other, rel=0.2)
    assert p99(latencies) < 0.025
    assert p99(simulate(RoundRobin, cluster(), rate, 60)[1]) >= 0.1, "it would show"


def test_a_replica_that_becomes_quick_again_is_found_out() -> None:
    servers = [Server(replica, 0.01) for replica in replicas(3)]
    for number in range(40):
        servers[2].replica.load.start()
        servers[2].replica.load.finish(0.1, -number / 10)
    calls, _ = simulate(LeastRequest, servers, 200, 60)
    assert calls[servers[2].replica.key] > 0.15 * 200 * 60


@pytest.mark.parametrize("rate", [20, 200, 500])
def test_a_replica_that_fails_at_once_does_not_attract_calls(rate: int) -> None:
    servers = [Server(replica, 0.01) for replica in replicas(3)]
    servers[2].service = 0.0002
    servers[2].is_failing = True
    calls, _ = simulate(LeastRequest, servers, rate, 60)
    assert calls[servers[2].replica.key] < 0.02 * rate * 60
    servers = [Server(replica, 0.01) for replica in replicas(3)]
    servers[2].service = 0.0002
    calls, _ = simulate(LeastRequest, servers, rate, 60)
    assert calls[servers[2].replica.key] > 0.5 * rate * 60, "it would, if its failures passed for answers"


def test_equal_replicas_get_equal_parts() -> None:
    calls, latencies = simulate(LeastRequest, [Server(replica, 0.01) for replica in replicas(3)], 900, 20)
    assert all(count == pytest.approx(6_000, rel=0.1) for count in calls.values())
    assert p99(latencies) < 0.025


def test_what_differs_by_chance_is_not_told_apart() -> None:
    """Of two with as many calls under way, either, if they are nearly as quick, and the quicker one if they are not."""
    one, other = replicas(2)
    for member, seconds in ((one, 0.010), (other, 0.019)):
        member.load.start()
        member.load.finish(seconds, 1.0)
    balancer = balanced(LeastRequest, [one, other])
    picked = [balancer.pick(1.0, None, everybody) for _ in range(200)]
    assert 60 < picked.count(other) < 140
    one.load.start()
    assert {balancer.pick(1.0, None, everybody) for _ in range(50)} == {other}
    one.load.cancel()
    other.load.start()
    other.load.finish(0.021, 1.0)
    assert {balancer.pick(1.0, None, everybody) for _ in range(50)} == {one}


def test_one_pause_does_not_keep_an_endpoint_from_its_share_for_long() -> None:
    members = replicas(3)
    for member in members:
        member.load.start()
        member.load.finish(0.001, 0.0)
    members[0].load.start()
    members[0].load.finish(0.025, 0.0)
    balancer = balanced(LeastRequest, members)
    shares = []
    for second in range(16):
        share = 0
        for tick in range(500):
            now = second + tick / 500
            picked = balancer.pick(now, None, everybody)
            assert picked is not None
            share += picked is members[0]
            picked.load.start()
            picked.load.finish(0.001, now)
        shares.append(share / 500)
    assert shares[0] < 0.05
    assert shares[15] > 0.25
