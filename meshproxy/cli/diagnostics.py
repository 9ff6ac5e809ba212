"""`meshproxy diagnostics`: what somebody needs who is to find out what is wrong with a mesh, and does not see it."""

from __future__ import annotations

import io
import json
import platform
import tarfile
import time
from pathlib import Path

import click

from meshproxy import __version__
from meshproxy.cli import _control_planes, _mesh
from meshproxy.cli._local_page import NoAnswer, get, read_address

PAGES = {
    "status.json": "/status",
    "mesh.json": "/mesh?seconds=3600",
    "findings.json": "/findings",
    "documents.json": "/documents",
    "endpoints.json": "/endpoints",
    "metrics.txt": "/metrics",
    "readyz.txt": "/readyz",
}
"""Of each control plane. None of them has a key, a token or the content of a Secret."""


@click.group("diagnostics")
def command() -> None:
    """Gather what is known of a mesh."""


@command.command("dump", short_help="Write a bundle of all that the control planes say, without secrets.")
@click.option(
    "-f",
    "--file",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The bundle to write.  [default: meshproxy-TIME.tar.gz]",
)
@_control_planes.options
def dump(path: Path | None, addresses: tuple[str, ...], timeout: float) -> None:
    """Write a compressed archive with the pages of the control planes: their status and that of the sidecars, the calls
    of the last hour, the documents in force, endpoints and metrics.

    There is no key, no token and no content of a Secret in it. There are names: of callers, models, hosts and
    policies, and the addresses of callers. Look at it before you hand it on.

    Exit status: 0, or 1 if no control plane answers or a page is missing, which the bundle says.
    """
    path = path if path is not None else Path(f"meshproxy-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.tar.gz")
    files: dict[str, bytes] = {}
    problems: list[str] = []
    for address in dict.fromkeys(addresses):
        where = read_address(address, "--control", _control_planes.DEFAULT)
        folder = "{}-{}".format(*where).replace(":", "-")
        failed: dict[str, list[str]] = {}
        for name, page in PAGES.items():
            try:
                # A page that says that something is wrong is what this is about.
                content = get(where, page, timeout)[1] if page == "/readyz" else _mesh.ask_page(where, page, timeout)
            except NoAnswer as error:
                failed.setdefault(str(error), []).append(page)
                continue
            files[f"{folder}/{name}"] = content
        problems += [
            f"no control plane answers at {address}: {error}"
            if len(pages) == len(PAGES)
            else f"{address}, {', '.join(pages)}: {error}"
            for error, pages in failed.items()
        ]
    if not files:
        raise click.ClickException("; ".join([*problems, _control_planes.HINT]))
    files["about.json"] = _about(problems)
    try:
        _write(path, files)
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}") from error
    for problem in problems:
        click.echo(f"‼ missing: {problem}", err=True)
    click.echo(f"{path}: {len(files)} files, {path.stat().st_size:,} bytes", err=True)
    click.echo(str(path))
    if problems:
        raise SystemExit(1)


def _about(problems: list[str]) -> bytes:
    about = {
        "meshproxy": __version__,
        "python": platform.python_version(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "missing": problems,
    }
    return json.dumps(about, indent=2).encode()


def _write(path: Path, files: dict[str, bytes]) -> None:
    """Readable by nobody else, as names of callers are in it. Raises OSError."""
    with path.open("xb") as file:
        path.chmod(0o600)
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name, content in sorted(files.items()):
                member = tarfile.TarInfo(f"meshproxy/{name}")
                member.size, member.mode, member.mtime = len(content), 0o600, int(time.time())
                archive.addfile(member, io.BytesIO(content))
