"""Asks the API server of the cluster who shows a service-account token: TokenReview, then the pod.

Nothing is remembered: a token of a pod that was deleted is refused as soon as the API server does (its own cache is 10
seconds old at most). The token is sent to the API server only, and is in no log.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from lightkube.models.authentication_v1 import TokenReviewSpec
from lightkube.resources.authentication_v1 import TokenReview
from lightkube.resources.core_v1 import Pod

from meshproxy.control.authority import RequestRefused
from meshproxy.control.cluster import FAILURES, http_status
from meshproxy.control.service_accounts import AUDIENCE, check_pod, has_expired, judge_review, read_claims

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightkube import AsyncClient

    from meshproxy.control.service_accounts import PodIdentity

logger = logging.getLogger(__name__)

REVIEW_SECONDS = 5.0
"""For one token, with the wait for its turn: a sidecar asks again after 10 s (`sidecar/enrollment.py`)."""
REVIEWS = 16
"""Tokens that are reviewed at once."""


class TokenReviewer:
    """Identifies pods by their tokens (`attestation.PodTokens`)."""

    def __init__(
        self,
        client: AsyncClient,
        *,
        seconds: float = REVIEW_SECONDS,
        at_once: int = REVIEWS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Nothing is asked yet.

        Args:
            client: of the cluster whose pods they are.
            seconds: for one token.
            at_once: how many are reviewed at a time; further ones wait.
            clock: seconds since the epoch.
        """
        self._client = client
        self._seconds = seconds
        self._turns = asyncio.Semaphore(at_once)
        self._clock = clock
        self._may_read_pods = True

    async def identify(self, token: str) -> PodIdentity:
        """The pod that shows the token.

        Raises:
            RequestRefused: one of `service_accounts.REASONS`, or `cluster`: the API server does not say.
        """
        claims = read_claims(token)
        try:
            async with asyncio.timeout(self._seconds), self._turns:
                identity = judge_review(await self._review(token))
                await self._check_pod(identity)
        except RequestRefused as refused:
            if refused.reason == "token-unauthenticated" and has_expired(claims, self._clock()):
                raise RequestRefused("token-expired", "the token has expired: read its file anew") from None
            raise
        except TimeoutError:
            raise RequestRefused(
                "cluster", f"the API server has not reviewed the token within {self._seconds:g} s: try again"
            ) from None
        return identity

    async def _review(self, token: str) -> object:
        """The status of a review."""
        review = TokenReview(spec=TokenReviewSpec(audiences=[AUDIENCE], token=token))
        try:
            reviewed = await self._client.create(review)
        except FAILURES as error:
            raise _away("reviewed the token", error, "create tokenreviews.authentication.k8s.io") from None
        return reviewed.status.to_dict() if reviewed.status is not None else None

    async def _check_pod(self, identity: PodIdentity) -> None:
        """That the pod is there, if we may read pods. The review has said so, of the last seconds."""
        try:
            pod = (await self._client.get(Pod, identity.pod, namespace=identity.namespace)).to_dict()
        except FAILURES as error:
            status = http_status(error)
            if status == 403:
                self._say_once()
                return
            if status != 404:
                raise _away(f"said what pod {identity.namespace}/{identity.pod} is", error, "get pods") from None
            pod = None
        check_pod(identity, pod)

    def _say_once(self) -> None:
        if self._may_read_pods:
            self._may_read_pods = False
            logger.warning(
                "pods cannot be read: a token is good for as long as the API server says; allow `get` on pods to refuse"
                " those of pods that have finished"
            )


def _away(what: str, error: Exception, permission: str) -> RequestRefused:
    """`error` is logged for operators, by its kind: texts of libraries may quote what was sent."""
    status = http_status(error)
    why = f"status {status}" if status is not None else type(error).__name__
    hint = f": this control plane may not {permission}" if status == 403 else ""
    return RequestRefused("cluster", f"the API server has not {what} ({why}){hint}; try again later")
