"""Documents on their way to the sidecars: one stream for each, and what each has.

Sidecars of one scope are given the same: what concerns them is selected, and encoded, once for all of them.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter, deque
from functools import lru_cache
from typing import TYPE_CHECKING, NoReturn

import msgspec

from meshproxy.codec.grpc import frame
from meshproxy.control.channel import Paces, decode
from meshproxy.control.entitlements import Entitlements
from meshproxy.control.expiries import Expiries
from meshproxy.control.lost import LostSidecars
from meshproxy.control.scope import Selection
from meshproxy.control.status import DocumentsEntry, Refusal, SidecarEntry, SidecarState, moment, moment_or_none
from meshproxy.control_api import WATCH, DocumentSet, SidecarReport
from meshproxy.identity.caller import Workload
from meshproxy.refusal import GrpcStatus
from meshproxy.transport.grpc_server import CallFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from meshproxy.control.documents import MeshDocuments
    from meshproxy.control.lost import Key
    from meshproxy.control.scope import Change
    from meshproxy.control_api import Scope
    from meshproxy.telemetry.metrics import Rows
    from meshproxy.transport.grpc_server import Method, ServerCall

logger = logging.getLogger(__name__)

KEPT_CHANGES = 64
"""Of each scope: a sidecar that has missed no more is sent what has changed since, and otherwise everything."""
REPORT_RATE = 20.0
REPORT_BURST = 200.0
"""Streams and reports of one identity at one address, a second: a sidecar reports once for each set."""
SCOPES_OF_ONE = 64
"""Different scopes of the sidecars of one identity at once, as what is in each is selected, encoded and kept.
Deployments that share a service account have a few. Further ones are refused."""
SCOPE_RATE = 1.0
"""Scopes that nobody has, a second, which one identity may begin; `SCOPES_OF_ONE` at once."""
REFUSALS_KEPT = 64
"""For people who ask why a sidecar has no documents."""
CHARACTERS = 256
"""Of each name that a sidecar reports."""
PROBLEMS, PROBLEM_CHARACTERS = 20, 1_000
"""Of what it says is wrong with documents."""
PROBLEMS_BYTES = 8 << 20
"""Of what all sidecars say is wrong, in memory. Beyond it, the identities of whose sidecars most is kept give way:
the control plane goes on knowing that they refused the documents, and not why."""
NOT_KEPT = ("see the log of this sidecar: the sidecars of its identity have told more problems than are kept here",)
LAST_TIME = 253_402_214_400.0
"""Seconds since the epoch: later ones have no date (9999-12-31)."""


@lru_cache(maxsize=64)
def _shared(text: str) -> str:
    """One text for all who say the same lately. Not `sys.intern`: Python 3.12 keeps what that was given forever."""
    return text


def _time(seconds: float) -> float:
    """A time that a sidecar reports; 0, which means that it is not known, for one that is no date."""
    return seconds if 0.0 <= seconds <= LAST_TIME else 0.0


class Watcher(msgspec.Struct, eq=False):
    """A sidecar that is connected."""

    call: ServerCall
    spiffe_id: str
    peer: str
    since: float
    """When it connected, seconds since the epoch."""
    certificate_expires: float
    """Of the certificate that it connected with, unless it reports another."""
    group: Group
    certificate_issued: float = 0.0
    sidecar: str = ""
    host: str = ""
    software: str = ""
    version: str = ""
    """Of the documents that it uses."""
    sent: str = ""
    """The version that it was given last."""
    sent_at: float = 0.0
    """When."""
    refused: str = ""
    problems: tuple[str, ...] = ()
    problem_bytes: int = 0
    """Of these, while they count (`PROBLEMS_BYTES`)."""

    def report(self, report: SidecarReport) -> None:
        """What it says about itself."""
        self.sidecar, self.host = report.sidecar[:CHARACTERS], report.host[:CHARACTERS]
        # Most say the same of these, and need not have a copy each.
        self.software = _shared(report.software[:CHARACTERS])
        self.version = _shared(report.version[:CHARACTERS])
        self.refused = report.refused[:CHARACTERS]
        self.problems = tuple([problem[:PROBLEM_CHARACTERS] for problem in report.problems[:PROBLEMS]])
        self.certificate_issued = _time(report.certificate_issued)
        self.certificate_expires = _time(report.certificate_expires) or self.certificate_expires

    @property
    def key(self) -> Key:
        """What stays the same when it connects again."""
        return self.spiffe_id, self.sidecar, self.host or self.peer.rpartition(":")[0]

    @property
    def state(self) -> SidecarState:
        """What it has of the documents that concern it."""
        version = self.group.version
        if self.version == version:
            return SidecarState.IN_SYNC
        return SidecarState.REFUSED if self.refused == version else SidecarState.BEHIND

    def entry(self) -> SidecarEntry:
        """How it is shown."""
        return SidecarEntry(
            sidecar=self.sidecar,
            spiffe_id=self.spiffe_id,
            state=self.state,
            since=moment(self.since),
            sent_at=moment_or_none(self.sent_at),
            version=self.version,
            wanted=self.group.version,
            problems=self.problems,
            peer=self.peer,
            host=self.host,
            software=self.software,
            certificate_issued=moment_or_none(self.certificate_issued),
            certificate_expires=moment(self.certificate_expires),
        )


class Group:
    """The sidecars of one scope, and what they are given.

    Attributes:
        scope: of these; None: they take everything.
        begun_by: the identity of the one that came first.
        watchers: those that are connected.
        version: of the documents in the scope.
    """

    def __init__(self, scope: Scope | None, documents: MeshDocuments, begun_by: str) -> None:
        self.scope = scope
        self.begun_by = begun_by
        self._documents = documents
        self._selection = Selection(scope, documents.held)
        self._changes: deque[tuple[str, frozenset[str]]] = deque(maxlen=KEPT_CHANGES)
        """The version before each of the last changes, and what it changed."""
        self._messages: dict[str, bytes] = {}
        """By the version that they change; empty for everything."""
        self.watchers: set[Watcher] = set()
        self.version = self._selection.total.version

    @property
    def keys(self) -> Collection[str]:
        """Of the documents in the scope, `Kind/name`."""
        return self._selection.documents.keys()

    def change(self, changes: Sequence[Change]) -> None:
        """Follow changes of the documents, and wake those whom they concern."""
        touched = self._selection.apply(changes, self._documents.held)
        if not touched:
            return
        self._changes.append((self.version, touched))
        self._messages.clear()
        self.version = self._selection.total.version
        for watcher in self.watchers:
            watcher.call.wake()

    def message(self, version: str) -> bytes:
        """What leads from a version to the one in force, framed."""
        message = self._messages.get(version)
        if message is None:
            missed: set[str] | None = None
            for before, keys in self._changes:
                if before == version:
                    missed = set()
                if missed is not None:
                    missed |= keys
            if missed is None and version:
                return self.message("")  # and not kept: any text may be said to be a version
            message = self._messages[version] = frame(msgspec.json.encode(self._set(version, missed)))
        return message

    def _set(self, base: str, missed: Iterable[str] | None) -> DocumentSet:
        """`missed`: what has changed since `base`; None for everything."""
        if self.scope is None:
            return DocumentSet(self.version, self._documents.text)
        held = self._selection.documents
        touched = held if missed is None else missed
        sent = tuple(held[key].sent for key in touched if key in held)
        removed = tuple(key for key in touched if key not in held)
        return DocumentSet(self.version, "", base, sent, removed, self.scope.server)


class DocumentService:
    """Gives each sidecar the documents in force that concern it, if its identity may have them.

    Attributes:
        entitlements: who may have which.
        refusals: the last sidecars that asked for what they may not have, the newest first.
        refused: how many those were.
        watchers: the sidecars that are connected, in the order in which they came, by the `id` of their connection.
        lost: those that are gone.
    """

    def __init__(self, documents: MeshDocuments, clock: Callable[[], float] = time.time) -> None:
        self._documents = documents
        self._clock = clock
        self._groups: dict[Scope | None, Group] = {}
        self._reports = Paces(REPORT_RATE, REPORT_BURST)
        self._scopes = Paces(SCOPE_RATE, SCOPES_OF_ONE)
        self._expiries = Expiries()
        self._problem_bytes: Counter[str] = Counter()
        """By identity."""
        self.watchers: dict[int, Watcher] = {}
        self.lost = LostSidecars()
        self.entitlements = Entitlements(documents.held)
        self.refusals: deque[Refusal] = deque(maxlen=REFUSALS_KEPT)
        self.refused = 0
        documents.listeners.append(self._change)

    def _change(self, changes: Sequence[Change]) -> None:
        self.entitlements.follow(changes)
        for group in self._groups.values():
            group.change(changes)

    @property
    def methods(self) -> dict[bytes, Method]:
        """For `GrpcServer`."""
        return {WATCH: self.watch}

    async def watch(self, call: ServerCall) -> None:
        """`Documents/Watch`."""
        workload = call.info.peer
        if not isinstance(workload, Workload):
            raise CallFailed(GrpcStatus.UNAUTHENTICATED, "documents are for sidecars that show their certificate")
        first = await anext(call, None)
        now = self._clock()
        watcher = self._begin(call, workload, first, now)
        del first
        key = watcher.key
        self.lost.connected(key)
        self._expiries.add(call, workload, now)
        try:
            while True:
                while (message := call.take()) is not None:
                    self._take(watcher, self._read(call, workload, message))
                if call.has_ended:
                    break
                self._give(watcher, workload)
                await call.wait()
        finally:
            if self.watchers.get(id(call.info)) is watcher:
                del self.watchers[id(call.info)]
            self._count_problems(watcher, 0)
            self._expiries.discard(call)
            self._ended(watcher, key, is_expected=call.has_ended)
            self._leave(watcher)

    def _begin(self, call: ServerCall, workload: Workload, first: bytes | None, now: float) -> Watcher:
        """Who is there now, by the first message. Not in `watch`, which would keep all of this for as long as the
        stream lasts. Raises CallFailed."""
        if first is None:
            raise CallFailed(GrpcStatus.INVALID_ARGUMENT, "a sidecar says first what it has")
        report = self._read(call, workload, first)
        group = self._join(call, workload.spiffe_id, report.scope)
        watcher = Watcher(call, workload.spiffe_id, call.info.remote, now, workload.not_after, group)
        watcher.report(report)
        watcher.sent = watcher.version
        group.watchers.add(watcher)
        older = self.watchers.pop(id(call.info), None)
        if older is not None:
            older.call.fail(GrpcStatus.UNAVAILABLE, "this connection has another stream of documents")
        self.watchers[id(call.info)] = watcher
        self._note_problems(watcher)
        return watcher

    def _note_problems(self, watcher: Watcher) -> None:
        """It has said what is wrong with documents, or that nothing is."""
        self._count_problems(watcher, sum(map(sys.getsizeof, watcher.problems)))
        if watcher.problem_bytes and (kept := self._problem_bytes.total()) > PROBLEMS_BYTES:
            greedy = set()
            for identity, size in self._problem_bytes.most_common():
                if kept <= PROBLEMS_BYTES // 2:  # so that it is long until the next time
                    break
                greedy.add(identity)
                kept -= size
            for each in self.watchers.values():
                if each.spiffe_id in greedy and each.problem_bytes:
                    each.problems = NOT_KEPT
                    self._count_problems(each, 0)

    def _count_problems(self, watcher: Watcher, size: int) -> None:
        held = self._problem_bytes
        held[watcher.spiffe_id] += size - watcher.problem_bytes
        if not held[watcher.spiffe_id]:
            del held[watcher.spiffe_id]
        watcher.problem_bytes = size

    def _give(self, watcher: Watcher, workload: Workload) -> None:
        """Send the set in force, unless the sidecar has been sent it, or has not yet taken what it was sent before.
        Raises CallFailed if it may not have it."""
        if not self._documents.held:  # until the cluster is known, it keeps what it has
            return
        if problem := self.entitlements.refusal(workload, watcher.group.scope):
            self._refuse(watcher.call, watcher.spiffe_id, GrpcStatus.PERMISSION_DENIED, problem)
        group = watcher.group
        if watcher.call.is_drained and watcher.sent != group.version:
            watcher.call.post(group.message(watcher.sent))
            watcher.sent, watcher.sent_at = group.version, self._clock()

    def _refuse(self, call: ServerCall, who: str, status: GrpcStatus, problem: str) -> NoReturn:
        """Raises CallFailed. Less than it asks for would not do: without roles, everybody may call."""
        self.refused += 1
        now, peer = moment(self._clock()), call.info.remote
        self.refusals.appendleft(Refusal(at=now, reason="scope", problem=problem, peer=peer, spiffe_id=who))
        fields = {"spiffe_id": who, "peer": peer, "problem": problem}
        logger.warning("documents not given", extra={"fields": fields})
        raise CallFailed(status, problem)

    def _read(self, call: ServerCall, workload: Workload, message: bytes) -> SidecarReport:
        """Raises CallFailed."""
        self._reports.check(call, workload, "reports", self._clock())
        return decode(message, SidecarReport)

    def _take(self, watcher: Watcher, report: SidecarReport) -> None:
        """What a sidecar says now."""
        watcher.report(report)
        self._note_problems(watcher)
        if report.refused:
            fields = {"spiffe_id": watcher.spiffe_id, "version": report.refused, "problems": watcher.problems}
            logger.warning("a sidecar refused the documents", extra={"fields": fields})
        group = self._join(watcher.call, watcher.spiffe_id, report.scope)
        if group is not watcher.group:
            self._leave(watcher)
            watcher.group, watcher.sent = group, ""
            group.watchers.add(watcher)

    def _join(self, call: ServerCall, who: str, scope: Scope | None) -> Group:
        """Raises CallFailed."""
        group = self._groups.get(scope)
        if group is None:
            begun = sum(each.begun_by == who for each in self._groups.values())
            if begun >= SCOPES_OF_ONE or not self._scopes.take(who, self._clock()):
                problem = (
                    f"the sidecars of {who} ask for documents in more than {SCOPES_OF_ONE} ways, or too often:"
                    " give workloads that call or are different servers service accounts of their own"
                )
                self._refuse(call, who, GrpcStatus.RESOURCE_EXHAUSTED, problem)
            group = self._groups[scope] = Group(scope, self._documents, who)
        return group

    def _leave(self, watcher: Watcher) -> None:
        """The last one of a scope takes its group along."""
        group = watcher.group
        group.watchers.discard(watcher)
        if not group.watchers:
            self._groups = {scope: each for scope, each in self._groups.items() if each is not group}

    def _ended(self, watcher: Watcher, key: Key, *, is_expected: bool) -> None:
        if is_expected:
            self.lost.stopped(key)
            return
        now = self._clock()
        entry = watcher.entry()
        gone = msgspec.structs.replace(entry, state=SidecarState.GONE, since=moment(now), problems=())
        self.lost.lost(key, gone, now)

    def describe(self) -> DocumentsEntry:
        """The documents in force."""
        return DocumentsEntry(
            version=self._documents.version,
            problems=tuple(str(problem) for problem in self._documents.problems),
            source_problem=self._documents.source_problem,
        )

    def entries(self) -> Iterator[SidecarEntry]:
        """What every sidecar has: those that are connected, and those that are gone."""
        for watcher in self.watchers.values():
            yield watcher.entry()
        yield from self.lost.entries(self._clock())

    def holders(self) -> tuple[Counter[str], Counter[str]]:
        """How many connected sidecars each document concerns, by `Kind/name`, and how many of them use all of theirs as
        they are in force."""
        concerned: Counter[str] = Counter()
        updated: Counter[str] = Counter()
        for group in self._groups.values():
            in_sync = sum(watcher.state is SidecarState.IN_SYNC for watcher in group.watchers)
            for key in group.keys:
                concerned[key] += len(group.watchers)
                updated[key] += in_sync
        return concerned, updated

    def count(self) -> Rows:
        """Sidecars by what they have, for `metric_table.SIDECARS`."""
        states = Counter(watcher.state for watcher in self.watchers.values())
        states[SidecarState.GONE] = self.lost.count(self._clock())
        return [((state.value,), states[state]) for state in SidecarState]
