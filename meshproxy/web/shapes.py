"""What the page shows beside the graph, which `view/graph.py` has, as JSON has it: answers of `/api/`.

Members are in camel case; what is added later has a default. Durations are in seconds, rates per second.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum

import msgspec

from meshproxy.view.graph import CallRow, GraphEdge, Node

API_VERSION = "meshproxy.dev/v1alpha1"


class Shape(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A part of an answer."""


class Grade(Enum):
    """How bad something is."""

    WELL = "well"
    WARNING = "warning"
    ERROR = "error"


class Sync(Enum):
    """Whether a sidecar has the documents in force."""

    IN_SYNC = "in-sync"
    BEHIND = "behind"
    REFUSED = "refused"
    GONE = "gone"


class Rule(Shape, frozen=True, kw_only=True):
    """A binding whose role has a rule for the model."""

    binding: str
    role: str
    action: str
    """`allow`, `deny` or `audit`."""
    subjects: tuple[str, ...]
    """Whom it means."""
    verbs: tuple[str, ...] = ()
    """Empty: all."""
    used: int = 0
    """Calls in the time of the answer that it decided."""


class Denial(Shape, frozen=True, kw_only=True):
    """A call that was refused by policy."""

    at: datetime
    """By the clock of the sidecar."""
    caller: str
    call: str
    """Verb and model."""
    reason: str
    message: str
    """In words."""
    binding: str = ""
    """The binding that denied it; empty: none permits it."""
    sidecar: str = ""
    """The SPIFFE id of the sidecar that refused it."""


class Arm(Shape, frozen=True, kw_only=True):
    """One side of a rollout."""

    name: str
    """`stable` or `candidate`."""
    version: str
    """Version or label."""
    weight: float | None = None
    """Of the calls, from 0 to 1, as the rollout has it; None: that is not known here."""
    share: float | None = None
    """Of the calls of the model in the time of the answer, from 0 to 1; None: there were none."""


class Rollout(Shape, frozen=True, kw_only=True):
    """A rollout of a model."""

    name: str
    phase: str = ""
    """Empty: it is not known here."""
    arms: tuple[Arm, ...]
    step: str = ""
    """Which of its steps it is at, for people."""
    events: tuple[str, ...] = ()
    """What happened, the newest first."""


class Change(Shape, frozen=True, kw_only=True):
    """A model is not as it was before (docs/drift.md)."""

    since: datetime
    words: str


class Model(Shape, frozen=True, kw_only=True):
    """One model."""

    api_version: str = API_VERSION
    kind: str = "Model"
    now: str
    """RFC 3339."""
    seconds: float
    """How long the time is that this is of, up to `now`."""
    model: Node
    versions: list[Node]
    shares: list[GraphEdge]
    """To its versions."""
    callers: list[Node]
    calls: list[GraphEdge]
    """Of its callers."""
    rows: list[CallRow]
    rules: tuple[Rule, ...] | None = None
    """None: they may not be seen, or are not known here."""
    denials: tuple[Denial, ...] | None = None
    """The last ones; None: they may not be seen."""
    rollout: Rollout | None = None
    changes: tuple[Change, ...] = ()
    """What is not as it was before, although nobody has rolled out anything."""


class Certificate(Shape, frozen=True, kw_only=True):
    """A certificate that is out."""

    identity: str
    """SPIFFE id."""
    holder: str
    issued: datetime | None = None
    expires: datetime
    grade: Grade
    problem: str = ""


class Certificates(Shape, frozen=True, kw_only=True):
    """Certificates of the mesh, those with problems first."""

    api_version: str = API_VERSION
    kind: str = "Certificates"
    now: datetime
    trust_domain: str
    authority: str
    """SHA-256 of the certificate of the authority."""
    authority_expires: datetime
    rotation: str = ""
    """The step of a rotation of the root; empty if none is under way."""
    certificates: tuple[Certificate, ...] = ()


class Member(Shape, frozen=True, kw_only=True):
    """A sidecar and its documents."""

    sidecar: str
    """The name of its document."""
    host: str = ""
    state: Sync
    since: datetime
    version: str = ""
    wanted: str = ""
    software: str = ""
    grade: Grade
    problems: tuple[str, ...] = ()


class Configuration(Shape, frozen=True, kw_only=True):
    """The documents, and whether sidecars have them; those with problems first."""

    api_version: str = API_VERSION
    kind: str = "Configuration"
    now: datetime
    version: str = ""
    """Of the documents in force; empty: sidecars have their own."""
    problems: tuple[str, ...] = ()
    """Of the documents as they are now, or why there may be newer ones."""
    sidecars: tuple[Member, ...] = ()
    forgotten: int = 0
    """Sidecars that are gone, and are not in the list because that is full."""


class Denials(Shape, frozen=True, kw_only=True):
    """The last calls that were refused by policy, the newest first."""

    api_version: str = API_VERSION
    kind: str = "Denials"
    denials: tuple[Denial, ...] = ()


class Session(Shape, frozen=True, kw_only=True):
    """The session, and what it may see."""

    api_version: str = API_VERSION
    kind: str = "Session"
    subject: str = ""
    """Empty: on this host, without a login."""
    roles: tuple[str, ...] = ()
    sees: tuple[str, ...] = ()


class Problem(Shape, frozen=True, kw_only=True):
    """Why there is no answer."""

    error: str
