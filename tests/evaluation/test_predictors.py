import keras
import numpy as np
import pytest

from kseg.errors import InputError
from kseg.evaluation import KerasPredictor, load_predictor
from kseg.labels import LabelSet
from kseg.runtime import tiles


@pytest.fixture
def predictor():
    """A network that sees one pixel around each, and so says the same in a tile with at least that much overlap."""
    inputs = keras.Input((None, None, 3))
    scores = keras.layers.Conv2D(3, 3, padding="same")(inputs)
    return KerasPredictor(keras.Model(inputs, scores), LabelSet.numbered(3))


def test_a_large_image_in_tiles_is_labelled_like_a_whole_one(predictor, monkeypatch):
    images = np.random.default_rng(0).integers(0, 255, (2, 41, 67, 3)).astype(np.uint8)
    whole = predictor(images).argmax(-1)
    np.testing.assert_array_equal(predictor.indices(images), whole)
    monkeypatch.setattr(tiles, "LARGEST_PX", 500)
    monkeypatch.setattr(tiles, "TILE_PX", 16)
    monkeypatch.setattr(tiles, "OVERLAP_PX", 4)
    sizes = []
    monkeypatch.setattr(predictor, "model", _Watched(predictor.model, sizes))
    np.testing.assert_array_equal(predictor.indices(images), whole)
    assert max(height * width for height, width in sizes) <= 24 * 24


class _Watched:
    def __init__(self, model, sizes):
        self._model, self._sizes = model, sizes

    def predict_on_batch(self, images):
        self._sizes.append(images.shape[1:3])
        return self._model.predict_on_batch(images)


def test_an_unknown_suffix_is_told():
    with pytest.raises(InputError, match="a model is a .keras, .tflite or .onnx file"):
        load_predictor("network.pb")
