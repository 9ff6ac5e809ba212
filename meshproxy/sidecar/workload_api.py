"""The SPIFFE Workload API as an identity source: an agent on this host delivers certificates, keys and trust bundles,
and newer ones before they expire.

Source: https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Workload_API.md, quoted below as "API".

    message X509SVIDResponse { repeated X509SVID svids = 1; repeated bytes crl = 2;
                               map<string, bytes> federated_bundles = 3; }
    message X509SVID { string spiffe_id = 1; bytes x509_svid = 2; bytes x509_svid_key = 3; bytes bundle = 4; ... }

Certificates are concatenated DER, the leaf first; the key is PKCS #8 in DER.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from meshproxy.config.file_watch import FileWatch
from meshproxy.identity.certificates import CertificateError, Credentials
from meshproxy.identity.pem import split_der, to_pem
from meshproxy.identity.trust_bundles import BundleSource, OtherBundles
from meshproxy.inference.protobuf import LENGTH, FieldWalker
from meshproxy.refusal import GrpcStatus, Refusal
from meshproxy.sidecar.reconnect import keep_open
from meshproxy.transport.channel import H2Channel, Target, own_connections
from meshproxy.transport.client import ClientError, StatusError
from meshproxy.transport.connect_failures import UNIX
from meshproxy.transport.connection import Times
from meshproxy.transport.grpc_stream import open_call

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from meshproxy.config.sidecars import WorkloadApi

logger = logging.getLogger(__name__)

FETCH = b"/SpiffeWorkloadAPI/FetchX509SVID"
METADATA = ((b"workload.spiffe.io", b"true"),)
"""API section 3: against servers of this host that were tricked into sending the request."""
FIRST_SECONDS = 30.0
"""The longest wait for the first identity. An agent of SPIRE 1.13 learns of a workload up to 10 s after it is
registered: server and agent look every 5 s."""
RESPONSE_BYTES = 4 << 20

_FIELD = {number: number * 8 + LENGTH for number in range(1, 5)}
"""Tags of length-delimited fields."""


@dataclass(frozen=True, slots=True)
class Svid:
    """One X509-SVID with its key."""

    spiffe_id: str
    credentials: Credentials


@dataclass(frozen=True, slots=True)
class SvidResponse:
    """What the agent has issued to this workload."""

    svids: tuple[Svid, ...]
    """The first is the default identity (API section 5.3)."""
    federated: Mapping[str, bytes]
    """The trust bundles of other trust domains, PEM."""


def read_response(message: bytes) -> SvidResponse:
    """A message of the agent. Raises CertificateError."""
    walker = FieldWalker()
    try:
        fields = walker.read(message, {_FIELD[1], _FIELD[3]}, 0)
        svids = tuple(_read_svid(walker, value) for tag, value in fields if tag == _FIELD[1])
        federated = dict(_read_bundle(walker, value) for tag, value in fields if tag == _FIELD[3])
    except (Refusal, ValueError) as error:
        raise CertificateError("unreadable", f"the response of the Workload API cannot be read: {error}") from error
    return SvidResponse(svids, federated)


def _read_svid(walker: FieldWalker, message: object) -> Svid:
    fields = _fields(walker, message, 4)
    chain = b"".join(to_pem("CERTIFICATE", der) for der in split_der(fields[2]))
    bundle = b"".join(to_pem("CERTIFICATE", der) for der in split_der(fields[4]))
    return Svid(fields[1].decode("ascii"), Credentials(chain, to_pem("PRIVATE KEY", fields[3]), bundle))


def _read_bundle(walker: FieldWalker, entry: object) -> tuple[str, bytes]:
    """Trust domain and PEM of an entry of `federated_bundles`, whose key is a SPIFFE id of the domain."""
    fields = _fields(walker, entry, 2)
    domain = fields[1].decode("ascii").removeprefix("spiffe://").rstrip("/")
    return domain, b"".join(to_pem("CERTIFICATE", der) for der in split_der(fields[2]))


def _fields(walker: FieldWalker, message: object, last: int) -> dict[int, bytes]:
    """The fields 1 to `last` of a message; of several of a number the last one counts, missing ones are empty."""
    assert isinstance(message, bytes)
    found = dict.fromkeys(range(1, last + 1), b"")
    for tag, value in walker.read(message, {_FIELD[number] for number in found}, 1):
        assert isinstance(value, bytes)
        found[tag // 8] = value
    return found


class WorkloadApiIdentity:
    """The identity that an agent issues (`IdentitySource`).

    Args:
        settings: the agent's socket, and which identity.
        bundles: the trust bundles of other trust domains that the documents have or name.
        federated: other trust domains whose bundles the agent delivers.
    """

    def __init__(self, settings: WorkloadApi, bundles: Mapping[str, BundleSource], federated: Sequence[str]) -> None:
        self._settings = settings
        self._address = UNIX + str(Path(settings.socket).absolute())
        self._bundles = OtherBundles(
            {
                **bundles,
                **{domain: BundleSource(self._address, partial(self._federated, domain)) for domain in federated},
            }
        )
        self._watch = FileWatch(lambda: self._bundles.paths)
        self._changed: Callable[[], None] = lambda: None
        self._response: SvidResponse | None = None
        self._received = 0
        """Responses, in all."""
        self._problem = ""
        """Why there is no newer response."""
        self._first = asyncio.Event()
        """There is a response."""
        self._task: asyncio.Task[None] | None = None

    async def load(self) -> Credentials:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._stream())
        try:
            async with asyncio.timeout(FIRST_SECONDS):
                await self._first.wait()
        except TimeoutError:
            raise CertificateError("unreadable", self._problem or f"{self._address} has not answered") from None
        assert self._response is not None
        return self._bundles.add_to(self._chosen(self._response))

    def start(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._watch.start(changed)

    def stop(self) -> None:
        self._watch.stop()
        self._changed = lambda: None
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _chosen(self, response: SvidResponse) -> Credentials:
        """Raises CertificateError."""
        wanted = self._settings.spiffe_id
        for svid in response.svids:
            if wanted is None or svid.spiffe_id == wanted:
                return svid.credentials
        issued = ", ".join(svid.spiffe_id for svid in response.svids) or "none"
        raise CertificateError(
            "not-an-svid", f"the agent issues no identity {wanted or ''} to this workload, but {issued}: register it"
        )

    def _federated(self, domain: str) -> bytes:
        """Raises CertificateError."""
        bundle = self._response.federated.get(domain) if self._response is not None else None
        if bundle is None:
            raise CertificateError("unreadable", "the Workload API does not deliver its bundle: let the entry federate")
        return bundle

    # The stream

    async def _stream(self) -> None:
        """Follow the agent until cancelled, whatever happens to it."""
        # No keepalive: a UNIX socket is closed with its process, and servers in Go close connections for frequent PINGs
        # ("too_many_pings").
        shared = own_connections(Times(ping_after=inf))
        shared.reaper.start()
        channel = H2Channel(shared, Target(self._address))
        try:
            await keep_open(lambda: self._follow(channel), lambda: self._received, self._failed)
        finally:
            channel.abort()
            shared.reaper.stop()

    async def _follow(self, channel: H2Channel) -> str:
        """Take what the agent sends. Returns why that has ended."""
        try:
            async with await open_call(channel, FETCH, metadata=METADATA, max_message_bytes=RESPONSE_BYTES) as call:
                await call.send(b"")
                await call.done_sending()
                async for message in call:
                    self._take(read_response(message))
            return f"{self._address} ended the stream"
        except StatusError as error:
            if error.grpc_status == GrpcStatus.PERMISSION_DENIED:
                return f"{self._address} has no identity for this workload ({error}): register it"
            return f"{self._address}: {error}"
        except (ClientError, CertificateError) as error:
            text = str(error)
            return text if text.startswith(self._address) else f"{self._address}: {text}"

    def _take(self, response: SvidResponse) -> None:
        self._response = response
        self._received += 1
        self._problem = ""
        self._first.set()
        self._changed()

    def _failed(self, problem: str) -> None:
        """What was delivered stays in use until it expires."""
        self._problem = problem
        logger.warning(
            "no identity from the Workload API; trying again",
            extra={"fields": {"problem": problem, "in_use": self._response is not None}},
        )
