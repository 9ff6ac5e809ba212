"""What `meshproxy ca` says."""

from __future__ import annotations

from meshproxy.cli._rotation_text import LISTED, describe, lines
from meshproxy.control.authority import Authority
from meshproxy.control.leaf import Leaf
from meshproxy.control.root_rotation import Hindrance, Obstacle, RootRotation
from meshproxy.control.rotator import State
from meshproxy.control_api import leaf_name

NOW = 1_000_000_000.0
OLD, NEW = Authority.create("m.example", NOW), Authority.create("m.example", NOW)
ROTATION = RootRotation.begin(OLD, NEW, NOW)


def leaf(number: int, **more: object) -> Leaf:
    name = leaf_name(b"%d" % number, NOW + 60.0)
    return Leaf(name, f"spiffe://m.example/ns/a/sa/s{number}", OLD.id, **more)  # type: ignore[arg-type]


def test_without_a_rotation() -> None:
    state = State(OLD, None, [leaf(1)], [], None)
    assert list(lines(state)) == [
        f"root {OLD.id} of m.example signs; no rotation is under way",
        "1 certificates are valid",
    ]
    assert describe(state) == {"trustDomain": "m.example", "signs": OLD.id, "rotation": None, "certificates": 1}


def test_those_who_lack_the_bundle_are_named() -> None:
    lacking = [leaf(2, sidecar="replica", peer="10.0.0.1:1"), leaf(3)]
    state = State(OLD, ROTATION, [leaf(1)], lacking, Obstacle(Hindrance.WITHOUT_BUNDLE, tuple(lacking), NOW + 61.0))
    assert list(lines(state)) == [
        "step 1 of 3, since 2001-09-09T01:46:40+00:00: the new root is in the trust bundle, the old one signs",
        f"old root {OLD.id}",
        f"new root {NEW.id}",
        "1 of 3 sidecars have this trust bundle",
        "without it:",
        "  spiffe://m.example/ns/a/sa/s2 (replica, 10.0.0.1:1), certificate until 2001-09-09T01:47:40+00:00",
        "  spiffe://m.example/ns/a/sa/s3, certificate until 2001-09-09T01:47:40+00:00",
        "next: the new root signs. Not safe before 2001-09-09T01:47:41+00:00, unless sidecars are sooner:",
        "  handshakes of these sidecars with others fail until they have the trust bundle",
    ]
    rotation = describe(state)["rotation"]
    assert isinstance(rotation, dict)
    assert (rotation["step"], rotation["oldRoot"], rotation["newRoot"]) == ("distribute", OLD.id, NEW.id)
    assert (rotation["withBundle"], rotation["nextStepIsSafe"]) == (1, False)
    assert rotation["obstacle"] == "without-bundle"
    assert rotation["withoutBundle"][0] == {
        "spiffeId": "spiffe://m.example/ns/a/sa/s2",
        "sidecar": "replica",
        "peer": "10.0.0.1:1",
        "certificate": lacking[0].name,
        "notAfter": "2001-09-09T01:47:40+00:00",
    }


def test_a_step_that_is_safe() -> None:
    state = State(OLD, ROTATION, [leaf(1)], [], None)
    assert list(lines(state))[-1] == "next, and safe now: the new root signs"
    rotation = describe(state)["rotation"]
    assert isinstance(rotation, dict)
    assert (rotation["nextStepIsSafe"], rotation["obstacle"], rotation["until"]) == (True, None, None)


def test_a_step_that_must_wait_for_certificates() -> None:
    old = leaf(1)
    state = State(OLD, ROTATION, [old], [], Obstacle(Hindrance.STILL_VALID, (old,), NOW + 61.0))
    assert list(lines(state))[-2:] == [
        "  nobody accepts these certificates any more, until their holders have renewed them:",
        "  spiffe://m.example/ns/a/sa/s1, certificate until 2001-09-09T01:47:40+00:00",
    ]


def test_many_are_cut_short() -> None:
    lacking = [leaf(number) for number in range(LISTED + 5)]
    state = State(OLD, ROTATION, [], lacking, Obstacle(Hindrance.WITHOUT_BUNDLE, tuple(lacking), NOW))
    assert "  ... and 5 more (-o json)" in lines(state)
