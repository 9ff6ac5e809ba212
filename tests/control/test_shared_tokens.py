"""Join tokens that several control planes share."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.control import shared_tokens as module
from meshproxy.control.attestation import JoinToken, make_token, redeem_token
from meshproxy.control.authority import RequestRefused
from meshproxy.control.cluster import connect_blocking
from meshproxy.control.shared_objects import SharedObjects
from meshproxy.control.shared_tokens import SharedTokens
from meshproxy.control.store import Changed, StoreError
from meshproxy.installation.rights import join_tokens_name
from tests.control.fake_api_server import FakeApiServer
from tests.control.shared import Memory

NOW = 1_000_000_000.0
ID = "spiffe://m.example/ns/models/sa/resnet"
KEY = "secrets", join_tokens_name("authority")


@pytest.fixture
def objects() -> Memory:
    return Memory()


def tokens(objects: Memory) -> SharedTokens:
    """Of another process."""
    return SharedTokens(objects, "authority")


def test_a_token_is_taken_once_by_any_control_plane(objects: Memory) -> None:
    text = make_token(tokens(objects), ID, NOW, 60.0)
    assert text not in repr(objects.data)
    assert tokens(objects).waiting_tokens(NOW) == [JoinToken(ID, NOW + 60.0)]
    assert redeem_token(tokens(objects), text, NOW) == ID
    assert objects.data[KEY] == {}
    for each in (tokens(objects), tokens(objects)):
        with pytest.raises(RequestRefused, match="was used before"):
            redeem_token(each, text, NOW)


def test_of_two_control_planes_at_once_one_has_it(objects: Memory) -> None:
    """Both have read it; whoever writes second reads again, and finds none."""
    text = make_token(tokens(objects), ID, NOW, 60.0)
    taken: list[str] = []

    def quicker() -> None:
        objects.before_write = lambda: None
        taken.append(redeem_token(tokens(objects), text, NOW))

    objects.before_write = quicker
    with pytest.raises(RequestRefused, match="was used before"):
        redeem_token(tokens(objects), text, NOW)
    assert taken == [ID]


def test_another_token_that_is_taken_meanwhile_is_in_nobodys_way(objects: Memory) -> None:
    first, second = (make_token(tokens(objects), f"{ID}-{number}", NOW, 60.0) for number in range(2))

    def quicker() -> None:
        objects.before_write = lambda: None
        redeem_token(tokens(objects), second, NOW)

    objects.before_write = quicker
    assert redeem_token(tokens(objects), first, NOW) == f"{ID}-0"
    assert objects.data[KEY] == {}


def test_a_secret_that_others_write_all_the_time(objects: Memory) -> None:
    """The token is not taken, and can be shown again."""
    text = make_token(tokens(objects), ID, NOW, 60.0)
    objects.before_write = objects.touch
    with pytest.raises(Changed):
        redeem_token(tokens(objects), text, NOW)
    objects.before_write = lambda: None
    assert redeem_token(tokens(objects), text, NOW) == ID


def test_one_that_has_expired_is_refused_and_removed(objects: Memory) -> None:
    text = make_token(tokens(objects), ID, NOW, 60.0)
    assert tokens(objects).waiting_tokens(NOW + 60.0) == []
    make_token(tokens(objects), ID, NOW + 60.0, 60.0)
    assert len(objects.data[KEY]) == 1
    with pytest.raises(RequestRefused, match="not known"):
        redeem_token(tokens(objects), text, NOW)
    late = make_token(tokens(objects), ID, NOW, 61.0)
    with pytest.raises(RequestRefused, match="has expired"):
        redeem_token(tokens(objects), late, NOW + 61.0)


def test_waiting_tokens_are_bounded(objects: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOKENS_KEPT", 2)
    for life in (30.0, 20.0):
        make_token(tokens(objects), ID, NOW, life)
    assert [token.expires for token in tokens(objects).waiting_tokens(NOW)] == [NOW + 20.0, NOW + 30.0]
    with pytest.raises(StoreError, match="2 join tokens wait to be used already"):
        make_token(tokens(objects), ID, NOW, 60.0)
    assert make_token(tokens(objects), ID, NOW + 20.0, 60.0)


def test_whoever_guesses_writes_nothing(objects: Memory) -> None:
    with pytest.raises(RequestRefused, match="not known"):
        redeem_token(tokens(objects), "mpj1-guessed", NOW)
    assert objects.writes == []


def test_while_the_api_server_is_away(objects: Memory) -> None:
    text = make_token(tokens(objects), ID, NOW, 60.0)
    objects.is_away = True
    with pytest.raises(StoreError, match="away"):
        redeem_token(tokens(objects), text, NOW)
    objects.is_away = False
    assert redeem_token(tokens(objects), text, NOW) == ID


@given(st.text(max_size=40))
def test_an_entry_that_is_none_is_no_token(text: str) -> None:
    objects = Memory()
    objects.write(*KEY, {"0" * 64: text})
    assert tokens(objects).waiting_tokens(NOW) == []
    assert tokens(objects).take_token("0" * 64) in (None, JoinToken("", 0.0))
    objects.write(*KEY, {"0" * 64: text})
    make_token(tokens(objects), ID, NOW, 60.0)
    assert "0" * 64 not in objects.data[KEY]


async def test_of_many_at_once_over_http_one_has_it(fake: FakeApiServer, tmp_path: Path) -> None:
    kubeconfig = fake.write_kubeconfig(tmp_path, "mesh")
    clients = [SharedObjects(connect_blocking(kubeconfig), "mesh") for _ in range(4)]
    shared = [SharedTokens(each, "authority") for each in clients]
    text = await asyncio.to_thread(make_token, shared[0], ID, NOW, 60.0)
    shown = [asyncio.to_thread(redeem_token, each, text, NOW) for each in shared * 2]
    outcomes = await asyncio.gather(*shown, return_exceptions=True)
    assert outcomes.count(ID) == 1
    assert all(each == ID or isinstance(each, RequestRefused) for each in outcomes)
    for each in clients:
        each.close()
