from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from meshproxy.audit import verify as module
from meshproxy.audit.chain import (
    CHECKPOINT_LINES,
    LINE_BYTES,
    NOTHING_BEFORE,
    constant_part,
    join,
    line_hash,
    read_head,
)
from meshproxy.audit.lines import Kind
from meshproxy.audit.verify import Place, Verifier, What
from meshproxy.telemetry.audit_writer import own_body
from tests.audit.trails import KEY, PUBLIC, call_body, trail

EXAMPLES = int(os.environ.get("MESHPROXY_EXAMPLES", "120"))
LINES = int(os.environ.get("MESHPROXY_AUDIT_LINES", "40"))


def verified(*files: Sequence[bytes], keys: Sequence[bytes] = (), **more: object) -> Verifier:
    verifier = Verifier(keys, **more)  # type: ignore[arg-type]
    for number, lines in enumerate(files):
        verifier.read(f"f{number}", lines)
    verifier.finish()
    return verifier


def said(verifier: Verifier) -> list[tuple[int, What]]:
    return [(problem.place.line, problem.what) for problem in verifier.problems]


def test_what_was_not_tampered_with() -> None:
    verifier = verified(trail(40), keys=[PUBLIC])
    assert verifier.is_whole
    (chain,) = verifier.chains.values()
    assert (chain.lines, chain.signatures, chain.uncovered, chain.killed) == (42, 2, 0, [])


def test_a_line_that_was_changed() -> None:
    for at in (1, 20, 40):
        lines = [*trail(40)]
        lines[at] = lines[at].replace(b'"alice"', b'"mallo"')
        assert said(verified(lines)) == [(at + 1, What.CHANGED)]


def test_a_changed_hash_number_or_kind() -> None:
    line = trail(40)[20]
    head = read_head(line)
    assert head is not None
    for old, new in (
        (head.previous.encode(), b"ab" * 32),
        (b'"sequence":21', b'"sequence":22'),
        (b'"sequence":21', b'"sequence":20'),
        (b'"kind":"allowed"', b'"kind":"audited"'),
        (b'{"metadata"', b'{"metadate"'),
        (b'"log_provider":"w@h"', b'"log_provider":"v@h"'),
    ):
        lines = [*trail(40)]
        lines[20] = line.replace(old, new)
        assert said(verified(lines)) == [(21, What.CHANGED)], new


def test_lines_that_were_removed() -> None:
    lines = [*trail(40)]
    del lines[20]
    verifier = verified(lines)
    assert said(verifier) == [(21, What.REMOVED)]
    assert str(verifier.problems[0]) == "f0:21: removed: number 21 is missing before this line"
    del lines[20:23]
    assert verified(lines).problems[0].text == "removed: numbers 21 to 24 are missing before this line"


def test_lines_that_were_inserted() -> None:
    lines = [*trail(40)]
    assert said(verified([*lines[:20], b"nothing\n", *lines[20:]])) == [(21, What.INSERTED)]
    assert said(verified([*lines[:20], lines[5], *lines[20:]])) == [(21, What.INSERTED)]
    assert said(verified([lines[5], *lines])) == [(1, What.MOVED)]


def test_lines_that_were_moved() -> None:
    lines = [*trail(40)]
    lines[20], lines[21] = lines[21], lines[20]
    assert said(verified(lines)) == [(22, What.MOVED)]
    lines = [*trail(40)]
    lines.insert(30, lines.pop(10))
    assert said(verified(lines)) == [(31, What.MOVED)]
    lines = [*trail(40)]
    lines.insert(0, lines.pop(10))
    assert (1, What.MOVED) in said(verified(lines))


def test_a_chain_that_was_made_anew_has_no_signatures_of_the_key() -> None:
    """Whoever can write the file can make a chain, but not sign it."""
    constant = constant_part("w@h", "00" * 8)
    lines, previous = [], NOTHING_BEFORE
    bodies = [own_body(Kind.STARTED, "begins", 1.0, b""), call_body(1), own_body(Kind.STOPPED, "stops", 1.0, b"")]
    for sequence, body in enumerate(bodies, 1):
        lines.append(join(sequence, constant, previous, body))
        previous = line_hash(lines[-1])
    assert verified(lines).is_whole
    assert said(verified(lines, keys=[PUBLIC])) == [(3, What.UNSIGNED)]
    mallory = trail(5, "w@h", Ed25519PrivateKey.generate())
    assert said(verified(mallory, keys=[PUBLIC])) == [(1, What.SIGNATURE), (7, What.SIGNATURE), (7, What.UNSIGNED)]


def test_a_checkpoint_that_was_removed_with_what_follows_made_anew() -> None:
    lines = [*trail(CHECKPOINT_LINES + 10)]
    (at,) = [number for number, line in enumerate(lines) if b'"kind":"checkpoint"' in line]
    previous = line_hash(lines[at - 1])
    forged = lines[:at]
    for sequence, line in enumerate(lines[at + 1 :], at + 1):
        head = read_head(line)
        assert head is not None
        body = line.partition(head.previous.encode())[2]
        forged.append(join(sequence, head.constant, previous, body))
        previous = line_hash(forged[-1])
    whats = {what for _, what in said(verified(forged, keys=[PUBLIC]))}
    assert whats == {What.SIGNATURE, What.UNSIGNED}


def test_an_end_that_was_cut_off() -> None:
    lines = trail(40)
    for cut in (lines[:-1], lines[:30], [*lines[:30], lines[30][:50]]):
        verifier = verified(cut)
        assert verifier.problems == []
        assert not verifier.is_whole
    (chain,) = verifier.chains.values()
    assert chain.uncovered == 29
    assert verifier.torn == [Place("f0", 31)]


def test_an_end_that_was_there_before() -> None:
    """What was verified once cannot be cut off or made anew without being noticed."""
    lines = trail(40)
    (chain,) = verified(lines[:30]).chains.values()
    known = {chain.id: (chain.sequence, chain.previous)}
    assert verified(lines, remembered=known).is_whole
    assert said(verified(lines[:29], remembered=known)) == [(29, What.REMOVED)]
    assert verified([], remembered=known).problems[0].what is What.REMOVED
    changed = {chain.id: (chain.sequence, "00" * 32)}
    assert said(verified(lines, remembered=changed)) == [(30, What.CHANGED)]
    (other,) = verified([*lines[:29], lines[29].replace(b"alice", b"mallo")]).chains.values()
    assert said(verified([*lines[:29], lines[29].replace(b"alice", b"mallo")], remembered=known)) == [
        (30, What.CHANGED)
    ]
    assert other.sequence == 30


def test_several_chains_in_one_file_and_one_chain_in_several() -> None:
    first, second = trail(20, "a"), trail(20, "b")
    mixed = [line for pair in zip(first, second, strict=True) for line in pair]
    assert verified(mixed).is_whole
    assert verified(first[:7], first[7:15], first[15:]).is_whole
    assert said(verified(first[:7], first[8:])) == [(1, What.REMOVED)]
    del mixed[11]
    assert said(verified(mixed)) == [(13, What.REMOVED)]


def test_a_trail_whose_beginning_is_gone_says_from_where_it_is_known() -> None:
    verifier = verified(trail(40)[10:])
    (chain,) = verifier.chains.values()
    assert (verifier.problems, chain.first) == ([], 11)


# All tampering is found

EDITS = st.sampled_from(
    ["change", "bit", "cut", "remove", "insert", "repeat", "swap", "move", "truncate", "split", "join"]
)


@given(st.data())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[*HealthCheck])
def test_tampering_is_found(data: st.DataObject) -> None:
    """One to three edits anywhere in a signed trail."""
    original = trail(LINES)
    lines = [*original]
    for _ in range(data.draw(st.integers(1, 3))):
        edit = data.draw(EDITS)
        at = data.draw(st.integers(0, len(lines) - 1))
        other = data.draw(st.integers(0, len(lines) - 1))
        event(edit)
        line = lines[at]
        place = data.draw(st.integers(0, max(0, len(line) - 1)))
        match edit:
            case "change":
                lines[at] = line[:place] + data.draw(st.binary(min_size=1, max_size=4)) + line[place + 1 :]
            case "bit":
                mask = 1 << data.draw(st.integers(0, 7))
                lines[at] = line[:place] + bytes([line[place] ^ mask]) + line[place + 1 :] if line else line
            case "cut":
                lines[at] = line[:place] + line[place + 1 :]
            case "remove":
                del lines[at]
            case "insert":
                lines.insert(at, data.draw(st.binary(max_size=40)) + b"\n")
            case "repeat":
                lines.insert(at, lines[other])
            case "swap":
                lines[at], lines[other] = lines[other], lines[at]
            case "move":
                lines.insert(at, lines.pop(other))
            case "truncate":
                del lines[at:]
            case "split":
                lines[at] = line[:place] + b"\n" + line[place:]
            case "join":
                lines[at] = line.rstrip(b"\n")
        if not lines:
            break
    content = b"".join(lines)
    as_read = (
        content.splitlines(keepends=True) if b"\r" not in content else [each + b"\n" for each in content.split(b"\n")]
    )
    verifier = verified(as_read, keys=[PUBLIC])
    is_same = content == b"".join(original)
    assert (verifier.is_whole and bool(verifier.chains)) == is_same


@pytest.mark.parametrize("size", range(0, 700, 23))
def test_a_changed_byte_of_the_last_line_is_found(size: int) -> None:
    lines = [*trail(3)]
    last = bytearray(lines[-1])
    last[size % len(last)] ^= 0x20
    lines[-1] = bytes(last)
    assert not verified(lines, keys=[KEY.public_key().public_bytes_raw()]).is_whole


def test_memory_is_bounded_whatever_a_file_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_MISSING", 10)
    lines = [*trail(40)]
    del lines[5:14]
    del lines[10:20]
    verifier = Verifier()
    verifier.read("f", [*lines, *[b"no line\n"] * 50])
    (chain,) = verifier.chains.values()
    assert len(chain.missing) == 9
    assert len(verifier._unreadable) <= 10
    verifier.finish()
    assert verifier.problem_count == 52


def test_a_line_that_is_too_long_is_none() -> None:
    lines = [*trail(4)]
    assert said(verified([*lines, b"x" * (LINE_BYTES + 1)])) == [(len(lines) + 1, What.CHANGED)]
