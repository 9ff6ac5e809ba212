"""TLS to model servers that are known by name (`tls` of a ModelServer), from files that are read again when they
change."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from meshproxy.config.codes import Code
from meshproxy.config.file_watch import FileWatch
from meshproxy.config.problems import ConfigError, Problem
from meshproxy.config.unreadable import not_followed
from meshproxy.identity.certificates import CertificateError
from meshproxy.identity.named_context import NamedTlsFiles, named_context
from meshproxy.transport.connect_failures import MODEL_SERVER, NoCredentials
from meshproxy.transport.connector import named_server

if TYPE_CHECKING:
    import ssl
    from collections.abc import Collection, Iterator

    from meshproxy.config.schema import Documents
    from meshproxy.config.servers import NamedTls, ServerSpec
    from meshproxy.transport.connector import PeerSecurity

    _Key = tuple[str, NamedTls]
    """Surface and settings."""

logger = logging.getLogger(__name__)

PROTOCOLS = {"rest": ("http/1.1",), "grpc": ("h2",)}
"""ALPN of each surface (RFC 7301)."""


class ServerTlsContext:
    """The TLS context for new connections to model servers over one surface.

    Files that cannot be used change nothing: the last good context stays in use, and the reason is logged. Without one,
    connections fail with the reason.
    """

    def __init__(self, server: str, surface: str, settings: NamedTls) -> None:
        """Reads the files; nothing is watched before `start`."""
        self._fields = {"server": server, "surface": surface}
        self._files = _files_of(settings)
        self._protocols = PROTOCOLS[surface]
        self._context: ssl.SSLContext | None = None
        self._problem: str | None = None
        self._watch = FileWatch(lambda: self._files.all)
        self._read()

    def start(self) -> None:
        self._watch.start(self._changed)

    def stop(self) -> None:
        self._watch.stop()

    @property
    def is_usable(self) -> bool:
        """There is one."""
        return self._context is not None

    def context(self) -> ssl.SSLContext:
        """For a connection that is made now. Raises NoCredentials."""
        if self._context is None:
            raise NoCredentials(self._problem)
        return self._context

    def _changed(self) -> None:
        # What a mount does not follow is what it was, which `_read` has told.
        if self._read() and not any(map(not_followed, self._files.all)):
            logger.info("TLS files of a model server applied", extra={"fields": self._fields})

    def _read(self) -> bool:
        """Whether they can be used."""
        try:
            self._context = named_context(self._files, self._protocols)
        except CertificateError as error:
            has_one = "keeping the previous ones" if self._context is not None else "it cannot be called"
            if error.message != self._problem:
                fields = {**self._fields, "reason": error.reason, "problem": error.message}
                logger.error("TLS files of a model server rejected; %s", has_one, extra={"fields": fields})
            self._problem = error.message
            self._watch.again()
            return False
        self._problem = None
        return True


class ServerTlsContexts:
    """The contexts in use, by what they are made from. A reload builds others beside them, then adopts those."""

    def __init__(self) -> None:
        self._alive: dict[_Key, ServerTlsContext] = {}
        self._built: dict[_Key, ServerTlsContext] = {}

    def check(self, documents: Documents) -> None:
        """Raises ConfigError with every TLS file that cannot be used. What is in use already keeps no documents out."""
        check_files(documents, in_use={key for key, context in self._alive.items() if context.is_usable})

    def build(self, documents: Documents) -> None:
        """Make what these documents need, or take it from those in use."""
        self._built = {}
        for server, surface, settings in _named(documents):
            key = (surface, settings)
            if key not in self._built:
                self._built[key] = self._alive.get(key) or ServerTlsContext(server, surface, settings)

    def securities(self, spec: ServerSpec) -> dict[str, PeerSecurity]:
        """How connections to the endpoints of a server are secured, by surface; without those in plaintext."""
        # The endpoints of `dns` and `service` are addresses.
        name = None
        if spec.dns is not None:
            name = spec.dns.name.removesuffix(".")
        elif spec.service is not None:
            name = spec.service.host
        return {
            surface: named_server(
                self._built[surface, settings].context, settings.server_name or name, hints=MODEL_SERVER
            )
            for surface, settings in _surfaces(spec)
        }

    def adopt(self) -> None:
        """Use what was built last."""
        for key, context in self._alive.items():
            if key not in self._built:
                context.stop()
        for key, context in self._built.items():
            if key not in self._alive:
                context.start()
        self._alive, self._built = self._built, {}

    def stop(self) -> None:
        for context in self._alive.values():
            context.stop()


def check_files(documents: Documents, in_use: Collection[_Key] = ()) -> None:
    """Raises ConfigError: TLS files that documents name cannot be used, with all of them that are not in use."""
    problems = []
    for server, surface, settings in _named(documents):
        if (surface, settings) in in_use:
            continue
        try:
            named_context(_files_of(settings), PROTOCOLS[surface])
        except CertificateError as error:
            where = (f"ModelServer/{server}", f"spec.tls.{surface}")
            problems.append(Problem("", 0, *where, error.message, Code.UNUSABLE_TLS))
    if problems:
        raise ConfigError(tuple(problems))


def tls_files(documents: Documents) -> tuple[Path, ...]:
    """Every TLS file of a model server that documents name."""
    return tuple(path for _, _, settings in _named(documents) for path in _files_of(settings).all)


def _named(documents: Documents) -> Iterator[tuple[str, str, NamedTls]]:
    for server in documents.servers:
        for surface, settings in _surfaces(server.spec):
            yield server.metadata.name, surface, settings


def _surfaces(spec: ServerSpec) -> Iterator[tuple[str, NamedTls]]:
    for surface in PROTOCOLS if spec.tls is not None else ():
        if (settings := getattr(spec.tls, surface)) is not None:
            yield surface, settings


def _files_of(settings: NamedTls) -> NamedTlsFiles:
    paths = (settings.ca_file, settings.certificate, settings.key)
    return NamedTlsFiles(*(Path(path) if path is not None else None for path in paths))
