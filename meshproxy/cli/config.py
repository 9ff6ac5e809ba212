"""`meshproxy config`: are these documents right, and what can be written in them."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from meshproxy.cli.main import FOUND

if TYPE_CHECKING:
    from meshproxy.config.problems import ConfigError
    from meshproxy.config.reference import Field
    from meshproxy.config.schema import Documents

WIDTH = 88


@click.group("config")
def command() -> None:
    """Check documents, and explain what can be written in them."""


@command.command("check")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print what was found."
)
def check(paths: tuple[str, ...], output: str) -> None:
    """Say everything that is wrong with the documents in PATH.

    PATH is a file, or a folder of *.yaml, *.yml and *.json. All paths together are checked as one set, as a sidecar
    would load them.

    Ends with status 0 if the set can be used and with 3 if not. Problems go to standard output, the summary to
    standard error.
    """
    from meshproxy.config.load import load
    from meshproxy.config.problems import ConfigError

    try:
        documents = load(paths)
    except ConfigError as error:
        _print_problems(error, output)
        sys.exit(FOUND)
    _print_summary(documents, output)


def _print_problems(error: ConfigError, output: str) -> None:
    if output == "json":
        problems = [
            {
                "file": problem.file,
                "line": problem.line or None,
                "document": problem.document or None,
                "field": problem.field or None,
                "message": problem.message,
            }
            for problem in error.problems
        ]
        click.echo(
            json.dumps(_answer({"ok": False, "documents": {}, "fingerprint": None, "problems": problems}), indent=2)
        )
        return
    for problem in error.problems:
        click.echo(str(problem))
    count = len(error.problems)
    click.echo(f"{count} problem{'s' * (count != 1)}", err=True)


def _print_summary(documents: Documents, output: str) -> None:
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
        click.echo(json.dumps(_answer(fields), indent=2))
        return
    for kind, those in names.items():
        shown = ", ".join(those[:5]) + (", ..." if len(those) > 5 else "")
        click.echo(f"{kind:<16} {len(those):>5}  {shown}".rstrip(), err=True)
    if not documents.roles:
        click.echo("no ModelRole: every caller may do everything but what is for administrators", err=True)


def _answer(fields: dict[str, object]) -> dict[str, object]:
    return {"apiVersion": "meshproxy.dev/v1alpha1", "kind": "ConfigCheck", **fields}


@command.command("explain")
@click.argument("field", required=False, metavar="[KIND[.FIELD...]]")
@click.option(
    "-o", "--output", type=click.Choice(["text", "markdown"]), default="text", help="markdown: the whole reference."
)
def explain(field: str | None, output: str) -> None:
    """Say what can be written in documents: the kinds, or a KIND, or one of its fields.

    \b
    meshproxy config explain
    meshproxy config explain ModelRole
    meshproxy config explain MeshConfig.spec.limits
    """
    from meshproxy.config import reference
    from meshproxy.config.problems import closest

    if output == "markdown":
        if field is not None:
            raise click.UsageError("markdown is the whole reference: leave out KIND")
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
        hint = closest(name, known) or (f": there are {', '.join(known)}" if known else ": nothing is below")
        raise click.UsageError(f'no "{name}" in {field}{hint}') from None
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
