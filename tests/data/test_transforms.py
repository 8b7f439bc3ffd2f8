"""Transforms: pure, the same eagerly and in tf.data, and labels are never mixed."""

from functools import partial

import numpy as np
import pytest
import tensorflow as tf
from handmade import indices, picture

from kseg.data.transforms import random_colour, random_crop, random_quarter_turn

IMAGE, LABEL = picture(40, 52), indices(40, 52, classes=6).astype(np.int32)
CROP = partial(random_crop, crop_px=(24, 24), ignore=9)
TRANSFORMS = {
    "crop": CROP,
    "crop far out": partial(CROP, scales=(0.3, 0.4)),
    "crop far in": partial(CROP, scales=(3.0, 4.0), flips="all"),
    "crop without ignore": partial(random_crop, crop_px=(60, 50), flips="none"),
    "colour": random_colour,
}


def _run(transform, image, label, seed):
    image, label = transform(tf.constant(image), tf.constant(label), tf.constant([seed, 3]))
    return np.asarray(image), np.asarray(label)


def _runs(transform, image, label, count):
    """The results of the seeds 0 .. count - 1."""
    image, label = tf.constant(image), tf.constant(label)
    seeds = tf.data.Dataset.range(count)
    return list(seeds.map(lambda i: transform(image, label, tf.stack([i, 3]))).as_numpy_iterator())


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_same_eagerly_and_in_tf_data(name):
    transform = TRANSFORMS[name]
    results = _runs(transform, IMAGE, LABEL, 3)
    for seed, (image, label) in enumerate(results):
        expected_image, expected_label = _run(transform, IMAGE, LABEL, seed)
        np.testing.assert_allclose(image, expected_image, atol=1e-3)
        np.testing.assert_array_equal(label, expected_label)
        assert (image.dtype, label.dtype) == (np.float32, np.int32)
        assert image.min() >= 0
        assert image.max() <= 255
    assert not np.array_equal(results[0][0], results[1][0])


@pytest.mark.parametrize("name", TRANSFORMS)
def test_labels_are_never_mixed(name):
    label = LABEL * 40  # between two of these lies an index that does not occur
    for _, changed in _runs(TRANSFORMS[name], IMAGE, label, 20):
        allowed = set(np.unique(label)) | ({9} if "without" not in name else set())
        assert set(np.unique(changed)) <= allowed


def _coordinates(height, width):
    """An image whose colours say where each pixel was, with labels that say the same."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows, columns, np.zeros_like(rows)], -1).astype(np.float32)
    return image, (rows * 1000 + columns).astype(np.int32)


@pytest.mark.parametrize("flips", ["none", "horizontal", "all"])
def test_without_zoom_a_crop_takes_whole_pixels(flips):
    image, label = _coordinates(40, 52)
    seen = set()
    for cut, cut_label in _runs(partial(CROP, scales=(1.0, 1.0), flips=flips), image, label, 24):
        rows, columns = cut_label // 1000, cut_label % 1000
        np.testing.assert_allclose(cut[..., 0], rows, atol=1e-3)
        np.testing.assert_allclose(cut[..., 1], columns, atol=1e-3)
        assert set(np.diff(rows[:, 0])) in ({1}, {-1})
        assert set(np.diff(columns[0])) in ({1}, {-1})
        seen.add((int(np.diff(rows[:, 0])[0]), int(np.diff(columns[0])[0])))
    expected = {"none": {(1, 1)}, "horizontal": {(1, 1), (1, -1)}, "all": {(1, 1), (1, -1), (-1, 1), (-1, -1)}}
    assert seen == expected[flips]


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.3, 3.0])
def test_zoomed_images_and_labels_stay_together(scale):
    image, label = _coordinates(90, 80)
    for cut, cut_label in _runs(partial(CROP, scales=(scale, scale)), image, label, 10):
        # The nearest pixel is at most half a pixel from where the image was sampled.
        assert np.abs(cut[..., 0] - cut_label // 1000).max() <= 0.501
        assert np.abs(cut[..., 1] - cut_label % 1000).max() <= 0.501
        # The window has whole pixels.
        np.testing.assert_allclose(np.abs(np.diff(cut[4:-4, 0, 0])), round(24 / scale) / 24, atol=2e-5)


def test_every_place_of_the_image_is_reached():
    image, label = _coordinates(26, 27)
    cuts = _runs(partial(CROP, scales=(1.0, 1.0), flips="none"), image, label, 200)
    corners = {int(cut_label[0, 0]) for _, cut_label in cuts}
    assert corners == {1000 * y + x for y in range(3) for x in range(4)}


def test_a_crop_of_the_whole_image_is_the_image():
    image, label = _coordinates(24, 24)
    cut, cut_label = _run(partial(CROP, scales=(1.0, 1.0), flips="none"), image, label, 0)
    np.testing.assert_allclose(cut, image, atol=1e-3)
    np.testing.assert_array_equal(cut_label, label)


def test_beyond_the_image_labels_are_ignored_and_the_picture_is_mirrored():
    image, label = _coordinates(10, 12)
    cut, cut_label = _run(partial(CROP, scales=(1.0, 1.0), flips="none", ignore=-5), image, label, 1)
    assert (cut_label != -5).sum() == 10 * 12  # the whole image lies in the crop, once
    rows, columns = np.nonzero(cut_label != -5)
    top, left = rows.min(), columns.min()
    np.testing.assert_array_equal(cut_label[top : top + 10, left : left + 12], label)
    np.testing.assert_allclose(cut[top - 1, left : left + 12, 0], 0, atol=1e-3)
    np.testing.assert_allclose(cut[top - 3, left : left + 12, 0], 2, atol=1e-3)


def test_without_an_ignore_index_labels_are_mirrored_with_the_picture():
    image, label = _coordinates(10, 12)
    for cut, cut_label in _runs(partial(CROP, ignore=None), image, label, 5):
        assert np.abs(cut[..., 0] - cut_label // 1000).max() <= 0.501
        assert np.abs(cut[..., 1] - cut_label % 1000).max() <= 0.501


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (2, 3)])
@pytest.mark.parametrize("ignore", [None, 7])
def test_tiny_images(size, ignore):
    image, label = picture(*size), np.full(size, 4, np.int32)
    cut, cut_label = _run(partial(random_crop, crop_px=(16, 20), ignore=ignore), image, label, 0)
    assert cut.shape == (16, 20, 3)
    assert set(np.unique(cut_label)) <= {4, 7}
    assert (cut_label == 4).any()
    assert np.isfinite(cut).all()


def test_zooms_lie_in_their_range():
    image, label = _coordinates(200, 200)
    cuts = _runs(partial(CROP, scales=(0.5, 2.0)), image, label, 60)
    steps = [abs(float(cut[10, 4, 1] - cut[10, 3, 1])) for cut, _ in cuts]
    assert 0.49 < min(steps) < 0.7
    assert 1.5 < max(steps) < 2.01


def test_colour_changes_keep_grey_grey_and_labels_as_they_are():
    grey = np.repeat(np.linspace(60, 190, 12, dtype=np.float32).reshape(3, 4, 1), 3, axis=2)
    changed, label = _run(random_colour, grey, LABEL, 5)
    np.testing.assert_allclose(changed[..., 0], changed[..., 1], atol=1e-3)
    np.testing.assert_allclose(changed[..., 0], changed[..., 2], atol=1e-3)
    np.testing.assert_array_equal(label, LABEL)


def test_no_colour_change():
    changed, _ = _run(partial(random_colour, brightness=0, contrast=0, saturation=0), IMAGE, LABEL, 5)
    np.testing.assert_allclose(changed, IMAGE, atol=1e-3)


def test_brightness_contrast_and_saturation_by_hand():
    image = np.array([[[200.0, 100.0, 50.0]]], np.float32)
    lighter, _ = _run(partial(random_colour, brightness=0.1, contrast=0, saturation=0), image, LABEL, 8)
    np.testing.assert_allclose(np.ptp(lighter / image), 0, atol=1e-5)
    assert 0.9 <= (lighter / image).max() <= 1.1
    greys = np.repeat(np.array([[60.0, 90.0, 150.0]], np.float32)[..., None], 3, axis=2)
    harder, _ = _run(partial(random_colour, brightness=0, contrast=0.3, saturation=0), greys, LABEL, 8)
    np.testing.assert_allclose(harder.mean(), 100.0, atol=1e-3)
    ratio = (harder - 100.0) / (greys - 100.0)
    np.testing.assert_allclose(ratio, ratio[0, 0, 0], atol=1e-4)
    faded, _ = _run(partial(random_colour, brightness=0, contrast=0, saturation=0.5), image, LABEL, 8)
    luma = 0.299 * 200 + 0.587 * 100 + 0.114 * 50
    ratio = (faded - luma) / (image - luma)
    np.testing.assert_allclose(ratio, ratio[0, 0, 0], atol=1e-4)


def test_a_dark_image_stays_visible():
    dark = np.repeat(np.tile(np.array([2.0, 20.0], np.float32), (4, 2))[..., None], 3, axis=2)
    for changed, _ in _runs(random_colour, dark, LABEL, 30):
        assert changed[0, 1, 0] > 4 * changed[0, 0, 0] > 0


def test_quarter_turns():
    image, label = _coordinates(8, 8)
    turns = set()
    for turned, turned_label in _runs(random_quarter_turn, image, label, 30):
        np.testing.assert_array_equal(turned[..., 0] * 1000 + turned[..., 1], turned_label)
        turns.add(int(turned_label[0, 0]))
    assert turns == {0, 7, 7000, 7007}
    with pytest.raises(ValueError, match="must be square"):
        random_quarter_turn(tf.zeros([3, 4, 3]), tf.zeros([3, 4], tf.int32), tf.constant([0, 0]))
