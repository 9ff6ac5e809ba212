"""Writes the lines of the audit trail from a thread of its own: whoever has an event leaves its body in a bounded
queue.

The thread gives each line its number and the hash of the line before, and writes what there is at once, ten times a
second at most. While the sink takes nothing (a full disk, a pipe that nobody reads), the queue fills up to its bound;
then events are dropped and counted, and the next line that can be written says how many. `problem` tells whoever must
not go on without a trail.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections import deque
from hashlib import sha256
from typing import TYPE_CHECKING

from meshproxy.audit.chain import (
    BEGINNING,
    CHECKPOINT_LINES,
    NO_SIGNATURE,
    NOTHING_BEFORE,
    constant_part,
    join,
    key_id,
    line_hash,
    sign,
)
from meshproxy.audit.lines import PRODUCT, Kind
from meshproxy.telemetry.audit_sink import FSYNC_SECONDS
from meshproxy.telemetry.log_encoding import quote

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from meshproxy.telemetry.audit_sink import AuditFile, AuditSink

QUEUE_BYTES = 4 << 20
"""Of events that wait: five thousand lines."""
TRAFFIC_BYTES = 3 << 20
"""Of them, what permitted calls may fill: a flood of these pushes out no denial."""
BATCH_LINES = 256
"""Of one write."""
GATHER_SECONDS = 0.1
"""Between two writes."""
CHECKPOINT_SECONDS = 60.0
"""At most, from a line to the signature that covers it, where there is a key."""
RETRY_SECONDS = 1.0
STUCK_SECONDS = 5.0
"""A sink that has taken nothing for so long does not work."""
CLOSE_SECONDS = 2.0
CHECKPOINT = "covers the lines before it"

logger = logging.getLogger(__name__)


class AuditWriter:
    """The writer of one chain.

    Args:
        sink: takes the lines.
        writer: its name in the lines: no two writers of a mesh should have the same one.
        key: signs the lines about the writer itself, and checkpoints; None: nothing is signed.
        file: the sink, if it may have a trail to go on with.
        clock: seconds since the epoch.

    Attributes:
        dropped: the number of events that have no line.
    """

    def __init__(
        self,
        sink: AuditSink,
        writer: str,
        *,
        key: Ed25519PrivateKey | None = None,
        file: AuditFile | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._sink = sink
        self._key = key
        self._clock = clock
        self._queue: deque[bytes] = deque()
        self._queued = 0
        """Bytes that were ever put into the queue; only `write` changes it."""
        self._taken = 0
        """Bytes that were ever taken out of it; only the thread changes it."""
        self.dropped = 0
        self._lost = 0
        """`AuditSink.lost` that is part of `dropped`."""
        self._told = 0
        """How many of `dropped` have a line."""
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._reopens = False
        self._problem = ""
        self._stuck_since: float | None = None
        """`time.monotonic()` since when the sink has taken nothing."""
        self._unsigned = 0
        """Lines since the last signature."""
        self._signed_at = 0.0
        self._public_key = key.public_key().public_bytes_raw() if key is not None else b""
        tail = file.tail if file is not None else None
        if tail is not None:
            self._chain, self._sequence, self._previous = tail.head.chain, tail.head.sequence, tail.hash
            began = Kind.CONTINUED
            was_stopped = tail.head.kind == Kind.STOPPED.value
            said = "goes on after a stop" if was_stopped else "goes on after its process was killed"
        else:
            self._chain, self._sequence, self._previous = secrets.token_hex(8), 0, NOTHING_BEFORE
            began, said = Kind.STARTED, "begins a chain"
        if file is not None and file.torn:
            said += f"; the beginning of a line that was never whole has been cut off: {len(file.torn)} bytes"
        if file is not None and file.unreadable is not None:
            said += (
                f"; it does not go on with the one before, as the end of {file.unreadable.name} is no line of a trail"
            )
        if file is not None and file.set_aside is not None:
            said += f"; a file with another content is called {file.set_aside.name} now"
        self._constant = constant_part(writer, self._chain)
        self._began: tuple[Kind, str] | None = (began, said)
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)

    def start(self) -> None:
        """Write from now on."""
        self._thread.start()
        self._wake.set()

    def write(self, body: bytes, most: int = QUEUE_BYTES) -> None:
        """Queue one event: the body of its line, with its line feed. Never waits. It is dropped if more than `most`
        bytes would wait."""
        size = len(body)
        if self._queued - self._taken + size > most:
            self.dropped += 1
            return
        self._queued += size
        self._queue.append(body)
        if not self._wake.is_set():
            self._wake.set()

    @property
    def problem(self) -> str:
        """Why no line can be written now; empty if one can."""
        if self._problem:
            return self._problem
        since = self._stuck_since
        if since is not None and time.monotonic() - since > STUCK_SECONDS:
            return f"the output has taken nothing for more than {STUCK_SECONDS:g} s"
        if self._queued - self._taken > TRAFFIC_BYTES:
            return "there are more events than the output takes: one more may find no room"
        return ""

    def reopen(self) -> None:
        """The file has another name: begin one. It is done by the thread."""
        self._reopens = True
        self._wake.set()

    def close(self) -> None:
        """Write what there is and that it was the last, waiting up to `CLOSE_SECONDS`."""
        if self._thread.ident is None:
            self._sink.close()
            return
        self._stopping.set()
        self._wake.set()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self.dropped += len(self._queue)
            logger.error("the audit log is not complete: its output did not take %d lines", len(self._queue))

    # In the thread

    def _run(self) -> None:
        while True:
            self._wake.wait(self._wait())
            is_last = self._stopping.is_set()
            self._wake.clear()
            try:
                is_last = not self.write_waiting(is_last=is_last) or is_last
            except Exception:
                logger.exception("internal error: audit lines were not written")
            if is_last:
                self._sink.close()
                return
            self._stopping.wait(GATHER_SECONDS)

    def _wait(self) -> float | None:
        """Seconds until something is to be done although there is no event."""
        waits = [FSYNC_SECONDS] if self._sink.is_unsettled else []
        if self._key is not None and self._unsigned:
            waits.append(max(0.0, self._signed_at + CHECKPOINT_SECONDS - time.monotonic()))
        return min(waits, default=None)

    def write_waiting(self, *, is_last: bool = False) -> bool:
        """Write what is in the queue. False: nothing may follow. Only the thread calls it, or whoever has none."""
        if self._reopens:
            self._reopens = False
            try:
                self._sink.reopen()
            except OSError as error:
                logger.error("audit log could not be reopened", extra={"fields": {"problem": str(error)}})
        lines: list[bytes] = []
        if self._began is not None:
            self._add_own(lines, *self._began)
            self._began = None
        queue = self._queue
        while True:
            self._tell_dropped(lines)
            self._take(lines)
            if queue:
                if not self._write_out(lines):
                    return False
                lines = []
                continue
            if is_last:
                self._add_own(lines, Kind.STOPPED, "stops")
            elif self._wait() == 0.0:
                self._add_own(lines, Kind.CHECKPOINT, CHECKPOINT)
            return self._write_out(lines)

    def _tell_dropped(self, lines: list[bytes]) -> None:
        if (dropped := self.dropped) > self._told:
            count = dropped - self._told
            self._told = dropped
            logger.warning("%d audit lines were dropped because the output did not accept them", count)
            self._add_own(lines, Kind.DROPPED, f"{count} events have no line: the output did not accept them", count)

    def _take(self, lines: list[bytes]) -> None:
        """Make lines of the oldest events. One loop with local names: 0.5 us less a line than a call for each."""
        queue, constant, sequence, previous = self._queue, self._constant, self._sequence, self._previous
        count = min(len(queue), BATCH_LINES)
        if self._key is not None:
            count = min(count, CHECKPOINT_LINES - 1 - self._unsigned)
        size = 0
        for _ in range(count):
            body = queue.popleft()
            size += len(body)
            sequence += 1
            line = b"%b%d,%b%b%b" % (BEGINNING, sequence, constant, previous.encode(), body)
            previous = sha256(line).hexdigest()
            lines.append(line)
        self._taken += size
        self._sequence, self._previous = sequence, previous
        self._unsigned += count
        if self._key is not None and self._unsigned >= CHECKPOINT_LINES - 1:
            self._add_own(lines, Kind.CHECKPOINT, CHECKPOINT)

    def _add_own(self, lines: list[bytes], kind: Kind, said: str, count: int = 1) -> None:
        """A line about the writer itself, signed if there is a key."""
        self._sequence += 1
        body = own_body(kind, said, self._clock(), self._public_key, count)
        line = join(self._sequence, self._constant, self._previous, body)
        if self._key is not None:
            line = sign(line, self._key)
            self._unsigned, self._signed_at = 0, time.monotonic()
        self._previous = line_hash(line)
        lines.append(line)

    def _write_out(self, lines: list[bytes]) -> bool:
        """Write lines, however long that takes; when the process stops, as long as something is taken. False: nothing
        is, and whatever there is has been dropped."""
        rest = b"".join(lines)
        while rest:
            try:
                taken = self._sink.write(rest)
            except OSError as error:
                taken = 0
                self._has_problem(error)
            else:
                if (lost := self._sink.lost - self._lost) > 0:
                    self._lost += lost
                    self.dropped += lost
                    self._problem = "the output has rejected lines"
                elif taken:
                    self._works()
            rest = rest[taken:]
            if taken:
                continue
            if self._stuck_since is None:
                self._stuck_since = time.monotonic()
            if self._stopping.wait(RETRY_SECONDS if self._problem else 0.0):
                # Whatever follows would stand behind the half of a line.
                lost = rest.count(b"\n") + len(self._queue)
                self._queue.clear()
                self.dropped += lost
                logger.error("the audit log is not complete: its output did not take %d lines", lost)
                return False
        try:
            self._sink.settle(self._sequence)
        except OSError as error:
            self._has_problem(error)
        return True

    def _has_problem(self, error: OSError) -> None:
        if not self._problem:
            logger.error("audit log cannot be written", extra={"fields": {"problem": str(error)}})
        self._problem = error.strerror or str(error)

    def _works(self) -> None:
        self._stuck_since = None
        if self._problem:
            self._problem = ""
            logger.warning("audit log is written again")


def own_body(kind: Kind, said: str, now: float, public_key: bytes, count: int = 1) -> bytes:
    """The body of a line about the writer itself: Application Lifecycle (6002)."""
    activity = {Kind.STARTED: 3, Kind.CONTINUED: 3, Kind.STOPPED: 4}.get(kind, 99)
    signature = f',"signature":"{NO_SIGNATURE}","public_key":"{public_key.hex()}","key":"{key_id(public_key)}"'
    return (
        f'","kind":"{kind.value}"{signature if public_key else ""},"pid":{os.getpid()}}},'
        f'"time":{int(now * 1_000)},"class_uid":6002,"category_uid":6,"activity_id":{activity},'
        f'"type_uid":{600_200 + activity},'
        f'"severity_id":{3 if kind is Kind.DROPPED else 1},"status_id":1,"count":{count},'
        f'"message":{quote(said)},"app":{{"name":"{PRODUCT}","vendor_name":"{PRODUCT}"}}}}\n'
    ).encode("ascii")
