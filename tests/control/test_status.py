"""The page of a control plane."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from meshproxy.control.status import is_local, moment_or_none, read_status
from tests.control.statuses import entry, status


def test_a_page_is_read_as_it_was_written() -> None:
    page = status(entry())
    assert read_status(msgspec.json.encode(page)) == page
    shown = json.loads(msgspec.json.encode(page))
    assert (shown["kind"], shown["apiVersion"]) == ("ControlStatus", "meshproxy.dev/v1alpha1")
    assert shown["sidecars"][0]["spiffeId"] == "spiffe://m.example/ns/models/sa/resnet"
    assert shown["now"] == "2026-01-02T12:00:00Z"


def test_members_of_later_versions_are_ignored() -> None:
    shown: Any = json.loads(msgspec.json.encode(status(entry())))
    shown["later"] = shown["sidecars"][0]["later"] = [1]
    assert read_status(json.dumps(shown).encode()) == status(entry())


@pytest.mark.parametrize("page", [b"", b"[]", b"ok\n", b'{"kind":"ControlStatus"}'])
def test_other_pages(page: bytes) -> None:
    with pytest.raises(ValueError):
        read_status(page)


def test_a_page_of_another_kind() -> None:
    with pytest.raises(ValueError, match="it is a SidecarStatus"):
        read_status(msgspec.json.encode(status(kind="SidecarStatus")))


@pytest.mark.parametrize(
    ("peer", "host", "is_it"),
    [
        ("127.0.0.1", "localhost", True),
        ("127.0.0.1", "LOCALHOST:18512", True),
        ("::1", "[::1]:18512", True),
        ("::1", "[::1]", True),
        ("::ffff:127.0.0.1", "127.0.0.1:1", True),
        ("127.0.0.1", "attacker.example:18512", False),
        ("127.0.0.1", "", False),
        ("10.0.0.1", "localhost", False),
        ("", "localhost", False),
    ],
)
def test_who_is_on_this_host(peer: str, host: str, is_it: bool) -> None:
    assert is_local(peer, host) is is_it


def test_0_is_no_time() -> None:
    assert moment_or_none(0.0) is None
