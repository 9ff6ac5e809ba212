"""`meshproxy config`: check documents, and explain their fields."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from meshproxy.cli import _config_init, _options
from meshproxy.cli.main import FOUND
from meshproxy.config.codes import BY_NUMBER, Severity
from meshproxy.config.fields import API_VERSION
from meshproxy.config.problems import closest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshproxy.config.examine import Examination
    from meshproxy.config.problems import Problem
    from meshproxy.config.reference import Field

WIDTH = 88


@click.group("config")
def command() -> None:
    """Check documents, and explain their fields."""


@command.command("check", short_help="Report all problems of documents.")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--partial",
    "is_partial",
    is_flag=True,
    help="The documents are a part of a set. Implied if there is neither a MeshConfig nor a Sidecar.",
)
@click.option(
    "--failure-threshold",
    type=click.Choice([str(severity) for severity in Severity]),
    default="error",
    show_default=True,
    help="The exit status is 3 if anything of this severity or worse was found.",
)
@click.option(
    "--suppress",
    "suppressed",
    multiple=True,
    metavar="CODE",
    help="Leave out warnings and information with this code, such as MP0603; may be repeated.",
)
@_options.output
def check(
    paths: tuple[str, ...], is_partial: bool, failure_threshold: str, suppressed: tuple[str, ...], output: str
) -> None:
    """Report all problems of the documents in PATH.

    PATH is a file, a folder of *.yaml, *.yml and *.json files, or - for standard input. All paths together are checked
    as one set, as a sidecar loads them. Manifests of Kubernetes may be checked as well: documents in ConfigMaps are
    looked at, everything else is skipped.

    \b
    meshproxy config check mesh.yaml policy/
    kubectl get configmap mesh -o yaml | meshproxy config check -

    Problems go to standard output, each with the place and a code (docs/config-check.md; meshproxy config explain
    MP0503), the summary to standard error.

    Exit status: 0 if nothing at or above the threshold was found, otherwise 3.
    """
    from meshproxy.config.examine import examine
    from meshproxy.config.files import FILE_BYTES

    files = [path for path in paths if path != "-"]
    stdin = sys.stdin.buffer.read(FILE_BYTES + 1) if len(files) < len(paths) else None
    found = _without(suppressed, examine(files, stdin, is_partial=is_partial))
    if output == "json":
        click.echo(json.dumps(_answer(found), indent=2))
    else:
        _print(found)
    worst = min((problem.severity.rank for problem in found.problems), default=len(Severity))
    if worst <= Severity(failure_threshold).rank:
        sys.exit(FOUND)


def _without(suppressed: Sequence[str], found: Examination) -> Examination:
    """The result without problems of these codes. Raises UsageError if a code is unknown, or one of an error."""
    for code in suppressed:
        if code not in BY_NUMBER:
            raise click.BadParameter(f"there is no code {code}{closest(code, BY_NUMBER)}", param_hint="--suppress")
        if BY_NUMBER[code].severity is Severity.ERROR:
            raise click.BadParameter(f"{code} is an error, which no sidecar ignores", param_hint="--suppress")
    return replace(found, problems=tuple(each for each in found.problems if each.code not in suppressed))


def _print(found: Examination) -> None:
    for problem in found.problems:
        prefix = "" if problem.severity is Severity.ERROR else f"{problem.severity}: "
        click.echo(f"{prefix}{problem} [{problem.code}]")
    counts = {severity: found.count(severity) for severity in Severity}
    if not counts[Severity.ERROR]:
        for kind, names in found.names.items():
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            click.echo(f"{kind:<16} {len(names):>5}  {shown}".rstrip(), err=True)
    said = [f"{count} {severity}{'s' * (count != 1)}" for severity, count in counts.items() if count]
    if said:
        click.echo(", ".join(said).replace("infos", "info"), err=True)


def _answer(found: Examination) -> dict[str, object]:
    return {
        "apiVersion": API_VERSION,
        "kind": "ConfigCheck",
        "ok": not found.count(Severity.ERROR),
        "partial": found.is_partial,
        "documents": found.names,
        "fingerprint": found.fingerprint,
        "problems": [_listed(problem) for problem in found.problems],
    }


def _listed(problem: Problem) -> dict[str, object]:
    kind, _, name = problem.document.partition("/")
    return {
        "file": problem.file,
        "line": problem.line or None,
        "code": problem.code,
        "severity": problem.severity,
        "kind": kind or None,
        "name": name or None,
        "field": problem.field or None,
        "message": problem.message,
    }


@command.command("explain", short_help="Explain a kind of document, one of its fields, or a code.")
@click.argument("field", required=False, metavar="[KIND[.FIELD...] | CODE]")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "markdown"]),
    default="text",
    help="markdown prints the whole reference.  [default: text]",
)
def explain(field: str | None, output: str) -> None:
    """Explain what documents can contain: all kinds, one KIND, or one of its fields; or the CODE of a problem.

    \b
    meshproxy config explain
    meshproxy config explain ModelRole
    meshproxy config explain MeshConfig.spec.limits
    meshproxy config explain MP0503
    """
    from meshproxy.config import reference
    from meshproxy.config.elsewhere import elsewhere
    from meshproxy.config.hints import of_field, of_kind

    if output == "markdown":
        if field is not None:
            raise click.UsageError("-o markdown prints the whole reference: leave out KIND")
        click.echo(reference.page(), nl=False)
        return
    if field is None:
        for name, kind in reference.kinds().items():
            _paragraph(reference.description(kind).split("\n\n")[0], name)
        return
    if field in BY_NUMBER:
        _paragraph(BY_NUMBER[field].text, f"{field}  ({BY_NUMBER[field].severity})")
        return
    try:
        path, found, struct = reference.find(field)
    except LookupError as error:
        name, known = error.args
        where, first = field.rpartition(f".{name}")[0], field.partition(".")[0]
        hint = of_kind(name) or of_field(name, known) or closest(name, known) or elsewhere(name, first)
        hint = hint or (f" (there are: {', '.join(known)})" if known else " (it has no fields)")
        what = f'{where} has no field "{name}"' if where else f'there is no kind "{name}"'
        raise click.UsageError(what + hint) from None
    click.echo(path)
    if found is not None:
        _print_field(found, with_name=False)
    if struct is not None:
        click.echo()
        for paragraph in reference.description(struct).split("\n\n"):
            if found is None or " ".join(paragraph.split()) != found.text:
                _paragraph(paragraph)
                click.echo()
        for each in reference.fields(struct):
            _print_field(each, with_name=True)


@command.command("crds", short_help="Print the CustomResourceDefinitions for Kubernetes.")
def print_crds() -> None:
    """Print the CustomResourceDefinitions of all kinds for Kubernetes.

    \b
    meshproxy config crds | kubectl apply --server-side -f -
    """
    from meshproxy.config import crds

    click.echo(crds.page(), nl=False)


def _print_field(field: Field, *, with_name: bool) -> None:
    default = field.default if field.default in ("", "required") else f"default {field.default}"
    kind = f"{field.words}; {default}" if default else field.words
    _paragraph(field.text, f"{field.name}  ({kind})" if with_name else f"({kind})")


def _paragraph(text: str, head: str = "") -> None:
    indent = "  " if head else ""
    if head:
        click.echo(head)
    click.echo(click.wrap_text(" ".join(text.split()), WIDTH, indent, indent))


command.add_command(_config_init.init)
command.add_command(_config_init.schema)
