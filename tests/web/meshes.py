"""A mesh to look at, and an application that serves its page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from meshproxy.control.status import is_local
from meshproxy.view.graph import Graph
from meshproxy.view.mesh import Mesh
from meshproxy.web.login import LoginEvent
from meshproxy.web.login_file import LoginSettings
from meshproxy.web.routes import Page
from meshproxy.web.shapes import (
    Arm,
    Certificate,
    Certificates,
    Change,
    Configuration,
    Denial,
    Grade,
    Member,
    Rollout,
    Rule,
    Sync,
)

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)
CALLER = "spiffe://mesh.test/ns/shop/sa/api"
Client = TestClient[Any, Any]


class FixedSource:
    """A `Source` whose graph changes when a test says so."""

    def __init__(self, mesh: Mesh, now: float, rollout: Rollout | None = None) -> None:
        self.mesh = mesh
        self.now = now
        self.made: dict[int, Graph] = {}
        self.arms = rollout
        self.denied: tuple[Denial, ...] = (
            Denial(
                at=NOW,
                caller=CALLER,
                call="predict fraud",
                reason="permission-denied",
                message=f"No binding permits {CALLER} to predict fraud.",
                binding="no-shop",
                sidecar="spiffe://mesh.test/ns/serving/sa/fraud",
            ),
        )

    def graph(self, seconds: int) -> Graph:
        if seconds not in self.made:
            self.made[seconds] = self.mesh.graph(seconds, self.now, ["nobody-calls-it"])
        return self.made[seconds]

    def change(self, graph: Graph) -> None:
        self.made = dict.fromkeys(self.made, graph)

    def denials(self) -> tuple[Denial, ...]:
        return self.denied

    def rules(self, model: str) -> tuple[Rule, ...] | None:
        return (Rule(binding="readers-0", role="read", action="allow", subjects=(CALLER,), verbs=("predict",)),)

    def rollout(self, model: str) -> Rollout | None:
        return self.arms

    def changes(self, model: str) -> tuple[Change, ...]:
        return (Change(since=NOW, words="version 5, at its servers: slower"),) if model == "model-1" else ()

    async def certificates(self) -> Certificates:
        return Certificates(
            now=NOW,
            trust_domain="mesh.test",
            authority="a" * 64,
            authority_expires=NOW + timedelta(days=300),
            certificates=(
                Certificate(
                    identity=CALLER,
                    holder="shop on shop-0",
                    issued=NOW,
                    expires=NOW,
                    grade=Grade.ERROR,
                    problem="expired",
                ),
                Certificate(identity="spiffe://mesh.test/ns/x/sa/y", holder="y", expires=NOW, grade=Grade.WELL),
            ),
        )

    async def configuration(self) -> Configuration:
        return Configuration(
            now=NOW,
            version="0123456789abcdef",
            problems=("models.yaml:3: no such role",),
            sidecars=(
                Member(
                    sidecar="fraud", host="fraud-0", state=Sync.REFUSED, since=NOW, grade=Grade.ERROR, problems=("bad",)
                ),
                Member(sidecar="shop", state=Sync.IN_SYNC, since=NOW, version="01234567", grade=Grade.WELL),
            ),
        )


ROLLOUT = Rollout(
    name="fraud-5",
    phase="Progressing",
    step="step 2 of 4",
    arms=(Arm(name="stable", version="4", weight=0.95), Arm(name="candidate", version="5", weight=0.05)),
    events=("Advance fraud-5 weight 5",),
)


def application(
    source: FixedSource,
    login: LoginSettings | None = None,
    local: Callable[[str, str], bool] = is_local,
    tell: Callable[[LoginEvent], None] = lambda event: None,
) -> tuple[web.Application, Page]:
    """The page alone."""
    made = web.Application()
    page = Page(source, local, login, tell)
    page.add_to(made)
    return made, page


@asynccontextmanager
async def client(
    source: FixedSource,
    login: LoginSettings | None = None,
    local: Callable[[str, str], bool] = is_local,
    tell: Callable[[LoginEvent], None] = lambda event: None,
) -> AsyncIterator[tuple[Client, Page]]:
    """A client that follows no redirects by itself, and keeps no cookies."""
    made, page = application(source, login, local, tell)
    async with TestClient(TestServer(made)) as found:
        yield found, page
