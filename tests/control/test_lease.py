"""Who leads, decided without an API server; and that no two do, whatever happens to messages and processes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.control.lease import DURATION, LEADS, Candidate, Lease
from tests.thorough import tries


def stored(lease: Lease | None, version: int) -> Lease:
    assert lease is not None
    return replace(lease, version=str(version))


def test_the_first_one_makes_the_lease_and_leads_as_long_as_it_writes() -> None:
    a = Candidate("a")
    assert not a.is_leader(0.0)
    a.saw(None, 0.0)
    assert a.proposal(0.0) == Lease("a")
    a.wrote(stored(a.proposal(0.0), 1), 0.0, 0.5)
    assert a.is_leader(LEADS - 0.1)
    assert not a.is_leader(LEADS)  # counted from when the write was begun
    a.saw(Lease("a", version="1"), 2.0)
    assert a.proposal(2.0) == Lease("a", version="1")
    a.wrote(Lease("a", version="2"), 2.0, 2.1)
    assert a.is_leader(LEADS + 1.9)
    assert a.holder == "a"


def test_another_one_waits_until_it_has_seen_no_change_for_its_whole_duration() -> None:
    b = Candidate("b")
    b.saw(Lease("a", version="1"), 100.0)
    b.saw(Lease("a", version="1"), 102.0)
    assert b.proposal(100.0 + DURATION - 0.1) is None
    b.saw(Lease("a", version="2"), 110.0)
    assert b.proposal(100.0 + DURATION) is None
    assert b.proposal(110.0 + DURATION) == Lease("b", DURATION, 1, "2")
    assert b.holder == "a"


def test_the_longer_duration_counts() -> None:
    """One version may have written it, and another reads it."""
    b = Candidate("b")
    b.saw(Lease("a", duration=30, version="1"), 0.0)
    assert b.proposal(29.9) is None
    assert b.proposal(30.0) == Lease("b", DURATION, 1, "1")
    b.saw(Lease("a", duration=1, version="2"), 100.0)
    assert b.proposal(100.0 + DURATION - 0.1) is None


def test_a_lease_that_was_released_is_taken_at_once() -> None:
    a, b = Candidate("a"), Candidate("b")
    a.wrote(Lease("a", version="1"), 0.0, 0.0)
    released = a.release(1.0)
    assert released == Lease("", version="1")
    assert not a.is_leader(1.0)
    assert a.release(1.0) is None
    b.saw(stored(released, 2), 1.5)
    assert b.proposal(1.5) == Lease("b", DURATION, 1, "2")


def test_whoever_sees_another_holder_stops() -> None:
    a = Candidate("a")
    a.wrote(Lease("a", version="1"), 0.0, 0.0)
    a.saw(Lease("b", version="2"), 1.0)
    assert not a.is_leader(1.0)
    assert a.release(1.0) is None
    a.wrote(Lease("a", version="3"), 2.0, 2.0)
    a.saw(None, 3.0)
    assert not a.is_leader(3.0)


# The whole: a server that takes one write on each version, candidates whose clocks run fast or slow, and messages that
# are late, lost, or taken after their sender has given up.


@dataclass
class Write:
    """On its way to the server."""

    sender: Candidate
    lease: Lease
    sent_at: float
    answer: Lease | None = None
    is_taken: bool = False


@dataclass
class Node:
    """A control plane: one call at a time."""

    rate: float
    offset: float
    starts: int = 0
    candidate: Candidate = field(init=False)
    reading: Lease | str | None = "nothing"
    writing: Write | None = None

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.starts += 1
        self.candidate = Candidate(f"{id(self)}-{self.starts}")
        self.reading, self.writing = "nothing", None


class World:
    def __init__(self, rates: list[float]) -> None:
        self.now = 0.0
        self.lease: Lease | None = None
        self.version = 0
        self.pending: list[Write] = []
        self.nodes = [Node(rate, 1_000.0 * number) for number, rate in enumerate(rates)]

    def clock(self, node: Node) -> float:
        return node.offset + node.rate * self.now

    def leaders(self) -> int:
        return sum(node.candidate.is_leader(self.clock(node)) for node in self.nodes)

    # What may happen, in any order

    def read(self, node: Node) -> None:
        """The server answers a read; the answer is on its way."""
        node.reading = self.lease

    def hear(self, node: Node) -> None:
        """The answer of a read or of a write arrives."""
        if node.writing is not None:
            write = node.writing
            if write.is_taken:
                node.writing = None
                if write.answer is not None:
                    node.candidate.wrote(write.answer, write.sent_at, self.clock(node))
        elif not isinstance(node.reading, str):
            node.candidate.saw(node.reading, self.clock(node))
            node.reading = "nothing"

    def write(self, node: Node) -> None:
        """A node asks to write; nothing has arrived yet."""
        if node.writing is None and (proposal := node.candidate.proposal(self.clock(node))) is not None:
            node.writing = Write(node.candidate, proposal, self.clock(node))
            self.pending.append(node.writing)

    def release(self, node: Node) -> None:
        released = node.candidate.release(self.clock(node))
        if released is not None:
            self.pending.append(Write(node.candidate, released, self.clock(node)))

    def take(self, number: int) -> None:
        """The server takes one of the writes that are on their way."""
        if not self.pending:
            return
        write = self.pending.pop(number % len(self.pending))
        write.is_taken = True
        if write.lease.version == (self.lease.version if self.lease is not None else None):
            self.version += 1
            self.lease = write.answer = stored(write.lease, self.version)

    def give_up(self, node: Node) -> None:
        """The sender does not wait any longer; what it has sent may still arrive."""
        node.writing = None

    def restart(self, node: Node) -> None:
        node.restart()


NODE = st.integers(0, 2)
WAIT = st.tuples(st.just("wait"), st.sampled_from([2, 9, 11, 13, 14, 16, 20]))
ATTEMPT = st.tuples(st.sampled_from(["attempt", "begin", "hear"]), NODE)
"""Without a fault; the answer of `begin` is on its way until `hear`."""
ANYTHING = st.one_of(
    st.tuples(st.sampled_from(["read", "hear", "write", "release", "give_up", "restart"]), NODE),
    st.tuples(st.just("take"), st.integers(0, 5)),
    ATTEMPT,
    WAIT,
)


def run(world: World, what: str, number: int) -> None:
    if what == "take":
        world.take(number)
    elif what == "wait":
        world.now += number
    elif what in ("attempt", "begin"):
        node = world.nodes[number]
        node.writing = None
        world.read(node)
        world.hear(node)
        world.write(node)
        if world.pending and world.pending[-1] is node.writing:
            world.take(len(world.pending) - 1)
        if what == "attempt":
            world.hear(node)
    else:
        getattr(world, what)(world.nodes[number])


def check(rates: list[float], steps: list[tuple[str, int]]) -> None:
    world = World(rates)
    for what, number in steps:
        run(world, what, number)
        assert world.leaders() <= 1  # between two steps leaders only become fewer


@settings(max_examples=tries(300), deadline=None)
@given(st.lists(st.sampled_from([0.81, 1.0, 1.19]), min_size=3, max_size=3), st.lists(ANYTHING, max_size=40))
def test_two_never_lead(rates: list[float], steps: list[tuple[str, int]]) -> None:
    check(rates, steps)


@settings(max_examples=tries(700), deadline=None)
@given(st.lists(st.one_of(ATTEMPT, WAIT), min_size=4, max_size=12))
def test_two_never_lead_with_the_worst_of_clocks_and_late_answers(steps: list[tuple[str, int]]) -> None:
    check([0.81, 1.19, 1.19], steps)


@given(st.lists(ANYTHING, max_size=40), st.integers(0, 2))
def test_somebody_leads_soon_after_all_is_well(steps: list[tuple[str, int]], survivor: int) -> None:
    world = World([1.0, 1.0, 1.0])
    for what, number in steps:
        run(world, what, number)
    world.pending.clear()
    for _ in range(DURATION // 2 + 2):
        run(world, "attempt", survivor)
        world.now += 2.0
    assert world.leaders() == 1 or world.nodes[survivor].candidate.proposal(world.clock(world.nodes[survivor])) is None
    for node in world.nodes:
        if node is not world.nodes[survivor]:
            node.restart()  # the others are gone
    for _ in range(DURATION // 2 + 2):
        run(world, "attempt", survivor)
        world.now += 2.0
    assert world.nodes[survivor].candidate.is_leader(world.clock(world.nodes[survivor]))
