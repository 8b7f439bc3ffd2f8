import zipfile

import keras
import numpy as np
import pytest

from kseg.errors import InputError
from kseg.labels import LabelSet
from kseg.training.checkpoint import load_model, read_state, restore, save_model

LABELS = LabelSet(("sky", "ground"), ((0, 0, 255), (90, 60, 30)), ignore=255)
IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype(np.float32)


def _network(policy="float32", classes=2):
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(4, 3, padding="same", dtype=policy, activation="relu")(x)
    x = keras.layers.Dropout(0.5, dtype=policy)(x)
    x = keras.layers.Conv2D(classes, 1, dtype=policy)(x)
    model = keras.Model(inputs, keras.layers.Activation("linear", dtype="float32")(x))
    adam = keras.optimizers.Adam()
    model.compile(keras.optimizers.LossScaleOptimizer(adam) if policy == "mixed_float16" else adam, "mse")
    return model


def test_labels_and_state_travel_in_the_file(tmp_path):
    model, path = _network(), tmp_path / "a.keras"
    save_model(model, path, LABELS, state={"epoch": 3})
    loaded, labels = load_model(path)
    assert labels == LABELS
    assert read_state(path) == {"epoch": 3}
    np.testing.assert_allclose(loaded.predict_on_batch(IMAGES), model.predict_on_batch(IMAGES), atol=1e-6)
    keras.saving.load_model(path)  # a plain Keras reads it too


def test_a_loaded_network_keeps_its_initializers(tmp_path):
    model, path = _network(), tmp_path / "a.keras"
    save_model(model, path, LABELS)
    loaded, _ = load_model(path)
    assert [layer.get_config() for layer in loaded.layers] == [layer.get_config() for layer in model.layers]
    fresh = keras.models.clone_model(loaded)
    assert all(np.any(layer.kernel) for layer in fresh.layers if hasattr(layer, "kernel"))


def test_a_half_precision_file_loads_in_float32(tmp_path):
    path = tmp_path / "a.keras"
    save_model(_network("mixed_float16"), path, LABELS)
    loaded, _ = load_model(path)
    assert {layer.compute_dtype for layer in loaded.layers} == {"float32"}
    kept, _ = load_model(path, policy=None)
    assert "float16" in {layer.compute_dtype for layer in kept.layers}


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize("built", [False, True])
def test_the_optimizer_is_restored_or_the_run_stops(tmp_path, policy, built):
    """With mixed_float16 its state includes the loss scale and the steps since it changed."""
    model, path = _network(policy), tmp_path / "a.keras"
    model.fit(IMAGES, np.zeros((2, 8, 8, 2)), epochs=3, verbose=0)
    steps = int(model.optimizer.iterations)
    if policy == "mixed_float16":
        model.optimizer.dynamic_scale.assign(256.0)
    save_model(model, path, LABELS, state={}, include_optimizer=True)
    other = _network(policy)
    if built:  # as those are that come from `compile_trainer`
        other.optimizer.build(other.trainable_variables)
    restore(other, path, iterations=steps)
    assert len(other.optimizer.variables) == len(model.optimizer.variables) > 4
    for ours, theirs in zip(model.optimizer.variables, other.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    save_model(model, path, LABELS, state={})
    with pytest.raises(InputError, match="damaged .*optimizer|optimizer.* was not restored"):
        restore(_network(policy), path, iterations=steps)


def _cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip_weights(path):
    """Damage the weights' bytes, not the archive's directory."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("model.weights.h5").header_offset + 100
    content[start : start + 2000] = bytes(2000)
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_cut, _flip_weights, lambda p: p.write_text("no archive"), lambda p: p.unlink()])
def test_a_damaged_file_is_one_line(tmp_path, damage):
    path = tmp_path / "a.keras"
    save_model(_network(), path, LABELS)
    damage(path)
    with pytest.raises(InputError, match=r"a\.keras: (no such file|not a readable)") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_a_model_of_another_kind_is_refused(tmp_path):
    classifier = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    classifier.save(tmp_path / "a.keras")
    with pytest.raises(InputError, match="no segmentation network"):
        load_model(tmp_path / "a.keras")


def test_labels_must_be_as_many_as_the_classes(tmp_path):
    network = _network(classes=3)
    with pytest.raises(InputError, match="3 scores a pixel, its labels have 2 names$"):
        save_model(network, tmp_path / "a.keras", LABELS)
    assert not [*tmp_path.iterdir()]
    network.save(tmp_path / "a.keras")
    with pytest.raises(InputError, match="3 scores a pixel, its labels have 2 names$"):
        load_model(tmp_path / "a.keras", LABELS)


def test_a_model_of_layers_alone_is_wanted(tmp_path):
    class Own(keras.Model):
        def call(self, images):
            return images[..., :2]

    own = Own()
    own(np.zeros((1, 4, 4, 3), np.float32))
    with pytest.raises(ValueError, match="`model` must be a functional or sequential Keras model. Received: Own"):
        save_model(own, tmp_path / "a.keras", LABELS)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("name", "message"), [("net.h5", "must end in .keras"), ("none/net.keras", "there is no folder")]
)
def test_where_no_model_can_be_saved(tmp_path, name, message):
    with pytest.raises(InputError, match=message):
        save_model(_network(), tmp_path / name, LabelSet.numbered(2))


def test_a_full_disk_keeps_the_old_file(small_disk):
    path = small_disk / "a.keras"
    save_model(_network(), path, LABELS)
    before = path.read_bytes()
    inputs = keras.Input((None, None, 3))
    big = keras.Model(inputs, keras.layers.Conv2D(2, 400, padding="same")(inputs))
    with pytest.raises(InputError, match="no space left"):
        save_model(big, path, LABELS)
    assert path.read_bytes() == before
    assert [p.name for p in small_disk.iterdir()] == ["a.keras"]
