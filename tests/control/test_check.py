"""Findings, one fault at a time."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from meshproxy.control.check import Answer, check
from meshproxy.control.finding import Finding, worst
from meshproxy.control.fleet import Level
from meshproxy.control.status import DocumentsEntry, Refusal, ServiceEntry, SidecarState, WaitingToken
from tests.control.statuses import NOW, VERSION, ago, answer, entry, status
from tests.view.meshes import mesh


def bad(*answers: Answer) -> list[Finding]:
    """The findings that are not well."""
    findings = check(answers, "0.1.0")
    assert all(bool(each.problem) == bool(each.level) == bool(each.hint) for each in findings)
    return [each for each in findings if each.level]


def one(*answers: Answer) -> Finding:
    (finding,) = bad(*answers)
    return finding


def test_a_mesh_that_is_well() -> None:
    findings = check([answer(status(entry()))], "0.1.0")
    assert worst(findings) is Level.WELL
    assert [each.section for each in findings] == sorted(
        (each.section for each in findings), key=["control plane", "identities", "documents", "sidecars"].index
    )
    assert len({each.check for each in findings}) == len(findings) == 19


def test_nobody_answers() -> None:
    finding = one(answer(problem="nothing answers at 127.0.0.1:18512: Connection refused"))
    assert (finding.level, finding.check) == (Level.ERROR, "the control plane answers")
    assert "meshproxy control run" in finding.hint
    assert worst([finding]) is Level.ERROR


@pytest.mark.parametrize(("seconds", "is_well"), [(86_400, True), (2 * 86_400, True), (2 * 86_400 + 60, False)])
def test_a_root_rotation(seconds: float, is_well: bool) -> None:
    found = bad(answer(status(rotation_step="sign", rotation_since=ago(seconds))))
    assert [(each.level, each.problem) for each in found] == (
        [] if is_well else [(Level.WARNING, "it has been at the step sign for 2d 1m")]
    )


@pytest.mark.parametrize(
    ("silent", "level", "problem"),
    [
        (299, Level.WELL, ""),
        (300, Level.WARNING, "not for 5m; in 23h 55m it issues nothing"),
        (43_199, Level.WARNING, "not for 11h 59m; in 12h 1s it issues nothing"),
        (43_200, Level.ERROR, "not for 12h; in 12h it issues nothing"),
        (86_400, Level.ERROR, "not for 1d; it issues nothing any more"),
        (90_000, Level.ERROR, "not for 1d 1h; it issues nothing any more"),
    ],
)
def test_what_it_issues_is_recorded(silent: float, level: Level, problem: str) -> None:
    page = status(issues_until=ago(silent - 86_400), records_used=0.0)
    finding = next(each for each in check([answer(page)], "0.1.0") if "is recorded" in each.check)
    assert (finding.level, finding.problem) == (level, problem)


@pytest.mark.parametrize(
    ("used", "level", "problem"),
    [
        (0.79, Level.WELL, ""),
        (0.8, Level.WARNING, "the fullest ConfigMap is 80% full"),
        (0.95, Level.ERROR, "the fullest ConfigMap is 95% full"),
    ],
)
def test_room_for_records(used: float, level: Level, problem: str) -> None:
    finding = next(each for each in check([answer(status(records_used=used))], "0.1.0") if "room" in each.check)
    assert (finding.level, finding.problem) == (level, problem)


def test_it_is_not_ready() -> None:
    finding = one(answer(status(), unready="/readyz answers 503: no authority"))
    assert (finding.level, finding.problem) == (Level.ERROR, "/readyz answers 503: no authority")


@pytest.mark.parametrize(
    ("seconds", "level", "problem"),
    [
        (29, Level.WELL, ""),
        (-29, Level.WELL, ""),
        (31, Level.WARNING, "it is 31s ahead of this host's"),
        (-61, Level.WARNING, "it is 1m 1s behind this host's"),
        (-300, Level.ERROR, "it is 5m behind this host's"),
    ],
)
def test_clocks(seconds: float, level: Level, problem: str) -> None:
    asked = NOW - timedelta(seconds=seconds)
    finding = next(each for each in check([Answer("a:1", asked, status())], "0.1.0") if "clock" in each.check)
    assert (finding.level, finding.problem) == (level, problem)


@pytest.mark.parametrize(
    ("more", "check", "level", "problem"),
    [
        (
            {"certificate_issued": ago(90), "certificate_expires": ago(-10)},
            *("it", Level.ERROR, "it expires in 10s, and its renewal is overdue"),
        ),
        ({"store_problem": "the disk is gone"}, "what it keeps", Level.ERROR, "the disk is gone"),
        ({"software": "0.3.0"}, "its version", Level.WARNING, "it is 0.3.0, and this command is 0.1.0"),
        ({"authority_expires": ago(-86_401 * 2)}, "the authority", Level.WARNING, "it expires in 2d 2s"),
        (
            {"authority_expires": ago(-3_600)},
            *("the authority", Level.ERROR, "it expires in 1h: certificates cannot outlive it"),
        ),
        (
            {"authority_expires": ago(60)},
            *("the authority", Level.ERROR, "it expired 1m ago: certificates cannot outlive it"),
        ),
        (
            {"waiting_tokens": (WaitingToken(identity="spiffe://m.example/ns/a/sa/b", expires=ago(-60)),)},
            *("no join token", Level.WARNING, "1: a/b in 1m"),
        ),
        (
            {"documents": DocumentsEntry(version=VERSION, problems=("p1", "p2", "p3", "p4", "p5"))},
            *("the documents", Level.ERROR, "p1; p2; p3; and 2 more"),
        ),
        (
            {"documents": DocumentsEntry(version=VERSION, source_problem="ModelRole: 403 Forbidden")},
            *("the control plane sees", Level.WARNING, "ModelRole: 403 Forbidden"),
        ),
        (
            {
                "document_refusals": tuple(
                    Refusal(at=ago(seconds), reason="scope", problem="a/b is no server", peer="h:1")
                    for seconds in (5, 601)
                )
            },
            *("sidecars ask for", Level.WARNING, "1 in 10m; the last: a/b is no server"),
        ),
        (
            {"reports": mesh(20, NOW.timestamp()).reports(NOW.timestamp() + 12.0)},
            *("sidecars report", Level.WARNING, "1 sidecar processes have fallen silent: what they carry is missing"),
        ),
        ({"forgotten": 4}, "sidecars stay", Level.WARNING, "some were lost; 4 more are not listed any more"),
    ],
)
def test_what_a_control_plane_says_of_itself(more: dict[str, Any], check: str, level: Level, problem: str) -> None:
    finding = one(answer(status(**more)))
    assert finding.check.startswith(check)
    assert (finding.level, finding.problem) == (level, problem)


def refusal(reason: str, seconds: float, spiffe_id: str | None = None) -> Refusal:
    return Refusal(at=ago(seconds), reason=reason, problem="it was used before", peer="10.0.0.9:1", spiffe_id=spiffe_id)


def test_refusals() -> None:
    lately = (refusal("join-token", 5), refusal("rate", 6), refusal("rate", 7), refusal("key", 601))
    finding = one(answer(status(refusals=lately)))
    assert finding.level is Level.WARNING
    assert finding.problem == (
        "3 in 10m (rate 2, join-token 1); the last to a workload without a certificate at 10.0.0.9:1: it was used"
        " before"
    )
    assert "meshproxy control join-token" in finding.hint
    finding = one(answer(status(refusals=(refusal("rate", 5, "spiffe://m.example/ns/a/sa/b"),))))
    assert "the last to a/b at" in finding.problem
    assert "see the log" in finding.hint
    assert bad(answer(status(refusals=(refusal("rate", 601),)))) == []


def test_tokens_that_have_time_are_no_matter() -> None:
    token = WaitingToken(identity="spiffe://m.example/ns/a/sa/b", expires=ago(-121))
    assert bad(answer(status(waiting_tokens=(token,)))) == []


def test_sidecars_are_counted_and_some_are_named() -> None:
    refused = [entry(SidecarState.REFUSED, host=f"h{number}", problems=("bad",)) for number in range(5)]
    finding = one(answer(status(entry(), *refused)))
    assert (finding.section, finding.level) == ("documents", Level.ERROR)
    assert finding.problem == (
        "5 of 6 sidecars: models/resnet (resnet, h0): it has refused 01234567: bad; models/resnet (resnet, h1): it has"
        " refused 01234567: bad; models/resnet (resnet, h2): it has refused 01234567: bad; and 2 more"
    )


@pytest.mark.parametrize(
    ("given", "section", "level"),
    [
        (entry(SidecarState.BEHIND), "documents", Level.WARNING),
        (entry(SidecarState.GONE), "sidecars", Level.WARNING),
        (entry(software="0.9.0"), "sidecars", Level.WARNING),
        (entry(certificate_expires=ago(5)), "identities", Level.ERROR),
    ],
)
def test_each_concern_has_its_place(given: Any, section: str, level: Level) -> None:
    finding = one(answer(status(given)))
    assert (finding.section, finding.level) == (section, level)


def test_a_lost_sidecar_may_be_at_another_control_plane() -> None:
    assert "another control plane" in one(answer(status(entry(SidecarState.GONE)))).hint
    other = answer(status(), "127.0.0.1:2")
    assert "another control plane" not in one(answer(status(entry(SidecarState.GONE))), other).hint


def test_without_documents_there_is_nothing_to_say_of_them() -> None:
    assert bad(answer(status(documents=None))) == []


def service(name: str, endpoints: int, problem: str = "") -> ServiceEntry:
    return ServiceEntry(service=f"models/{name}", endpoints=endpoints, sidecars=1, problem=problem)


def test_services() -> None:
    assert bad(answer(status(entry(), services=(service("a", 1), service("b", 2))))) == []
    unknown = service("b", 0, "Service models/b: there is none, or it has no EndpointSlice")
    finding = one(answer(status(entry(), services=(service("a", 1), unknown))))
    assert (finding.section, finding.level) == ("documents", Level.ERROR)
    assert finding.problem == "1: Service models/b: there is none, or it has no EndpointSlice"
    finding = one(answer(status(entry(), services=(service("a", 0), service("b", 1)))))
    assert (finding.level, finding.problem) == (Level.WARNING, "1 have none: models/a")


def test_two_control_planes_that_agree() -> None:
    findings = check([answer(status(entry())), answer(status(), "127.0.0.1:2")], "0.1.0")
    assert worst(findings) is Level.WELL
    assert len({each.check for each in findings}) == len(findings)
    assert {"all control planes have the same authority", "all control planes give the same documents"} < {
        each.check for each in findings
    }


@pytest.mark.parametrize(
    ("more", "level", "problem"),
    [
        ({"authority": "b" * 64}, Level.ERROR, "127.0.0.1:18512 has aaaaaaaa, 127.0.0.1:2 has bbbbbbbb"),
        (
            {"documents": DocumentsEntry(version="fedcba9876")},
            *(Level.WARNING, "127.0.0.1:18512 01234567, 127.0.0.1:2 fedcba98"),
        ),
        ({"documents": None}, Level.WARNING, "127.0.0.1:18512 01234567, 127.0.0.1:2 none"),
        (
            {"documents": DocumentsEntry(version=VERSION, problems=("p",))},
            *(Level.ERROR, "at 127.0.0.1:2: p"),
        ),
    ],
)
def test_two_control_planes_that_differ(more: dict[str, Any], level: Level, problem: str) -> None:
    finding = one(answer(status()), answer(status(**more), "127.0.0.1:2"))
    assert (finding.level, finding.problem) == (level, problem)


def test_one_of_two_is_away() -> None:
    finding = one(answer(status(entry())), answer(None, "127.0.0.1:2", problem="refused"))
    assert finding.check == "the control plane answers (127.0.0.1:2)"
