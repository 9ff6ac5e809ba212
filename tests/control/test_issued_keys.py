"""The keys that have a certificate."""

from __future__ import annotations

import os
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from meshproxy.control import issued_keys as module
from meshproxy.control.issued_keys import IssuedKeys

NOW = 1_000_000_000.0


def test_a_key_is_good_for_one_certificate(tmp_path: Path) -> None:
    keys = IssuedKeys(tmp_path / "keys")
    assert keys.claim("a", NOW + 60.0, NOW)
    assert keys.claim("b", NOW + 60.0, NOW)
    assert not keys.claim("a", NOW + 90.0, NOW + 30.0)
    assert keys.claim("a", NOW + 120.0, NOW + 61.0)
    assert not keys.claim("a", NOW + 180.0, NOW + 100.0)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def test_it_is_remembered_across_a_restart_and_by_whoever_shares_the_folder(tmp_path: Path) -> None:
    first, second = IssuedKeys(tmp_path), IssuedKeys(tmp_path)
    assert second.claim("a", NOW + 60.0, NOW)
    assert first.claim("b", NOW + 60.0, NOW)
    assert not first.claim("a", NOW + 60.0, NOW)
    assert not IssuedKeys(tmp_path).claim("b", NOW + 60.0, NOW)


def test_of_two_requests_at_once_one_gets_a_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one comes while the file of the first is there, and does not say yet when its certificate expires."""
    keys, claims = IssuedKeys(tmp_path), []
    later = time.time() + 60.0
    second = threading.Thread(target=lambda: claims.append(keys.claim("a", later + 60.0, later)))
    utime = os.utime

    def slow(*arguments: Any) -> None:
        if second.ident is None:
            second.start()
            second.join(0.05)
        utime(*arguments)

    monkeypatch.setattr(os, "utime", slow)
    claims.append(keys.claim("a", later + 60.0, later))
    second.join()
    assert sorted(claims) == [False, True]


def test_keys_whose_certificates_have_expired_are_forgotten(tmp_path: Path) -> None:
    IssuedKeys(tmp_path).claim("a", NOW + 60.0, NOW)
    IssuedKeys(tmp_path).claim("b", NOW + 600.0, NOW)
    IssuedKeys(tmp_path).claim("c", NOW + 700.0, NOW + 61.0)
    assert {path.name for path in tmp_path.iterdir()} == {"b", "c"}


def test_they_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEYS_KEPT", 3)
    monkeypatch.setattr(module, "CLAIMS_A_PRUNING", 2)
    keys = IssuedKeys(tmp_path)
    for number in range(21):
        assert keys.claim(str(number), NOW + 60.0 + number, NOW)
    assert {path.name for path in tmp_path.iterdir()} == {"17", "18", "19", "20"}


def test_while_nothing_can_be_written_they_are_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "KEYS_KEPT", 3)
    folder = tmp_path / "keys"
    folder.touch()
    keys = IssuedKeys(folder)
    for name in "abcde":
        assert keys.claim(name, NOW + 60.0, NOW)
    assert [keys.claim(name, NOW + 90.0, NOW + 30.0) for name in "ecb"] == [False, False, True]
    assert keys.failures == 6
    assert [record.__dict__["fields"]["problem"] for record in caplog.records] == ["File exists"]
    folder.unlink()
    assert keys.claim("f", NOW + 60.0, NOW + 30.0)
    assert not IssuedKeys(folder).claim("f", NOW + 60.0, NOW + 30.0)
    assert not keys.claim("e", NOW + 60.0, NOW + 30.0)  # still known
