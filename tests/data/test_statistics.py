"""Class frequencies and weights, counted and worked out by hand."""

import math

import numpy as np
import pytest
from handmade import dataset

from kseg import data
from kseg.errors import InputError
from kseg.labels import LabelSet

# 0: 3 pixels in the first image, 1: 1 + 2, 2: 4 in the second, 3: nowhere; one pixel ignored
MASKS = [np.array([[0, 0], [0, 1]]), np.array([[2, 2, 2, 2], [1, 1, 255, 255]])]


def _source(classes=4):
    images = [np.zeros((*mask.shape, 3), np.uint8) for mask in MASKS]
    return data.arrays(images, MASKS, LabelSet.numbered(classes, ignore=255))


def test_frequencies_leave_out_what_is_ignored():
    frequencies = data.class_frequencies(_source())
    assert frequencies.pixels == (3, 3, 4, 0)
    assert frequencies.pixels_where_present == (4, 10, 6, 0)


def test_median_frequency():
    weights = data.class_weights(data.class_frequencies(_source()), "median_frequency")
    # shares 3/4, 3/10 and 4/6: the median is that of class 2
    assert weights == pytest.approx(((4 / 6) / (3 / 4), (4 / 6) / (3 / 10), 1.0, 1.0))


def test_inverse_log():
    weights = data.class_weights(data.class_frequencies(_source()), "inverse_log")
    assert weights == pytest.approx((1 / math.log(1.32), 1 / math.log(1.32), 1 / math.log(1.42), 1.0))


def test_many_masks_in_files_are_counted_once_each(tmp_path):
    source = data.open_source(dataset(tmp_path, names=tuple("abcdefg")), "train")
    expected = np.zeros(3, int)
    for index in range(7):
        label = source.load(index)[1]
        expected += np.bincount(label[label != 255], minlength=3)
    frequencies = data.class_frequencies(source)
    assert frequencies.pixels == tuple(expected)
    assert frequencies == data.class_frequencies(data.cached(source, "memory"))


def test_only_ignored_pixels_give_weights_of_one():
    masks = [np.full((2, 2), 255)]
    source = data.arrays([np.zeros((2, 2, 3), np.uint8)], masks, LabelSet.numbered(2, ignore=255))
    for how in ("median_frequency", "inverse_log"):
        assert data.class_weights(data.class_frequencies(source), how) == (1.0, 1.0)


def test_a_missing_mask_is_named(tmp_path):
    folder = dataset(tmp_path)
    source = data.open_source(folder, "train")
    next((folder / "masks" / "train").iterdir()).unlink()
    with pytest.raises(InputError, match="has no mask"):
        data.class_frequencies(source)


def test_an_unknown_way():
    with pytest.raises(ValueError, match="`how` must be one of median_frequency, inverse_log"):
        data.class_weights(data.class_frequencies(_source()), "sqrt")
