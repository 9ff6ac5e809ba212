"""The client of the API server of Kubernetes, by lightkube, and how its calls fail. This is the one place where it is
made."""

from __future__ import annotations

import json
import logging
import re
import socket
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

import httpx2
import msgspec
import yaml
from lightkube import AsyncClient, KubeConfig
from lightkube.config import client_adapter
from lightkube.config.models import NameValue, User
from lightkube.core.exceptions import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from lightkube.config.kubeconfig import SingleConfig

FIELD_MANAGER = "meshproxy"
"""The name by which the API server remembers who wrote a field."""
TIMEOUT = 10.0
"""Seconds for a connection, and between two pieces of a response; a watch may be silent."""
BLOCKING_TIMEOUT = 3.0
"""Of `connect_blocking`: sidecars wait meanwhile for their certificates."""
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
"""A watch whose other end is gone without a word ends after 25 seconds."""

FAILURES = (httpx2.HTTPError, ConfigError, OSError, ValueError, LookupError, TypeError)
"""What a call raises that comes to nothing: an answer that is an error (`http_status`), none in time, one that is no
object, or no credentials to call with (the file of the token, the program that a kubeconfig names)."""


class ClusterError(Exception):
    """The API server cannot be called. The text says why and what to do."""


class WatchEnded(Exception):
    """The API server has ended a watch, as it does now and then."""


def http_status(error: Exception) -> int | None:
    """The HTTP status of an answer that is an error; None if there was no answer, or another one."""
    return error.response.status_code if isinstance(error, httpx2.HTTPStatusError) else None


def why(error: Exception, rights: str, who: str = "this control plane") -> str:
    """Why a call came to nothing, in one line. Texts of libraries may quote what was sent.

    Args:
        error: one of `FAILURES`.
        rights: what whoever calls has to be allowed.
        who: calls.
    """
    status = http_status(error)
    if status is None:
        return _no_answer(error)
    hint = f": {who} may not {rights}" if status == HTTPStatus.FORBIDDEN else ""
    return f"the API server answered {status}{hint}"


def passes(error: Exception) -> bool:
    """Whether the same call may succeed later, without anybody's doing: the API server is away, or has too much to do.

    Args:
        error: one of `FAILURES`.
    """
    status = http_status(error)
    if status is None:
        return isinstance(error, httpx2.TransportError)
    return status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR


def _no_answer(error: Exception) -> str:
    """Where none came from, and why, as far as that is known."""
    name = type(error).__name__
    if not isinstance(error, httpx2.TransportError):
        return f"no answer ({name})"
    url = error.request.url
    # Nothing was sent yet that its text could quote.
    reason = f": {error}" if isinstance(error, httpx2.ConnectError) else ""
    return f"no answer from {url.scheme}://{url.netloc.decode()} ({name}{reason})"


def connect(kubeconfig: Path | None = None, namespace: str | None = None) -> AsyncClient:
    """A client of the API server; nothing is sent yet.

    Its token is read again when it is refused. The authority of the API server is read once. A watch ends with
    `WatchEnded` where lightkube would begin the next one at once, however often it ends.

    Args:
        kubeconfig: None: the service account of this pod; outside of a cluster the file that `KUBECONFIG` names, or
            `~/.kube/config`.
        namespace: where objects are if nothing else is said. None: the service account's, or the context's.

    Raises:
        ClusterError: there is no usable configuration.
    """
    with _usable(kubeconfig):
        config, transport = _prepared(kubeconfig)
        return AsyncClient(
            config,
            namespace=namespace,
            timeout=httpx2.Timeout(TIMEOUT),
            field_manager=FIELD_MANAGER,
            transport=transport,
        )


def connect_paths(kubeconfig: Path | None = None, context: str | None = None) -> httpx2.AsyncClient:
    """A client that takes paths of the API, for commands that look at whatever is there; nothing is sent yet.

    Args:
        kubeconfig: as for `connect`.
        context: of the kubeconfig. None: its current one.

    Raises:
        ClusterError: there is no usable configuration.
    """
    with _usable(kubeconfig):
        config, transport = _prepared(kubeconfig, context)
        parameters = client_adapter.ConnectionParams(
            timeout=httpx2.Timeout(TIMEOUT),
            transport=transport,  # type: ignore[arg-type]  # it names the other kind, and takes both
        )
        return client_adapter.AsyncClient(config, parameters)


def connect_blocking(kubeconfig: Path | None = None, context: str | None = None) -> httpx2.Client:
    """As `connect_paths`, for threads and for commands that ask one thing after another; several threads may share it.

    Raises:
        ClusterError: there is no usable configuration.
    """
    with _usable(kubeconfig):
        parameters = client_adapter.ConnectionParams(timeout=httpx2.Timeout(BLOCKING_TIMEOUT))
        return client_adapter.Client(_configuration(kubeconfig, context), parameters)


@contextmanager
def _usable(kubeconfig: Path | None) -> Iterator[None]:
    """Around what reads a configuration. Raises ClusterError, which says where it is."""
    try:
        yield
    except (
        ConfigError, OSError, KeyError, TypeError, ValueError, AttributeError, msgspec.MsgspecError, yaml.YAMLError
    ) as error:  # fmt: skip
        where, hint = str(kubeconfig), ""
        if kubeconfig is None:
            where = "neither a service account nor a kubeconfig can be used"
            hint = ": name a file with --kubeconfig or KUBECONFIG"
        raise ClusterError(f"{where}: {_unusable(error)}{hint}") from error


def _unusable(error: Exception) -> str:
    """What is wrong with a configuration."""
    match error:
        case KeyError():
            return f"no such entry: {error}"
        case AttributeError() | TypeError():
            return "this is no kubeconfig: expected clusters, contexts and users, as `kubectl config view` shows them"
        case msgspec.MsgspecError() | yaml.YAMLError():
            return f"this is no kubeconfig: {error}"
        case OSError(filename=None):
            return f"a certificate or key that it names cannot be read: {error}"
    return str(error)


def _prepared(kubeconfig: Path | None, context: str | None = None) -> tuple[SingleConfig, _Transport]:
    """Where the API server is, who calls it, and how."""
    config = _configuration(kubeconfig, context)
    tls = client_adapter.verify_cluster(config.cluster, config.user or User(), config.abs_file)
    return config, _Transport(verify=tls, socket_options=_KEEPALIVE)


def _configuration(kubeconfig: Path | None, context: str | None = None) -> SingleConfig:
    """Where the API server is, and who calls it."""
    config = (KubeConfig.from_env() if kubeconfig is None else KubeConfig.from_file(kubeconfig)).get(context)
    assert config is not None  # there is no default that it could be
    _check_address(config.cluster.server)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it tells of each request
    return config._replace(user=_with_program(config.user or User()))


def _check_address(server: str) -> None:
    """Raises ConfigError: the client would fail in the middle of a call, and say less."""
    try:
        url = httpx2.URL(server)
        is_address = url.scheme in ("https", "http") and bool(url.host) and (url.port is None or 0 < url.port < 65536)
    except httpx2.InvalidURL:
        is_address = False
    if not is_address:
        raise ConfigError(f"server: expected an address such as https://10.0.0.1:6443, got {server!r}")


def _with_program(user: User) -> User:
    """With what a program that gets a token is told (KUBERNETES_EXEC_INFO), which lightkube leaves out; of the version
    `client.authentication.k8s.io/v1`, which it does not know, the answer is the one of v1beta1."""
    if user.exec is None:
        return user
    version = user.exec.apiVersion
    told = {"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": False}}
    return msgspec.structs.replace(
        user,
        exec=msgspec.structs.replace(
            user.exec,
            apiVersion=f"{version}beta1" if version == "client.authentication.k8s.io/v1" else version,
            env=[*(user.exec.env or ()), NameValue(name="KUBERNETES_EXEC_INFO", value=json.dumps(told))],
        ),
    )


class _Transport(httpx2.AsyncHTTPTransport):
    """Sends requests as they have to be for watches to arrive."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        # The API server compresses a watch as one gzip member per flush; httpx2 reads the first and drops the others.
        request.headers["accept-encoding"] = "identity"
        response = await super().handle_async_request(request)
        if request.url.params.get("watch") == "true" and response.is_success:
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = _WatchStream(response.stream)
        return response


class _WatchStream(httpx2.AsyncByteStream):
    """The body of a watch, a JSON object on each line."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        rest = b""
        async for chunk in self._stream:
            lines, newline, rest = (rest + chunk).rpartition(b"\n")
            yield _OTHER_BREAKS.sub(_escaped, lines + newline)
        raise WatchEnded

    async def aclose(self) -> None:
        await self._stream.aclose()


# httpx2 ends a line at these, too. They are valid in JSON, inside of a text.
_OTHER_BREAKS = re.compile("\x85|\u2028|\u2029".encode())


def _escaped(found: re.Match[bytes]) -> bytes:
    return f"\\u{ord(found[0].decode()):04x}".encode()
