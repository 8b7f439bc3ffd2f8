import re

import pytest

from kseg.evaluation.report.charts import Line, _log_ticks, _tick_texts, _ticks, line_chart, strip_chart


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.13, 1.21, [0, 0.25, 0.5, 0.75, 1, 1.25]),
        (3, 3, [3, 4]),
        (0, 0, [0, 0.2]),
        (1, 24, [0, 5, 10, 15, 20, 25]),
        (-0.2, 0.2, [-0.2, -0.1, 0, 0.1, 0.2]),
    ],
)
def test_ticks_are_round_and_enclose(low, high, ticks):
    found = _ticks(low, high, 5)
    assert found[0] <= low <= high <= found[-1]
    assert found[: len(ticks)] == pytest.approx(ticks)


def test_logarithmic_ticks():
    assert _log_ticks(0.03, 8) == [0.01, 0.1, 1, 10]
    assert _log_ticks(0.3, 18) == [0.2, 0.5, 1, 2, 5, 10, 20]


def test_small_numbers_are_written_alike():
    assert _tick_texts([0, 5e-4, 1e-3, 1.5e-3]) == ["0", "5e-4", "1e-3", "1.5e-3"]
    assert _tick_texts([0, 0.25, 0.5]) == ["0", "0.25", "0.5"]


def _places(svg):
    return [tuple(map(float, pair.split(","))) for pair in re.search(r'points="(.*?)"', svg)[1].split()]


def test_points_stand_where_they_belong():
    svg = line_chart("Loss", [Line("a", ((1, 0.0), (2, 1.0), (3, 0.5)), 0)])
    first, second, third = _places(svg)
    assert first[0] < second[0] < third[0]
    assert third[0] - second[0] == pytest.approx(second[0] - first[0], abs=0.2)
    assert first[1] > third[1] > second[1]
    assert first[1] - third[1] == pytest.approx(third[1] - second[1], abs=0.2)
    assert "<title>a, epoch 2: 1</title>" in svg


def test_a_wide_span_is_logarithmic_unless_told_otherwise():
    line = Line("a", ((1, 1.0), (2, 10.0), (3, 100.0)), 0)
    heights = [y for _, y in _places(line_chart("Loss", [line]))]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)
    heights = [y for _, y in _places(line_chart("Loss", [line], linear=True))]
    assert heights[1] - heights[2] == pytest.approx(10 * (heights[0] - heights[1]), abs=0.5)


def test_one_epoch_and_none():
    assert "<polyline" in line_chart("Loss", [Line("a", ((1, 0.5),), 0)])
    assert line_chart("Loss", [Line("a", (), 0)]) == '<p class="none">Loss: nothing recorded.</p>'


def test_many_runs_differ_in_more_than_colour():
    assert "dashed" in line_chart("Loss", [Line("a", ((1, 0.5),), 9)])


def test_a_strip_tells_range_and_median():
    svg = strip_chart("Mean IoU", [("a<b", [0.5, 0.75, 0.875], 0)])
    assert 'aria-label="Mean IoU. a&lt;b: 50.0 to 87.5, median 75.0"' in svg
    assert svg.count("v13") == 3
