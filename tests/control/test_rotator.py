"""The root of a folder, rotated by an operator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshproxy.control import store as module
from meshproxy.control.authority import Authority
from meshproxy.control.leaf import Leaf
from meshproxy.control.leaves import FolderLeaves
from meshproxy.control.root_rotation import SETTLE_SECONDS, Hindrance, Step
from meshproxy.control.rotator import Rotator, Unsafe
from meshproxy.control.store import CERTIFICATE, KEY, ROOTS, ROTATION, FolderStore, StoreError
from meshproxy.control_api import leaf_name
from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.identity.private_files import replace_file
from tests.control.shared import Killed

NOW = 1_000_000_000.0


class World:
    def __init__(self, folder: Path) -> None:
        self.now = NOW
        self.store = FolderStore(folder)
        self.first = self.store.authority("m.example", NOW)
        self.rotator = Rotator(self.store, FolderLeaves(folder), lambda: self.now)

    @property
    def authority(self) -> Authority:
        """As a control plane that starts now has it."""
        return FolderStore(self.store.folder).authority("m.example", self.now)

    def step(self) -> Step | None:
        rotation = self.rotator.state().rotation
        return rotation.step if rotation is not None else None

    def forward(self) -> None:
        self.now += SETTLE_SECONDS
        self.rotator.forward()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_from_one_root_to_the_next(world: World) -> None:
    state = world.rotator.state()
    assert (state.rotation, state.having, state.obstacle) == (None, [], None)
    world.forward()
    assert (world.step(), world.authority.id) == (Step.DISTRIBUTE, world.first.id)
    both = world.authority.bundle_pem
    world.forward()
    second = world.authority
    assert (world.step(), second.bundle_pem) == (Step.SIGN, both)
    assert second.id != world.first.id
    world.forward()
    assert world.step() is Step.RETIRE
    assert world.authority.bundle_pem == second.certificate_pem
    world.forward()
    assert world.step() is None
    assert (world.authority.id, world.authority.bundle_pem) == (second.id, second.certificate_pem)
    assert sorted(path.name for path in world.store.folder.iterdir() if path.is_file()) == [
        ".lock",
        KEY,
        CERTIFICATE,
    ]
    assert world.first.key_pem not in (world.store.folder / KEY).read_bytes()


def test_an_intermediate_is_followed_by_a_root(tmp_path: Path) -> None:
    """Its own roots stay in the bundle as long as its certificates."""
    root = DevelopmentCA.create("m.example")
    below = root.intermediate()
    below.write(tmp_path)
    (tmp_path / "ca.pem").rename(tmp_path / CERTIFICATE)
    (tmp_path / "ca-key.pem").rename(tmp_path / KEY)
    (tmp_path / ROOTS).write_bytes(root.bundle_pem)
    world = World(tmp_path)
    world.forward()
    assert (world.authority.id, world.authority.chain_pem) == (world.first.id, world.first.chain_pem)
    assert root.bundle_pem.strip() in world.authority.bundle_pem
    for _ in range(3):
        world.forward()
    assert world.authority.bundle_pem == world.authority.certificate_pem
    assert not (tmp_path / ROOTS).exists()


def test_what_is_not_safe_is_not_done_unless_forced(world: World) -> None:
    world.rotator.forward()
    with pytest.raises(Unsafe) as caught:
        world.rotator.forward()
    assert caught.value.obstacle.hindrance is Hindrance.UNSETTLED
    leaf = Leaf(leaf_name(b"x", NOW + 60.0), "spiffe://m.example/ns/a/sa/b", world.first.id, "other")
    FolderLeaves(world.store.folder).write([leaf])
    world.now += SETTLE_SECONDS
    with pytest.raises(Unsafe) as caught:
        world.rotator.forward()
    assert caught.value.obstacle.leaves == (leaf,)
    state = world.rotator.state()
    assert (state.having, state.lacking, state.obstacle) == ([], [leaf], caught.value.obstacle)
    assert world.step() is Step.DISTRIBUTE
    assert world.rotator.forward(is_forced=True) == state.obstacle
    assert world.step() is Step.SIGN


def test_undoing_every_step(world: World) -> None:
    with pytest.raises(StoreError, match="nothing to undo"):
        world.rotator.back()
    for _ in range(3):
        world.forward()
    seen = []
    while world.step() is not None:
        world.now += SETTLE_SECONDS
        assert world.rotator.back() is None
        seen.append(world.step())
    assert seen == [Step.SIGN, Step.DISTRIBUTE, None]
    assert (world.authority.id, world.authority.bundle_pem) == (world.first.id, world.first.bundle_pem)
    assert (world.store.folder / KEY).read_bytes() == world.first.key_pem


def test_a_folder_without_authority(tmp_path: Path) -> None:
    rotator = Rotator(FolderStore(tmp_path), FolderLeaves(tmp_path))
    for action in (rotator.state, rotator.forward):
        with pytest.raises(StoreError, match="name the one of `meshproxy control run`"):
            action()


def test_a_rotation_that_cannot_be_read(world: World) -> None:
    world.forward()
    path = world.store.folder / ROTATION
    path.chmod(0o644)
    with pytest.raises(StoreError, match="accessible to other users"):
        world.rotator.state()
    path.chmod(0o600)
    path.write_text("{")
    with pytest.raises(StoreError, match="is not a RootRotation"):
        world.store.authority("m.example", NOW)


def killed_at(monkeypatch: pytest.MonkeyPatch, number: int) -> list[str]:
    """Ends the process at this change of the folder: before it, or, if negative, after it. Returns what was changed."""
    changes: list[str] = []
    unlink = Path.unlink

    def change(path: Path, action: Callable[..., None], *arguments: Any) -> None:
        changes.append(path.name)
        if len(changes) == number:
            raise Killed
        action(path, *arguments)
        if len(changes) == -number:
            raise Killed

    monkeypatch.setattr(module, "replace_file", lambda path, *more: change(path, replace_file, *more))

    def remove(path: Path, **more: Any) -> None:
        if path.name.startswith("."):
            unlink(path, **more)  # of `replace_file` itself
        else:
            change(path, lambda it: unlink(it, **more))

    monkeypatch.setattr(Path, "unlink", remove)
    return changes


@pytest.mark.parametrize("number", [sign * at for at in range(1, 9) for sign in (1, -1)])
def test_killed_at_any_change_of_the_folder(world: World, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """What a control plane finds when it starts fits to one of the two steps, and the rotation can be ended."""
    steps: list[Step | None] = [None, *Step, None]
    with monkeypatch.context() as patched:
        changes = killed_at(patched, number)
        taken = 0
        try:
            for _ in range(4):
                world.forward()
                taken += 1
        except Killed:
            pass
    assert len(changes) == min(abs(number), 8)
    assert changes == [*[ROTATION] * 3, KEY, CERTIFICATE, ROOTS, ROOTS, ROTATION][: len(changes)]
    found = world.step()
    assert found in steps[taken : taken + 2]
    # Whoever had a certificate before is trusted, and whoever gets one now is.
    authority = world.authority
    assert authority.certificate_pem in authority.bundle_pem
    if taken < 2:
        assert world.first.certificate_pem in authority.bundle_pem
    # Back from an end that was interrupted, the old authority is whole.
    if taken == 3 and found is not None:
        world.rotator.back()
        world.now += SETTLE_SECONDS
        world.rotator.back()
        assert world.authority.id == world.first.id
    world.forward()
    while world.step() is not None:
        world.forward()
    last = world.authority
    assert last.bundle_pem == last.certificate_pem != world.first.certificate_pem
    assert not (world.store.folder / ROOTS).exists()
