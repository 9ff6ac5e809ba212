"""What the commands of `meshproxy policy` read: documents of a policy, and lines of calls that happened."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from meshproxy.cli import _log_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meshproxy.config.policy_set import PolicySet
    from meshproxy.policy.compare import Observed
    from meshproxy.policy.decide import Policy
    from meshproxy.telemetry.call_lines import CallLine, Skipped

config = click.option(
    "--config",
    "paths",
    multiple=True,
    required=True,
    metavar="PATH",
    help="A file of documents, or a folder of them; may be repeated.",
)
trust_domain = click.option(
    "--trust-domain",
    metavar="DOMAIN",
    help="The trust domain of the mesh.  [default: that of the MeshConfig]",
)
DAY = 86_400


def load(paths: Sequence[str]) -> PolicySet:
    """The documents of a policy; problems end the command."""
    from meshproxy.config.policy_set import load_policy
    from meshproxy.config.problems import ConfigError

    try:
        return load_policy(paths)
    except ConfigError as error:
        raise click.ClickException(f"the documents have problems:\n{error}") from None


def domain_of(sets: Sequence[PolicySet], named: str | None) -> str:
    """The trust domain of the mesh that these documents are of."""
    from meshproxy.cli import _options
    from meshproxy.config.values import read_trust_domain

    if named is not None:
        return _options.read(read_trust_domain, named, "--trust-domain")
    for each in sets:
        if each.mesh is not None:
            return each.mesh.spec.trust_domain
    raise click.UsageError("there is no MeshConfig among the documents: name it, too, or give --trust-domain")


def compiled(documents: PolicySet, domain: str) -> Policy:
    """Ready to decide. `domain`: of the mesh, where the documents have no MeshConfig."""
    from meshproxy.policy.compile import compile_policy

    own = documents.mesh.spec.trust_domain if documents.mesh is not None else domain
    return compile_policy(documents.roles, documents.bindings, own)


# Lines


@dataclass
class Tally:
    """Calls that lines tell of, equal ones counted."""

    calls: Counter[Observed] = field(default_factory=Counter)
    skipped: Counter[Skipped] = field(default_factory=Counter)
    older: int = 0
    """Lines before the time that was asked for."""
    first: str = ""
    """The times of the first and the last one that was read, whatever it told; empty: there is none."""
    last: str = ""

    @property
    def total(self) -> int:
        """Calls that can be decided again."""
        return self.calls.total()

    def notes(self) -> Iterator[str]:
        """What a reader has to know of the rest, a sentence each."""
        from meshproxy.cli._status_text import counted

        for why, count in self.skipped.most_common():
            yield f"{counted(count, 'line')} left out that {why.value}"
        if self.older:
            yield f"{counted(self.older, 'line')} left out that are older than --since"


def tally(paths: Sequence[str], since: str, *, with_addresses: bool) -> Tally:
    """Count the calls of files; `-` is standard input, gzip is unpacked.

    Args:
        since: older lines do not count; empty: all do. RFC 3339 in UTC with microseconds.
        with_addresses: tell calls from different addresses apart.
    """
    from meshproxy.telemetry.call_lines import Skipped, read_call_line

    found = Tally()
    known: dict[Observed, Observed] = {}
    for path in paths:
        for line in _lines(path):
            read = read_call_line(line)
            if isinstance(read, Skipped):
                found.skipped[read] += 1
            elif since and read.time < since:
                found.older += 1
            else:
                _count(found, read, known, with_addresses=with_addresses)
    return found


def _count(found: Tally, read: CallLine, known: dict[Observed, Observed], *, with_addresses: bool) -> None:
    observed = read.observed
    if not with_addresses and observed.address:
        observed = replace(observed, address="")
    found.calls[known.setdefault(observed, observed)] += 1
    found.first = min(found.first or read.time, read.time)
    found.last = max(found.last, read.time)


def _lines(path: str) -> Iterator[bytes]:
    """Lines of a file, without those that are longer than any of ours."""
    from meshproxy.telemetry.call_lines import LINE_BYTES

    with _log_files.opened(path) as file:
        while line := file.readline(LINE_BYTES + 1):
            yield line
            while len(line) > LINE_BYTES and not line.endswith(b"\n"):
                line = file.readline(LINE_BYTES + 1)


_AGE = re.compile(r"([1-9][0-9]{0,4})([dhm])")


def read_since(text: str, now: float) -> str:
    """The time that `30d`, `12h` or a date or time in RFC 3339 means, as lines have it. Raises ValueError."""
    if match := _AGE.fullmatch(text):
        seconds = int(match[1]) * {"d": DAY, "h": 3_600, "m": 60}[match[2]]
        moment = datetime.fromtimestamp(now, UTC) - timedelta(seconds=seconds)
    else:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(
                f'expected an age such as "30d" or "12h", or a date such as "2026-11-01", got {text!r}'
            ) from None
        moment = moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def since_now(text: str) -> str:
    """As `read_since`, by the clock of this host."""
    import time

    return read_since(text, time.time())
