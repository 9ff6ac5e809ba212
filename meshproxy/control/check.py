"""What is wrong with a mesh, and what to do next: from what its control planes say to findings, and nothing else."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshproxy.control.fleet import (
    Concern,
    Level,
    Member,
    members,
    minors_apart,
    renewal,
    short_identity,
)
from meshproxy.telemetry.timestamps import duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from meshproxy.control.status import ControlStatus

CLOCK_WARNING = 30.0
CLOCK_ERROR = 300.0
"""Seconds. Certificates are valid from ten minutes before they are issued; tokens have less."""
AUTHORITY_WARNING = 30 * 86_400.0
"""Seconds before it expires: replacing it takes a renewal of every certificate."""
ROTATION_LIVES = 2.0
"""How long a step of a root rotation takes at most, in lives of a certificate; each waits for all to be renewed."""
REFUSALS_SECONDS = 600.0
"""How long a refused certificate is news."""
TOKEN_SECONDS = 120.0
"""A join token that lives for less is worth a word: whoever was to use it has not come."""
NAMED = 3
"""Sidecars, problems and the like that one finding names."""

CONTROL, IDENTITIES, DOCUMENTS, SIDECARS = "control plane", "identities", "documents", "sidecars"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of asking a control plane.

    Attributes:
        address: where it was asked.
        asked: when, by the clock of this host.
        status: None if there is none.
        problem: why there is none.
        unready: what it lacks to be ready; empty if it is.
    """

    address: str
    asked: datetime
    status: ControlStatus | None = None
    problem: str = ""
    unready: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        section: what it is about.
        check: what should be so.
        level: whether it is.
        problem: in what way it is not; empty if it is.
        hint: what to do next.
    """

    section: str
    check: str
    level: Level = Level.WELL
    problem: str = ""
    hint: str = ""


def check(answers: Sequence[Answer], software: str) -> list[Finding]:
    """The findings of every check that can be made.

    Args:
        answers: one for each control plane of the mesh.
        software: the version of meshproxy that asks.
    """
    several = len(answers) > 1
    found: list[Finding] = []
    for answer in answers:
        found += _control(answer, f" ({answer.address})" if several else "", software)
    known = [answer for answer in answers if answer.status is not None]
    if len(known) > 1:
        found.append(_same_authority(known))
    for answer in known:
        found += _identities(answer, f" ({answer.address})" if several else "")
    fleet = members({answer.address: answer.status for answer in known if answer.status is not None})
    if known:
        found.append(_certificates(fleet))
        found += _documents(known, fleet)
        found += _services(known)
        found += _sidecars(known, fleet)
    return sorted(found, key=lambda finding: (CONTROL, IDENTITIES, DOCUMENTS, SIDECARS).index(finding.section))


def worst(findings: Iterable[Finding]) -> Level:
    """The level of the worst finding."""
    return max((finding.level for finding in findings), default=Level.WELL)


def _control(answer: Answer, which: str, software: str) -> Iterator[Finding]:
    """Whether it is there, and in order itself."""
    answers = f"the control plane answers{which}"
    status = answer.status
    if status is None:
        hint = "start it (meshproxy control run), or name its web port (--control HOST:PORT)"
        yield Finding(CONTROL, answers, Level.ERROR, answer.problem, hint)
        return
    yield Finding(CONTROL, answers)
    ready = f"it is ready{which}"
    if answer.unready:
        yield Finding(CONTROL, ready, Level.ERROR, answer.unready, "see its log")
    else:
        yield Finding(CONTROL, ready)
    yield _clock(answer, status, which)
    level, text = renewal(status.certificate_issued, status.certificate_expires, status.now)
    check = f"its own certificate is renewed in time{which}"
    yield Finding(CONTROL, check, level, f"it {text}" if text else "", "see its log, and restart it" if text else "")
    check = f"what it keeps can be read{which}"
    if status.store_problem:
        yield Finding(CONTROL, check, Level.ERROR, status.store_problem, "mend the folder of `meshproxy control run`")
    else:
        yield Finding(CONTROL, check)
    apart = minors_apart(software, status.software)
    check = f"its version is at most one minor from this command's{which}"
    if apart is None or apart > 1:
        problem = f"it is {status.software}, and this command is {software}"
        yield Finding(CONTROL, check, Level.WARNING, problem, "upgrade the older one; one minor version at a time")
    else:
        yield Finding(CONTROL, check)


def _clock(answer: Answer, status: ControlStatus, which: str) -> Finding:
    check = f"its clock agrees with this host's{which}"
    ahead = (status.now - answer.asked).total_seconds()
    if abs(ahead) < CLOCK_WARNING:
        return Finding(CONTROL, check)
    problem = f"it is {duration(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} this host's"
    level = Level.ERROR if abs(ahead) >= CLOCK_ERROR else Level.WARNING
    return Finding(CONTROL, check, level, problem, "synchronise both: timedatectl status, chronyc tracking")


def _same_authority(known: Sequence[Answer]) -> Finding:
    check = "all control planes have the same authority"
    if len({(answer.status.trust_domain, answer.status.authority) for answer in known if answer.status}) == 1:
        return Finding(CONTROL, check)
    shown = ", ".join(f"{answer.address} has {answer.status.authority[:8]}" for answer in known if answer.status)
    hint = "give all of them the same folder: certificates of one are not accepted at the other"
    return Finding(CONTROL, check, Level.ERROR, shown, hint)


def _identities(answer: Answer, which: str) -> Iterator[Finding]:
    """Whether certificates can be issued, and are."""
    status = answer.status
    assert status is not None
    left = (status.authority_expires - status.now).total_seconds()
    check = f"the authority is valid for a month at least{which}"
    hint = "replace it: meshproxy ca rotate --folder FOLDER (docs/root-rotation.md)"
    if left <= status.lifetime_seconds:
        problem = f"it expired {duration(-left)} ago" if left <= 0 else f"it expires in {duration(left)}"
        yield Finding(IDENTITIES, check, Level.ERROR, f"{problem}: certificates cannot outlive it", hint)
    elif left < AUTHORITY_WARNING:
        yield Finding(IDENTITIES, check, Level.WARNING, f"it expires in {duration(left)}", hint)
    else:
        yield Finding(IDENTITIES, check)
    yield _rotation(status, f"no root rotation is left half done{which}")
    yield _refusals(status, f"no certificate was refused lately{which}")
    yield _tokens(status, f"no join token is about to expire unused{which}")


def _rotation(status: ControlStatus, check: str) -> Finding:
    if status.rotation_since is None:
        return Finding(IDENTITIES, check)
    seconds = (status.now - status.rotation_since).total_seconds()
    if seconds <= ROTATION_LIVES * status.lifetime_seconds:
        return Finding(IDENTITIES, check)
    problem = f"it has been at the step {status.rotation_step} for {duration(seconds)}"
    return Finding(
        IDENTITIES, check, Level.WARNING, problem, "see what it waits for: meshproxy ca status --folder FOLDER"
    )


def _refusals(status: ControlStatus, check: str) -> Finding:
    lately = [each for each in status.refusals if (status.now - each.at).total_seconds() < REFUSALS_SECONDS]
    if not lately:
        return Finding(IDENTITIES, check)
    reasons = ", ".join(f"{reason} {count}" for reason, count in Counter(each.reason for each in lately).most_common())
    last = lately[0]
    who = short_identity(last.spiffe_id) if last.spiffe_id is not None else "a workload without a certificate"
    problem = f"{len(lately)} in {duration(REFUSALS_SECONDS)} ({reasons}); the last to {who} at {last.peer}: "
    return Finding(IDENTITIES, check, Level.WARNING, problem + last.problem, _hint_of_refusal(last.reason))


def _hint_of_refusal(reason: str) -> str:
    if reason in ("join-token", "unattested", "expired"):
        return "make it a new join token: meshproxy control join-token --folder FOLDER --identity SPIFFE-ID"
    return "see the log of that sidecar and of the control plane"


def _tokens(status: ControlStatus, check: str) -> Finding:
    soon = [token for token in status.waiting_tokens if (token.expires - status.now).total_seconds() < TOKEN_SECONDS]
    if not soon:
        return Finding(IDENTITIES, check)
    shown = _some(
        f"{short_identity(token.identity)} in {duration((token.expires - status.now).total_seconds())}"
        for token in soon
    )
    hint = "start those workloads, or make new tokens (meshproxy control join-token --expires ...)"
    return Finding(IDENTITIES, check, Level.WARNING, f"{len(soon)}: {shown}", hint)


def _certificates(fleet: Sequence[Member]) -> Finding:
    hint = "see the log of those sidecars: can they reach the control plane, and write their folder?"
    return _of_members(IDENTITIES, Concern.CERTIFICATE, fleet, hint)


def _documents(known: Sequence[Answer], fleet: Sequence[Member]) -> Iterator[Finding]:
    """Whether what is written is what is in force."""
    statuses = [(answer.address, answer.status) for answer in known if answer.status is not None]
    giving = [(address, status.documents) for address, status in statuses if status.documents is not None]
    check = "the documents have no problems"
    if not giving:
        yield Finding(DOCUMENTS, "the control plane gives documents, or sidecars have their own")
        return
    broken = [(address, documents.problems) for address, documents in giving if documents.problems]
    if broken:
        address, problems = broken[0]
        where = f"at {address}: " if len(known) > 1 else ""
        hint = "mend them (meshproxy config check PATH); sidecars keep the previous ones until then"
        yield Finding(DOCUMENTS, check, Level.ERROR, where + _some(problems), hint)
    else:
        yield Finding(DOCUMENTS, check)
    check = "the control plane sees changes of the documents"
    blind = [(address, documents.source_problem) for address, documents in giving if documents.source_problem]
    if blind:
        address, problem = blind[0]
        where = f"at {address}: " if len(known) > 1 else ""
        hint = "see to the API server, and to the rights and kinds of deploy/kubernetes; what is known stays in force"
        yield Finding(DOCUMENTS, check, Level.WARNING, where + problem, hint)
    else:
        yield Finding(DOCUMENTS, check)
    if len(known) > 1:
        check = "all control planes give the same documents"
        if len(giving) == len(known) and len({documents.version for _, documents in giving}) == 1:
            yield Finding(DOCUMENTS, check)
        else:
            shown = ", ".join(
                f"{address} {status.documents.version[:8] if status.documents else 'none'}"
                for address, status in statuses
            )
            yield Finding(DOCUMENTS, check, Level.WARNING, shown, "give all of them the same files (--documents)")
    hint = "mend the documents, or the document of that sidecar (meshproxy config check PATH)"
    yield _of_members(DOCUMENTS, Concern.REFUSED, fleet, hint)
    yield _of_members(DOCUMENTS, Concern.BEHIND, fleet, "see the log of those sidecars")


def _services(known: Sequence[Answer]) -> Iterator[Finding]:
    """Whether sidecars are given endpoints of the Services that documents name. What one control plane knows is enough
    for the sidecars that are connected to it, so each is looked at."""
    found = [
        (f"{answer.address}: " if len(known) > 1 else "", service)
        for answer in known
        if answer.status is not None
        for service in answer.status.services
    ]
    if not found:
        return
    check = "the endpoints of all Services are known"
    problems = [where + service.problem for where, service in found if service.problem]
    if problems:
        hint = "sidecars keep those that they had; kubectl get endpointslices -A -l kubernetes.io/service-name"
        yield Finding(DOCUMENTS, check, Level.ERROR, f"{len(problems)}: {_some(problems)}", hint)
    else:
        yield Finding(DOCUMENTS, check)
    check = "all Services have endpoints"
    empty = [where + service.service for where, service in found if not service.endpoints and not service.problem]
    if empty:
        hint = "are their pods ready? kubectl get pods; calls to them are refused (no-upstream)"
        yield Finding(DOCUMENTS, check, Level.WARNING, f"{len(empty)} have none: {_some(empty)}", hint)
    else:
        yield Finding(DOCUMENTS, check)


def _sidecars(known: Sequence[Answer], fleet: Sequence[Member]) -> Iterator[Finding]:
    other = " If there is another control plane, name it too (--control): they may be connected there."
    hint = "look at them: meshproxy proxy-status, then the logs of their hosts."
    found = _of_members(SIDECARS, Concern.GONE, fleet, hint + (other if len(known) == 1 else ""))
    forgotten = sum(answer.status.forgotten for answer in known if answer.status is not None)
    if forgotten:
        problem = f"{found.problem or 'some were lost'}; {forgotten} more are not listed any more"
        found = Finding(SIDECARS, found.check, Level.WARNING, problem, hint)
    yield found
    yield _of_members(SIDECARS, Concern.VERSION, fleet, "upgrade them, or the control plane, one minor at a time")


def _of_members(section: str, concern: Concern, fleet: Sequence[Member], hint: str) -> Finding:
    """A finding on all sidecars."""
    found = [(member, trouble) for member in fleet for trouble in member.troubles if trouble.concern is concern]
    if not found:
        return Finding(section, concern.value)
    problem = f"{len(found)} of {len(fleet)} sidecars: " + _some(
        f"{member.name}: {trouble.text}" for member, trouble in found
    )
    return Finding(section, concern.value, max(trouble.level for _, trouble in found), problem, hint)


def _some(texts: Iterable[str]) -> str:
    first: list[str] = []
    more = 0
    for text in texts:
        if len(first) < NAMED:
            first.append(text)
        else:
            more += 1
    return "; ".join(first) + (f"; and {more} more" if more else "")
