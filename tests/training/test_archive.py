import zipfile

import keras
import numpy as np
import pytest

from kseg.errors import InputError
from kseg.labels import LabelSet
from kseg.training.checkpoint import load_model, restore, save_model

LABELS = LabelSet.numbered(2)
IMAGES = np.random.default_rng(0).uniform(0, 255, (1, 8, 8, 3)).astype(np.float32)
INITIALIZERS = ("glorot_uniform", "he_normal", "random_normal", "random_uniform", "truncated_normal", "orthogonal")


def _network():
    image = x = keras.Input((None, None, 3))
    for initializer in INITIALIZERS:
        x = keras.layers.Conv2D(4, 3, padding="same", kernel_initializer=initializer, bias_initializer="ones")(x)
    x = keras.Sequential([keras.layers.DepthwiseConv2D(3, padding="same"), keras.layers.BatchNormalization()])(x)
    return keras.Model(image, keras.layers.Conv2D(2, 1)(x))


@pytest.fixture
def saved(tmp_path):
    network, path = _network(), tmp_path / "a.keras"
    save_model(network, path, LABELS)
    return network, path


def test_no_random_numbers_are_made_for_weights_that_the_file_has(saved, monkeypatch):
    network, path = saved
    makers = ("RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling", "Orthogonal")
    with monkeypatch.context() as patch:
        for name in makers:
            patch.setattr(getattr(keras.initializers, name), "__call__", lambda *_, **__: pytest.fail("was run"))
        loaded, _ = load_model(path)
    np.testing.assert_array_equal(loaded.predict_on_batch(IMAGES), network.predict_on_batch(IMAGES))
    assert loaded.to_json() == network.to_json()


def test_an_archive_packed_anew_with_compression(saved, tmp_path):
    network, path = saved
    packed = tmp_path / "packed.keras"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    loaded, _ = load_model(packed)
    np.testing.assert_array_equal(loaded.predict_on_batch(IMAGES), network.predict_on_batch(IMAGES))


def test_one_changed_byte_of_a_weight(saved):
    network, path = saved
    kernel = np.asarray(network.layers[1].kernel).tobytes()
    content = path.read_bytes()
    assert content.count(kernel) == 1
    path.write_bytes(content.replace(kernel, kernel[:50] + bytes([kernel[50] ^ 1]) + kernel[51:]))
    with pytest.raises(InputError, match="not a readable .keras file .*its checksum is another"):
        load_model(path)


@pytest.mark.parametrize("kept", [0.3, 0.99])
def test_a_file_cut_short(saved, kept):
    _, path = saved
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(InputError, match="not a readable .keras file"):
        load_model(path)


def test_weights_of_another_network(saved):
    _, path = saved
    image = keras.Input((None, None, 3))
    other = keras.Model(image, keras.layers.Conv2D(2, 1)(image))
    other.compile("sgd", "mse")
    with pytest.raises(InputError, match="damaged"):
        restore(other, path, iterations=0)
