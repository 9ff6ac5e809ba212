from __future__ import annotations

from typing import Any

import pytest

from meshproxy.inference.body_scan import DEFAULT_LIMITS
from meshproxy.proxy.snapshot import BodyLimits, Snapshot


def test_a_snapshot_is_replaced_and_never_changed(world: Any) -> None:
    snapshot: Snapshot = world.snapshot
    with pytest.raises(AttributeError, match="immutable"):
        snapshot.forwards_identity = True  # type: ignore[misc]
    with pytest.raises(AttributeError, match="immutable"):
        snapshot.limits.scan_buffer = 1  # type: ignore[misc]


def test_one_body_is_a_small_share_of_what_all_may_hold() -> None:
    limits = BodyLimits()
    assert limits.scan_buffer * 8 <= limits.scan_buffer_total
    assert limits.scan is DEFAULT_LIMITS


def test_a_request_begun_is_carried_by_what_it_began_with(world: Any) -> None:
    client = world.rest(body=None, length=2)
    world.use(clusters={}, routes=None, policy=None, verifier=None)
    client.receive(b"{}", True)
    world.cluster.streams[0].respond()
    assert client.status == 200
    assert world.rest().status == 500  # the next one sees the new, which is of no use
