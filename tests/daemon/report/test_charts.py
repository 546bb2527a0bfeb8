"""Axes that a person reads, lines that keep their extremes, marks that are never lost off the edge."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parfocal.daemon.report.axes import duration, thinned, time_axis, value_axis
from parfocal.daemon.report.charts import Band, Chart, Level, Line, Marks

numbers = st.floats(-1e6, 1e6)


@given(st.lists(st.one_of(numbers, st.just(math.nan)), min_size=1, max_size=30), st.booleans())
def test_a_value_axis_holds_everything_and_its_marks(values: list[float], zero: bool) -> None:
    axis = value_axis(values, zero=zero)
    assert axis.low < axis.high
    assert all(axis.low <= value <= axis.high for value in values if math.isfinite(value))
    assert all(-1e-6 <= axis.share(mark) <= 1 + 1e-6 for mark in axis.at)
    assert len(axis.at) == len(axis.labels) >= 2


@given(st.floats(0.01, 1e6), st.integers(3, 10))
def test_a_time_axis_has_few_marks_all_of_them_inside(span: float, most: int) -> None:
    axis = time_axis(0.0, span, most)
    assert 1 <= len(axis.at) <= most + 1
    assert all(-1e-9 <= axis.share(mark) <= 1 + 1e-9 for mark in axis.at)
    assert len(set(axis.labels)) == len(axis.labels)


@pytest.mark.parametrize(
    ("seconds", "step", "text"),
    [(5.25, 0.1, "5.2 s"), (5, 1, "5 s"), (106, 0.1, "1:46 min"), (3600, 1, "1:00 h"), (3725, 1, "1:02:05 h")],
)
def test_times_in_words(seconds: float, step: float, text: str) -> None:
    assert duration(seconds, step) == text


@given(st.lists(numbers, min_size=5, max_size=3000), st.integers(10, 300))
def test_thinning_keeps_the_extremes(values: list[float], most: int) -> None:
    points = np.column_stack([np.arange(len(values)), values]).astype(float)
    kept = thinned(points, most)
    assert len(kept) <= max(most, len(points) if len(points) <= most else most)
    assert kept[:, 1].min() == points[:, 1].min()
    assert kept[:, 1].max() == points[:, 1].max()
    assert (np.diff(kept[:, 0]) > 0).all()


def test_a_chart_is_xml_and_breaks_where_nothing_is_known() -> None:
    x = np.arange(6.0)
    y = np.array([0.0, 1.0, np.nan, 3.0, 2.0, 50.0])
    line, band = np.column_stack([x, y]), np.column_stack([x, y - 1, y + 1])
    chart = Chart(
        "<what> & why", time_axis(0.0, 5.0), value_axis([0.0, 3.0]),
        [Band(band, "band"), Line(line, "line"), Line(line, "steps", steps=True), Level(1.0, "limit", "a < b"),
         Marks(line[3:], "marks", ["one", "<two>", "far"], "cross")],
        unit="z, um",
    )  # fmt: skip
    svg = ElementTree.fromstring(chart.svg())  # noqa: S314 - our own
    assert svg.get("aria-label") == "<what> & why"
    paths = [element for element in svg.iter() if element.tag.endswith("path")]
    assert sum(path.get("class") == "line" for path in paths) == 2  # one on either side of the gap
    titles = [element.text for element in svg.iter() if element.tag.endswith("title")]
    assert titles == ["one", "<two>", "far"]
    assert chart.svg() == chart.svg()
    assert "nan" not in chart.svg()
