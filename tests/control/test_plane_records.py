"""The control planes that share a Secret."""

from __future__ import annotations

import pytest

from meshproxy.control.plane import Plane
from meshproxy.control.plane_records import PlaneRecords
from meshproxy.control.store import StoreError
from meshproxy.installation.rights import control_planes_name
from tests.control.shared import Memory

NOW = 1_000_000_000.0


def test_each_has_an_entry() -> None:
    records = PlaneRecords(Memory(), "authority")
    assert records.read().entries == []
    a, b = Plane("a", "x", NOW, 60.0), Plane("b", "x", NOW + 10.0, 60.0)
    records.write(b)
    records.write(a)
    assert records.read().entries == [a, b]
    records.prune(a.over)
    assert records.read().entries == [a, b]
    records.prune(a.over + 0.1)
    assert records.read().entries == [b]
    records.remove("b")
    assert records.read().entries == []


def test_one_that_comes_back_while_it_is_removed() -> None:
    objects = Memory()
    records = PlaneRecords(objects, "authority")
    gone = Plane("a", "x", NOW, 60.0)
    records.write(gone)
    back = Plane("a", "x", gone.over, 60.0)

    def come_back() -> None:
        objects.before_write = lambda: None
        records.write(back)

    objects.before_write = come_back
    records.prune(gone.over + 1.0)
    assert records.read().entries == [back]
    records.prune(back.over + 1.0)
    assert records.read().entries == []


def test_an_entry_that_nobody_understands_is_no_consent() -> None:
    objects = Memory()
    objects.write("configmaps", control_planes_name("authority"), {"a": '{"name": "a"}'})
    with pytest.raises(StoreError, match="not of a control plane of this version"):
        PlaneRecords(objects, "authority").read()
