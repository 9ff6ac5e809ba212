"""`meshproxy policy diff`: who would gain or lose by a change, from what really happened."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click
import msgspec

from meshproxy.cli import _mesh, _options, _policy_sets
from meshproxy.cli._local_page import printable
from meshproxy.cli.main import FOUND

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meshproxy.cli._policy_sets import Tally
    from meshproxy.config.policy_set import PolicySet
    from meshproxy.policy.compare import Change, Comparison, Verdict
    from meshproxy.policy.structure import Difference


TIMEOUT = 10.0
"""Seconds for the answer of a control plane."""


@click.command("diff", short_help="Who would gain or lose access by a change.")
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@click.option(
    "--against",
    "logs",
    multiple=True,
    metavar="FILE",
    help="Lines of an audit or access log, - for standard input; may be repeated. Left out: documents are compared.",
)
@_mesh.control
@click.option("--since", metavar="AGE", help="Only lines that are not older: 30d, 12h, or a date.  [default: all]")
@_policy_sets.trust_domain
@_options.table
def diff(
    old: str,
    new: str,
    logs: tuple[str, ...],
    addresses: tuple[str, ...],
    since: str | None,
    trust_domain: str | None,
    output: str,
) -> None:
    """Compare two sets of documents, OLD and NEW, each a file or a folder.

    With --control, the calls of the last hour that sidecars have reported to a control plane are compared.

    With --against, every call in the logs is decided under both: who would lose access, who would gain it, and how many
    calls that is. Lines do not contain claims and headers. Where these make a difference and the recorded decision does
    not tell them, a caller may lose or gain: the output names the claims.

    \b
    meshproxy policy diff policy/ proposed/ --against audit.log
    meshproxy policy diff policy/ proposed/ --control 127.0.0.1:18512
    meshproxy policy diff policy/ proposed/

    Exit status: 0 if nothing changes, otherwise 3.
    """
    before, after = _policy_sets.load([old]), _policy_sets.load([new])
    if addresses and logs:
        raise click.UsageError("--control and --against are two sources of calls: name one")
    if not logs and not addresses:
        if since is not None:
            raise click.UsageError("--since needs --against")
        _by_documents(before, after, output)
        return
    from meshproxy.policy.compare import Outcome, compare

    domain = _policy_sets.domain_of([before, after], trust_domain)
    policies = [_policy_sets.compiled(each, domain) for each in (before, after)]
    start = _options.read(_policy_sets.since_now, since, "--since") if since is not None else ""
    more: list[str] = []
    if addresses:
        from meshproxy.cli import _mesh_calls

        found, more = _mesh_calls.tally(addresses, TIMEOUT)
    else:
        found = _policy_sets.tally(logs, start, with_addresses=any(policy.asks_address for policy in policies))
    comparison = compare(policies[0], policies[1], found.calls.items())
    match output:
        case "json":
            _print_json(comparison, found)
        case "csv":
            _print_csv(comparison)
        case _:
            _print_table(comparison, found)
    if output != "json":
        for note in [*_notes(comparison, found), *more]:
            click.echo(f"note: {note}", err=True)
    if comparison.counts[Outcome.SAME] != found.total:
        sys.exit(FOUND)


def _notes(comparison: Comparison, found: Tally) -> Iterable[str]:
    """What the result does not say by itself."""
    from meshproxy.cli._status_text import counted

    yield from found.notes()
    if comparison.contradicted:
        calls = f"{counted(comparison.contradicted, 'call')} {'was' if comparison.contradicted == 1 else 'were'}"
        yield (
            f"{calls} decided otherwise than OLD decides: another policy was in force then. This is compared as if "
            "nothing was recorded"
        )
    if not found.total:
        yield "no line tells of a call that can be decided: nothing is known about the change"


def _row(change: Change) -> dict[str, str]:
    """What is printed of a change; the texts of others are not escaped yet."""
    from meshproxy.policy.explain import describe

    return {
        "outcome": change.outcome.value,
        "calls": str(change.calls),
        "caller": str(change.observed.caller),
        "call": describe(change.observed.call),
        "address": change.observed.address.rpartition(":")[0],
        "old": str(change.old or "not known"),
        "new": str(change.new or "not known"),
        "depends on": "; ".join(change.depends),
    }


def _print_table(comparison: Comparison, found: Tally) -> None:
    from meshproxy.policy.compare import Outcome

    for change in comparison.changes:
        row = {name: printable(text) for name, text in _row(change).items()}
        click.echo(f"{row['outcome'].upper():<9} {change.calls:>7,} calls  {row['caller']}")
        click.echo(f"{'':<25}{row['call']}{' from ' + row['address'] if row['address'] else ''}")
        click.echo(f"{'':<25}{row['old']} -> {row['new']}")
        if row["depends on"]:
            click.echo(f"{'':<25}depends on {row['depends on']}")
    same = comparison.counts[Outcome.SAME]
    span = f" from {found.first} to {found.last}" if found.total else ""
    click.echo(f"{same:,} of {found.total:,} calls{span} are decided as before")


def _print_csv(comparison: Comparison) -> None:
    names = ["outcome", "calls", "caller", "call", "address", "old", "new", "depends on"]
    _options.print_csv(names, [list(_row(change).values()) for change in comparison.changes])


def _print_json(comparison: Comparison, found: Tally) -> None:
    from meshproxy.policy.compare import Outcome

    content = {
        "calls": found.total,
        "first": found.first or None,
        "last": found.last or None,
        "outcomes": {outcome.value: comparison.counts[outcome] for outcome in Outcome},
        "changes": [_listed(change) for change in comparison.changes],
        "skipped": {why.name.lower().replace("_", "-"): count for why, count in found.skipped.items()},
        "older": found.older,
        "contradicted": comparison.contradicted,
    }
    _options.print_page("PolicyDiff", content)


def _decided(verdict: Verdict | None) -> dict[str, object] | None:
    if verdict is None:
        return None
    return {"permitted": verdict.permitted, "inPart": verdict.is_part, "rule": verdict.rule}


def _listed(change: Change) -> dict[str, object]:
    observed = change.observed
    workload, token = observed.caller.workload, observed.caller.token
    return {
        "outcome": change.outcome.value,
        "calls": change.calls,
        "caller": {
            "spiffeId": workload.spiffe_id if workload is not None else None,
            "issuer": token.issuer if token is not None else None,
            "subject": token.subject if token is not None else None,
            "iamRole": token.iam_role if token is not None else None,
        },
        "verb": observed.call.verb.value,
        "models": msgspec.to_builtins(observed.call.models),
        "address": observed.address.rpartition(":")[0] or None,
        "old": _decided(change.old),
        "new": _decided(change.new),
        "dependsOn": list(change.depends),
    }


# By documents


def _by_documents(before: PolicySet, after: PolicySet, output: str) -> None:
    from meshproxy.config import schema
    from meshproxy.policy.structure import differences

    def about_access(documents: PolicySet) -> list[schema.ModelRole | schema.ModelRoleBinding | schema.MeshConfig]:
        mesh = [documents.mesh] if documents.mesh is not None and before.mesh and after.mesh else []
        return [*mesh, *documents.roles, *documents.bindings]

    found = differences(about_access(before), about_access(after))
    match output:
        case "json":
            _options.print_page("PolicyDiff", {"differences": [asdict(each) for each in found]})
        case "csv":
            rows = [[each.document, each.field, "new" if each.is_new else "old", each.value] for each in found]
            _options.print_csv(["document", "field", "side", "value"], rows)
        case _:
            _print_differences(found)
    if found:
        sys.exit(FOUND)


def _print_differences(found: list[Difference]) -> None:
    document = ""
    for each in found:
        if each.document != document:
            document = each.document
            click.echo(document)
        click.echo(f"  {'+' if each.is_new else '-'} {each.field}: {printable(each.value)}")
    if not found:
        click.echo("no difference in MeshConfig, roles and bindings", err=True)
