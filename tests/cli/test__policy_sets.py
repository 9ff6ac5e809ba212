"""What the commands of `meshproxy policy` read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from click import ClickException, UsageError

from meshproxy.cli import _policy_sets
from meshproxy.telemetry.call_lines import LINE_BYTES, Skipped

LINE = {
    "start_time": "2026-11-29T10:00:00.000000Z",
    "direction": "inbound",
    "policy": "b",
    "peer_spiffe_id": "spiffe://d.example/ns/n/sa/s",
    "verb": "predict",
    "model": "m",
    "policy_audits": "watch",
    "downstream_remote_address": "10.0.0.1:40000",
}


def test_lines_of_several_files(tmp_path: Path) -> None:
    lines = [LINE, LINE | {"start_time": "2026-11-30T10:00:00.000000Z"}, LINE | {"direction": "outbound"}]
    text = b"".join(json.dumps(line).encode() + b"\n" for line in lines) + b"x" * (2 * LINE_BYTES) + b"\nlog\n"
    (tmp_path / "a.log").write_bytes(text)
    (tmp_path / "b.log.gz").write_bytes(gzip.compress(json.dumps(LINE).encode()))
    paths = [str(tmp_path / "a.log"), str(tmp_path / "b.log.gz")]
    found = _policy_sets.tally(paths, "", with_addresses=False)
    assert list(found.calls.values()) == [3]
    assert (found.total, found.first, found.last) == (3, LINE["start_time"], "2026-11-30T10:00:00.000000Z")
    assert next(iter(found.calls)).audits == ("watch",)
    assert found.skipped == {Skipped.OUTBOUND: 1, Skipped.UNREADABLE: 2}
    late = _policy_sets.tally(paths, "2026-11-30", with_addresses=True)
    assert (late.total, late.older) == (1, 2)
    assert next(iter(late.calls)).address == "10.0.0.1:0"
    assert [note.partition(" that")[0] for note in late.notes()] == [
        "2 lines left out",
        "1 line left out",
        "2 lines left out",
    ]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"x" * 100)[:20])
    for name in ("missing", "cut.gz"):
        with pytest.raises(ClickException, match="cannot read"):
            _policy_sets.tally([str(tmp_path / name)], "", with_addresses=False)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("30d", "2023-10-15T22:13:20.000000Z"),
        ("12h", "2023-11-14T10:13:20.000000Z"),
        ("1m", "2023-11-14T22:12:20.000000Z"),
        ("2026-11-01", "2026-11-01T00:00:00.000000Z"),
        ("2026-11-01T12:00:00+02:00", "2026-11-01T10:00:00.000000Z"),
    ],
)
def test_since(text: str, moment: str) -> None:
    assert _policy_sets.read_since(text, 1_700_000_000.0) == moment


def test_since_says_what_it_expects() -> None:
    for text in ("", "30", "0d", "1w", "yesterday", "999999d"):
        with pytest.raises(ValueError, match="expected an age"):
            _policy_sets.read_since(text, 1_700_000_000.0)


def test_the_trust_domain() -> None:
    first, policy = (_policy_sets.load([f"deploy/{name}"]) for name in ("examples/first.yaml", "demo/policy.yaml"))
    assert _policy_sets.domain_of([policy, first], None) == "dev.example"
    assert _policy_sets.domain_of([policy], "a.example") == "a.example"
    with pytest.raises(UsageError, match="no MeshConfig"):
        _policy_sets.domain_of([policy], None)
    with pytest.raises(UsageError, match="--trust-domain"):
        _policy_sets.domain_of([policy], "A B")
    assert _policy_sets.compiled(policy, "a.example").bindings
