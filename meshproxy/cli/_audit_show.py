"""`meshproxy audit show` and `search`: lines of the trail as sentences."""

from __future__ import annotations

import json
import re
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

import click

from meshproxy.cli import _audit_files, _options
from meshproxy.cli._local_page import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from meshproxy.audit.lines import Record
    from meshproxy.audit.search import Search

KINDS = (
    "denied",
    "audited",
    "admin",
    "allowed",
    "certificate",
    "document",
    "rollout",
    "login",
    "authority",
    "writer",
)
_WRITER = ("started", "continued", "stopped", "checkpoint", "dropped")


@click.command("show", short_help="Read a trail in English.")
@_audit_files.paths
@click.option("-n", "--last", type=click.IntRange(1), metavar="NUMBER", help="Only so many lines at the end.")
@_options.output
def show(paths: tuple[str, ...], last: int | None, output: str) -> None:
    """Read a trail, a sentence for each line; with -o json the lines themselves.

    \b
    Example:
        meshproxy audit show /var/log/meshproxy/audit.jsonl -n 20
    """
    found: Iterable[tuple[bytes, Record]] = _lines(paths)
    _print(deque(found, maxlen=last) if last is not None else found, output)


@click.command("search", short_help="Find lines of a trail.")
@_audit_files.paths
@click.option(
    "--caller",
    metavar="GLOB",
    help="A SPIFFE id, a token's subject, issuer:subject, an IAM role, or who changed something.",
)
@click.option("--model", metavar="GLOB", help="A model that the call names.")
@click.option("--verb", metavar="VERB", help="Such as predict or reload.")
@click.option("--decision", type=click.Choice(["allow", "deny"]))
@click.option("--rule", metavar="BINDING", help="The binding that decided, or an audit binding that matched.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="What a line is about; may be repeated.")
@click.option("--since", metavar="TIME", help="Such as 30d, 12h, 2026-11-30 or 2026-11-30T12:00.")
@click.option("--until", metavar="TIME", help="As --since; lines from then on are left out.")
@_options.output
def search(
    paths: tuple[str, ...],
    caller: str | None,
    model: str | None,
    verb: str | None,
    decision: str | None,
    rule: str | None,
    kinds: tuple[str, ...],
    since: str | None,
    until: str | None,
    output: str,
) -> None:
    """Find the lines that have all of what is asked for. In a GLOB, * is any text.

    \b
    Example:
        meshproxy audit search audit.jsonl --caller '*:alice' --model 'fraud-*' --decision deny --since 30d
    """
    import time

    from meshproxy.audit.lines import Decision, Kind
    from meshproxy.audit.period import read_since
    from meshproxy.audit.search import Search

    now = time.time()
    wanted = Search(
        caller=caller,
        model=model,
        verb=verb,
        decision=Decision(decision) if decision is not None else None,
        kinds=frozenset([kind for kind in Kind if _family(kind.value) in kinds]),
        rule=rule,
        since=_options.read(lambda text: read_since(text, now), since, "--since") if since else float("-inf"),
        until=_options.read(lambda text: read_since(text, now), until, "--until") if until else float("inf"),
    )
    _print(_lines(paths, wanted), output)


def _family(kind: str) -> str:
    if kind in _WRITER:
        return "writer"
    first = kind.partition("-")[0]
    return {"documents": "document", "logout": "login"}.get(first, first)


def _lines(paths: tuple[str, ...], wanted: Search | None = None) -> Iterator[tuple[bytes, Record]]:
    """The lines that are wanted; what is no line is counted on standard error."""
    from meshproxy.audit.lines import BadLine, read_line

    matches = wanted.filter() if wanted is not None else None
    for name in _audit_files.with_ended(paths):
        unread = 0
        with _audit_files.opened(name) as lines:
            for line in lines:
                try:
                    record = read_line(line)
                except BadLine:
                    unread += 1
                    continue
                if matches is None or matches(record):
                    yield line, record
        if unread:
            click.echo(f"note: {unread} lines of {name} are none of a trail: see meshproxy audit verify", err=True)


def _print(found: Iterable[tuple[bytes, Record]], output: str) -> None:
    from meshproxy.audit.sentences import sentence

    lines = iter(found)
    while block := list(islice(lines, 1_000)):
        if output == "json":
            click.echo(b"".join([_shown(line) for line, _ in block]), nl=False)
        else:
            click.echo("\n".join([printable(sentence(record)) for _, record in block]))


_ODD = re.compile(r"[^\x20-\x7e]")


def _shown(line: bytes) -> bytes:
    """A line with its line feed. Those that were written by a sidecar are ASCII, and shown as they are; in one that
    somebody has changed, what could move a cursor is escaped as JSON escapes it."""
    text = line.rstrip(b"\n")
    if text.isascii() and text.decode().isprintable():
        return text + b"\n"
    return _ODD.sub(_escaped, text.decode("utf-8", "replace")).encode() + b"\n"


def _escaped(found: re.Match[str]) -> str:
    return json.dumps(found[0])[1:-1] if found[0] != "\x7f" else "\\u007f"
