"""What `meshproxy ca` says about the root of a mesh."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from meshproxy.cli._local_page import printable
from meshproxy.control.root_rotation import STEPS, Hindrance, Step

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meshproxy.control.leaf import Leaf
    from meshproxy.control.plane import Plane
    from meshproxy.control.root_rotation import Obstacle, RootRotation
    from meshproxy.control.rotator import State

LISTED = 20
"""Certificates that are named; `-o json` has all."""

NOW = {
    Step.DISTRIBUTE: "the new root is in the trust bundle, the old one signs",
    Step.SIGN: "the new root signs, both are in the trust bundle",
    Step.RETIRE: "the old root has left the trust bundle",
}
NEXT = {
    Step.DISTRIBUTE: "the new root signs",
    Step.SIGN: "the old root leaves the trust bundle",
    Step.RETIRE: "the rotation ends, and the key of the old root is deleted",
}


def describe(state: State) -> dict[str, object]:
    """For `-o json`."""
    rotation, obstacle = state.rotation, state.obstacle
    described: dict[str, object] = {
        "trustDomain": state.authority.trust_domain,
        "signs": state.authority.id,
        "rotation": None,
        "certificates": len(state.having) + len(state.lacking),
    }
    if rotation is not None:
        old, new = rotation.ids()
        described["rotation"] = {
            "step": rotation.step.value,
            "since": _iso(rotation.since),
            "oldRoot": old,
            "newRoot": new,
            "withBundle": len(state.having),
            "withoutBundle": [_leaf(leaf) for leaf in state.lacking],
            "nextStepIsSafe": obstacle is None,
            "obstacle": None if obstacle is None else obstacle.hindrance.name.lower().replace("_", "-"),
            "concerned": [] if obstacle is None else [_leaf(leaf) for leaf in obstacle.leaves],
            "controlPlanes": [] if obstacle is None else [_plane(plane) for plane in obstacle.planes],
            "until": None if obstacle is None else _iso(obstacle.until),
        }
    return described


def lines(state: State) -> Iterator[str]:
    """For people."""
    rotation = state.rotation
    if rotation is None:
        yield f"root {state.authority.id} of {state.authority.trust_domain} signs; no rotation is under way"
        yield f"{len(state.having)} certificates are valid"
        return
    old, new = rotation.ids()
    yield f"step {STEPS.index(rotation.step) + 1} of {len(STEPS)}, since {_iso(rotation.since)}: {NOW[rotation.step]}"
    yield f"old root {old}"
    yield f"new root {new}"
    yield f"{len(state.having)} of {len(state.having) + len(state.lacking)} sidecars have this trust bundle"
    if state.lacking:
        yield "without it:"
        yield from _list(state.lacking)
    yield from before_next(rotation, state.obstacle)


def before_next(rotation: RootRotation, obstacle: Obstacle | None) -> Iterator[str]:
    """Whether the next step is safe."""
    if obstacle is None:
        yield f"next, and safe now: {NEXT[rotation.step]}"
        return
    sooner = "control planes" if obstacle.planes else "sidecars"
    yield f"next: {NEXT[rotation.step]}. Not safe before {_iso(obstacle.until)}, unless {sooner} are sooner:"
    # Those without the bundle are listed above.
    yield from why(obstacle, names=obstacle.hindrance is not Hindrance.WITHOUT_BUNDLE)


def why(obstacle: Obstacle, *, names: bool = True) -> Iterator[str]:
    """What a step would break, and for whom."""
    has_names = names and obstacle.leaves
    yield f"  {obstacle.hindrance.value}{':' if has_names or obstacle.planes else ''}"
    if has_names:
        yield from _list(obstacle.leaves)
    for plane in obstacle.planes:
        yield f"  control plane {plane.name}, last heard of {_iso(plane.confirmed)}"


def _list(leaves: Sequence[Leaf]) -> Iterator[str]:
    for leaf in leaves[:LISTED]:
        where = printable(", ".join(part for part in (leaf.sidecar, leaf.peer) if part))
        yield f"  {leaf.spiffe_id}{f' ({where})' if where else ''}, certificate until {_iso(leaf.not_after)}"
    if len(leaves) > LISTED:
        yield f"  ... and {len(leaves) - LISTED} more (-o json)"


def _plane(plane: Plane) -> dict[str, str]:
    return {"name": plane.name, "lastHeardOf": _iso(plane.confirmed), "over": _iso(plane.over)}


def _leaf(leaf: Leaf) -> dict[str, str]:
    return {
        "spiffeId": leaf.spiffe_id,
        "sidecar": leaf.sidecar,
        "peer": leaf.peer,
        "certificate": leaf.name,
        "notAfter": _iso(leaf.not_after),
    }


def _iso(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="seconds")
