"""Elastic deformation: smooth, of the promised size, the same everywhere, and image and label move together."""

from functools import partial

import numpy as np
import pytest
import tensorflow as tf
from handmade import indices, picture

from kseg.data.elastic import elastic_margin, random_elastic
from kseg.data.transforms import random_crop

IMAGE, LABEL = picture(48, 60), indices(48, 60, classes=6).astype(np.int32)


def _coordinates(height, width):
    """An image whose colours say where each pixel was, with labels that say the same."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows, columns, np.zeros_like(rows)], -1).astype(np.float32)
    return image, (rows * 1000 + columns).astype(np.int32)


def _run(image, label, seed=0, **settings):
    image, label = random_elastic(tf.constant(image), tf.constant(label), tf.constant([seed, 3]), **settings)
    return np.asarray(image), np.asarray(label)


def _moves(seeds, size, sigma_px, grid=3):
    """[seeds, 2, *size]: by how much each pixel is moved, read off an image too large to reach its border."""
    margin_px = 60
    image, label = (tf.constant(x) for x in _coordinates(size[0] + 2 * margin_px, size[1] + 2 * margin_px))
    move = partial(random_elastic, image, label, sigma_px=sigma_px, grid=grid, margin_px=margin_px)
    moved = tf.data.Dataset.range(seeds).map(lambda seed: move(seed=tf.stack([seed, 3]))[0])
    places = np.stack(np.mgrid[: size[0], : size[1]] + margin_px)
    return np.stack([image[..., :2].transpose(2, 0, 1) - places for image in moved.as_numpy_iterator()])


def test_no_deformation_changes_nothing():
    image, label = _run(IMAGE, LABEL, sigma_px=0.0)
    np.testing.assert_array_equal(image, IMAGE)
    np.testing.assert_array_equal(label, LABEL)
    image, label = _run(IMAGE, LABEL, sigma_px=0.0, margin_px=5)
    np.testing.assert_array_equal(image, IMAGE[5:-5, 5:-5])
    np.testing.assert_array_equal(label, LABEL[5:-5, 5:-5])


@pytest.mark.parametrize("ignore", [None, 9])
def test_the_same_eagerly_and_in_tf_data_with_unknown_sizes(ignore):
    transform = partial(random_elastic, sigma_px=4.0, ignore=ignore)
    plain = tf.autograph.experimental.do_not_convert
    samples = tf.data.Dataset.from_generator(
        lambda: ((IMAGE, LABEL, i) for i in range(3)),
        output_signature=(
            tf.TensorSpec([None, None, 3], tf.uint8),
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec([], tf.int32),
        ),
    )
    results = list(samples.map(plain(lambda a, b, i: transform(a, b, tf.stack([i, 3])))).as_numpy_iterator())
    for seed, (image, label) in enumerate(results):
        expected, expected_label = _run(IMAGE, LABEL, seed, sigma_px=4.0, ignore=ignore)
        np.testing.assert_allclose(image, expected, atol=1e-3)
        np.testing.assert_array_equal(label, expected_label)
        assert (image.dtype, label.dtype) == (np.float32, np.int32)
    assert not np.array_equal(results[0][1], results[1][1])


def test_labels_are_never_mixed():
    label = LABEL * 40  # between two of these lies an index that does not occur
    for seed in range(5):
        _, moved = _run(IMAGE, label, seed, sigma_px=8.0)
        assert set(np.unique(moved)) <= set(np.unique(label))


def test_image_and_label_move_together():
    image, label = _coordinates(80, 90)
    for seed in range(5):
        moved, moved_label = _run(image, label, seed, sigma_px=5.0)
        # The nearest pixel is at most half a pixel from where the image was sampled.
        assert np.abs(moved[..., 0] - moved_label // 1000).max() <= 0.501
        assert np.abs(moved[..., 1] - moved_label % 1000).max() <= 0.501
        assert np.abs(moved - image).max() > 2


def test_at_the_nodes_the_displacement_has_the_deviation_asked_for():
    moves = _moves(150, (33, 49), 10.0)
    nodes = moves[:, :, ::16, ::24]
    assert nodes.shape == (150, 2, 3, 3)
    assert abs(nodes.mean()) < 0.6  # 2700 numbers: standard errors 0.19 and 0.14
    assert abs(nodes.std() - 10.0) < 0.5
    flat = nodes.reshape(150, 18)
    correlations = np.corrcoef(flat.T) - np.eye(18)
    assert np.abs(correlations).max() < 0.4  # independent; 153 pairs, standard error 0.08


def test_between_the_nodes_it_is_bicubic():
    moves = _moves(1, (1, 25), 3.0, grid=4)[0, 1, 0]  # nodes 8 pixels apart
    nodes = np.concatenate([moves[:1], moves[::8], moves[-1:]])
    for at in range(25):
        node, rest = divmod(at, 8) if at < 24 else (2, 8)
        t = rest / 8
        a, b, c, d = nodes[node : node + 4]
        # Catmull-Rom, which is Keys's convolution with a = -1/2
        cubic = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * (b - c) + d - a) * t**3)
        assert abs(moves[at] - cubic) < 1e-3


def test_beyond_the_image_it_is_mirrored_or_ignored():
    image, label = _coordinates(20, 24)
    size = np.array([20, 24])[:, None, None]
    for seed, moves in enumerate(_moves(6, (20, 24), 6.0)):
        looked_at = np.mgrid[:20, :24] + moves
        folded = np.where(looked_at < 0, -1 - looked_at, looked_at)
        folded = np.where(folded > size - 1, 2 * size - 1 - folded, folded).clip(0, size - 1)
        outside = ((looked_at < -0.5) | (looked_at >= size - 0.5)).any(0)
        assert 0 < outside.sum() < 400
        moved, moved_label = _run(image, label, seed, sigma_px=6.0)
        np.testing.assert_allclose(moved[..., :2].transpose(2, 0, 1), folded, atol=1e-3)
        ignored, ignored_label = _run(image, label, seed, sigma_px=6.0, ignore=-1)
        np.testing.assert_array_equal(ignored, moved)
        np.testing.assert_array_equal(ignored_label, np.where(outside, -1, moved_label))


def test_a_margin_keeps_the_mirror_out():
    image, label = _coordinates(200, 200)
    crop = partial(random_crop, crop_px=(32, 32), scales=(1.0, 1.0), flips="none", margin_px=elastic_margin(4.0))
    for seed in range(8):
        cut, cut_label = crop(tf.constant(image), tf.constant(label), tf.constant([seed, 1]))
        assert cut.shape == (56, 56, 3)
        _, moved = _run(cut, cut_label, seed, sigma_px=4.0, margin_px=12, ignore=-1)
        assert moved.shape == (32, 32)
        assert (moved == -1).mean() < 0.01


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3)])
def test_tiny_images(size):
    image, label = _run(picture(*size), np.full(size, 4, np.int32), sigma_px=3.0)
    assert image.shape == (*size, 3)
    assert np.isfinite(image).all()
    assert (label == 4).all()


@pytest.mark.parametrize(
    ("message", "settings"),
    [
        ("`sigma_px` must be", {"sigma_px": -1.0}),
        ("`sigma_px` must be", {"sigma_px": float("nan")}),
        ("`grid` must be", {"sigma_px": 1.0, "grid": 1}),
        ("`margin_px` must be", {"sigma_px": 1.0, "margin_px": -1}),
    ],
)
def test_arguments_out_of_range(message, settings):
    with pytest.raises(ValueError, match=message):
        _run(IMAGE, LABEL, **settings)
