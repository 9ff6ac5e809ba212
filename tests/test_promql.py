from __future__ import annotations

import pytest

from tests.promql import problems, read


def test_what_an_expression_names() -> None:
    found = read(
        'sum by (model, le) (rate(meshproxy_requests_total{code=~"5..|by (x)", model!=""}[5m] offset 1h))'
        " / on (model) group_left () a:b unless up > bool 0.5"
    )
    assert found.series == [("meshproxy_requests_total", ("code", "model")), ("a:b", ()), ("up", ())]
    assert found.groups == ["model", "le", "model"]


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("meshproxy_request_total", "there is no series meshproxy_request_total"),
        ("meshproxy_request_duration_seconds", "there is no series meshproxy_request_duration_seconds"),
        ('meshproxy_queue_depth{version="1"}', "meshproxy_queue_depth has no label version"),
        ("sum by (verb) (meshproxy_queue_depth)", "nothing selected has the label verb"),
        ("1 + vector(1)", "nothing is selected by 1 + vector(1)"),
    ],
)
def test_names_that_no_page_has(expression: str, problem: str) -> None:
    assert problems(expression) == [problem]


def test_an_open_brace_is_no_expression() -> None:
    with pytest.raises(ValueError):
        read('up{job="a"')
