import numpy as np
import pytest
import tensorflow as tf

from kseg.runtime import resize as module
from kseg.runtime.resize import resize, resize_nearest, resized_argmax


@pytest.mark.parametrize("size_px", [(31, 57), (90, 40), (64, 64), (1, 1), (7, 200)])
@pytest.mark.parametrize("source_px", [(64, 64), (1, 1), (33, 90)])
def test_equals_tensorflow(source_px, size_px):
    values = np.random.default_rng(0).uniform(0, 255, (*source_px, 3)).astype(np.float32)
    expected = tf.image.resize(values, size_px, method="bilinear", antialias=False).numpy()
    result = resize(values, size_px)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=2e-3)


@pytest.mark.parametrize("size_px", [(31, 57), (90, 40), (64, 64), (1, 1), (7, 200)])
@pytest.mark.parametrize("source_px", [(64, 64), (1, 1), (32, 48)])
def test_nearest_equals_tensorflow(source_px, size_px):
    classes = np.random.default_rng(0).integers(0, 99, source_px)
    expected = tf.image.resize(classes[..., None], size_px, method="nearest").numpy()[..., 0]
    np.testing.assert_array_equal(resize_nearest(classes, size_px), expected)


def test_nearest_takes_the_middle():
    classes = np.arange(9).reshape(3, 3)
    np.testing.assert_array_equal(resize_nearest(classes, (1, 1)), [[4]])
    np.testing.assert_array_equal(resize_nearest(classes, (6, 6)), classes.repeat(2, 0).repeat(2, 1))


def test_strips_give_the_same_as_one_piece(monkeypatch):
    values = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)
    whole = resize(values, (55, 41))
    monkeypatch.setattr(module, "_STRIP_VALUES", 500)
    np.testing.assert_array_equal(resize(values, (55, 41)), whole)
    np.testing.assert_array_equal(resized_argmax(values, (55, 41)), whole.argmax(-1))


def test_the_result_is_an_array_of_its_own():
    values = np.zeros((4, 4, 3), np.float32)
    resize(values, (4, 4))[...] = 1.0
    assert not values.any()
