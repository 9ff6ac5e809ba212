"""`meshproxy import`: documents of Flagger and Istio, translated into ours."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshproxy.cli import _options
from meshproxy.cli._local_page import printable
from meshproxy.cli.main import FOUND

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meshproxy.migration.source import Source, Translation

FILE_BYTES = 8 << 20
HEAD = "# Written by meshproxy import: review it, and check it with meshproxy config check.\n"


@click.group("import")
def command() -> None:
    """Translate documents of other meshes: ours go to standard output, what has no counterpart to standard error."""


files_argument = click.argument(
    "files",
    nargs=-1,
    required=True,
    metavar="FILE...",
    type=click.Path(path_type=Path, allow_dash=True, dir_okay=False),
)
namespace_option = click.option(
    "--namespace",
    default="default",
    show_default=True,
    metavar="NAME",
    help="The namespace of documents that name none.",
)


@command.command("flagger", short_help="Canaries of Flagger into ModelRollouts.")
@files_argument
@click.option("--model", metavar="NAME", help="The model that calls name.  [default: the name of the target]")
@namespace_option
def flagger(files: tuple[Path, ...], model: str | None, namespace: str) -> None:
    """Translate Canaries of Flagger (flagger.app) into ModelRollouts, and ModelServers for their primary and canary.

    \b
    meshproxy import flagger canary.yaml --model fraud > rollout.yaml
    kubectl get canary fraud -o yaml | meshproxy import flagger - --model fraud

    Each field that has no counterpart, or means something else here, is listed with file and line.

    Exit status: 0, or 3 if something was refused.
    """
    from meshproxy.migration import flagger as translate

    if model is not None:
        from meshproxy.config.values import read_model_name

        _options.read(read_model_name, model, "--model")
    made = _translation()
    for version, kind, source in _sources(files, made):
        if version.startswith(translate.GROUP) and kind == "Canary":
            translate.canary(source, source.name, source.namespace or namespace, model, made)
        else:
            _skip(source, kind)
    _finish(made)


@command.command("istio", short_help="Traffic and authorization of Istio into our documents.")
@files_argument
@namespace_option
@click.option(
    "--trust-domain",
    default="cluster.local",
    show_default=True,
    metavar="DOMAIN",
    help="The trust domain in principals that is this mesh's own.",
)
@click.option(
    "--issuer", "issuers", multiple=True, metavar="NAME=URL", help="An issuer of the MeshConfig; may be repeated."
)
@click.option("--accept-wider", is_flag=True, help="Write rules of access that allow more here than they did, too.")
def istio(
    files: tuple[Path, ...], namespace: str, trust_domain: str, issuers: tuple[str, ...], accept_wider: bool
) -> None:
    """Translate documents of Istio: VirtualServices into ModelRoutes, DestinationRules into ModelServers, and
    AuthorizationPolicies into ModelRoles and ModelRoleBindings.

    \b
    meshproxy import istio istio/*.yaml > meshproxy.yaml

    Paths of TensorFlow Serving become models and verbs. A rule that would allow more than it did is left out: a role
    does not tell REST from gRPC, nor a call that names a version from one that does not. --accept-wider writes it, and
    a note says so. A denial that cannot be expressed exactly denies more. Every field without a counterpart is listed
    with file and line.

    Exit status: 0, or 3 if something was refused.
    """
    from meshproxy.migration import istio as traffic
    from meshproxy.migration import istio_access as access

    pairs = [each.partition("=") for each in issuers]
    if bad := [name for name, equals, url in pairs if not equals or not name or not url]:
        raise click.BadParameter(f"expected NAME=URL, got {bad[0]!r}", param_hint="--issuer")
    settings = access.Settings(trust_domain, {url: name for name, _, url in pairs}, accept_wider)
    made = _translation()
    rules = []
    for version, kind, source in _sources(files, made):
        own = source.namespace or namespace
        if version.startswith(traffic.NETWORKING) and kind == "VirtualService":
            traffic.virtual_service(source, source.name, own, made)
        elif version.startswith(traffic.NETWORKING) and kind == "DestinationRule":
            rules.append((source, own))
        elif version.startswith(access.SECURITY) and kind == "AuthorizationPolicy":
            access.authorization_policy(source, source.name, own, settings, made)
        else:
            _skip(source, kind)
    for source, own in rules:  # after the routes, which name ports
        traffic.destination_rule(source, own, made)
    _finish(made)


def _translation() -> Translation:
    from meshproxy.migration.source import Translation

    return Translation()


def _sources(files: Sequence[Path], made: Translation) -> Iterator[tuple[str, str, Source]]:
    from meshproxy.config.problems import ConfigError
    from meshproxy.migration.source import read_sources

    for path in files:
        try:
            if str(path) == "-":
                content = sys.stdin.buffer.read(FILE_BYTES + 1)
            else:
                with path.open("rb") as file:
                    content = file.read(FILE_BYTES + 1)
            if len(content) > FILE_BYTES:
                raise click.ClickException(f"{path} is larger than {FILE_BYTES} bytes: give it in several files")
            yield from read_sources("<stdin>" if str(path) == "-" else str(path), content, made)
        except OSError as error:
            raise click.ClickException(f"{path}: cannot be read: {error.strerror}") from None
        except ConfigError as error:
            raise click.ClickException(f"the documents have problems:\n{error}") from None


def _skip(source: Source, kind: str) -> None:
    from meshproxy.config.hints import of_kind
    from meshproxy.migration.source import Kind

    source.note("", Kind.REFUSED, of_kind(kind).removeprefix(": ") or "it is of another kind")


def _finish(made: Translation) -> None:
    from meshproxy.cli._status_text import counted
    from meshproxy.migration.source import Kind

    broken = _take_out_what_does_not_load(made)
    for note in made.notes:
        click.echo(printable(str(note)), err=True)
    for problem in broken:
        click.echo(printable(f"left out, as it would not load: {problem}"), err=True)
    if made.documents:
        click.echo(_text(made), nl=False)
    refused = sum(note.kind is Kind.REFUSED for note in made.notes) + len(broken)
    counts = counted(len(made.documents), "document"), counted(len(made.notes), "note"), counted(refused, "refusal")
    click.echo(", ".join(counts), err=True)
    if refused or not made.documents:
        sys.exit(FOUND)


def _text(made: Translation) -> str:
    import yaml

    return HEAD + "---\n".join(yaml.safe_dump(each, sort_keys=False, width=120) for each in made.documents)


def _take_out_what_does_not_load(made: Translation) -> list[str]:
    """What is written loads. Returns what was wrong with the rest, each beginning with the document."""
    from meshproxy.config.codes import Severity
    from meshproxy.config.examine import examine

    found: list[str] = []
    while made.documents:
        text = _text(made).encode()
        errors = [each for each in examine([], text, is_partial=True).problems if each.severity is Severity.ERROR]
        if not errors:
            break
        labels = {error.document for error in errors}
        found += [f"{error.document}: {error.field}: {error.message}" for error in errors]
        before = len(made.documents)
        made.documents = [each for each in made.documents if f"{each['kind']}/{each['metadata']['name']}" not in labels]
        if len(made.documents) == before:  # it names no document that is here
            made.documents = []
    return found
