"""The cookie of a login that is under way."""

from __future__ import annotations

import base64
import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.web.pending import LIFE, Pending, Seal

SEAL = Seal()
COOKIE = SEAL.close(Pending.new("/model?name=a", 100.0))


def test_it_is_opened_as_it_was_closed() -> None:
    pending = Pending.new("/model?name=a", 100.0)
    assert SEAL.open(SEAL.close(pending), 100.0 + LIFE - 1) == pending
    assert SEAL.open(SEAL.close(pending), 100.0 + LIFE) is None
    assert Seal().open(SEAL.close(pending), 100.0) is None


def test_each_login_has_its_own_secrets() -> None:
    one, other = Pending.new("/", 0.0), Pending.new("/", 0.0)
    assert len({one.state, one.nonce, one.verifier, other.state, other.nonce, other.verifier}) == 6
    digest = hashlib.sha256(one.verifier.encode()).digest()
    assert one.challenge == base64.urlsafe_b64encode(digest).decode().rstrip("=")
    assert 43 <= len(one.verifier) <= 128  # RFC 7636 section 4.1


@settings(max_examples=40, deadline=None)
@given(st.text(), st.integers(0, len(COOKIE) - 1))
def test_nothing_else_is_opened(text: str, place: int) -> None:
    assert SEAL.open(text, 100.0) is None
    changed = COOKIE[:place] + ("A" if COOKIE[place] != "A" else "B") + COOKIE[place + 1 :]
    assert SEAL.open(changed, 100.0) is None
