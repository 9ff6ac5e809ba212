"""What a control plane has of a cluster: a client of its API server, records shared with others, the part of a leader.

This loads lightkube: a control plane that needs no cluster does not import it.
"""

from __future__ import annotations

import os
import secrets
import socket
from typing import TYPE_CHECKING, NamedTuple

from meshproxy.control import cluster
from meshproxy.control.authority_secret import AuthoritySecret
from meshproxy.control.election import Election
from meshproxy.control.plane_records import PlaneRecords
from meshproxy.control.presence import Presence
from meshproxy.control.shared_leaves import SharedLeaves
from meshproxy.control.shared_objects import SharedObjects
from meshproxy.control.shared_tokens import SharedTokens
from meshproxy.control.store import FolderStore, StoreError

if TYPE_CHECKING:
    from lightkube import AsyncClient

    from meshproxy.control.settings import Settings
    from meshproxy.telemetry.control_metrics import ControlMetrics


class SharedRecords(NamedTuple):
    """What control planes with the same authority have in common."""

    leaves: SharedLeaves
    presence: Presence
    tokens: SharedTokens


def connect(settings: Settings) -> AsyncClient:
    """A client of the API server. Raises StoreError."""
    try:
        return cluster.connect(settings.kubeconfig, settings.namespace)
    except cluster.ClusterError as error:
        raise StoreError(f"the cluster cannot be used: {error}") from error


def authority_secret(client: AsyncClient, settings: Settings, name: str) -> AuthoritySecret:
    """The Secret of this name, which keeps the authority."""
    return AuthoritySecret(client, name, FolderStore(settings.folder), settings.trust_domain)


def shared_objects(client: AsyncClient, settings: Settings) -> SharedObjects:
    """What control planes that share a Secret tell each other. Raises StoreError."""
    try:
        return SharedObjects(cluster.connect_blocking(settings.kubeconfig), settings.namespace or client.namespace)
    except cluster.ClusterError as error:
        raise StoreError(f"the cluster cannot be used: {error}") from error


def shared_records(objects: SharedObjects, settings: Settings, name: str) -> SharedRecords:
    """Of those that have the authority in the Secret of this name. Raises StoreError."""
    presence = Presence(PlaneRecords(objects, name), settings.folder, settings.lifetime)
    return SharedRecords(SharedLeaves(objects, name), presence, SharedTokens(objects, name))


def elect(client: AsyncClient, metrics: ControlMetrics) -> Election:
    """The election of the leader, in which this process has a name of its own."""
    election = Election(client, f"{socket.gethostname()}_{os.getpid()}_{secrets.token_hex(8)}")
    metrics.leader.read_from(lambda: [((), int(election.is_leader()))])
    return election
