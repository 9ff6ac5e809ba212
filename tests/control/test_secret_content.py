"""What is in the Secret of an authority."""

from __future__ import annotations

import base64

import pytest

from meshproxy.control.authority import Authority
from meshproxy.control.root_rotation import RootRotation
from meshproxy.control.secret_content import ROTATION, Content, data_of, read_content
from meshproxy.control.store import StoreError

NOW = 1_000_000_000.0
OLD, NEW = (Authority.create("m.example", NOW) for _ in range(2))


def written(content: Content) -> dict[str, str]:
    return {name: text for name, text in data_of(content).items() if text is not None}


def test_each_step_is_what_everybody_reads_who_knows_of_no_rotation() -> None:
    rotation: RootRotation | None = RootRotation.begin(OLD, NEW, NOW)
    signs = []
    while rotation is not None:
        data = written(Content(rotation.authority(), rotation))
        found = read_content(data, "it")
        assert found.rotation == rotation
        del data[ROTATION]
        plain = read_content(data, "it")
        assert plain.rotation is None
        assert (plain.authority.id, plain.authority.bundle_pem) == (found.authority.id, found.authority.bundle_pem)
        signs.append(found.authority.id)
        rotation = rotation.forward(NOW)
    assert signs == [OLD.id, NEW.id, NEW.id]
    assert data_of(Content(NEW))[ROTATION] is None


def test_parts_that_contradict_each_other() -> None:
    """Somebody has put another authority there in the middle of a rotation."""
    rotation = RootRotation.begin(OLD, NEW, NOW)
    data = written(Content(rotation.authority(), rotation))
    for other in (Authority.create("m.example", NOW), OLD):
        with pytest.raises(StoreError, match=r"contradicts itself.*must remove rotation\.json"):
            read_content({**written(Content(other)), ROTATION: data[ROTATION]}, "it")
    for text in ("{", "[]"):
        with pytest.raises(StoreError, match="it is not an authority"):
            read_content({**data, ROTATION: base64.b64encode(text.encode()).decode()}, "it")
