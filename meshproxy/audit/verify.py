"""Whether a trail is as it was written: no line changed, removed, inserted or moved, and its signatures those of the
key.

Chains of several writers may be in one file, and one chain in several files: they are read in their order, and lines
are told apart by the id of their chain. What cannot be known is said, too (`Chain`): lines after the last signature can
be replaced by whoever can write the file, and an end that was cut off looks like a process that was killed.

A line is compared with the head that it has to have, which is made of the line before (`chain.join`), and hashed. Only
one that differs is parsed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from hashlib import sha256
from itertools import groupby
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from meshproxy.audit.chain import (
    BEGINNING,
    CHECKPOINT_LINES,
    LINE_BYTES,
    NOTHING_BEFORE,
    OWN,
    Head,
    key_id,
    line_hash,
    read_head,
    read_signature,
)
from meshproxy.audit.lines import BadLine, Kind, read_line

_OWN_KINDS = frozenset([kind.value for kind in OWN])
_OWN = tuple([f'","kind":"{kind.value}"'.encode() for kind in OWN])
MOST_PROBLEMS = 1_000
"""That are kept; the others are counted."""
MOST_MISSING = 100_000
"""Of which the numbers are kept, in case that they come later."""


class What(Enum):
    """What is wrong."""

    CHANGED = "changed"
    REMOVED = "removed"
    INSERTED = "inserted"
    MOVED = "moved"
    SIGNATURE = "signature"
    UNSIGNED = "unsigned"


class Place(NamedTuple):
    """A line of a file."""

    file: str
    line: int
    """Counted from 1."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Problem(NamedTuple):
    """Something that is wrong, and where."""

    place: Place
    what: What
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


class Chain:
    """What is known of one chain."""

    def __init__(self, head: Head, place: Place) -> None:
        self.id = head.chain
        self.writer = head.writer
        self.first = head.sequence
        """The number of the first line that is here. Files of a time before may have been deleted."""
        self.began = place
        self.place = place
        """Of the last line."""
        self.sequence = head.sequence - 1
        """Of the last line."""
        self.previous = head.previous
        """The hash of the last line."""
        self.constant = head.constant
        self.kind = ""
        """Of the last line."""
        self.lines = 0
        self.dropped = 0
        """Events that have no line, as far as the writer says."""
        self.killed: list[Place] = []
        """Where the writer says that the one before it had been killed."""
        self.key = b""
        """The public key of its signatures; empty if it has none."""
        self.signatures = 0
        self.signed_to = head.sequence - 1
        """The last line that a signature covers."""
        self.missing: dict[int, Place] = {}
        """Numbers of lines that have not come, by what came instead."""
        self.suspect: tuple[Place, Place, str] | None = None
        """The last line did not hold the hash of the one before it: the place of that one, its own, and the hash that
        it would have if it did."""

    @property
    def is_closed(self) -> bool:
        """Its last line says that the writer has stopped."""
        return self.kind == Kind.STOPPED.value

    @property
    def uncovered(self) -> int:
        """Lines at its end that no signature covers."""
        return self.sequence - self.signed_to


class Verifier:
    """Reads a trail.

    Args:
        keys: the public keys whose signatures count, 32 bytes each; empty: whichever the trail names.
        remembered: lines that are known from before, by chain: the number and hash of one line of each.

    Attributes:
        chains: by id.
        problems: the first `MOST_PROBLEMS`.
        problem_count: of all of them.
        torn: files that end within a line.
    """

    def __init__(self, keys: Collection[bytes] = (), remembered: Mapping[str, tuple[int, str]] | None = None) -> None:
        self._keys = frozenset(keys)
        self._remembered = dict(remembered or {})
        self.chains: dict[str, Chain] = {}
        self.problems: list[Problem] = []
        self.problem_count = 0
        self._said: set[tuple[Place, What]] = set()
        self.torn: list[Place] = []
        self._unreadable: list[Place] = []
        """Lines without a head, since the last one that has one."""

    def read(self, name: str, lines: Iterable[bytes]) -> None:
        """Read the lines of one file, with their line feeds."""
        number = 0
        chain: Chain | None = None
        expected, at, watched = b"\0", 0, 0
        sequence, digest, constant = 0, "", b""
        for line in lines:
            number += 1
            if line.startswith(expected) and line[-1] == 10 and not line.startswith(_OWN, at) and sequence != watched:
                digest = sha256(line).hexdigest()
                sequence += 1
                expected = b"%b%d,%b%b" % (BEGINNING, sequence + 1, constant, digest.encode())
                at = len(expected)
                continue
            if chain is not None:
                self._take(chain, Place(name, number - 1), sequence, digest)
            chain = found = self._look(line, Place(name, number))
            if found is None:
                expected = b"\0"
                continue
            sequence, digest, constant = found.sequence, found.previous, found.constant
            expected = b"%b%d,%b%b" % (BEGINNING, sequence + 1, constant, digest.encode())
            at = len(expected)
            watched = self._remembered[found.id][0] - 1 if found.id in self._remembered else -1
        if chain is not None:
            self._take(chain, Place(name, number), sequence, digest)

    @property
    def is_whole(self) -> bool:
        """Every chain is there from its first line to the one that says that its writer has stopped."""
        chains = self.chains.values()
        return not self.problem_count and not self.torn and all(each.first == 1 and each.is_closed for each in chains)

    def finish(self) -> None:
        """No other file follows: what can be told only now."""
        self._resolve_unreadable(0, is_end=True)
        for chain in self.chains.values():
            self._resolve_suspect(chain, None)
            self._report_missing(chain)
            self._check_coverage(chain, chain.sequence)
            if self._keys and not chain.signatures:
                self._report(chain.place, What.UNSIGNED, f"nothing of the chain {chain.id} is signed")
        for identity, (sequence, _) in self._remembered.items():
            known = self.chains.get(identity)
            if known is None or known.sequence < sequence:
                place = known.place if known is not None else Place("", 0)
                what = f"the chain {identity} had {sequence} lines when it was verified before: its end is missing"
                self._report(place, What.REMOVED, what)
        self.problems.sort(key=lambda problem: problem.place)

    def _report_missing(self, chain: Chain) -> None:
        for place, numbers in groupby(sorted(chain.missing), chain.missing.__getitem__):
            gap = list(numbers)
            self._report(place, What.REMOVED, _missing(gap[0], gap[-1]))

    def _take(self, chain: Chain, place: Place, sequence: int, digest: str) -> None:
        """Lines up to this one were as expected, if there were any."""
        if sequence > chain.sequence:
            self._resolve_unreadable(0)
            if chain.suspect is not None:
                # The first of them holds what the line before had: that one is as it was written.
                self._resolve_suspect(chain, chain.previous)
            chain.lines += sequence - chain.sequence
            chain.sequence, chain.previous, chain.place, chain.kind = sequence, digest, place, ""

    def _look(self, line: bytes, place: Place) -> Chain | None:
        """A line that is not what was expected, or one that has to be looked at. Returns the chain that it belongs to,
        if the next line can be expected to follow it."""
        if line[-1:] != b"\n" and len(line) <= LINE_BYTES:
            self.torn.append(place)
            return None
        head = read_head(line)
        if head is None:
            self._unreadable.append(place)
            if len(self._unreadable) > MOST_MISSING:
                self._resolve_unreadable(0)
            return None
        chain = self.chains.get(head.chain) or self._begin(head, place)
        wanted = chain.sequence + 1
        if head.sequence != wanted:
            if head.previous == chain.previous:
                self._report(place, What.CHANGED, f"changed: it has the number {head.sequence} instead of {wanted}")
                head = head._replace(sequence=wanted)
            elif not self._skip(chain, head, place):
                return chain
        self._resolve_suspect(chain, head.previous)
        self._resolve_unreadable(0)
        digest = line_hash(line)
        if head.previous != chain.previous and head.sequence == chain.sequence + 1:
            at = line.index(head.previous.encode())
            repaired = line_hash(line[:at] + chain.previous.encode() + line[at + 64 :])
            chain.suspect = (chain.place, place, repaired)
        known = self._remembered.get(chain.id)
        if known is not None and known[0] == head.sequence and known[1] != digest:
            self._report(place, What.CHANGED, "changed since it was verified before")
        chain.sequence, chain.previous, chain.constant = head.sequence, digest, head.constant
        chain.place, chain.kind, chain.writer = place, head.kind, head.writer
        chain.lines += 1
        if head.kind in _OWN_KINDS:
            self._look_at_own(chain, line, head, place)
        return chain

    def _begin(self, head: Head, place: Place) -> Chain:
        chain = self.chains[head.chain] = Chain(head, place)
        if head.sequence == 1 and (head.previous != NOTHING_BEFORE or head.kind != Kind.STARTED.value):
            self._report(place, What.CHANGED, "changed: it is not what the first line of a chain is")
        return chain

    def _skip(self, chain: Chain, head: Head, place: Place) -> bool:
        """A line with another number than the next one. Returns whether the chain goes on with it."""
        wanted = chain.sequence + 1
        if wanted < head.sequence <= wanted + MOST_MISSING - len(chain.missing):
            if not self._resolve_unreadable(head.sequence - wanted):
                chain.missing |= dict.fromkeys(range(wanted, head.sequence), place)
        elif head.sequence > wanted:
            self._report(place, What.REMOVED, _missing(wanted, head.sequence - 1))
        elif head.sequence < chain.first:
            self._report(chain.began, What.MOVED, f"moved: number {chain.first} is before number {head.sequence}")
            chain.began, chain.first = place, head.sequence
        elif chain.missing.pop(head.sequence, None) is not None:
            self._report(place, What.MOVED, f"moved: number {head.sequence} is behind number {chain.sequence}")
            return False
        else:
            self._report(place, What.INSERTED, f"inserted: number {head.sequence} is there twice")
            return False
        self._resolve_suspect(chain, None)
        chain.sequence, chain.previous = head.sequence - 1, head.previous
        return True

    def _look_at_own(self, chain: Chain, line: bytes, head: Head, place: Place) -> None:
        """A line about the writer: its signature, and what it says."""
        try:
            record = read_line(line)
        except BadLine as error:
            self._report(place, What.CHANGED, f"changed: {error}")
            return
        if record.kind is Kind.DROPPED:
            chain.dropped += record.events
        if record.kind is Kind.CONTINUED and "killed" in (record.message or ""):
            chain.killed.append(place)
        signature = read_signature(line)
        if signature is None:
            if chain.key:
                self._report(place, What.CHANGED, "changed: it is not signed, but lines before it are")
            return
        if self._keys and signature.public_key not in self._keys:
            self._report(place, What.SIGNATURE, f"signed with another key: {key_id(signature.public_key)}")
            return
        try:
            Ed25519PublicKey.from_public_bytes(signature.public_key).verify(signature.value, signature.signed)
        except InvalidSignature:
            self._report(place, What.SIGNATURE, "changed: its signature does not fit")
            return
        if chain.key and chain.key != signature.public_key and not self._keys:
            what = f"signed with another key than the lines before: {key_id(signature.public_key)}"
            self._report(place, What.SIGNATURE, what)
        self._check_coverage(chain, head.sequence)
        chain.key = signature.public_key
        chain.signatures += 1
        chain.signed_to = head.sequence

    def _check_coverage(self, chain: Chain, sequence: int) -> None:
        """The writer signs so often that fewer lines are not covered."""
        if chain.signatures and sequence - chain.signed_to > CHECKPOINT_LINES:
            what = f"{sequence - chain.signed_to} lines up to here without a signature: one was removed"
            self._report(chain.place, What.UNSIGNED, what)

    def _resolve_suspect(self, chain: Chain, following: str | None) -> None:
        """`following`: what the line after the suspicious one holds; None if that is not known."""
        if chain.suspect is None:
            return
        before, place, repaired = chain.suspect
        chain.suspect = None
        if following == repaired:
            self._report(place, What.CHANGED, "changed: it does not hold the hash of the line before")
            return
        self._report(before, What.CHANGED, "changed: the line after it holds another hash")
        if following is not None and following != chain.previous:
            self._report(place, What.CHANGED, "changed: the line after it holds another hash")

    def _resolve_unreadable(self, gap: int, *, is_end: bool = False) -> bool:
        """Lines without a head were followed by one with a head, before which `gap` lines of its chain are missing.
        Returns whether these are them."""
        unreadable, self._unreadable = self._unreadable, []
        are_changed = is_end or len(unreadable) <= gap
        for place in unreadable:
            if are_changed:
                self._report(place, What.CHANGED, "changed: it cannot be read as a line of a trail")
            else:
                self._report(place, What.INSERTED, "inserted: it is no line of a trail")
        return len(unreadable) == gap

    def _report(self, place: Place, what: What, text: str) -> None:
        if (place, what) in self._said:
            return
        self.problem_count += 1
        if len(self.problems) < MOST_PROBLEMS:
            self._said.add((place, what))
            self.problems.append(Problem(place, what, text))


def _missing(first: int, last: int) -> str:
    if first == last:
        return f"removed: number {first} is missing before this line"
    return f"removed: numbers {first} to {last} are missing before this line"
