"""The root of an authority in a Secret, rotated by an operator while control planes follow."""

from __future__ import annotations

import pytest

from meshproxy.control.authority import Authority
from meshproxy.control.leaf import Leaf
from meshproxy.control.plane import TELLS_EVERY, Plane
from meshproxy.control.plane_records import PlaneRecords
from meshproxy.control.root_rotation import SETTLE_SECONDS, Hindrance, Step, in_force
from meshproxy.control.rotator import Rotator, Unsafe
from meshproxy.control.secret_content import Content, data_of, read_content
from meshproxy.control.secret_place import SecretPlace
from meshproxy.control.shared_leaves import SharedLeaves
from meshproxy.control.store import Changed, StoreError
from meshproxy.control_api import leaf_name
from meshproxy.installation.rights import control_planes_name
from tests.control.shared import Killed, Memory

NOW = 1_000_000_000.0
NAME = "authority"


class World:
    """A Secret, and two control planes."""

    def __init__(self) -> None:
        self.now = NOW
        self.objects = Memory()
        self.first = Authority.create("m.example", NOW)
        data = {name: text for name, text in data_of(Content(self.first)).items() if text is not None}
        self.objects.write("secrets", NAME, data)
        self.objects.writes.clear()
        self.leaves = SharedLeaves(self.objects, NAME)
        self.rotator = self.operator()
        self.planes = PlaneRecords(self.objects, NAME)

    def operator(self) -> Rotator:
        return Rotator(SecretPlace(self.objects, NAME), self.leaves, lambda: self.now)

    @property
    def content(self) -> Content:
        """As a control plane reads it."""
        return read_content(self.objects.data["secrets", NAME], "the Secret")

    def notice(self, *names: str) -> None:
        """Control planes read the Secret, and say so."""
        for name in names:
            self.planes.write(Plane(name, in_force(self.content.authority), self.now, 60.0))

    def step(self) -> Step | None:
        rotation = self.content.rotation
        return rotation.step if rotation is not None else None

    def forward(self) -> None:
        self.now += SETTLE_SECONDS
        self.notice("a", "b")
        self.rotator.forward()


@pytest.fixture
def world() -> World:
    return World()


def test_from_one_root_to_the_next(world: World) -> None:
    assert world.rotator.state().rotation is None
    world.forward()
    assert (world.step(), world.content.authority.id) == (Step.DISTRIBUTE, world.first.id)
    both = world.content.authority.bundle_pem
    world.forward()
    second = world.content.authority
    assert (world.step(), second.bundle_pem) == (Step.SIGN, both)
    assert second.id != world.first.id
    world.forward()
    assert (world.step(), world.content.authority.bundle_pem) == (Step.RETIRE, second.certificate_pem)
    world.forward()
    assert (world.step(), world.content.authority.id) == (None, second.id)
    assert sorted(world.objects.data["secrets", NAME]) == ["ca.crt", "tls.crt", "tls.key"]


def test_each_step_waits_for_every_control_plane(world: World) -> None:
    world.notice("a", "b")
    world.rotator.forward()
    for _ in range(3):
        before = world.step()
        world.now += SETTLE_SECONDS
        world.notice("a")
        with pytest.raises(Unsafe) as caught:
            world.rotator.forward()
        assert caught.value.obstacle.hindrance is Hindrance.UNNOTICED
        assert [plane.name for plane in caught.value.obstacle.planes] == ["b"]
        assert caught.value.obstacle.until == caught.value.obstacle.planes[0].over
        assert world.rotator.state().obstacle == caught.value.obstacle
        if world.step() is not Step.RETIRE:  # from there, everybody trusts more than before
            with pytest.raises(Unsafe):
                world.rotator.back()
        assert world.step() is before
        world.notice("b")
        world.rotator.forward()
    assert world.step() is None


def test_one_that_is_gone_is_waited_for_until_nothing_of_it_is_valid(world: World) -> None:
    world.notice("a", "gone")
    world.rotator.forward()
    (gone,) = (plane for plane in world.planes.read().entries if plane.name == "gone")
    world.now = gone.over - 1.0
    world.notice("a")
    with pytest.raises(Unsafe):
        world.rotator.forward()
    world.now = gone.over
    world.rotator.forward()
    assert world.step() is Step.SIGN


def test_without_control_planes_nobody_gives_out_the_bundle(world: World) -> None:
    world.rotator.forward()
    world.now += SETTLE_SECONDS
    with pytest.raises(Unsafe) as caught:
        world.rotator.forward()
    assert caught.value.obstacle.hindrance is Hindrance.NOBODY
    assert world.rotator.forward(is_forced=True) == caught.value.obstacle


def test_a_record_of_control_planes_that_was_deleted(world: World) -> None:
    """Until each has spoken again, one that is silent may sign as before: the one that has spoken is not all."""
    world.notice("a", "b")
    world.rotator.forward()
    world.now += SETTLE_SECONDS
    world.notice("a")
    world.objects.delete("configmaps", control_planes_name(NAME))
    world.objects.created = world.now
    world.now += 1.0
    world.notice("a")
    with pytest.raises(Unsafe) as caught:
        world.rotator.forward()
    assert caught.value.obstacle.hindrance is Hindrance.UNTOLD
    assert caught.value.obstacle.until == world.objects.created + TELLS_EVERY + SETTLE_SECONDS
    world.now = caught.value.obstacle.until
    world.rotator.forward()
    assert world.step() is Step.SIGN


def test_certificates_of_all_control_planes_count(world: World) -> None:
    world.forward()
    leaf = Leaf(leaf_name(b"x", NOW + 60.0), "spiffe://m.example/ns/a/sa/b", world.first.id, "other")
    world.leaves.write([leaf])
    with pytest.raises(Unsafe) as caught:
        world.forward()
    assert caught.value.obstacle.leaves == (leaf,)


def test_undoing_every_step(world: World) -> None:
    with pytest.raises(StoreError, match=r"under way in the Secret mesh/authority: there is nothing to undo"):
        world.rotator.back()
    for _ in range(3):
        world.forward()
    seen = []
    while world.step() is not None:
        world.now += SETTLE_SECONDS
        world.notice("a", "b")
        assert world.rotator.back() is None
        seen.append(world.step())
    assert seen == [Step.SIGN, Step.DISTRIBUTE, None]
    assert (world.content.authority.id, world.content.authority.key_pem) == (world.first.id, world.first.key_pem)


def test_two_operators_at_once_take_one_step(world: World) -> None:
    """The second one reads again, decides again, and finds that the step has just been taken."""
    world.forward()
    world.now += SETTLE_SECONDS
    world.notice("a", "b")

    def quicker() -> None:
        world.objects.before_write = lambda: None
        world.operator().forward()

    world.objects.before_write = quicker
    with pytest.raises(Unsafe) as caught:
        world.rotator.forward()
    assert caught.value.obstacle.hindrance is Hindrance.UNSETTLED
    assert world.step() is Step.SIGN

    world.now += SETTLE_SECONDS
    world.notice("a", "b")
    world.objects.before_write = world.objects.touch
    with pytest.raises(Changed, match="all the time"):
        world.rotator.forward()
    assert world.step() is Step.SIGN


def test_two_operators_who_begin_at_once_have_one_new_root(world: World) -> None:
    def quicker() -> None:
        world.objects.before_write = lambda: None
        world.operator().forward()

    world.objects.before_write = quicker
    with pytest.raises(Unsafe):
        world.rotator.forward()
    assert world.step() is Step.DISTRIBUTE
    assert [plural for plural, _ in world.objects.writes] == ["secrets"]


@pytest.mark.parametrize("number", [sign * at for at in range(1, 5) for sign in (1, -1)])
def test_killed_at_any_write(world: World, number: int) -> None:
    """Each step is one write, which was done or was not; what control planes find is whole, and the next call goes
    on."""
    steps: list[Step | None] = [None, *Step, None]
    taken = 0
    world.objects.kill_at = number
    try:
        while True:
            world.forward()
            taken += 1
    except Killed:
        pass
    assert world.step() is steps[taken if number > 0 else taken + 1]
    authority = world.content.authority
    assert authority.certificate_pem in authority.bundle_pem
    world.objects.kill_at = 0
    if world.step() is None and taken == 3:
        assert authority.id != world.first.id
        return
    world.forward()
    while world.step() is not None:
        world.forward()
    last = world.content.authority
    assert last.bundle_pem == last.certificate_pem != world.first.certificate_pem


def test_a_secret_that_is_not_there() -> None:
    rotator = Rotator(SecretPlace(Memory(), NAME), SharedLeaves(Memory(), NAME))
    for action in (rotator.state, rotator.forward):
        with pytest.raises(StoreError, match="the Secret mesh/authority has no authority"):
            action()
