"""Options of the commands that use the authority of a mesh: in a folder, or in a Secret of a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshproxy.cli import _cluster, _extra, _injection, _options

if TYPE_CHECKING:
    from meshproxy.control.attestation import TokenStore
    from meshproxy.control.leaves import Leaves
    from meshproxy.control.rotator import Place

options = _options.together(
    click.option(
        "--folder",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="The folder of the control plane (`meshproxy control run --folder`).",
    ),
    click.option(
        "--authority-secret",
        metavar="NAME",
        help="The Secret with the authority, in a cluster (`meshproxy control run --authority-secret`).",
    ),
    _injection.namespace_option("The namespace of the Secret, where the control plane runs."),
    _cluster.options,
)
"""Where the authority is kept; `find` reads them."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An authority, and what is kept beside it."""

    place: Place
    leaves: Leaves
    tokens: TokenStore


def find(
    *,
    folder: Path | None,
    authority_secret: str | None,
    control_namespace: str,
    kubeconfig: Path | None,
    context: str | None,
) -> Kept:
    """What the options name; nothing is read yet. Raises UsageError and ClickException."""
    from meshproxy.control.leaves import FolderLeaves
    from meshproxy.control.store import FolderStore

    if (folder is None) == (authority_secret is None):
        raise click.UsageError(
            "give --folder, or --authority-secret for an authority that is in a cluster: one of them"
        )
    if folder is not None:
        store = FolderStore(folder)
        return Kept(store, FolderLeaves(folder), store)
    assert authority_secret is not None
    with _extra.needed("control"):
        from meshproxy.control.cluster import ClusterError, connect_blocking
        from meshproxy.control.secret_place import SecretPlace
        from meshproxy.control.shared_leaves import SharedLeaves
        from meshproxy.control.shared_objects import SharedObjects
        from meshproxy.control.shared_tokens import SharedTokens

    try:
        objects = SharedObjects(connect_blocking(kubeconfig, context), control_namespace, "you")
    except ClusterError as error:
        raise click.ClickException(str(error)) from None
    click.get_current_context().call_on_close(objects.close)
    return Kept(
        SecretPlace(objects, authority_secret),
        SharedLeaves(objects, authority_secret),
        SharedTokens(objects, authority_secret),
    )
