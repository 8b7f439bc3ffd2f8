"""Border weights: worked by hand, and against a version that measures every distance."""

import keras
import numpy as np
import pytest
from handmade import picture

from kseg import data
from kseg.data.borders import border_weights
from kseg.labels import LabelSet
from kseg.losses import CrossEntropy


def _plain(label, w0, sigma_px, background, ignore):
    """Equation 2 by flood fill and by the distance from every pixel to every pixel."""
    height, width = label.shape
    owner, cells = {}, []
    for start in np.ndindex(height, width):
        if label[start] in (background, ignore) or start in owner:
            continue
        cells.append([])
        waiting = [start]
        while waiting:
            y, x = waiting.pop()
            if (y, x) in owner or not (0 <= y < height and 0 <= x < width) or label[y, x] != label[start]:
                continue
            owner[y, x] = len(cells)
            cells[-1].append((y, x))
            waiting += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    weights = np.ones(label.shape)
    for y, x in np.ndindex(height, width):
        distances = sorted(min(np.hypot(y - v, x - u) for v, u in cell) for cell in cells)
        if len(distances) >= 2:
            weights[y, x] += w0 * np.exp(-((distances[0] + distances[1]) ** 2) / (2 * sigma_px**2))
    return weights


def test_the_gap_between_two_squares():
    label = np.zeros((20, 30), np.int32)
    label[5:15, 3:13] = label[5:15, 18:28] = 1  # a gap of 5 pixels, columns 13 to 17
    weights = border_weights(label, w0=10.0, sigma_px=5.0, background=0)
    assert weights.dtype == np.float32
    middle = 1 + 10 * np.exp(-((3 + 3) ** 2) / 50)  # columns 12 and 18 are 3 from column 15
    np.testing.assert_allclose(weights[10, 15], middle, rtol=1e-6)
    np.testing.assert_allclose(weights[10, 13:18], middle, rtol=1e-6)  # 1 + 5 and 2 + 4 as well
    np.testing.assert_allclose(weights[10, 12], middle, rtol=1e-6)  # the border pixel of a cell: 0 + 6
    np.testing.assert_allclose(weights[10, 11], 1 + 10 * np.exp(-(7**2) / 50), rtol=1e-6)
    np.testing.assert_allclose(weights[2, 15], 1 + 10 * np.exp(-((2 * np.hypot(3, 3)) ** 2) / 50), rtol=1e-6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("background", [0, 1])
def test_equals_measuring_every_distance(seed, background):
    rng = np.random.default_rng(seed)
    label = rng.choice([0, 1, 2, 255], p=[0.62, 0.2, 0.13, 0.05], size=(13, 17)).astype(np.int32)
    settings = {"w0": 7.0, "sigma_px": 2.0, "background": background, "ignore": 255}
    np.testing.assert_allclose(border_weights(label, **settings), _plain(label, **settings), atol=0.0004 * 7)


def test_far_apart_cells_and_one_cell_add_nothing():
    label = np.zeros((40, 200), np.int32)
    assert (border_weights(label) == 1).all()
    label[10:20, 10:20] = 1
    assert (border_weights(label) == 1).all()
    label[10:20, 150:160] = 1
    np.testing.assert_allclose(border_weights(label), 1, atol=0.0004 * 10)


def test_cells_that_touch_at_a_corner_are_two_and_ignored_pixels_are_none():
    label = np.zeros((6, 6), np.int32)
    label[0:3, 0:3] = label[3:6, 3:6] = 1
    assert border_weights(label)[2, 2] == pytest.approx(1 + 10 * np.exp(-2 / 50))
    label[3:6, 3:6] = 255
    assert (border_weights(label, ignore=255) == 1).all()


@pytest.mark.parametrize("settings", [{"w0": -1.0}, {"w0": float("nan")}, {"sigma_px": 0.0}])
def test_arguments_out_of_range(settings):
    with pytest.raises(ValueError, match=f"`{next(iter(settings))}` must be"):
        border_weights(np.zeros((4, 4), np.int32), **settings)


def _source():
    rng = np.random.default_rng(0)
    masks = [np.repeat(np.repeat(rng.integers(0, 2, (8, 8)), 5, 0), 5, 1) for _ in range(4)]
    return data.arrays([picture(40, 40, seed=i) for i in range(4)], masks, LabelSet.numbered(2))


def test_batches_carry_the_weights_of_their_labels_into_a_step():
    source = _source()
    settings = {"elastic_px": 3.0, "border_weight": 10.0, "border_sigma_px": 2.0, "border_background": 1}
    batches = data.training_batches(source, (24, 20), batch=2, epochs=2, **settings)
    assert [tuple(spec.shape) for spec in batches.element_spec] == [(2, 24, 20, 3), (2, 24, 20), (2, 24, 20)]
    taken = list(batches.as_numpy_iterator())
    assert len(taken) == 4
    for _, labels, weights in taken:
        for label, weight in zip(labels, weights, strict=True):
            np.testing.assert_array_equal(weight, border_weights(label, sigma_px=2.0, background=1))
        assert weights.max() > 2
    network = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(2, 1, kernel_initializer="zeros")])
    network.compile(keras.optimizers.SGD(0.0), loss=CrossEntropy())
    # Logits of 0 cost log(2) at every pixel whatever the weights; with a bias the weights tell.
    network.layers[0].bias.assign([1.0, 0.0])
    history = network.fit(batches, epochs=1, verbose=0, steps_per_epoch=4, shuffle=False)
    costs = np.log1p(np.exp([-1.0, 1.0]))
    expected = [(weights * costs[labels]).sum() / weights.sum() for _, labels, weights in taken]
    assert history.history["loss"][0] == pytest.approx(np.mean(expected), rel=1e-5)


def test_elastic_batches_are_repeatable_and_differ_from_plain_ones():
    source = _source()
    first, again, plain = (
        list(data.training_batches(source, (24, 24), batch=2, elastic_px=px).as_numpy_iterator()) for px in (4, 4, 0)
    )
    for one, two, three in zip(first, again, plain, strict=True):
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1], two[1])
        assert not np.array_equal(one[1], three[1])
