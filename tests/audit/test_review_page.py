from __future__ import annotations

from html.parser import HTMLParser

from meshproxy.audit.lines import Kind, read_line
from meshproxy.audit.period import Period
from meshproxy.audit.review import Grant, Review
from meshproxy.audit.review_page import Verdict, page
from meshproxy.telemetry.audit_events import Author, certificate_body, entity_body, login_body
from tests.audit.trails import call_body, line_of

HOSTILE = "<script>alert('x')</script>"


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not {"src", "href", "onclick"} & {name for name, _ in attrs}


def test_everything_is_on_the_page_and_texts_of_others_are_escaped() -> None:
    review = Review()
    for body in (
        call_body(1).replace(b"model-1", HOSTILE.encode()),
        call_body(2, Kind.DENIED).replace(b"alice", HOSTILE.encode()),
        call_body(3, Kind.ADMIN),
        entity_body(Kind.DOCUMENT_CHANGED, 1.0, f"ModelRole/{HOSTILE}", "in force", before="a", after="b"),
        entity_body(Kind.ROLLOUT_CHANGED, 1.0, "ModelRollout/f", "x", reason="Promoted", by=Author(HOSTILE)),
        login_body(Kind.LOGIN, 1.0, "x", "10.0.0.1:1", issuer="a", subject=HOSTILE),
        certificate_body(1.0, f"spiffe://{HOSTILE}", "10.0.0.1:1", HOSTILE, reason="rate"),
    ):
        review.add(read_line(line_of(body)))
    verdict = Verdict(False, "NOT AS IT WAS WRITTEN", 5, [HOSTILE], ["a note"])
    grants = [Grant("finance", "allow", (HOSTILE, "everybody"), "reader", ("models: *",))]
    text = page(review, Period(0.0, 86_400.0, "1970"), verdict, grants, 1.0)
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 8
    for words in ("NOT AS IT WAS WRITTEN", "a note", "1970-01-01 00:00:00", "finance-team", "Reviewed"):
        assert words in text
    tags = Tags()
    tags.feed(text)
    assert tags.tags.count("table") == 8
    assert {"script", "img", "link"}.isdisjoint(tags.tags)


def test_a_page_about_nothing() -> None:
    text = page(Review(), Period(0.0, 1.0, "p"), Verdict(True, "fine", 0, [], []), None, 1.0)
    assert "does not say who may" in text
    assert text.count("There were none.") == 2
