from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

from benchmarks.plot import Bar, bars, colour, curves, over_time, shares

SVG = "{http://www.w3.org/2000/svg}"


def test_bars_are_as_long_as_their_values() -> None:
    picture = ElementTree.fromstring(
        bars("CPU", {"REST": [Bar("envoy", 100, 90, 110), Bar("meshproxy", 50, 45, 60)]}, "")
    )
    widths = [float(rect.get("width", "")) for rect in picture.iter(SVG + "rect") if rect.get("class") != "page"]
    assert widths[0] == 2 * widths[1]
    whiskers = [line for line in picture.iter(SVG + "line") if line.get("class") == "whisker"]
    assert len(whiskers) == 2
    assert float(whiskers[0].get("x2", "")) <= 860


def test_every_value_and_name_is_written_out() -> None:
    picture = ElementTree.fromstring(
        bars("CPU", {"REST <30 B>": [Bar("envoy", 116.4, 100, 120)]}, "median of 5 rounds")
    )
    texts = [text.text for text in picture.iter(SVG + "text")]
    assert texts == ["CPU", "REST <30 B>", "envoy", "116 µs", "median of 5 rounds"]


def points(svg: str, number: int) -> list[tuple[float, float]]:
    line = list(ElementTree.fromstring(svg).iter(SVG + "polyline"))[number]
    return [tuple(map(float, pair.split(","))) for pair in line.get("points", "").split()]  # type: ignore[misc]


def test_a_curve_goes_right_with_the_percentile_and_up_with_the_latency() -> None:
    svg = curves("Latency", {"direct": [(0.0, 0.1), (50.0, 0.2), (90.0, 0.5), (99.0, 2.0)]}, "")
    found = points(svg, 0)
    assert [x for x, _ in found] == sorted(x for x, _ in found)
    assert [y for _, y in found] == sorted((y for _, y in found), reverse=True)
    # From p0 to p90 and from p90 to p99 are one nine each.
    assert abs((found[2][0] - found[0][0]) - (found[3][0] - found[2][0])) < 0.2


def test_names_of_curves_do_not_cover_each_other() -> None:
    lines = {name: [(0.0, 0.1), (99.0, 1.0)] for name in ("direct", "envoy", "meshproxy")}
    labels = re.findall(r'y="([\d.]+)" style="fill', curves("Latency", lines, ""))
    heights = sorted(float(label) for label in labels)
    assert len(heights) == 3
    assert all(later - earlier >= 15 for earlier, later in pairwise(heights))


def test_no_lines_are_still_a_picture() -> None:
    assert ElementTree.fromstring(curves("Latency", {}, "nothing was measured")).tag == SVG + "svg"


def test_a_peer_has_one_colour_in_every_picture() -> None:
    assert colour("meshproxy", 0) == colour("meshproxy", 3)
    assert colour("another", 0) != colour("another", 1)


def test_spans_and_lines_over_time() -> None:
    lines = {"lag": [(8.0, 0.5), (9.0, 2.5), (10.0, 0.5)], "expected": [(8.0, 0.5), (10.0, 0.5)]}
    picture = over_time("A morning", lines, {"the rise": (8.5, 9.5)}, "made up")
    root = ElementTree.fromstring(picture)
    texts = [each.text for each in root.iter() if each.tag.endswith("text")]
    assert {"A morning", "made up", "lag", "expected", "the rise", "8:00", "10:00"} <= set(texts)
    assert sum(each.tag.endswith("polyline") for each in root.iter()) == 2


def test_shares_go_right_with_the_number_and_up_with_the_share() -> None:
    svg = shares("Found", {"ours": [(0, 0.0), (1, 0.5), (3, 1.0)], "theirs": [(0, 0.0), (3, 1.0)]}, "%", "")
    found = points(svg, 0)
    assert [x for x, _ in found] == sorted(x for x, _ in found)
    assert [y for _, y in found] == sorted((y for _, y in found), reverse=True)
    assert "theirs" in svg
