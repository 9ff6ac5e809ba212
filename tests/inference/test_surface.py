from __future__ import annotations

from meshproxy.inference.surface import OneExample, show_request


def test_a_request_that_cannot_be_counted_is_one_example() -> None:
    count = OneExample()
    count.feed(b"anything", False)
    count.feed(b"", True)
    assert count.count == 1


def test_a_request_line_is_shown_without_its_query_and_without_what_could_be_markup() -> None:
    assert show_request(b"GET", b"/a?token=x") == "GET /a?"
    assert show_request(b"GET", b"/<\x1b\xff") == "GET /\\x3c\\x1b\\xff"
    assert show_request(b"GET", b"/" + b"a" * 300, 10) == "GET /aaaaaaaaa..."
