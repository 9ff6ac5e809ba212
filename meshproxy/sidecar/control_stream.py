"""One stream from the control plane: what those of documents, endpoints and the trust bundle have in common."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from meshproxy.identity.certificates import CertificateError
from meshproxy.refusal import GrpcStatus
from meshproxy.transport.client import ClientError, StatusError
from meshproxy.transport.grpc_stream import open_call

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from meshproxy.sidecar.control_channel import ControlChannel
    from meshproxy.transport.grpc_stream import Call

OLDER_SECONDS = 600.0
"""Until a control plane that does not know the method is asked again: it may have been replaced by a newer one."""


async def follow_stream(
    channel: ControlChannel,
    method: bytes,
    max_message_bytes: int,
    *,
    talk: Callable[[Call], Awaitable[None]],
    take: Callable[[bytes], Awaitable[None]],
    leave: Callable[[Call], Awaitable[None]] | None = None,
    older: Callable[[str], str] | None = None,
) -> str:
    """Take what comes on one stream. Returns why it has ended.

    Args:
        talk: says what there is to say, until cancelled. It need not notice the end of the stream.
        take: is given each message. Raises ClientError or OSError for one that cannot be used.
        leave: takes leave if this is cancelled.
        older: is told why, if the control plane does not know the method, which is not asked again soon then; returns
            why the stream has ended.
    """
    try:
        async with (
            channel.streams() as h2,
            await open_call(h2, method, max_message_bytes=max_message_bytes) as call,
        ):
            channel.open_calls += 1
            talking = asyncio.create_task(_talk(talk, call))
            try:
                async for message in call:
                    await take(message)
            except asyncio.CancelledError:
                if leave is not None:
                    await leave(call)
                raise
            finally:
                channel.open_calls -= 1
                talking.cancel()
        return "it ended the stream"
    except (ClientError, CertificateError, OSError) as error:
        if older is None or not isinstance(error, StatusError) or error.grpc_status != GrpcStatus.UNIMPLEMENTED:
            return str(error)
        problem = older(str(error))
    await asyncio.sleep(OLDER_SECONDS)
    return problem


async def _talk(talk: Callable[[Call], Awaitable[None]], call: Call) -> None:
    with suppress(ClientError):  # the end of the stream, which whoever takes its messages sees too
        await talk(call)
