"""`meshproxy config`: check documents, and explain their fields."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from meshproxy.cli.main import FOUND

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshproxy.config.problems import ConfigError, Problem
    from meshproxy.config.reference import Field
    from meshproxy.config.schema import Documents

WIDTH = 88


@click.group("config")
def command() -> None:
    """Check documents, and explain their fields."""


@command.command("check", short_help="Report all problems of documents.")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    help="The format of the output.  [default: text]",
)
def check(paths: tuple[str, ...], output: str) -> None:
    """Report all problems of the documents in PATH.

    PATH is a file, or a folder of *.yaml, *.yml and *.json files. All paths together are checked as one set, as a
    sidecar loads them. Problems and warnings go to standard output, the summary to standard error.

    Exit status: 0 if a sidecar can use the documents, also if there are warnings; 3 if they have problems.
    """
    from meshproxy.config.load import examine
    from meshproxy.config.problems import ConfigError

    try:
        documents, warnings = examine(paths)
    except ConfigError as error:
        _print_problems(error, output)
        sys.exit(FOUND)
    _print_summary(documents, warnings, output)


def _print_problems(error: ConfigError, output: str) -> None:
    if output == "json":
        found: dict[str, object] = {"problems": _listed(error.problems), "warnings": []}
        click.echo(json.dumps(_answer({"ok": False, "documents": {}, "fingerprint": None, **found}), indent=2))
        return
    for problem in error.problems:
        click.echo(str(problem))
    count = len(error.problems)
    click.echo(f"{count} problem{'s' * (count != 1)}", err=True)


def _listed(problems: Sequence[Problem]) -> list[dict[str, object]]:
    return [
        {
            "file": problem.file,
            "line": problem.line or None,
            "document": problem.document or None,
            "field": problem.field or None,
            "message": problem.message,
        }
        for problem in problems
    ]


def _print_summary(documents: Documents, warnings: Sequence[Problem], output: str) -> None:
    found: dict[str, tuple[Any, ...]] = {
        "MeshConfig": (documents.mesh,),
        "ModelRole": documents.roles,
        "ModelRoleBinding": documents.bindings,
        "ModelServer": documents.servers,
        "ModelRoute": documents.routes,
        "Sidecar": (documents.sidecar,),
    }
    names = {kind: [each.metadata.name for each in those] for kind, those in found.items()}
    if output == "json":
        fields = {"ok": True, "documents": names, "fingerprint": documents.fingerprint, "problems": []}
        click.echo(json.dumps(_answer({**fields, "warnings": _listed(warnings)}), indent=2))
        return
    for warning in warnings:
        click.echo(f"warning: {warning}")
    for kind, those in names.items():
        shown = ", ".join(those[:5]) + (", ..." if len(those) > 5 else "")
        click.echo(f"{kind:<16} {len(those):>5}  {shown}".rstrip(), err=True)
    if not documents.roles:
        click.echo(
            "note: without a ModelRole, every caller may call every model; verbs of administrators are denied", err=True
        )


def _answer(fields: dict[str, object]) -> dict[str, object]:
    return {"apiVersion": "meshproxy.dev/v1alpha1", "kind": "ConfigCheck", **fields}


@command.command("explain", short_help="Explain a kind of document, or one of its fields.")
@click.argument("field", required=False, metavar="[KIND[.FIELD...]]")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "markdown"]),
    default="text",
    help="markdown prints the whole reference.  [default: text]",
)
def explain(field: str | None, output: str) -> None:
    """Explain what documents can contain: all kinds, one KIND, or one of its fields.

    \b
    meshproxy config explain
    meshproxy config explain ModelRole
    meshproxy config explain MeshConfig.spec.limits
    """
    from meshproxy.config import reference
    from meshproxy.config.problems import closest

    if output == "markdown":
        if field is not None:
            raise click.UsageError("-o markdown prints the whole reference: leave out KIND")
        click.echo(reference.page(), nl=False)
        return
    if field is None:
        for name, kind in reference.kinds().items():
            _paragraph(reference.description(kind).split("\n\n")[0], name)
        return
    try:
        path, found, struct = reference.find(field)
    except LookupError as error:
        name, known = error.args
        hint = closest(name, known) or (f" (there are: {', '.join(known)})" if known else " (it has no fields)")
        where = field.rpartition(f".{name}")[0]
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


def _print_field(field: Field, *, with_name: bool) -> None:
    default = field.default if field.default in ("", "required") else f"default {field.default}"
    kind = f"{field.words}; {default}" if default else field.words
    _paragraph(field.text, f"{field.name}  ({kind})" if with_name else f"({kind})")


def _paragraph(text: str, head: str = "") -> None:
    indent = "  " if head else ""
    if head:
        click.echo(head)
    click.echo(click.wrap_text(" ".join(text.split()), WIDTH, indent, indent))
