"""Where the page has the mesh from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from meshproxy.view.graph import Graph
    from meshproxy.web.shapes import Certificates, Change, Configuration, Denial, Rollout, Rule


class Source(Protocol):
    """The mesh as it is now. Everything in it may be seen by whoever sees everything (`visible.py`)."""

    def graph(self, seconds: int) -> Graph:
        """Callers, models and versions in the last seconds. The same object as before if it is as new as it can be; it
        is not to be changed."""
        ...

    def denials(self) -> tuple[Denial, ...]:
        """The last ones, the newest first."""
        ...

    def rules(self, model: str) -> tuple[Rule, ...] | None:
        """Bindings for a model; None: the documents are not known here."""
        ...

    def rollout(self, model: str) -> Rollout | None:
        """None: there is none."""
        ...

    def changes(self, model: str) -> tuple[Change, ...]:
        """What is not as it was before; of all versions."""
        ...

    async def certificates(self) -> Certificates:
        """Those that are out."""
        ...

    async def configuration(self) -> Configuration:
        """Who has the documents in force."""
        ...
