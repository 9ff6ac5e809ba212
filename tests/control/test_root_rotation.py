"""The steps from one root to the next."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.control.authority import Authority
from meshproxy.control.leaf import Leaf
from meshproxy.control.root_rotation import (
    SETTLE_SECONDS,
    STEPS,
    Hindrance,
    Obstacle,
    RootRotation,
    Step,
    before_next,
    before_undo,
    with_bundle,
)
from meshproxy.control_api import leaf_name, roots_digest

NOW = 1_000_000_000.0
LATER = NOW + SETTLE_SECONDS
OLD, NEW = Authority.create("m.example", NOW), Authority.create("m.example", NOW)
BEGUN = RootRotation.begin(OLD, NEW, NOW)


def at(step: Step) -> RootRotation:
    return msgspec.structs.replace(BEGUN, step=step)


def leaf(number: int, rotation: RootRotation | None, authority: Authority = OLD, **more: object) -> Leaf:
    """Of somebody who has the bundle of this step."""
    roots = roots_digest(rotation.roots.encode()) if rotation is not None else "none"
    name = leaf_name(bytes([number]), NOW + 100.0)
    return Leaf(name, "spiffe://m.example/ns/a/sa/b", authority.id, roots, **more)  # type: ignore[arg-type]


def roots(authority: Authority) -> set[bytes]:
    return set(filter(None, authority.bundle_pem.split(b"-----BEGIN CERTIFICATE-----\n")))


def test_who_signs_and_who_is_trusted() -> None:
    old, new = roots(OLD), roots(NEW)
    assert {step: (at(step).authority().id, roots(at(step).authority())) for step in STEPS} == {
        Step.DISTRIBUTE: (OLD.id, old | new),
        Step.SIGN: (NEW.id, old | new),
        Step.RETIRE: (NEW.id, new),
    }
    assert BEGUN.ids() == (OLD.id, NEW.id)


def test_forward_and_back() -> None:
    sign = BEGUN.forward(LATER)
    assert sign is not None
    assert (sign.step, sign.since) == (Step.SIGN, LATER)
    retire = sign.forward(LATER)
    assert retire is not None
    assert retire.forward(LATER) is None
    assert (retire.back(LATER), BEGUN.back(LATER)) == (sign, None)
    assert msgspec.json.decode(msgspec.json.encode(retire), type=RootRotation) == retire


def test_comments_of_the_roots_do_not_count() -> None:
    """Of a rotation that an earlier version has begun."""
    commented = msgspec.structs.replace(BEGUN.old, roots=f"# ours\n{BEGUN.old.roots}")
    begun = msgspec.structs.replace(BEGUN, old=commented)
    everybody = [leaf(1, BEGUN)]
    assert with_bundle(begun, everybody, NOW) == (everybody, [])


def test_keys_are_not_shown() -> None:
    assert "PRIVATE" not in repr(BEGUN)


@pytest.mark.parametrize("step", STEPS)
def test_a_step_lasts_until_everybody_has_noticed(step: Step) -> None:
    assert before_next(at(step), [], LATER - 0.1) == Obstacle(Hindrance.UNSETTLED, (), LATER)
    assert before_next(at(step), [], LATER) is None


@pytest.mark.parametrize("step", [Step.DISTRIBUTE, Step.RETIRE])
def test_everybody_needs_the_bundle(step: Step) -> None:
    rotation = at(step)
    having, lacking = leaf(1, rotation, NEW), leaf(2, None, NEW)
    replaced = leaf(3, None, NEW, is_replaced=True)
    assert with_bundle(rotation, [having, lacking, replaced], LATER) == ([having], [lacking])
    assert before_next(rotation, [having, lacking, replaced], LATER) == Obstacle(
        Hindrance.WITHOUT_BUNDLE, (lacking,), lacking.not_after + 1.0
    )
    assert before_next(rotation, [having, replaced], LATER) is None
    assert before_next(rotation, [having, lacking], NOW + 101.0) is None  # it has expired


def test_the_old_root_stays_as_long_as_certificates_of_it_are_valid() -> None:
    rotation = at(Step.SIGN)
    replaced, renewed = leaf(1, rotation, OLD, is_replaced=True), leaf(2, rotation, NEW)
    assert before_next(rotation, [replaced, renewed], LATER) == Obstacle(
        Hindrance.STILL_VALID, (replaced,), replaced.not_after + 1.0
    )
    assert before_next(rotation, [replaced, renewed], NOW + 101.0) is None
    assert before_next(rotation, [renewed], LATER) is None


def test_undoing() -> None:
    of_new = leaf(1, BEGUN, NEW)
    assert before_undo(BEGUN, [leaf(2, BEGUN, OLD)], LATER) is None
    # It was at the second step before.
    assert before_undo(BEGUN, [of_new], LATER) == Obstacle(Hindrance.STILL_VALID, (of_new,), of_new.not_after + 1.0)
    assert before_undo(at(Step.SIGN), [of_new], LATER) is None
    # It was at the third step before: the old root is on its way back.
    without = leaf(1, at(Step.RETIRE), NEW)
    assert before_undo(at(Step.SIGN), [without], LATER) == Obstacle(
        Hindrance.WITHOUT_BUNDLE, (without,), without.not_after + 1.0
    )
    assert before_undo(at(Step.RETIRE), [without], NOW) is None
    for step in (Step.DISTRIBUTE, Step.SIGN):
        assert before_undo(at(step), [], NOW) == Obstacle(Hindrance.UNSETTLED, (), LATER)


class World:
    """Sidecars that renew, restart and are away, and an operator who takes every step as soon as it is safe."""

    def __init__(self) -> None:
        self.now = NOW
        self.rotation: RootRotation | None = None
        self.authority = OLD
        self.sidecars: dict[int, tuple[Authority, float, Authority]] = {}
        """By number: who has signed the certificate, until when, and whose bundle it has."""

    def leaves(self) -> Iterator[Leaf]:
        for number, (signer, until, bundle) in self.sidecars.items():
            yield Leaf(
                leaf_name(bytes([number]), until),
                f"spiffe://m.example/ns/a/sa/s{number}",
                signer.id,
                roots_digest(bundle.bundle_pem),
            )

    def renew(self, number: int) -> None:
        self.sidecars[number] = self.authority, self.now + 100.0, self.authority

    def connect(self, number: int) -> None:
        if number in self.sidecars:
            signer, until, _ = self.sidecars[number]
            self.sidecars[number] = signer, until, self.authority

    def operate(self, *, is_undone: bool) -> None:
        rotation = self.rotation
        if rotation is None:
            self.rotation = RootRotation.begin(OLD, NEW, self.now)
        elif is_undone:
            if before_undo(rotation, list(self.leaves()), self.now) is None:
                self.rotation = rotation.back(self.now)
                self.authority = OLD
        elif rotation.step is not Step.RETIRE and before_next(rotation, list(self.leaves()), self.now) is None:
            self.rotation = rotation.forward(self.now)
        if self.rotation is not None:
            self.authority = self.rotation.authority()

    def check(self) -> None:
        """Any two with valid certificates accept each other."""
        valid = [each for each in self.sidecars.values() if self.now < each[1]]
        for signer, _, _ in valid:
            for _, _, bundle in valid:
                assert signer.certificate_pem in bundle.bundle_pem


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["renew", "connect"]), st.integers(0, 3)),
        st.tuples(st.just("wait"), st.integers(1, 60)),
        st.tuples(st.just("operate"), st.integers(0, 4)),
    ),
    max_size=60,
)


@given(ACTIONS)
def test_whatever_happens_sidecars_accept_each_other(actions: list[tuple[str, int]]) -> None:
    world = World()
    for action, number in actions:
        if action == "wait":
            world.now += number
        elif action == "operate":
            world.operate(is_undone=number == 4)
        else:
            getattr(world, action)(number)
        world.check()
