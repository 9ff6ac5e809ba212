"""The page of TensorFlow Serving: what is read of it, and what makes it unusable."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.devtools.model_metrics import ModelMetrics
from meshproxy.inference.tfserving_metrics import (
    MOST_LINE_BYTES,
    MOST_SERIES,
    PageError,
    ServerTime,
    TimesReader,
)

PAGE = b"""\
# TYPE :tensorflow:serving:request_count counter
:tensorflow:serving:request_count{model_name="m",status="OK"} 250002
# TYPE :tensorflow:serving:request_latency histogram
:tensorflow:serving:request_latency_bucket{model_name="m",API="Predict",entrypoint="GRPC",le="10"} 0
:tensorflow:serving:request_latency_bucket{model_name="m",API="Predict",entrypoint="GRPC",le="+Inf"} 250000
:tensorflow:serving:request_latency_sum{model_name="m",API="Predict",entrypoint="GRPC"} 1.23457e+09
:tensorflow:serving:request_latency_count{model_name="m",API="Predict",entrypoint="GRPC"} 250000
:tensorflow:serving:request_latency_sum{model_name="m",API="Predict",entrypoint="REST"} 1234
:tensorflow:serving:request_latency_count{model_name="m",API="Predict",entrypoint="REST"} 2
:tensorflow:serving:runtime_latency_sum{model_name="m",API="Predict",runtime="TF1"} 7
"""
START = ":tensorflow:serving:request_latency_"


def read(page: bytes, slice_of: int = 10_000) -> dict[str, ServerTime]:
    reader = TimesReader()
    lines = page.split(b"\n")
    for start in range(0, len(lines), slice_of):
        reader.feed(lines[start : start + slice_of])
    return reader.times()


def series(labels: str, total: str = "10", count: str = "1") -> bytes:
    return f"{START}sum{{{labels}}} {total}\n{START}count{{{labels}}} {count}\n".encode()


def test_a_models_calls_are_added_up() -> None:
    (times,) = read(PAGE).values()
    assert times.calls == 250_002
    assert times.seconds == pytest.approx(1_234.571_234)
    assert times.step == pytest.approx(0.01)


def test_an_empty_page_has_no_models() -> None:
    assert read(b"") == {}
    assert read(b"# TYPE :tensorflow:serving:request_count counter\n") == {}


def test_failures_are_left_out_where_a_release_tells_them_apart() -> None:
    ok = 'model_name="m",API="Predict",entrypoint="GRPC",status="OK"'
    assert read(series(ok) + series(ok.replace("OK", "NOT_FOUND"), "99")) == {"m": ServerTime(1, 10e-6, 0.0)}


def test_names_are_unescaped() -> None:
    assert list(read(series('model_name="a\\"b\\\\",API="Predict"'))) == ['a"b\\']


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("0", 0.0),
        ("999999", 0.0),
        ("1e+06", 10e-6),
        ("1.2345e+06", 10e-6),
        ("9.99999e+08", 1e-3),
        ("1e+12", 10.0),
        ("1234567", 0.0),
        ("1.23456789e+12", 0.0),
    ],
)
def test_the_step_of_a_sum(text: str, step: float) -> None:
    assert read(series('model_name="m"', text))["m"].step == pytest.approx(step)


@pytest.mark.parametrize(
    "page",
    [
        series('model_name="m"', "-1"),
        series('model_name="m"', "NaN"),
        series('model_name="m"', "1e400"),
        series('model_name="m"', "1 1700000000"),
        series('model_name="m"', count="1.5"),
        series('model_name="m"', count="1e+06"),
        series('model_name="m'),
        series('model_name="a\nb"'),
        series('model_name="\\n"'),
        series("model_name=m"),
        series(""),
        series('API="Predict"'),
        series('model_name="m"') * 2,
        series('model_name="m"').partition(b"\n")[2],
        series('model_name="m"').partition(b"\n")[0],
        series(f'model_name="{"x" * MOST_LINE_BYTES}"'),
        b'%bsum{model_name="\xff"} 1\n%bcount{model_name="\xff"} 1\n' % (START.encode(), START.encode()),
        b"".join(series(f'model_name="{number}"') for number in range(MOST_SERIES + 1)),
    ],
)
def test_what_makes_a_page_unusable(page: bytes) -> None:
    with pytest.raises(PageError):
        read(page)


def test_an_unusable_page_is_not_quoted() -> None:
    with pytest.raises(PageError) as caught:
        read(series('model_name="secret-name'))
    assert "secret" not in str(caught.value)


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=20),
            st.sampled_from(["Predict", "Classify", "Regress"]),
            st.sampled_from(["GRPC", "REST"]),
            st.floats(0, 100),
        ),
        max_size=30,
    ),
    st.integers(1, 50),
)
def test_what_our_model_server_writes_is_read(calls: list[tuple[str, str, str, float]], slice_of: int) -> None:
    metrics = ModelMetrics()
    for model, api, entrypoint, seconds in calls:
        metrics.record(model, "OK", api, entrypoint, seconds)
    times = read(metrics.page().encode(), slice_of)
    assert set(times) == {model for model, *_ in calls}
    for model, found in times.items():
        own = [int(seconds * 1e6) / 1e6 for name, _, _, seconds in calls if name == model]
        assert found.calls == len(own)
        assert math.isclose(found.seconds, sum(own), abs_tol=found.step + 1e-9)


PIECES = [START.encode() + b"sum{", START.encode() + b"count{", b'model_name="', b'a"', b'"}', b"} 1", b",", b"\n"]


@given(st.lists(st.sampled_from([*PIECES, b"\\", b"e+9", b"1.5", b"\xff"]), max_size=40))
def test_no_bytes_raise_anything_else(pieces: list[bytes]) -> None:
    try:
        read(b"".join(pieces))
    except PageError:
        pass


@given(st.binary(max_size=200))
def test_neither_do_any_other(page: bytes) -> None:
    try:
        read(START.encode() + b"sum{" + page)
    except PageError:
        pass
