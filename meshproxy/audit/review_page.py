"""A review as a page of HTML that prints on paper. Nothing is loaded from elsewhere; texts of callers are escaped."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

from jinja2 import Environment, StrictUndefined

from meshproxy import __version__
from meshproxy.audit.sentences import moment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshproxy.audit.period import Period
    from meshproxy.audit.review import Grant, Review


class Verdict(NamedTuple):
    """Whether the trail is as it was written."""

    ok: bool
    text: str
    lines: int
    problems: Sequence[str]
    notes: Sequence[str]


def page(review: Review, period: Period, verdict: Verdict, grants: Sequence[Grant] | None, now: float) -> str:
    """The page. `grants`: None if nobody has said who may."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["moment"] = lambda seconds: moment(seconds).removesuffix(" UTC")
    template = environment.from_string(files("meshproxy.audit").joinpath("review.html").read_text("utf-8"))
    return template.render(review=review, period=period, verdict=verdict, grants=grants, now=now, version=__version__)
