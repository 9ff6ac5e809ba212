"""Options that several commands have, and what they print."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

from meshproxy.log_level import LEVELS, VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

T = TypeVar("T")


def together(*options: Callable[[Any], Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds these options to a command, which shows them in this order."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


DEFAULT_ADMIN = "127.0.0.1:18502"

admin = click.option(
    "--admin",
    "address",
    default=DEFAULT_ADMIN,
    show_default=True,
    metavar="HOST:PORT",
    help="The sidecar's admin port on this host (spec.admin.listen).",
)

output = click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    help="The format of the output.  [default: text]",
)


table = click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    help="The format of the output.  [default: table]",
)


def print_csv(names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Rows for a spreadsheet (RFC 4180). A cell that it would take for a formula begins with an apostrophe: callers
    choose names (https://owasp.org/www-community/attacks/CSV_Injection)."""
    import csv
    import io

    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([[f"'{cell}" if cell[:1] in FORMULA else cell for cell in row] for row in rows])
    click.echo(text.getvalue(), nl=False)


FORMULA = tuple("=+-@\t\r")
"""What a formula begins with."""


def print_page(kind: str, content: Mapping[str, object]) -> None:
    """What a command that grades a mesh or a cluster prints for `-o json`."""
    import msgspec

    from meshproxy.control.status import API_VERSION

    page = {"apiVersion": API_VERSION, "kind": kind, **content}
    click.echo(msgspec.json.format(msgspec.json.encode(page), indent=2).decode())


def log_level(text: str) -> Callable[[Any], Any]:
    """`--log-level`, with this help."""
    return click.option(
        "--log-level",
        type=click.Choice(LEVELS),
        default="info",
        show_default=True,
        envvar=VARIABLE,
        help=text,
    )


def read(reader: Callable[[str], T], text: str, option: str) -> T:
    """What a reader of `config.values`, or one like it, makes of an option. Raises UsageError, which names it."""
    try:
        return reader(text)
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}") from None
