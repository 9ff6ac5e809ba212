"""`meshproxy policy unused` and `matrix`: for reviews of access."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click
import msgspec

from meshproxy.cli import _options, _policy_sets
from meshproxy.cli._local_page import printable
from meshproxy.cli.main import FOUND

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meshproxy.cli._policy_sets import Tally
    from meshproxy.config.check import Placed
    from meshproxy.config.policy_set import PolicySet
    from meshproxy.inference.call import ModelRef
    from meshproxy.policy.matrix import Grant
    from meshproxy.policy.usage import Usage


@dataclass(frozen=True, slots=True)
class Unused:
    """A part of the policy that no call made use of."""

    place: str
    """File and line."""
    document: str
    field: str
    """Empty: the whole document."""
    what: str


@click.command("unused", short_help="Bindings, roles and rules that no call made use of.")
@click.argument("logs", nargs=-1, required=True, metavar="LOG...")
@_policy_sets.config
@click.option("--since", metavar="AGE", help="Only lines that are not older: 30d, 12h, or a date.  [default: all]")
@_policy_sets.trust_domain
@_options.table
def unused(
    logs: tuple[str, ...], paths: tuple[str, ...], since: str | None, trust_domain: str | None, output: str
) -> None:
    """List the bindings, subjects, roles and rules that no line of LOG made use of: lines of an audit log or an access
    log, - for standard input.

    \b
    meshproxy policy unused --config policy/ --since 30d access.log access.log.1.gz

    Bindings are those that lines name. A subject or rule counts as used if it fits a call that its binding decided,
    whatever the claims and headers were.

    Exit status: 0 if everything was used, otherwise 3.
    """
    from meshproxy.policy.usage import count_usage

    documents = _policy_sets.load(paths)
    policy = _policy_sets.compiled(documents, _policy_sets.domain_of([documents], trust_domain))
    start = _options.read(_policy_sets.since_now, since, "--since") if since is not None else ""
    tally = _policy_sets.tally(logs, start, with_addresses=False)
    usage = count_usage(policy, tally.calls.items())
    found = sorted(_unused(documents, usage), key=lambda each: each.place) if tally.total else []
    notes = list(_notes(tally, usage, start))
    match output:
        case "json":
            content = {"calls": tally.total, "first": tally.first or None, "last": tally.last or None}
            listed = [asdict(each) for each in found]
            _options.print_page("PolicyUnused", {**content, "unused": listed, "gone": usage.gone, "notes": notes})
        case "csv":
            rows = [[each.place, each.document, each.field, each.what] for each in found]
            _options.print_csv(["place", "document", "field", "what"], rows)
        case _:
            for each in found:
                field = f": {each.field}" if each.field else ""
                click.echo(printable(f"{each.place}: {each.document}{field}: {each.what}"))
    if output != "json":
        for note in notes:
            click.echo(f"note: {note}", err=True)
    if found:
        sys.exit(FOUND)


def _notes(tally: Tally, usage: Usage, start: str) -> Iterator[str]:
    """What has been read, and what it cannot tell."""
    from meshproxy.cli._status_text import counted

    if not tally.total:
        yield "no line tells of a call that was decided: nothing is known about what is used"
    else:
        read = f"{counted(tally.total, 'call')} ({usage.allowed:,} allowed, {usage.denied:,} denied)"
        yield f"{read} from {tally.first} to {tally.last}"
        if not usage.allowed:
            yield (
                "no call that was allowed is among them, as in an audit log of denials: nothing is said of bindings "
                "that allow, and of their roles"
            )
        if start and not tally.older:
            yield f"no line is older than {start}: the logs may begin later than --since"
    if usage.gone:
        yield f"decided calls, and are not in the policy: {', '.join(map(printable, sorted(usage.gone)))}"
    yield from tally.notes()


def _unused(documents: PolicySet, usage: Usage) -> Iterator[Unused]:
    """In the order of documents. If no call was allowed, the logs have only denials: see `_notes`."""
    by_role: dict[str, set[str]] = {}
    for binding in documents.bindings:
        by_role.setdefault(binding.spec.role, set()).add(binding.spec.action)
    for each in documents.placed:
        name = each.name
        if each.kind == "ModelRoleBinding":
            spec = each.document.spec
            if spec.action == "allow" and not usage.allowed:
                continue
            if not usage.bindings[name]:
                yield _whole(each, f"decided no call (action {spec.action})")
                continue
            for index, node in enumerate(_items(each, "subjects")):
                if not usage.subjects[name, index]:
                    place = f"{each.file}:{node.line}"
                    yield Unused(place, each.label, f"spec.subjects[{index}]", "fits no caller of this binding")
        elif each.kind == "ModelRole":
            if not usage.allowed and "allow" in by_role.get(name, {"allow"}):
                continue
            if not usage.roles[name]:
                yield _whole(each, "no binding to it decided a call" if name in by_role else "no binding names it")
                continue
            for index, node in enumerate(_items(each, "rules")):
                if not usage.rules[name, index]:
                    place = f"{each.file}:{node.line}"
                    yield Unused(place, each.label, f"spec.rules[{index}]", "covers no call of this role's bindings")


def _whole(each: Placed, what: str) -> Unused:
    return Unused(each.place, each.label, "", what)


def _items(each: Placed, field: str) -> Sequence[Any]:
    from meshproxy.config.places import find, items

    return items(find(each.node, "spec", field))


# The matrix


@click.command("matrix", short_help="Who may do what with which model.")
@_policy_sets.config
@click.option("--model", "models", multiple=True, metavar="NAME", help="Only this model; may be repeated.")
@_policy_sets.trust_domain
@_options.table
def matrix(paths: tuple[str, ...], models: tuple[str, ...], trust_domain: str | None, output: str) -> None:
    """Show what the policy allows: who, which model, which verbs.

    \b
    meshproxy policy matrix --config policy/
    meshproxy policy matrix --config policy/ -o csv > review.csv

    Each subject that a binding allows is one row (in CSV and JSON: one for each model). What a binding denies to some
    of these callers, or if they send a certain claim or header, is named by "unless".
    """
    from meshproxy.policy.matrix import matrix as grants

    documents = _policy_sets.load(paths)
    policy = _policy_sets.compiled(documents, _policy_sets.domain_of([documents], trust_domain))
    found = grants(policy, models)
    if models:
        found = [grant for grant in found if grant.model is not None and grant.model.name in models]
    match output:
        case "json":
            _options.print_page("PolicyMatrix", {"grants": list(map(_listed, found))})
        case "csv":
            names = ["workload", "token", "iam role", "conditions", "model", "verbs", "allowed by", "unless denied by"]
            _options.print_csv(names, [_cells(grant) for grant in found])
        case _:
            _print_matrix(found)
    if not policy.roles:
        click.echo("note: there is no ModelRole: every caller may do everything but administrators' verbs", err=True)


def _named(model: ModelRef | None) -> str:
    if model is None:
        return "(the server)"
    version = f" version {model.version}" if model.version else f" label {model.label}" if model.label else ""
    return f"{model.name}{version}{f' signature {model.signature}' if model.signature else ''}"


def _verbs(grant: Grant) -> str:
    return " ".join(f"{verb.value} (in part)" if verb in grant.parts else verb.value for verb in grant.verbs)


def _cells(grant: Grant) -> list[str]:
    who = grant.who
    by, unless = "; ".join(grant.by), "; ".join(grant.unless)
    return [who.workload, who.token, who.iam_role, who.conditions, _named(grant.model), _verbs(grant), by, unless]


def _listed(grant: Grant) -> dict[str, object]:
    return {
        **asdict(grant.who),
        "model": msgspec.to_builtins(grant.model),
        "verbs": [verb.value for verb in grant.verbs],
        "inPart": [verb.value for verb in grant.verbs if verb in grant.parts],
        "by": list(grant.by),
        "unless": list(grant.unless),
    }


def _print_matrix(found: Sequence[Grant]) -> None:
    """People down, models across."""
    from rich.console import Console

    from meshproxy.cli._status_text import new_table

    models = list(dict.fromkeys(_named(grant.model) for grant in found))
    table = new_table("WHO", *models)
    rows: dict[str, dict[str, str]] = {}
    for grant in found:
        unless = f" (unless {', '.join(grant.unless)})" if grant.unless else ""
        rows.setdefault(str(grant.who), {})[_named(grant.model)] = f"{_verbs(grant)}{unless}"
    for who, cells in rows.items():
        table.add_row(who, *(cells.get(model, "-") for model in models))
    if rows:
        Console(highlight=False).print(table)
    else:
        click.echo("nothing is allowed to anybody", err=True)
