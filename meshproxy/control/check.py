"""What is wrong with a mesh, and what to do next: from what its control planes say to findings, and nothing else."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshproxy.control.finding import Finding, agreeing_clocks, judged, some
from meshproxy.control.fleet import Concern, Level, Member, are_compatible, members, renewal, short_identity
from meshproxy.control.plane import SIGNS_ON
from meshproxy.telemetry.timestamps import duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from meshproxy.control.status import ControlStatus, Refusal

    Known = Sequence[tuple[str, ControlStatus]]
    """The control planes that say something, by their addresses."""

AUTHORITY_WARNING = 30 * 86_400.0
"""Seconds before it expires: replacing it takes a renewal of every certificate."""
ROTATION_LIVES = 2.0
"""How long a step of a root rotation takes at most, in lives of a certificate; each waits for all to be renewed."""
REFUSALS_SECONDS = 600.0
"""How long a refused certificate is news."""
TOKEN_SECONDS = 120.0
"""A join token that lives for less is worth a word: whoever was to use it has not come."""

SILENT_SECONDS = 300.0
"""For which what is issued may not be recorded: an API server that is replaced is away for less."""
ROOM_WARNING, ROOM_ERROR = 0.8, 0.95
"""Of a ConfigMap."""
WHERE = "with --folder or --authority-secret"

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
    known = [(answer.address, answer.status) for answer in answers if answer.status is not None]
    if len(known) > 1:
        found.append(_same_authority(known))
    for address, status in known:
        found += _identities(status, f" ({address})" if several else "")
    fleet = members(dict(known))
    if known:
        found.append(_certificates(fleet))
        found += _documents(known, fleet)
        found += _services(known)
        found += _sidecars(known, fleet)
    return sorted(found, key=lambda finding: (CONTROL, IDENTITIES, DOCUMENTS, SIDECARS).index(finding.section))


def _control(answer: Answer, which: str, software: str) -> Iterator[Finding]:
    """Whether it is there, and in order itself."""
    answers = f"the control plane answers{which}"
    status = answer.status
    if status is None:
        hint = (
            "start it (meshproxy control run), or name its web port, with --login its port of commands"
            " (--control HOST:PORT)"
        )
        yield Finding(CONTROL, answers, Level.ERROR, answer.problem, hint)
        return
    yield Finding(CONTROL, answers)
    yield judged(CONTROL, f"it is ready{which}", answer.unready, "see its log")
    ahead = (status.now - answer.asked).total_seconds()
    yield agreeing_clocks(CONTROL, f"its clock agrees with this host's{which}", ahead)
    level, text = renewal(status.certificate_issued, status.certificate_expires, status.now)
    check = f"its own certificate is renewed in time{which}"
    yield judged(CONTROL, check, f"it {text}" if text else "", "see its log, and restart it", level)
    check, hint = (
        f"what it keeps can be read{which}",
        "mend the folder of `meshproxy control run`, or see to the API server of the cluster",
    )
    yield judged(CONTROL, check, status.store_problem, hint)
    check = f"its version is at most one minor from this command's{which}"
    hint = "upgrade the older one; one minor version at a time"
    apart = f"it is {status.software}, and this command is {software}"
    problem = "" if are_compatible(software, status.software) else apart
    yield judged(CONTROL, check, problem, hint, Level.WARNING)


def _same_authority(known: Known) -> Finding:
    is_same = len({(status.trust_domain, status.authority) for _, status in known}) == 1
    problem = "" if is_same else ", ".join(f"{address} has {status.authority[:8]}" for address, status in known)
    hint = "give all of them the same folder: certificates of one are not accepted at the other"
    return judged(CONTROL, "all control planes have the same authority", problem, hint)


def _identities(status: ControlStatus, which: str) -> Iterator[Finding]:
    """Whether certificates can be issued, and are."""
    left = (status.authority_expires - status.now).total_seconds()
    check = f"the authority is valid for a month at least{which}"
    hint = f"replace it: meshproxy ca rotate {WHERE} (docs/root-rotation.md)"
    if left <= status.lifetime_seconds:
        problem = f"it expired {duration(-left)} ago" if left <= 0 else f"it expires in {duration(left)}"
        yield Finding(IDENTITIES, check, Level.ERROR, f"{problem}: certificates cannot outlive it", hint)
    elif left < AUTHORITY_WARNING:
        yield Finding(IDENTITIES, check, Level.WARNING, f"it expires in {duration(left)}", hint)
    else:
        yield Finding(IDENTITIES, check)
    yield _rotation(status, f"no root rotation is left half done{which}")
    if status.issues_until is not None:
        yield _recording(status, status.issues_until, f"what it issues is recorded{which}")
    if status.records_used is not None:
        yield _room(status.records_used, f"there is room for the records of certificates{which}")
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
        IDENTITIES,
        check,
        Level.WARNING,
        problem,
        f"see what it waits for: meshproxy ca status {WHERE}",
    )


def _recording(status: ControlStatus, until: datetime, check: str) -> Finding:
    """Others can know of what it issues; one that cannot say so issues for a day."""
    left = (until - status.now).total_seconds()
    silent = SIGNS_ON - left
    if silent < SILENT_SECONDS:
        return Finding(IDENTITIES, check)
    what = f"in {duration(left)} it issues nothing" if left > 0 else "it issues nothing any more"
    level = Level.WARNING if left > SIGNS_ON / 2 else Level.ERROR
    hint = "see its log: the API server is away, or the ConfigMaps beside the Secret are full or may not be written"
    return Finding(IDENTITIES, check, level, f"not for {duration(silent)}; {what}", hint)


def _room(used: float, check: str) -> Finding:
    if used < ROOM_WARNING:
        return Finding(IDENTITIES, check)
    level = Level.WARNING if used < ROOM_ERROR else Level.ERROR
    hint = (
        "restart the control planes with a shorter --lifetime: certificates of workloads that are gone take a place"
        " until they expire"
    )
    return Finding(IDENTITIES, check, level, f"the fullest ConfigMap is {used:.0%} full", hint)


def _refusals(status: ControlStatus, check: str) -> Finding:
    lately = _lately(status, status.refusals)
    if not lately:
        return Finding(IDENTITIES, check)
    reasons = ", ".join(f"{reason} {count}" for reason, count in Counter(each.reason for each in lately).most_common())
    last = lately[0]
    who = short_identity(last.spiffe_id) if last.spiffe_id is not None else "a workload without a certificate"
    problem = f"{len(lately)} in {duration(REFUSALS_SECONDS)} ({reasons}); the last to {who} at {last.peer}: "
    return Finding(IDENTITIES, check, Level.WARNING, problem + last.problem, _hint_of_refusal(last.reason))


def _lately(status: ControlStatus, refusals: Iterable[Refusal]) -> list[Refusal]:
    """By the clock of the control plane that has refused."""
    return [each for each in refusals if (status.now - each.at).total_seconds() < REFUSALS_SECONDS]


def _hint_of_refusal(reason: str) -> str:
    if reason in ("join-token", "unattested", "expired"):
        return f"make it a new join token: meshproxy control join-token --identity SPIFFE-ID, {WHERE}"
    return "see the log of that sidecar and of the control plane"


def _tokens(status: ControlStatus, check: str) -> Finding:
    soon = [token for token in status.waiting_tokens if (token.expires - status.now).total_seconds() < TOKEN_SECONDS]
    if not soon:
        return Finding(IDENTITIES, check)
    shown = some(
        f"{short_identity(token.identity)} in {duration((token.expires - status.now).total_seconds())}"
        for token in soon
    )
    hint = "start those workloads, or make new tokens (meshproxy control join-token --expires ...)"
    return Finding(IDENTITIES, check, Level.WARNING, f"{len(soon)}: {shown}", hint)


def _certificates(fleet: Sequence[Member]) -> Finding:
    hint = "see the log of those sidecars: can they reach the control plane, and write their folder?"
    return _of_members(IDENTITIES, Concern.CERTIFICATE, fleet, hint)


def _documents(known: Known, fleet: Sequence[Member]) -> Iterator[Finding]:
    """Whether what is written is what is in force."""
    giving = [(address, status.documents) for address, status in known if status.documents is not None]
    if not giving:
        yield Finding(DOCUMENTS, "the control plane gives documents, or sidecars have their own")
        return
    where = "at {}: " if len(known) > 1 else ""
    broken = (where.format(address) + some(each.problems) for address, each in giving if each.problems)
    hint = "mend them (meshproxy config check --partial PATH); sidecars keep the previous ones until then"
    yield judged(DOCUMENTS, "the documents have no problems", next(broken, ""), hint)
    blind = (where.format(address) + each.source_problem for address, each in giving if each.source_problem)
    hint = "see to the API server, and apply what `meshproxy install` prints; what is known stays in force"
    check = "the control plane sees changes of the documents"
    yield judged(DOCUMENTS, check, next(blind, ""), hint, Level.WARNING)
    if len(known) > 1:
        versions = [status.documents.version if status.documents is not None else "none" for _, status in known]
        shown = ", ".join(f"{address} {version[:8]}" for (address, _), version in zip(known, versions, strict=True))
        problem = shown if len(set(versions)) > 1 else ""
        hint = "give all of them the same files (--documents)"
        yield judged(DOCUMENTS, "all control planes give the same documents", problem, hint, Level.WARNING)
    yield _entitled(known)
    hint = "mend the documents, or the document of that sidecar (meshproxy config check PATH)"
    yield _of_members(DOCUMENTS, Concern.REFUSED, fleet, hint)
    yield _of_members(DOCUMENTS, Concern.BEHIND, fleet, "see the log of those sidecars")


def _entitled(known: Known) -> Finding:
    """Whether sidecars ask for what their identity may have."""
    lately = [each for _, status in known for each in _lately(status, status.document_refusals)]
    problem = f"{len(lately)} in {duration(REFUSALS_SECONDS)}; the last: {lately[0].problem}" if lately else ""
    hint = "a workload with an inbound port is named by a ModelServer (spec.workload); an application has none"
    return judged(DOCUMENTS, "sidecars ask for documents that they may have", problem, hint, Level.WARNING)


def _services(known: Known) -> Iterator[Finding]:
    """Whether sidecars are given endpoints of the Services that documents name. What one control plane knows is enough
    for the sidecars that are connected to it, so each is looked at."""
    found = [
        (f"{address}: " if len(known) > 1 else "", service) for address, status in known for service in status.services
    ]
    if not found:
        return
    problems = [where + service.problem for where, service in found if service.problem]
    problem = f"{len(problems)}: {some(problems)}" if problems else ""
    hint = "sidecars keep those that they had; kubectl get endpointslices -A -l kubernetes.io/service-name"
    yield judged(DOCUMENTS, "the endpoints of all Services are known", problem, hint)
    empty = [where + service.service for where, service in found if not service.endpoints and not service.problem]
    problem = f"{len(empty)} have none: {some(empty)}" if empty else ""
    hint = "are their pods ready? kubectl get pods; calls to them are refused (no-upstream)"
    yield judged(DOCUMENTS, "all Services have endpoints", problem, hint, Level.WARNING)


def _sidecars(known: Known, fleet: Sequence[Member]) -> Iterator[Finding]:
    other = " If there is another control plane, name it too (--control): they may be connected there."
    hint = "look at them: meshproxy proxy-status, then the logs of their hosts."
    found = _of_members(SIDECARS, Concern.GONE, fleet, hint + (other if len(known) == 1 else ""))
    forgotten = sum(status.forgotten for _, status in known)
    if forgotten:
        problem = f"{found.problem or 'some were lost'}; {forgotten} more are not listed any more"
        found = Finding(SIDECARS, found.check, Level.WARNING, problem, hint)
    yield found
    where = "{}: " if len(known) > 1 else ""
    missing = [
        where.format(address) + problem
        for address, status in known
        if status.reports is not None
        for problem in status.reports.problems()
    ]
    hint = "see the logs of those sidecars; the page /mesh of the web port names those that are late or silent"
    yield judged(SIDECARS, "sidecars report their calls", some(missing), hint, Level.WARNING)
    yield _of_members(SIDECARS, Concern.VERSION, fleet, "upgrade them, or the control plane, one minor at a time")


def _of_members(section: str, concern: Concern, fleet: Sequence[Member], hint: str) -> Finding:
    """A finding on all sidecars."""
    found = [(member, trouble) for member in fleet for trouble in member.troubles if trouble.concern is concern]
    if not found:
        return Finding(section, concern.value)
    problem = f"{len(found)} of {len(fleet)} sidecars: " + some(
        f"{member.name}: {trouble.text}" for member, trouble in found
    )
    return Finding(section, concern.value, max(trouble.level for _, trouble in found), problem, hint)
