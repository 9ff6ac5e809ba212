"""All sidecars of one or several control planes, and what is wrong with each: nothing but decisions on the pages."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING

from meshproxy.control.status import SidecarState
from meshproxy.identity.renewal import RENEW_AT, URGENT
from meshproxy.telemetry.timestamps import duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from meshproxy.control.status import ControlStatus, SidecarEntry

BEHIND_SECONDS = 10.0
"""Loading a set takes a sidecar less than that."""
GONE_SECONDS = 45.0
"""A sidecar that has lost its stream asks again within 30 s, and needs time to connect."""
OVERDUE = 1.0 - (RENEW_AT + (1.0 - URGENT - RENEW_AT) / 2)
"""What is left of a certificate's life when its renewal, which was due, has not come: half of the way to `URGENT`."""
MINORS_APART = 1
"""How far the versions of sidecars, control planes and commands may differ."""


class Level(IntEnum):
    """How bad something is: the exit status of the commands."""

    WELL = 0
    WARNING = 1
    ERROR = 2


class Concern(Enum):
    """What can be wrong with a sidecar."""

    REFUSED = "documents are accepted"
    BEHIND = "documents arrive"
    GONE = "sidecars stay connected"
    CERTIFICATE = "certificates are renewed in time"
    VERSION = "versions are at most one minor apart"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is wrong with a sidecar."""

    concern: Concern
    level: Level
    text: str


@dataclass(frozen=True, slots=True)
class Member:
    """One sidecar.

    Attributes:
        control: the address of the control plane that knows it.
        now: by the clock of that.
    """

    control: str
    entry: SidecarEntry
    now: datetime
    troubles: tuple[Trouble, ...]

    @property
    def level(self) -> Level:
        """Of the worst trouble."""
        return max((trouble.level for trouble in self.troubles), default=Level.WELL)

    @property
    def name(self) -> str:
        """For people: identity, document and host."""
        entry = self.entry
        host = entry.host or entry.peer
        return f"{short_identity(entry.spiffe_id)} ({', '.join(each for each in (entry.sidecar, host) if each)})"


def members(statuses: Mapping[str, ControlStatus]) -> list[Member]:
    """The sidecars of control planes, which are given by their addresses: the worst first, then by name.

    A sidecar that one of them has lost and another one has is not gone: it has changed over.
    """
    found: dict[tuple[str, str, str], list[Member]] = {}
    for address, status in statuses.items():
        for entry in status.sidecars:
            key = (entry.spiffe_id, entry.sidecar, entry.host or entry.peer.rpartition(":")[0])
            member = Member(address, entry, status.now, tuple(troubles(entry, status.software, status.now)))
            found.setdefault(key, []).append(member)
    kept = []
    for alike in found.values():
        connected = [member for member in alike if member.entry.state is not SidecarState.GONE]
        kept += connected or [max(alike, key=lambda member: member.entry.since)]
    return sorted(kept, key=_place)


def _place(member: Member) -> tuple[int, bool, str, str]:
    return -member.level, member.entry.state is SidecarState.IN_SYNC, member.entry.spiffe_id, member.name


def troubles(entry: SidecarEntry, software: str, now: datetime) -> Iterator[Trouble]:
    """What is wrong with a sidecar.

    Args:
        entry: what its control plane says.
        software: the version of that.
        now: by the clock of that.
    """
    if entry.state is SidecarState.REFUSED:
        first, *more = entry.problems or ("it does not say why",)
        also = f" (and {len(more)} more)" if more else ""
        yield Trouble(Concern.REFUSED, Level.ERROR, f"it has refused {entry.wanted[:8]}: {first}{also}")
    elif entry.state is SidecarState.BEHIND:
        seconds = (now - (entry.sent_at or entry.since)).total_seconds()
        if seconds > BEHIND_SECONDS:
            text = f"it has not answered for {duration(seconds)} to {entry.wanted[:8]}"
            yield Trouble(Concern.BEHIND, Level.WARNING, text)
    elif entry.state is SidecarState.GONE:
        seconds = (now - entry.since).total_seconds()
        if seconds > GONE_SECONDS:
            yield Trouble(Concern.GONE, Level.WARNING, f"it was lost {duration(seconds)} ago")
    if entry.certificate_issued is not None:
        trouble = _certificate(entry.certificate_issued, entry.certificate_expires, now)
        if trouble is not None:
            yield trouble
    if not are_compatible(entry.software, software):
        yield Trouble(Concern.VERSION, Level.WARNING, f"it is {entry.software or 'of no known version'}")


def _certificate(issued: datetime, expires: datetime, now: datetime) -> Trouble | None:
    level, text = renewal(issued, expires, now)
    return Trouble(Concern.CERTIFICATE, level, f"its certificate {text}") if text else None


def renewal(issued: datetime, expires: datetime, now: datetime) -> tuple[Level, str]:
    """Whether a certificate is renewed in time, and what to say of it if not."""
    left, life = (expires - now).total_seconds(), (expires - issued).total_seconds()
    if left <= 0:
        return Level.ERROR, f"expired {duration(-left)} ago"
    if left < life * OVERDUE:
        level = Level.ERROR if left < life * URGENT else Level.WARNING
        return level, f"expires in {duration(left)}, and its renewal is overdue"
    return Level.WELL, ""


def minors_apart(one: str, other: str) -> int | None:
    """How many minor versions lie between two versions. None: they are of different major ones, or no versions."""
    try:
        first, second = ([int(part) for part in version.split(".")[:2]] for version in (one, other))
    except ValueError:
        return None
    if len(first) != 2 or len(second) != 2 or first[0] != second[0]:
        return None
    return abs(first[1] - second[1])


def are_compatible(one: str, other: str) -> bool:
    """Whether two versions understand each other."""
    apart = minors_apart(one, other)
    return apart is not None and apart <= MINORS_APART


def short_identity(spiffe_id: str) -> str:
    """A SPIFFE id of the usual form as NAMESPACE/ACCOUNT; others as they are."""
    parts = spiffe_id.removeprefix("spiffe://").split("/")
    return f"{parts[2]}/{parts[4]}" if len(parts) == 5 and parts[1::2] == ["ns", "sa"] else spiffe_id
