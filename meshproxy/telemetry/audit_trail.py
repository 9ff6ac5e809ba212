"""Opens the audit trail of a process: its sink, its key, its writer."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from meshproxy.config.telemetry import is_collector
from meshproxy.telemetry.audit_sink import AuditFile, AuditStream, is_stream
from meshproxy.telemetry.audit_writer import AuditWriter
from meshproxy.telemetry.line_writer import open_unblocked

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from meshproxy.config.sidecars import AuditFile as Settings
    from meshproxy.telemetry.audit_collector import AuditCollector

logger = logging.getLogger(__name__)


def open_trail(where: str, settings: Settings, name: str, worker: int | None = None) -> AuditWriter:
    """Open the trail. Nothing is written until it is started.

    Args:
        where: `stdout`, a path, or the URL of a collector.
        settings: how it is written.
        name: of the process in the lines, to which that of the host is added.
        worker: its number, if it is one of several that would write one file.

    Raises:
        OSError: the file or the key cannot be used.
    """
    key = _read_key(Path(settings.signing_key)) if settings.signing_key is not None else None
    writer = f"{name}@{socket.gethostname()}" + (f"/{worker}" if worker is not None else "")
    if where == "stdout":
        return AuditWriter(AuditStream(os.dup(1)), writer, key=key)
    if is_collector(where):
        return AuditWriter(_collector(where, writer), writer, key=key)
    path = Path(where)
    if is_stream(path):
        return AuditWriter(AuditStream(open_unblocked(path, 0)), writer, key=key)
    if worker is not None:
        path = path.with_name(f"{path.stem}-{worker}{path.suffix}")
    file = AuditFile(path, fsync=settings.fsync, rotate_bytes=settings.rotate_bytes or 0, keep=settings.keep_files)
    return AuditWriter(file, writer, key=key, file=file)


def _collector(url: str, writer: str) -> AuditCollector:
    """Raises OSError."""
    # Its memory is for those who have one.
    from meshproxy.telemetry.audit_collector import AuditCollector
    from meshproxy.telemetry.otlp_settings import describe_process, read_log_settings

    settings, problems = read_log_settings(url, os.environ, describe_process(writer.partition("@")[0], writer))
    for problem in problems:
        logger.warning("setting of the export of the audit trail ignored", extra={"fields": {"problem": problem}})
    return AuditCollector(settings)


def _read_key(path: Path) -> Ed25519PrivateKey:
    """Raises OSError."""
    # Its memory is for those who sign.
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise OSError(f"{path} is not a private key without a password (PEM): {error}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise OSError(f"{path} is not a key of Ed25519: make one with `meshproxy audit key`")
    return key
