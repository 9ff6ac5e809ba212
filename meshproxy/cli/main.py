"""`meshproxy`: one command, whose sub-commands are the modules beside this one.

To add a command, add the file `meshproxy/cli/NAME.py` with a click command or group called `command`. A command is
imported only when it is called, but `meshproxy --help` imports all of them for their first lines: heavy imports belong
inside functions. The file of a command whose name is a word of Python ends with `_` (`import_.py`).

Exit statuses of all commands: 0 success, 1 failure, 2 usage error, 3 a negative result (problems in documents, a denied
call), 130 interrupted. `check` and `proxy-status` grade a mesh instead: 0 well, 1 warnings, 2 errors; and
`upgrade` a change: 0 none, 1 some, 2 dangerous or not possible.
"""

from __future__ import annotations

import errno
import importlib
import keyword
import pkgutil

import click

import meshproxy
import meshproxy.cli
from meshproxy.cli import _options

FOUND = 3
"""Exit status of a command that worked and has a negative result."""
INTERRUPTED = 130
"""Exit status after Ctrl-C: click's 1 is a failure, and a verdict of `check` and `upgrade`."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What a write says where there is no more room."""
FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
"""What whoever runs the command may not do, also where a command only looks whether a file is there."""


class _Commands(click.Group):
    """The modules of `meshproxy.cli`, and what is registered here."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("\nInterrupted.", err=True)
            raise click.exceptions.Exit(INTERRUPTED) from None
        except OSError as error:
            if error.errno in FULL and error.filename is None:
                raise click.ClickException(f"the output cannot be written: {error.strerror}") from None
            if error.errno in FORBIDDEN and error.filename is not None:
                raise click.ClickException(f"{error.filename}: {error.strerror}") from None
            raise

    def list_commands(self, ctx: click.Context) -> list[str]:
        modules = (module.name for module in pkgutil.iter_modules(meshproxy.cli.__path__))
        names = (name.rstrip("_").replace("_", "-") for name in modules if name != "main" and not name.startswith("_"))
        return sorted({*names, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        known = super().get_command(ctx, cmd_name)
        if known is not None or cmd_name not in self.list_commands(ctx):
            return known
        name = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name.replace("-", "_")
        module = importlib.import_module(f"meshproxy.cli.{name}")
        command = module.command
        assert isinstance(command, click.Command), f"{module.__name__}.command is not a click command"
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        # click suggests similar names for options and sub-commands, with its own text; this is ours.
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            from meshproxy.config.problems import closest

            ctx.fail(f"No such command '{args[0]}'{closest(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


def _print_version(ctx: click.Context, option: click.Parameter, is_set: bool) -> None:
    if is_set:
        click.echo(_VERSIONS.format(**_versions()))
        ctx.exit()


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the versions, as `meshproxy version` does, and exit.",
)
def main() -> None:
    """A model-aware sidecar proxy for TensorFlow Serving."""


@main.command("version")
@_options.output
def version(output: str) -> None:
    """Print the versions of meshproxy, Python and OpenSSL."""
    import json

    versions = _versions()
    click.echo(json.dumps(versions) if output == "json" else _VERSIONS.format(**versions))


_VERSIONS = "meshproxy {meshproxy} (Python {python}, OpenSSL {openssl})"


def _versions() -> dict[str, str]:
    import platform
    import ssl

    return {
        "meshproxy": meshproxy.__version__,
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION.removeprefix("OpenSSL ").split()[0],
    }
