"""The folder of a control plane."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from meshproxy.control import store as module
from meshproxy.control.attestation import JoinToken, make_token, redeem_token
from meshproxy.control.store import (
    ATTEMPTS,
    CERTIFICATE,
    ISSUED_KEYS,
    JOIN_TOKENS,
    KEY,
    LEAVES,
    ROOTS,
    Changed,
    FolderStore,
    StoreError,
    until_unchanged,
)
from meshproxy.devtools.ca import DevelopmentCA

NOW = 1_000_000_000.0
ID = "spiffe://m.example/ns/models/sa/resnet"


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    store = FolderStore(tmp_path / "state")
    store.authority("m.example", NOW)
    return store


def test_the_first_start_makes_an_authority(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "a/b")
    assert not store.folder.exists()  # nothing is made by looking
    made = store.authority("m.example", NOW)
    assert stat.S_IMODE((store.folder / KEY).stat().st_mode) == 0o600
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    assert (store.folder / CERTIFICATE).read_bytes() == made.bundle_pem
    assert store.authority("m.example", NOW + 1).bundle_pem == made.bundle_pem
    assert (found := store.find_authority()) is not None
    assert found.bundle_pem == made.bundle_pem


def test_a_new_root_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = FolderStore(tmp_path).authority("m.example", NOW)
    FolderStore(tmp_path).authority("m.example", NOW)
    (record,) = caplog.records
    assert "unless this is the first start of the mesh, stop, and put the old one back" in record.message
    assert record.__dict__["fields"] == {"where": str(tmp_path), "trust_domain": "m.example", "signs": made.id}


@pytest.mark.parametrize("left", [ROOTS, ISSUED_KEYS, LEAVES])
def test_what_belongs_to_a_lost_authority_is_not_given_a_new_one(tmp_path: Path, left: str) -> None:
    (tmp_path / left).touch()
    with pytest.raises(StoreError, match=rf"has {left}, but no longer the authority .* put authority\.pem and"):
        FolderStore(tmp_path).authority("m.example", NOW)
    assert not (tmp_path / KEY).exists()


def test_two_that_start_at_once_have_one_authority(tmp_path: Path) -> None:
    made: list[bytes] = []

    def start() -> None:
        made.append(FolderStore(tmp_path).authority("m.example", NOW).bundle_pem)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    assert len(set(made)) == 1


def test_an_authority_of_ones_own_below_a_root(tmp_path: Path) -> None:
    root = DevelopmentCA.create("m.example")
    below = root.intermediate()
    below.write(tmp_path)
    (tmp_path / "ca.pem").rename(tmp_path / CERTIFICATE)
    (tmp_path / "ca-key.pem").rename(tmp_path / KEY)
    with pytest.raises(StoreError, match="the roots above it are needed"):
        FolderStore(tmp_path).authority("m.example", NOW)
    (tmp_path / ROOTS).write_bytes(root.bundle_pem)
    assert FolderStore(tmp_path).authority("m.example", NOW).bundle_pem == root.bundle_pem


def test_what_cannot_be_used(store: FolderStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"of trust domain m\.example, not of n\.example: use another folder"):
        store.authority("n.example", NOW)
    (store.folder / KEY).chmod(0o640)
    with pytest.raises(StoreError, match=r"accessible to other users \(mode 0640\): set mode 0600"):
        store.find_authority()
    (store.folder / KEY).unlink()
    with pytest.raises(StoreError, match="cannot be read: No such file"):
        store.find_authority()
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be created"):
        FolderStore(tmp_path / "file/state").authority("m.example", NOW)


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "replace_file", full)
    with pytest.raises(StoreError, match="No space left on device"):
        FolderStore(tmp_path).authority("m.example", NOW)
    with pytest.raises(StoreError, match="No space left on device"):
        FolderStore(tmp_path).add_token("0" * 64, JoinToken(ID, NOW + 60), NOW)


# Join tokens


def test_tokens(store: FolderStore) -> None:
    text = make_token(store, ID, NOW, 60.0)
    (file,) = (store.folder / JOIN_TOKENS).iterdir()
    assert text not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert redeem_token(FolderStore(store.folder), text, NOW) == ID  # of another process
    assert store.take_token(file.name) is None
    assert not file.exists()


def test_tokens_that_expired_are_removed_when_another_is_made(store: FolderStore) -> None:
    make_token(store, ID, NOW, 60.0)
    (store.folder / JOIN_TOKENS / "broken").write_text("{")
    make_token(store, ID, NOW + 61.0, 60.0)
    assert len(list((store.folder / JOIN_TOKENS).iterdir())) == 1


def test_a_token_that_is_being_written_is_left_alone(store: FolderStore) -> None:
    """Its file has no content yet, or half of it, and is renamed next."""
    new = store.folder / JOIN_TOKENS / ".0a.7.new"
    new.touch()
    assert store.waiting_tokens(NOW) == []
    assert new.exists()


def test_waiting_tokens_are_bounded(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOKENS_KEPT", 2)
    for _ in range(2):
        make_token(store, ID, NOW, 60.0)
    with pytest.raises(StoreError, match="2 join tokens wait to be used already"):
        make_token(store, ID, NOW, 60.0)
    assert make_token(store, ID, NOW + 61.0, 60.0)


def test_a_token_that_cannot_be_read(store: FolderStore) -> None:
    (store.folder / JOIN_TOKENS / "x").mkdir()
    with pytest.raises(StoreError, match="cannot be taken"):
        store.take_token("x")


def test_one_of_several_takers_gets_the_token(store: FolderStore) -> None:
    text = make_token(store, ID, NOW, 60.0)
    (file,) = (store.folder / JOIN_TOKENS).iterdir()
    taken: list[JoinToken | None] = []
    barrier = threading.Barrier(8)

    def take() -> None:
        barrier.wait()
        taken.append(store.take_token(file.name))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert text
    assert [token for token in taken if token is not None] == [JoinToken(ID, NOW + 60.0)]


def test_whoever_is_overtaken_decides_again() -> None:
    outcomes: list[StoreError] = []

    def decide() -> str:
        if outcomes:
            raise outcomes.pop()
        return "decided"

    outcomes[:] = [Changed("somebody is quicker")] * (ATTEMPTS - 1)
    assert until_unchanged(decide) == "decided"
    outcomes[:] = [Changed("somebody is quicker")] * ATTEMPTS
    with pytest.raises(Changed, match="quicker"):
        until_unchanged(decide)
    assert outcomes == []
    outcomes[:] = [StoreError("it is away")] * 2
    with pytest.raises(StoreError, match="away"):
        until_unchanged(decide)
    assert len(outcomes) == 1
