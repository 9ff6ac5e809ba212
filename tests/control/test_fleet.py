"""All sidecars, and what is wrong with each."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from meshproxy.control.fleet import Concern, Level, members, minors_apart, renewal, short_identity, troubles
from meshproxy.control.status import SidecarEntry, SidecarState
from tests.control.statuses import NOW, ago, entry, status


def found(given: SidecarEntry) -> list[tuple[Concern, Level, str]]:
    return [(each.concern, each.level, each.text) for each in troubles(given, "0.1.0", NOW)]


@pytest.mark.parametrize(
    "given",
    [
        entry(),
        entry(SidecarState.BEHIND, sent_at=ago(5)),
        entry(SidecarState.BEHIND, since=ago(5)),
        entry(SidecarState.GONE, since=ago(30)),
        entry(software="0.2.7"),
        entry(certificate_issued=None, certificate_expires=ago(-1)),
        entry(certificate_issued=ago(17 * 3_600), certificate_expires=ago(-7 * 3_600)),
    ],
    ids=["in sync", "sent just now", "came just now", "lost just now", "next minor", "says nothing of it", "not due"],
)
def test_what_is_well(given: SidecarEntry) -> None:
    assert found(given) == []


@pytest.mark.parametrize(
    ("given", "concern", "level", "text"),
    [
        (
            entry(SidecarState.REFUSED, problems=("no server s", "x", "y")),
            *(Concern.REFUSED, Level.ERROR, "it has refused 01234567: no server s (and 2 more)"),
        ),
        (
            entry(SidecarState.REFUSED),
            *(Concern.REFUSED, Level.ERROR, "it has refused 01234567: it does not say why"),
        ),
        (
            entry(SidecarState.BEHIND, sent_at=ago(61)),
            *(Concern.BEHIND, Level.WARNING, "it has not answered for 1m 1s to 01234567"),
        ),
        (entry(SidecarState.GONE, since=ago(600)), Concern.GONE, Level.WARNING, "it was lost 10m ago"),
        (
            entry(certificate_issued=ago(19 * 3_600), certificate_expires=ago(-5 * 3_600)),
            *(Concern.CERTIFICATE, Level.WARNING, "its certificate expires in 5h, and its renewal is overdue"),
        ),
        (
            entry(certificate_issued=ago(21 * 3_600), certificate_expires=ago(-3 * 3_600)),
            *(Concern.CERTIFICATE, Level.ERROR, "its certificate expires in 3h, and its renewal is overdue"),
        ),
        (entry(certificate_expires=ago(90)), Concern.CERTIFICATE, Level.ERROR, "its certificate expired 1m 30s ago"),
        (entry(software="0.3.0"), Concern.VERSION, Level.WARNING, "it is 0.3.0"),
        (entry(software="1.1.0"), Concern.VERSION, Level.WARNING, "it is 1.1.0"),
        (entry(software=""), Concern.VERSION, Level.WARNING, "it is of no known version"),
    ],
)
def test_what_is_not(given: SidecarEntry, concern: Concern, level: Level, text: str) -> None:
    assert found(given) == [(concern, level, text)]


def test_renewal_is_overdue_only_after_it_was_due() -> None:
    """A sidecar asks after 57 to 67 % of the life of its certificate."""

    def after(share: float) -> Level:
        return renewal(ago(share * 900), ago(share * 900 - 900), NOW)[0]

    assert [after(share) for share in (0.0, 0.67, 0.74)] == [Level.WELL] * 3
    assert [after(share) for share in (0.76, 0.83)] == [Level.WARNING] * 2
    assert [after(share) for share in (0.84, 1.0, 2.0)] == [Level.ERROR] * 3


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        ("0.1.0", "0.1.9", 0),
        ("0.1.0", "0.2.0.dev3+g1", 1),
        ("0.3", "0.1.0", 2),
        ("1.1.0", "0.1.0", None),
        ("", "0.1.0", None),
        ("x.y", "0.1.0", None),
    ],
)
def test_how_far_versions_are_apart(one: str, other: str, apart: int | None) -> None:
    assert minors_apart(one, other) == apart
    assert minors_apart(other, one) == apart


def test_the_worst_come_first() -> None:
    everyone = [
        entry(host="b"),
        entry(host="a"),
        entry(SidecarState.BEHIND, host="c", sent_at=NOW),
        entry(SidecarState.GONE, host="d"),
        entry(SidecarState.REFUSED, host="e"),
    ]
    assert [each.entry.host for each in members({"x": status(*everyone)})] == ["e", "d", "c", "a", "b"]


def named(**statuses: Any) -> list[tuple[str, str, str]]:
    return [(each.control, each.entry.host, each.entry.state.value) for each in members(statuses)]


def test_one_that_has_changed_over_is_not_gone() -> None:
    a = status(entry(SidecarState.GONE, host="1"), entry(host="2"), entry(SidecarState.GONE, host="3"))
    b = status(entry(host="1"), entry(SidecarState.GONE, host="3", since=ago(50)))
    assert named(a=a, b=b) == [("b", "3", "gone"), ("b", "1", "in-sync"), ("a", "2", "in-sync")]


def test_replicas_on_one_host_are_all_shown() -> None:
    assert len(named(a=status(entry(peer="10.0.0.1:1"), entry(peer="10.0.0.1:2")))) == 2


def test_without_a_host_the_address_tells_sidecars_apart() -> None:
    gone = entry(SidecarState.GONE, host="", peer="10.0.0.1:1")
    assert named(a=status(gone, entry(host="", peer="10.0.0.1:2"))) == [("a", "", "in-sync")]
    assert len(named(a=status(gone, entry(host="", peer="10.0.0.2:2")))) == 2


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({}, "models/resnet (resnet, resnet-0)"),
        ({"host": ""}, "models/resnet (resnet, 10.0.0.1:4711)"),
        ({"sidecar": "", "spiffe_id": "spiffe://m.example/x"}, "spiffe://m.example/x (resnet-0)"),
    ],
)
def test_names(given: dict[str, Any], name: str) -> None:
    (member,) = members({"a": status(entry(**given))})
    assert member.name == name


def test_identities_of_other_forms_are_shown_as_they_are() -> None:
    assert short_identity("spiffe://d/ns/a/x/b") == "spiffe://d/ns/a/x/b"


def test_ages_are_by_the_clock_of_the_control_plane() -> None:
    late = datetime.fromtimestamp(NOW.timestamp() + 1_000, NOW.tzinfo)
    (member,) = members({"a": status(entry(SidecarState.BEHIND, sent_at=late), now=late)})
    assert member.troubles == ()
