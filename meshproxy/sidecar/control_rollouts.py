"""The stream of rollouts: what the arms did goes to the control plane, weights come from it. It is open while there are
rollouts that this sidecar chooses for."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from meshproxy.control_api import ROLLOUTS
from meshproxy.rollout.link import RolloutsReport, RolloutStates
from meshproxy.sidecar.control_channel import read_message
from meshproxy.sidecar.control_stream import follow_stream
from meshproxy.sidecar.reconnect import keep_open

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from meshproxy.rollout.link import ReportedRollout
    from meshproxy.sidecar.control_channel import ControlChannel
    from meshproxy.sidecar.rollouts import Rollouts
    from meshproxy.transport.grpc_stream import Call

logger = logging.getLogger(__name__)

MESSAGE_BYTES = 1 << 20
"""Of all states: each takes 150 bytes."""
REPORT_BYTES = 64_000
"""Of a message with reports: the control plane takes 64 KiB. A rollout has 200 KB at most, with calls in every
bucket."""


class ControlRollouts:
    """Follows the control plane for one sidecar.

    Args:
        name: of the sidecar's document.
        rollouts: are told, and report.
    """

    def __init__(self, name: str, rollouts: Rollouts, channel: ControlChannel) -> None:
        self._name = name
        self._rollouts = rollouts
        self._channel = channel
        self._received = 0

    async def run(self) -> None:
        """Until cancelled, whatever happens to the control plane."""
        await keep_open(self._follow, lambda: self._received, self._failed)

    async def _follow(self) -> str:
        """Returns why the stream has ended."""
        await self._rollouts.exist.wait()
        return await follow_stream(
            self._channel, ROLLOUTS, MESSAGE_BYTES, talk=self._report, take=self._take, older=_note_older
        )

    async def _report(self, call: Call) -> None:
        """Say who is there, then what the arms do."""
        rollouts = self._rollouts
        await call.send(msgspec.json.encode(RolloutsReport(self._name)))
        while True:
            rollouts.has_news.clear()
            for message in _messages(self._name, rollouts.reports()):
                # If this fails it may have arrived nevertheless: it is not sent again, as no call may count twice.
                await call.send(message)
            with suppress(TimeoutError):
                async with asyncio.timeout(rollouts.period):
                    await rollouts.has_news.wait()

    async def _take(self, message: bytes) -> None:
        """Raises ClientError or OSError."""
        states = read_message(message, RolloutStates, "the states of rollouts are")
        self._received += 1
        self._rollouts.take(states.rollouts)

    def _failed(self, problem: str) -> None:
        logger.warning(
            "no word of rollouts from the control plane; weights stay as they are",
            extra={"fields": {"control": self._channel.address, "problem": problem}},
        )


def _note_older(problem: str) -> str:
    logger.warning("this control plane knows no rollouts: the stable versions keep all calls, or what they have")
    return problem


def _messages(name: str, reports: Iterable[ReportedRollout]) -> Iterator[bytes]:
    """All reports, in as few messages as the control plane takes: it takes only so many a second."""
    group: list[msgspec.Raw] = []
    left = 0
    for report in reports:
        encoded = msgspec.Raw(msgspec.json.encode(report))
        size = len(bytes(encoded)) + 1
        if group and size > left:
            yield _message(name, group)
            group.clear()
        if not group:
            left = REPORT_BYTES - len(_message(name, ()))
        if size > left:
            fields = {"rollout": report.rollout, "bytes": size}
            logger.warning(
                "a report of a rollout is too large, and its calls are not counted", extra={"fields": fields}
            )
            continue
        group.append(encoded)
        left -= size
    if group:
        yield _message(name, group)


def _message(name: str, reports: Sequence[msgspec.Raw]) -> bytes:
    return msgspec.json.encode({"sidecar": name, "rollouts": reports})
