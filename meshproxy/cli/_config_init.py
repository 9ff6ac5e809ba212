"""`meshproxy config init`: the first documents of a mesh. `meshproxy config schema`: for editors."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from meshproxy.cli import _first_policy, _options
from meshproxy.config import values


@click.command("schema", short_help="Print the JSON Schema of documents, for editors.")
def schema() -> None:
    """Print the JSON Schema (2020-12) of all kinds. An editor with the YAML language server completes and checks fields
    by it, in files that begin with

    \b
    # yaml-language-server: $schema=.meshproxy.schema.json

    \b
    meshproxy config schema > .meshproxy.schema.json

    It knows fields, types and bounds. What documents say together, meshproxy config check examines.
    """
    from meshproxy.config.json_schema import json_schema

    click.echo(json.dumps(json_schema(), indent=1))


@click.command("init", short_help="Write the first documents of a mesh.")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER")
@click.option("--trust-domain", metavar="DOMAIN", help="The trust domain of the mesh, such as prod.example.")
@click.option("--model", metavar="NAME", help="The first model, or a glob.")
@click.option("--caller", metavar="NAMESPACE/ACCOUNT", help="The first workload that may call it.")
@click.option("--issuer", metavar="URL", help="The issuer of tokens (its iss).  [default: no tokens yet]")
@click.option("--audience", metavar="TEXT", help="The audience of its tokens.  [default: the trust domain]")
def init(
    folder: Path,
    trust_domain: str | None,
    model: str | None,
    caller: str | None,
    issuer: str | None,
    audience: str | None,
) -> None:
    """Write the first documents into FOLDER: mesh.yaml, policy.yaml, sidecar.yaml, expectations.yaml, and the schema
    that editors check them by. One workload may call one model; everything else is refused.

    \b
    meshproxy config init policy --trust-domain prod.example --model fraud --caller payments/checkout

    What is not given is asked for, at a terminal. No file is overwritten: if one is there, nothing is written.
    """
    from meshproxy.config.examine import examine

    domain = _options.read(
        values.read_trust_domain, _asked(trust_domain, "Trust domain of the mesh", "--trust-domain"), "--trust-domain"
    )
    name = _options.read(values.read_glob, _asked(model, "First model (a name or a glob)", "--model"), "--model")
    who = _asked(caller, "First caller (namespace/service account)", "--caller")
    namespace, slash, account = who.partition("/")
    if not slash:
        raise click.UsageError(f"--caller: expected NAMESPACE/ACCOUNT, got {who!r}")
    for part in (namespace, account):
        _options.read(values.read_name_glob, part, "--caller")
    if issuer is not None:
        _options.read(values.read_url, issuer, "--issuer")
    elif audience is not None:
        raise click.UsageError("--audience needs --issuer")
    answers = _first_policy.Answers(domain, name, namespace, account, issuer, audience or domain)
    written = _write(folder, _first_policy.files(answers))
    found = examine([str(folder)])
    for path in written:
        click.echo(path)
    click.echo(f"\nchecked: {sum(map(len, found.names.values()))} documents, {len(found.problems)} notes:", err=True)
    for problem in found.problems:
        click.echo(f"  {problem}", err=True)
    click.echo(
        f"next: meshproxy policy test {folder / 'expectations.yaml'} --config {folder}\n"
        f"      meshproxy policy matrix --config {folder}",
        err=True,
    )


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _asked(given: str | None, question: str, option: str) -> str:
    if given is not None:
        return given
    if not _is_terminal():
        raise click.UsageError(f"{option} is missing, and this is no terminal to ask at")
    return str(click.prompt(question))


def _write(folder: Path, files: dict[str, str]) -> list[Path]:
    """Write all of them, or none."""
    paths = {folder / name: text for name, text in files.items()}
    if there := [str(path) for path in paths if path.exists() or path.is_symlink()]:
        raise click.ClickException(f"already there, and not overwritten: {', '.join(there)}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in paths.items():
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise click.ClickException(f"{error.filename}: cannot be written: {error.strerror}") from None
    return list(paths)
